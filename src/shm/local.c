/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local: the local tier's table.
 *
 * A hash table of sets of eight entries; an entry is 64 bytes, one cache line. A key belongs to one
 * set and may be anywhere in it. If a set is full, the least useful entry is evicted: first expired
 * ones, then idle ones, then the one furthest from its limit. An entry that denies right now is
 * evicted last, so that flooding the table does not free a denied client.
 *
 * There is no lock, because workers are killed, stopped and preempted at any instruction. The
 * invariants:
 *
 * 1. An entry belongs to the key in its owner word, from one swap of that word to the next: this is
 *    a tenure. The word contains a generation, which every new tenure raises by one.
 * 2. Each word that decides is written with the generation of its writer's tenure and reads as zero
 *    in any other. So nothing is cleared, and what a late writer changes is never read.
 * 3. A key has at most one ready tenure. A tenure begins as one that is being made, which is never
 *    charged. Before a thread makes it ready, it looks at the rest of the set. A ready tenure of
 *    the key wins; otherwise, of the tenures of this key that are being made, the one in the lowest
 *    place does; the others are ended. Any thread may finish a tenure that another one began, so a
 *    maker that dies blocks nothing.
 * 4. A state is changed by one swap from exactly the state that was judged. It may have
 *    changed and changed back in between, which does no harm: an entry has no state besides these
 *    words.
 *    local_count.c describes how a count and its pending units stay consistent; a snapshot has a
 *    checksum.
 * 5. The other members of an entry only steer eviction and the log, and may be wrong.
 *
 * Why a key never has two ready tenures: let two tenures of it be begun, A before B, and let a
 * thread be about to make B ready. It looks at A's place after B was begun, hence after A was. If
 * it sees A ready, it gives B up. If it sees A being made, it ends one of the two by a swap. If A
 * is over, it stays over, except as described below. So A can no longer become ready beside B.
 * One thread always gets on: no maker of the same key ends the tenure in the lowest place, and
 * makers of other keys take a place that is being made only if all eight are.
 *
 * A generation comes back after 4,096 tenures of the same entry. Words of it that are left are
 * given another generation before a tenure is made ready. A thread that is stopped for all that
 * time and then goes on may change a count of another key; this is accepted.
 */
#include <string.h>
#include <time.h>

#include <apr_siphash.h>

#include "shm/local_table.h"

#define MAGIC UINT64_C(0x344c41434f4c4c52) /* "RLLOCAL4", little endian */
#define IDLE_S 10      /* an entry that was not used for so long is idle */
#define LASTS_MAX_MS (INT64_C(3660) * 86400000)
#define COUNTED_SETS 32768 /* about so many are read to count entries: all up to 16 MB */
#define LOOKED_AT_S 15 /* how long unreported denials stay for rl_local_unreported() */

/* The second of last use has 24 bits. It wraps after half a year; one age is then wrong. */
#define USED_MASK UINT32_C(0xffffff)
#define AHEAD_S 3600   /* the last use may be ahead of our clock by so much */

/* Fullness: 0 to FULL is the used part of the quota; DENIES: a cost of 1 is denied. */
enum { FULL = 254, DENIES = 255 };

/* Writes only a value that differs, so that most requests do not dirty the cache line. */
static void update(half *p, uint32_t value)
{
    if (load(p) != value)
        store(p, value);
}

rl_local *rl_local_init(void *memory, size_t size, const unsigned char seed[RL_LOCAL_SEED],
                        int64_t epoch_ms)
{
    rl_local *table = memory;

    table->size = size;
    table->sets = (size - sizeof(rl_local)) / sizeof(table->table[0]);
    table->epoch_offset_ms = epoch_ms - rl_local_clock();
    memcpy(table->seed, seed, RL_LOCAL_SEED);
    memcpy(&table->lease_salt, seed, sizeof(table->lease_salt));
    table->magic = MAGIC;
    return table;
}

rl_local *rl_local_attach(void *memory, size_t size)
{
    rl_local *table = memory;

    return table->magic == MAGIC && table->size == size ? table : NULL;
}

int64_t rl_local_clock(void)
{
    struct timespec t;

#ifdef CLOCK_BOOTTIME
    clock_gettime(CLOCK_BOOTTIME, &t);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t rl_local_now(const rl_local *table, rl_clock clock, int64_t host_ms)
{
    int64_t heard = clock == RL_CLOCK_REDIS ? (int64_t)load(&table->redis_offset_ms) : 0;

    return host_ms + (heard ? heard : table->epoch_offset_ms);
}

/*
 * Counter and kind go into the SipHash key, so that the identity is hashed without a copy. They
 * come from the configuration, never from a client.
 */
uint64_t rl_local_key(const rl_local *table, rl_local_kind kind, uint64_t counter,
                      const void *identity, size_t length)
{
    unsigned char seed[RL_LOCAL_SEED];
    uint64_t first, hash;

    memcpy(seed, table->seed, sizeof(seed));
    memcpy(&first, seed, sizeof(first));
    first ^= counter;
    memcpy(seed, &first, sizeof(first));
    seed[RL_LOCAL_SEED - 1] ^= (unsigned char)kind;
    hash = apr_siphash24(identity, length, seed);
    if (!(hash >> FINGERPRINT_SHIFT & FINGERPRINT))
        hash |= UINT64_C(1) << FINGERPRINT_SHIFT;
    return hash | KEY_BIT;
}

/* --- Tenures ------------------------------------------------------------------------------ */

static entry *set_of(const rl_local *table, uint64_t key)
{
    return ((rl_local *)table)->table[key % table->sets];
}

static uint64_t fingerprint_of(uint64_t key)
{
    return key >> FINGERPRINT_SHIFT & FINGERPRINT;
}

/* Acquire: the caller sees what put_aside() wrote before the tenure was made ready. */
tenure rl_local_find(const rl_local *table, uint64_t key)
{
    uint64_t ready = fingerprint_of(key);
    entry *set = set_of(table, key);

    for (int i = 0; i < WAYS; i++) {
        uint64_t owner = load_acquire(&set[i].owner);

        if ((owner & VALUE) == ready)
            return (tenure){&set[i], owner};
    }
    return (tenure){NULL, 0};
}

/* How long ago an entry was used. */
static uint64_t idle_s(uint32_t used, uint32_t now_s)
{
    uint32_t age = (now_s - (used >> 8)) & USED_MASK;

    return age < USED_MASK - AHEAD_S ? age : 0;
}

/* The entry of a set with the lowest value is evicted first. */
static uint64_t usefulness(const entry *e, uint64_t owner, uint32_t now_s)
{
    uint32_t used = load(&e->used), fullness = used & 0xff;
    uint64_t idle = idle_s(used, now_s);

    if (!(owner & FINGERPRINT))
        return 0;
    if (owner & BEING_MADE) /* its maker has set the last use, unless it died before that */
        return ((uint64_t)(idle >= IDLE_S ? 1 : 4) << 56) + USED_MASK - idle;
    if (load(&e->expires_s) <= now_s)
        return 1;
    if (fullness == DENIES)
        return (UINT64_C(3) << 56) + load(&e->expires_s);
    if (idle >= IDLE_S)
        return (UINT64_C(1) << 56) + USED_MASK - idle;
    return (UINT64_C(2) << 56) + ((uint64_t)fullness << 32) + USED_MASK - idle;
}

/* Ends a tenure that is being made. Returns 0 if it no longer is; *owner is then the new one. */
static int abandon(entry *e, uint64_t *owner)
{
    return swap(&e->owner, owner, *owner & GENERATION);
}

/*
 * Returns the ready tenure of the key with this fingerprint; without one, the first that is being
 * made; without one, a new tenure in the least useful entry of the set. This is one pass, which
 * reads each owner once, and the swap is from the owner that was judged. So it never evicts an
 * entry that has just come to belong to the same key, nor one judged by an earlier owner. If the
 * swap fails, the entry returned is NULL.
 */
static tenure begin(rl_local *table, entry *set, uint64_t fingerprint, uint32_t now_s)
{
    uint64_t least = UINT64_MAX;
    tenure being_made = {NULL, 0}, evicted = {NULL, 0}, mine;

    for (int i = 0; i < WAYS; i++) {
        tenure t = {&set[i], load_acquire(&set[i].owner)};
        uint64_t use;

        if ((t.owner & VALUE) == fingerprint)
            return t;
        if ((t.owner & FINGERPRINT) == fingerprint) {
            being_made = being_made.entry ? being_made : t;
            continue;
        }
        use = usefulness(t.entry, t.owner, now_s);
        if (use < least) {
            least = use;
            evicted = t;
        }
    }
    if (being_made.entry)
        return being_made;
    mine = evicted;
    mine.owner = (mine.owner & GENERATION) + (UINT64_C(1) << GENERATION_SHIFT);
    mine.owner |= BEING_MADE | fingerprint;
    store(&mine.entry->used, now_s << 8); /* before the swap: an idle maker is taken for dead */
    if (!swap(&mine.entry->owner, &evicted.owner, mine.owner))
        return (tenure){NULL, 0};
    store(&mine.entry->expires_s, now_s + 1);
    store(&mine.entry->reported_s, 0);
    store(&mine.entry->silent, 0);
    if (least > 1 && !(evicted.owner & BEING_MADE))
        add(&table->evictions, 1);
    return mine;
}

/*
 * Gives words of this generation the one before. While the tenure is being made no thread writes
 * words of it, so such words are 4,096 tenures old.
 */
static void put_aside(const tenure *t)
{
    word *words = t->entry->words;
    uint64_t aside = (t->owner - (UINT64_C(1) << GENERATION_SHIFT)) & GENERATION;
    uint64_t blocked = load_acquire(&words[BLOCKED]);

    if (is_of(blocked, t->owner) && is_current(t))
        swap(&words[BLOCKED], &blocked, aside);
    for (int i = COUNT; i <= PENDING; i += PENDING - COUNT) {
        rl_pair old = read_pair(&words[i]);

        if (is_of(first_of(old), t->owner) && is_current(t))
            swap_pair(&words[i], old, pair_of(aside, 0));
    }
}

/*
 * Makes ready a tenure that this or another thread is making. Other tenures of the key in the set
 * are looked at after this one was begun, in the one order of all swaps: hence load_seq_cst. The
 * entry returned is NULL if the tenure is over and another one must be tried.
 */
static tenure finish(entry *set, tenure mine, uint32_t now_s)
{
    uint64_t making = mine.owner, ready = making & ~BEING_MADE;

    for (int i = 0; i < WAYS; i++) {
        uint64_t owner = load_seq_cst(&set[i].owner);

        if (&set[i] == mine.entry || (owner & FINGERPRINT) != (making & FINGERPRINT))
            continue;
        if (owner & BEING_MADE && &set[i] > mine.entry && abandon(&set[i], &owner))
            continue;
        if ((owner & FINGERPRINT) != (making & FINGERPRINT))
            continue;
        abandon(mine.entry, &making);
        return owner & BEING_MADE ? (tenure){NULL, 0} : (tenure){&set[i], owner};
    }
    put_aside(&mine);
    if (load(&mine.entry->expires_s) <= now_s) /* its maker is late or dead */
        store(&mine.entry->expires_s, now_s + 1);
    if (swap(&mine.entry->owner, &making, ready) || making == ready)
        return (tenure){mine.entry, ready};
    return (tenure){NULL, 0};
}

/*
 * The number of tries is not bounded: each that fails has met another thread's step towards a
 * tenure of this key, or an entry that another key has just taken.
 */
static tenure make(rl_local *table, uint64_t key, uint32_t now_s)
{
    entry *set = set_of(table, key);
    tenure t;

    do {
        t = begin(table, set, fingerprint_of(key), now_s);
        if (t.entry && t.owner & BEING_MADE)
            t = finish(set, t, now_s);
    } while (!t.entry);
    return t;
}

tenure rl_local_claim(rl_local *table, uint64_t key, int64_t host_ms)
{
    tenure t = rl_local_find(table, key);

    return t.entry ? t : make(table, key, (uint32_t)(host_ms / 1000));
}

void rl_local_touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
                    int64_t host_ms)
{
    int64_t remaining = rl_limiter_remaining(limit, state, now);
    int64_t capacity = rl_limiter_capacity(limit), lasts_ms = rl_limiter_reset(limit, state, now);
    uint32_t fullness = DENIES;

    if (remaining > 0)
        fullness = (uint32_t)((capacity - remaining) * FULL / capacity);
    if (state->blocked_until > now)
        lasts_ms = max64(lasts_ms, (state->blocked_until - now) / rl_limiter_ticks(limit));
    if (state->pending.prev || state->pending.cur)
        lasts_ms += 2 * RL_PENDING_PERIOD_MS;
    lasts_ms = lasts_ms < LASTS_MAX_MS ? lasts_ms : LASTS_MAX_MS;
    update(&e->expires_s, (uint32_t)((host_ms + lasts_ms) / 1000 + 1));
    update(&e->used, (uint32_t)(host_ms / 1000) << 8 | fullness);
}

void rl_local_keep(entry *e, int64_t host_ms, int64_t lasts_ms)
{
    update(&e->expires_s, (uint32_t)((host_ms + lasts_ms) / 1000 + 1));
    update(&e->used, (uint32_t)(host_ms / 1000) << 8 | FULL);
}

/* --- Reports ------------------------------------------------------------------------------ */

/* Both seconds are cut, so one more must have passed; another process's clock may be later. */
static int is_silent(uint32_t last_s, uint32_t now_s, int64_t every_ms)
{
    return last_s && (int64_t)(int32_t)(now_s - last_s) * 1000 <= every_ms;
}

uint32_t rl_local_report(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms)
{
    entry *e = rl_local_claim(table, key, host_ms).entry;
    uint32_t now_s = (uint32_t)(host_ms / 1000) + 1, last;
    uint32_t silent_until_s = now_s + (uint32_t)(every_ms / 1000) + LOOKED_AT_S;

    if (load(&e->expires_s) < silent_until_s)
        store(&e->expires_s, silent_until_s);
    last = load(&e->reported_s);
    if (is_silent(last, now_s, every_ms) || !swap(&e->reported_s, &last, now_s)) {
        add(&e->silent, 1);
        return 0;
    }
    return exchange(&e->silent, 0) + 1;
}

uint32_t rl_local_unreported(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms)
{
    entry *e = rl_local_find(table, key).entry;
    uint32_t now_s = (uint32_t)(host_ms / 1000) + 1, last;

    if (!e || !load(&e->silent))
        return 0;
    last = load(&e->reported_s);
    if (is_silent(last, now_s, every_ms) || !swap(&e->reported_s, &last, now_s))
        return 0;
    return exchange(&e->silent, 0);
}

/*
 * A running count of the entries would stay wrong for good if a process died before updating it. So
 * entries are counted here; in a large table, only those of every n-th set.
 */
void rl_local_read_stats(const rl_local *table, rl_local_stats *stats)
{
    uint64_t every = 1 + table->sets / COUNTED_SETS, counted = 0, found = 0;

    for (uint64_t s = 0; s < table->sets; s += every, counted++) {
        for (int i = 0; i < WAYS; i++)
            found += (load(&table->table[s][i].owner) & FINGERPRINT) != 0;
    }
    stats->capacity = table->sets * WAYS;
    stats->entries = found * table->sets / counted;
    stats->evictions = load(&table->evictions);
}
