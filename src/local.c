/*
 * local: the shared-memory tier.
 *
 * A hash table of sets of eight entries, 64 bytes each: one cache line. A key belongs to one set
 * and may stand anywhere in it. When a set is full the least useful entry makes room: expired
 * first, then idle, then the one furthest from its limit; one that denies right now goes last, so
 * that flooding the table does not free a denied client.
 *
 * There is no lock. Workers are killed, stopped and preempted at any instruction, so every change
 * that matters is one compare-and-swap on one word that carries its own meaning:
 *
 * - The owner of an entry is its key word. Taking an entry over is one swap of that word, to a
 *   key that is not ready yet and that nobody finds; a second swap makes it ready, once it is
 *   certain that no other place holds the same key. What the previous owner left behind is void,
 *   because every payload word is tagged or checked with the key it was written for. Its late
 *   writers harm nobody: they read what they are going to swap, then see that the entry is still
 *   theirs, then swap; so what a new owner has written since makes the swap fail.
 * - A count is two slots, for the even and the odd window. A slot holds a tag (window number and
 *   key), a count and a seal. A charge swaps the slot of its window. Before anybody is admitted in
 *   window k, the slot of k - 1 is sealed: from then on nobody can add to it, a writer who still
 *   thinks it is k - 1 fails, and looks again. So the previous count that a decision reads is
 *   final, the current one is compared by the swap itself, and every charge is decided on the
 *   exact state it changes.
 * - A snapshot is four words, the last a checksum of the others and the key. Two of them lie where
 *   a count has its slots, and are swapped like those. Writers do not exclude each other; a mix of
 *   two writes, or half of one, fails its checksum and is forgotten.
 *
 * The rest of an entry (expiry, use, fullness, denials since the last report) only steers eviction
 * and logging; a lost update there costs nothing.
 */
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <apr_siphash.h>

#include "local.h"

#define WAYS 8
#define MAGIC UINT64_C(0x314c41434f4c4c52) /* "RLLOCAL1", little endian */
#define IDLE_S 10      /* unused for so long, an entry is idle */
#define LOOKED_AT_S 15 /* denials that are not reported wait so long for rl_local_unreported() */
#define LATE_MS 60000  /* a window ahead by so much was opened by others while we were stopped */

/* Set in every key, but for an entry that is being made. */
#define READY (UINT64_C(1) << 63)

/* A slot: tag, 33 bits; sealed, 1 bit; count, 30 bits. */
#define COUNT_MASK UINT64_C(0x3fffffff)
#define SEALED UINT64_C(0x40000000)
#define TAG_SHIFT 31

/* A snapshot's second word: lag, 16 bits; time, 48 bits. */
#define LAG_SHIFT 48
#define LAG_MAX UINT64_C(0xffff)

typedef _Atomic uint64_t word;
typedef _Atomic uint32_t half;

typedef struct {
    word key; /* 0: free; without READY: being made */
    half expires_s;
    half used;       /* second of last use << 8 | fullness */
    half reported_s; /* when a denial was last reported; 0: never */
    half silent;     /* denials since */
    union {
        word slot[2]; /* of a count */
        struct {      /* of a snapshot */
            word asked_ms;  /* when, on the host's clock */
            word redis_now; /* lag << 48 | what Redis's clock said */
            word counts;    /* prev << 32 | cur */
            word check;
            word renew_ms;  /* on the host's clock: when one request is to ask again */
        };
    };
} entry;

/* The second of last use has 24 bits and wraps after half a year, which mistakes an age once. */
#define USED_MASK UINT32_C(0xffffff)

/* Fullness: 0 to FULL by how much of the quota is used, DENIES when a cost of 1 is denied. */
enum { FULL = 254, DENIES = 255 };

struct rl_local {
    uint64_t magic;
    uint64_t size;
    uint64_t sets;
    int64_t epoch_offset_ms; /* what makes host_ms the wall clock's ms, as of the start */
    unsigned char seed[RL_LOCAL_SEED];
    word redis_offset_ms;    /* the same for Redis's clock as last heard; 0: never heard */
    word renewals;           /* second << 32 | asks for renewal in it */
    _Alignas(64) word entries;
    word evictions;
    _Alignas(64) entry table[][WAYS];
};

_Static_assert(sizeof(entry) == 64, "an entry is one cache line");
_Static_assert(RL_COUNT_MAX <= COUNT_MASK, "a slot holds any count");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics are lock-free");

#define load(p) atomic_load_explicit((p), memory_order_relaxed)
#define load_first(p) atomic_load_explicit((p), memory_order_acquire) /* before what follows */
#define store(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define swap(p, expected, desired) atomic_compare_exchange_strong((p), (expected), (desired))

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

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

static entry *find(const rl_local *table, uint64_t key)
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

/* Empties what the owner before left, unless somebody else has become the owner since. */
static void clear_slots(entry *e, uint64_t making)
{
    for (int i = 0; i < 2; i++) {
        uint64_t slot = load_first(&e->slot[i]);

        if (slot && load(&e->key) == making)
            swap(&e->slot[i], &slot, 0);
    }
}

/*
 * Finds the entry of key or makes one. Two callers may do so at once and choose different places:
 * then one of them, or both, look again. NULL after many lost races: the request then goes
 * uncounted rather than round and round.
 */
static entry *claim(rl_local *table, uint64_t key, int64_t host_ms)
{
    uint32_t now_s = (uint32_t)(host_ms / 1000);
    entry *set = set_of(table, key);

    for (int tries = 0; tries < 64; tries++) {
        entry *place = find(table, key);
        uint64_t least = 0, owner = 0, making = key & ~READY;

        if (place)
            return place;
        place = least_useful(set, now_s, &owner, &least);
        if (!swap(&place->key, &owner, making))
            continue;
        clear_slots(place, making);
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

/* Notes what eviction needs to know. */
static void touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
                  int64_t host_ms)
{
    int64_t remaining = rl_limiter_remaining(limit, state, now);
    int64_t lasts_ms = rl_limiter_reset(limit, state, now);
    uint32_t fullness = DENIES;

    if (remaining > 0)
        fullness = (uint32_t)((limit->quota - remaining) * FULL / limit->quota);
    update(&e->expires_s, (uint32_t)((host_ms + lasts_ms) / 1000 + 1));
    update(&e->used, (uint32_t)(host_ms / 1000) << 8 | fullness);
}

/* --- Counts ------------------------------------------------------------------------------- */

static uint64_t tag_of(uint64_t key, int64_t index)
{
    return ((uint64_t)index + (key >> TAG_SHIFT)) << TAG_SHIFT;
}

static int is_of(uint64_t slot, uint64_t key, int64_t index)
{
    return slot >> TAG_SHIFT == tag_of(key, index) >> TAG_SHIFT;
}

/* By how many windows a slot is ahead; 0 if it is not, or by so much that it is none of ours. */
static int64_t ahead(uint64_t slot, uint64_t key, const rl_limit *limit, int64_t index)
{
    uint64_t by = (slot - tag_of(key, index)) >> TAG_SHIFT;

    if (slot == 0 || by > (uint64_t)(LATE_MS / limit->window_ms + 1))
        return 0;
    return (int64_t)by;
}

/*
 * Reads a count at the window of *now, or at a later one if another process has already opened
 * that: its clock was read later than ours, maybe much later, if we were stopped in between.
 */
static void read_count(entry *e, uint64_t key, const rl_limit *limit, int64_t *now,
                       uint64_t slot[2], rl_state *state)
{
    for (;;) {
        int64_t index = state->index = *now / limit->window_ms, later;

        slot[0] = load_first(&e->slot[index & 1]);
        slot[1] = load_first(&e->slot[~index & 1]);
        later = max64(ahead(slot[0], key, limit, index), ahead(slot[1], key, limit, index));
        if (later == 0 && is_of(slot[0], key, index) && (slot[0] & SEALED))
            later = 1;
        if (later == 0)
            break;
        *now = (index + later) * limit->window_ms;
    }
    state->cur = is_of(slot[0], key, state->index) ? slot[0] & COUNT_MASK : 0;
    state->prev = is_of(slot[1], key, state->index - 1) ? slot[1] & COUNT_MASK : 0;
}

static void at_least(rl_state *state, const rl_state *seed)
{
    if (seed && seed->index == state->index) {
        state->prev = max64(state->prev, seed->prev);
        state->cur = max64(state->cur, seed->cur);
    }
}

void rl_local_peek(const rl_local *table, uint64_t key, const rl_limit *limit,
                   const rl_state *seed, int64_t *now, rl_state *state)
{
    entry *e = find(table, key);
    uint64_t slot[2];

    if (e) {
        read_count(e, key, limit, now, slot, state);
    }
    else {
        state->index = *now / limit->window_ms;
        state->prev = state->cur = 0;
    }
    at_least(state, seed);
}

int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    const rl_state *seed, int64_t host_ms, int64_t *now, rl_state *state)
{
    entry *e = claim(table, key, host_ms);
    int admitted;

    for (;;) {
        uint64_t slot[2], sealed, charged;

        if (!e) {
            rl_local_peek(table, key, limit, seed, now, state);
            return rl_limiter_admits(limit, state, *now, cost);
        }
        read_count(e, key, limit, now, slot, state);
        at_least(state, seed);
        if (load(&e->key) != key) {
            e = claim(table, key, host_ms);
            continue;
        }
        sealed = tag_of(key, state->index - 1) | SEALED | (uint64_t)state->prev;
        if (slot[1] != sealed && !swap(&e->slot[~state->index & 1], &slot[1], sealed))
            continue;
        admitted = rl_limiter_admits(limit, state, *now, cost);
        if (!admitted)
            break;
        charged = tag_of(key, state->index) | (uint64_t)(state->cur + cost);
        if (swap(&e->slot[state->index & 1], &slot[0], charged)) {
            state->cur += cost;
            break;
        }
    }
    touch(e, limit, state, *now, host_ms);
    return admitted;
}

void rl_local_give_back(rl_local *table, uint64_t key, int64_t index, int64_t cost)
{
    entry *e = find(table, key);
    uint64_t slot;

    if (!e)
        return;
    slot = load(&e->slot[index & 1]);
    while (is_of(slot, key, index)) {
        uint64_t count = slot & COUNT_MASK;
        uint64_t less = count > (uint64_t)cost ? count - (uint64_t)cost : 0;

        if (swap(&e->slot[index & 1], &slot, (slot & ~COUNT_MASK) | less))
            return;
    }
}

/* --- Snapshots ---------------------------------------------------------------------------- */

static uint64_t checksum(uint64_t key, const uint64_t w[3])
{
    uint64_t sum = key;

    for (int i = 0; i < 3; i++) {
        sum = (sum ^ w[i]) * UINT64_C(0x9e3779b97f4a7c15);
        sum ^= sum >> 29;
    }
    return sum;
}

/* What Redis said, and when. */
typedef struct {
    int64_t asked_ms;
    int64_t redis_now;
    int64_t lag_ms; /* from asking to the answer, and what the clock's grain adds */
    rl_state state;
} report;

/* Reads a report whole, or not at all. */
static int read_report(entry *e, uint64_t key, const rl_limit *limit, report *said)
{
    uint64_t w[3] = {load(&e->asked_ms), load(&e->redis_now), load(&e->counts)};

    if (load(&e->check) != checksum(key, w))
        return 0;
    said->asked_ms = (int64_t)w[0];
    said->redis_now = (int64_t)(w[1] & ((UINT64_C(1) << LAG_SHIFT) - 1));
    said->lag_ms = (int64_t)(w[1] >> LAG_SHIFT);
    said->state.index = said->redis_now / limit->window_ms;
    said->state.prev = (int64_t)(w[2] >> 32);
    said->state.cur = (int64_t)(w[2] & 0xffffffff);
    return 1;
}

/* Follows Redis's clock, but not its jitter: what needs it needs no more. */
static void hear_clock(rl_local *table, int64_t offset_ms)
{
    int64_t off_by = (int64_t)load(&table->redis_offset_ms) - offset_ms;

    if (off_by > 50 || off_by < -50)
        store(&table->redis_offset_ms, (uint64_t)offset_ms);
}

void rl_local_remember(rl_local *table, uint64_t key, const rl_limit *limit,
                       const rl_state *state, int64_t redis_now, int64_t sent_ms,
                       int64_t received_ms)
{
    /* Both clocks are cut to whole ms: an age may be one short, so a report is born one old. */
    uint64_t lag_ms = (uint64_t)(received_ms - sent_ms) + 2;
    uint64_t w[3] = {(uint64_t)sent_ms,
                     (lag_ms < LAG_MAX ? lag_ms : LAG_MAX) << LAG_SHIFT | (uint64_t)redis_now,
                     (uint64_t)state->prev << 32 | (uint64_t)state->cur};
    entry *e = claim(table, key, sent_ms);
    uint64_t there[2];
    report old;

    hear_clock(table, redis_now - sent_ms);
    if (!e || (read_report(e, key, limit, &old) && old.asked_ms > sent_ms))
        return;
    there[0] = load_first(&e->asked_ms);
    there[1] = load_first(&e->redis_now);
    if (load(&e->key) != key || !swap(&e->asked_ms, &there[0], w[0])
        || !swap(&e->redis_now, &there[1], w[1]))
        return;
    store(&e->counts, w[2]);
    store(&e->check, checksum(key, w));
    store(&e->renew_ms, (uint64_t)(sent_ms + RL_SNAPSHOT_SERVES_MS));
    touch(e, limit, state, redis_now, sent_ms);
}

void rl_local_forget(rl_local *table, uint64_t key)
{
    entry *e = find(table, key);

    if (e)
        store(&e->check, 0);
}

/* One more ask for renewal in this second? */
static int may_renew(rl_local *table, int64_t host_ms)
{
    uint64_t second = (uint64_t)(host_ms / 1000) << 32;
    uint64_t spent = load(&table->renewals), next;

    do {
        next = spent >= second ? spent + 1 : second + 1; /* others may have a later second */
        if ((next & 0xffffffff) > RL_RENEWALS_PER_SECOND)
            return 0;
    } while (!swap(&table->renewals, &spent, next));
    return 1;
}

rl_recall rl_local_recall(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                          int64_t host_ms, int64_t *now, rl_state *state, int64_t *lag_ms)
{
    entry *e = find(table, key);
    uint64_t renew_ms;
    report said;

    *now = 0;
    if (!e || !read_report(e, key, limit, &said))
        return RL_RECALL_UNKNOWN;
    *state = said.state;
    *lag_ms = said.lag_ms;
    *now = said.redis_now + max64(0, host_ms - said.asked_ms) + 1;
    *now = rl_limiter_roll(limit, state, *now);
    if (rl_limiter_admits(limit, state, *now, cost))
        return RL_RECALL_UNKNOWN;
    renew_ms = load(&e->renew_ms);
    if (host_ms < (int64_t)renew_ms
        || !swap(&e->renew_ms, &renew_ms, (uint64_t)(host_ms + RL_SNAPSHOT_SERVES_MS))
        || !may_renew(table, host_ms))
        return RL_RECALL_DENY;
    return RL_RECALL_ASK;
}

/* --- Reports ------------------------------------------------------------------------------ */

/* Whole seconds are cut, so one more must have passed; another's clock may be later. */
static int is_silent(uint32_t last_s, uint32_t now_s, int64_t every_ms)
{
    return last_s && (int64_t)(int32_t)(now_s - last_s) * 1000 <= every_ms;
}

uint32_t rl_local_report(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms)
{
    entry *e = claim(table, key, host_ms);
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
    entry *e = find(table, key);
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
