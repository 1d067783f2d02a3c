/*
 * local: the shared-memory tier.
 *
 * A hash table of sets of eight entries, 64 bytes each: one cache line. A key belongs to one set
 * and may stand anywhere in it. When a set is full the least useful entry makes room: expired
 * first, then idle, then the one furthest from its limit; one that denies right now goes last, so
 * that flooding the table does not free a denied client.
 *
 * There is no lock. Workers are killed, stopped and preempted at any instruction, so every change
 * that matters is one compare-and-swap that carries its own meaning:
 *
 * - The owner of an entry is its key word. Taking an entry over is one swap of that word, to a
 *   key that is not ready yet and that nobody finds; a second swap makes it ready, once it is
 *   certain that no other place holds the same key. What the previous owner left behind is
 *   cleared in between. Its late writers harm nobody: they read what they are going to swap, then
 *   see that the entry is still theirs, then swap; cleared words carry a tag of the new key, so
 *   the swap fails.
 * - A count is one pair of words: where it is in time, and the units. A charge is one swap of the
 *   pair, decided on the exact state it changes. A number that grows with each write lies in
 *   the first word, so that the pair can be read in two halves, and a state that comes back is not
 *   mistaken for one that never left.
 * - Units that are pending are a second pair. To admit swaps this one: it is read first, and a unit
 *   is charged before it ceases to be pending, so the sum that was judged is never less than the
 *   truth. Who swaps overdue units out of it charges them; should he die in between, they are lost.
 * - A snapshot is five words, one of them with a checksum of the others and the key. Writers do not
 *   exclude each other; a mix of two writes, or half of one, fails its checksum and is forgotten.
 *
 * The rest of an entry (expiry, use, fullness, denials since the last report) only steers eviction
 * and logging; a lost update there costs nothing.
 */
#include <string.h>
#include <time.h>

#include <apr_siphash.h>

#include "local_table.h"

#define MAGIC UINT64_C(0x324c41434f4c4c52) /* "RLLOCAL2", little endian */
#define IDLE_S 10      /* unused for so long, an entry is idle */
#define LASTS_MAX_MS (INT64_C(3660) * 86400000)
#define LOOKED_AT_S 15 /* denials that are not reported wait so long for rl_local_unreported() */

/* The second of last use has 24 bits and wraps after half a year, which mistakes an age once. */
#define USED_MASK UINT32_C(0xffffff)

/* Fullness: 0 to FULL by how much of the quota is used, DENIES when a cost of 1 is denied. */
enum { FULL = 254, DENIES = 255 };

/* Writes only what differs: most requests find the line as they would leave it. */
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
 * Counter and kind go into the SipHash key, so that the identity is hashed where it lies. They
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
    return hash & ~READY ? hash | READY : READY + 1;
}

/* --- Entries ------------------------------------------------------------------------------ */

static entry *set_of(rl_local *table, uint64_t key)
{
    return table->table[key % table->sets];
}

entry *rl_local_find(const rl_local *table, uint64_t key)
{
    entry *set = set_of((rl_local *)table, key);

    for (int i = 0; i < WAYS; i++) {
        if (load(&set[i].key) == key)
            return &set[i];
    }
    return NULL;
}

/* How much would be missed: the entry of its set with the least goes first. */
static uint64_t usefulness(entry *e, uint32_t now_s)
{
    uint32_t used = load(&e->used), expires_s = load(&e->expires_s);
    uint64_t idle_s = (now_s - (used >> 8)) & USED_MASK, fullness = used & 0xff;

    if (expires_s <= now_s)
        return 1;
    if (fullness == DENIES)
        return (UINT64_C(3) << 56) + expires_s;
    if (idle_s >= IDLE_S)
        return (UINT64_C(1) << 56) + USED_MASK - idle_s;
    return (UINT64_C(2) << 56) + (fullness << 32) + USED_MASK - idle_s;
}

/* The place in a set that would be missed least, its owner, and how useful that one is. */
static entry *least_useful(entry *set, uint32_t now_s, uint64_t *owner, uint64_t *usefulness_of)
{
    entry *place = NULL;

    for (int i = 0; i < WAYS; i++) {
        uint64_t there = load(&set[i].key);
        uint64_t use = there ? usefulness(&set[i], now_s) : 0;

        if (!place || use < *usefulness_of) {
            *usefulness_of = use;
            *owner = there;
            place = &set[i];
        }
    }
    return place;
}

/* Frees an entry that is being made, if it still is; *there becomes what stands in its place. */
static void abandon(rl_local *table, entry *e, uint64_t *there)
{
    if (swap(&e->key, there, 0)) {
        *there = 0;
        atomic_fetch_sub_explicit(&table->entries, 1, memory_order_relaxed);
    }
}

/*
 * Whether no other place of the set holds key. Other attempts to make it are ended: theirs, or
 * ours by them, but never does each of two miss the other, since both were written before either
 * looks here. An attempt whose maker has died ends here, too.
 */
static int is_alone(rl_local *table, entry *set, const entry *mine, uint64_t key)
{
    for (int i = 0; i < WAYS; i++) {
        uint64_t there = atomic_load(&set[i].key);

        if (&set[i] == mine)
            continue;
        if (there == (key & ~READY))
            abandon(table, &set[i], &there);
        if (there == key)
            return 0;
    }
    return 1;
}

/*
 * Empties what the owner before left, unless somebody else has become the owner since. A late
 * writer of his may still be quicker, but he has one swap left, so each word is tried until it is
 * empty.
 */
static void clear(entry *e, uint64_t making)
{
    uint64_t first, empty = tag_of(making);
    pair was;

    do {
        first = load_first(&e->words[BLOCKED]);
    } while (load_first(&e->key) == making && !swap(&e->words[BLOCKED], &first, empty));
    for (int i = COUNT; i <= PENDING; i += PENDING - COUNT) {
        do {
            was = read_pair(&e->words[i]);
        } while (load_first(&e->key) == making && !swap_pair(&e->words[i], was, empty));
    }
}

/*
 * Finds the entry of key or makes one. Two callers may do so at once and choose different places:
 * then one of them, or both, look again.
 */
entry *rl_local_claim(rl_local *table, uint64_t key, int64_t host_ms)
{
    uint32_t now_s = (uint32_t)(host_ms / 1000);
    entry *set = set_of(table, key);

    for (int tries = 0; tries < 64; tries++) {
        entry *place = rl_local_find(table, key);
        uint64_t least = 0, owner = 0, making = key & ~READY;

        if (place)
            return place;
        place = least_useful(set, now_s, &owner, &least);
        if (!swap(&place->key, &owner, making))
            continue;
        clear(place, making);
        store(&place->used, now_s << 8);
        store(&place->expires_s, now_s + 1);
        store(&place->reported_s, 0);
        store(&place->silent, 0);
        if (least == 0)
            atomic_fetch_add_explicit(&table->entries, 1, memory_order_relaxed);
        else if (least > 1)
            atomic_fetch_add_explicit(&table->evictions, 1, memory_order_relaxed);
        if (!is_alone(table, set, place, key))
            abandon(table, place, &making);
        else if (swap(&place->key, &making, key))
            return place;
    }
    return NULL;
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
        lasts_ms += 2 * RL_PENDING_SLOT_MS;
    lasts_ms = lasts_ms < LASTS_MAX_MS ? lasts_ms : LASTS_MAX_MS;
    update(&e->expires_s, (uint32_t)((host_ms + lasts_ms) / 1000 + 1));
    update(&e->used, (uint32_t)(host_ms / 1000) << 8 | fullness);
}

/* --- Reports ------------------------------------------------------------------------------ */

/* Whole seconds are cut, so one more must have passed; another's clock may be later. */
static int is_silent(uint32_t last_s, uint32_t now_s, int64_t every_ms)
{
    return last_s && (int64_t)(int32_t)(now_s - last_s) * 1000 <= every_ms;
}

uint32_t rl_local_report(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms)
{
    entry *e = rl_local_claim(table, key, host_ms);
    uint32_t now_s = (uint32_t)(host_ms / 1000) + 1, last;
    uint32_t silent_until_s = now_s + (uint32_t)(every_ms / 1000) + LOOKED_AT_S;

    if (!e)
        return 1;
    if (load(&e->expires_s) < silent_until_s)
        store(&e->expires_s, silent_until_s);
    last = load(&e->reported_s);
    if (is_silent(last, now_s, every_ms) || !swap(&e->reported_s, &last, now_s)) {
        atomic_fetch_add_explicit(&e->silent, 1, memory_order_relaxed);
        return 0;
    }
    return atomic_exchange_explicit(&e->silent, 0, memory_order_relaxed) + 1;
}

uint32_t rl_local_unreported(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms)
{
    entry *e = rl_local_find(table, key);
    uint32_t now_s = (uint32_t)(host_ms / 1000) + 1, last;

    if (!e || !load(&e->silent))
        return 0;
    last = load(&e->reported_s);
    if (is_silent(last, now_s, every_ms) || !swap(&e->reported_s, &last, now_s))
        return 0;
    return atomic_exchange_explicit(&e->silent, 0, memory_order_relaxed);
}

void rl_local_read_stats(const rl_local *table, rl_local_stats *stats)
{
    stats->capacity = table->sets * WAYS;
    stats->entries = load(&table->entries);
    stats->evictions = load(&table->evictions);
}
