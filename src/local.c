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
 *   certain that no other place holds the same key. What the previous owner left behind is cleared
 *   in between. Its late writers harm nobody: they read what they are going to swap, then see that
 *   the entry is still theirs, then swap; cleared words carry a tag of the new key, so the swap fails.
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
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <apr_siphash.h>

#include "local.h"

#define WAYS 8
#define MAGIC UINT64_C(0x324c41434f4c4c52) /* "RLLOCAL2", little endian */
#define IDLE_S 10      /* unused for so long, an entry is idle */
#define LASTS_MAX_MS (INT64_C(3660) * 86400000)
#define LOOKED_AT_S 15 /* denials that are not reported wait so long for rl_local_unreported() */

/* Set in every key, but for an entry that is being made. */
#define READY (UINT64_C(1) << 63)

/* The first word of a count: number of the write, 13 bits; window number or tick, 51 bits. */
#define WRITE_SHIFT 51
#define POSITION_MASK ((UINT64_C(1) << WRITE_SHIFT) - 1)

/* A snapshot's second word: lag, 16 bits; ms, 48 bits. */
#define LAG_SHIFT 48
#define LAG_MAX UINT64_C(0xffff)

typedef _Atomic uint64_t word;
typedef _Atomic uint32_t half;

/* Two words that are swapped as one, the first in the lower half. */
typedef unsigned __int128 pair __attribute__((may_alias));

/* What the words of an entry hold. */
enum { BLOCKED = 0, COUNT = 1, PENDING = 3, COUNT_WORDS = 5 };
enum { ASKED_MS = 0, REDIS_NOW = 1, UNITS = 2, CHECK = 3, TERMS = 4 };

typedef struct {
    word key; /* 0: free; without READY: being made */
    half expires_s;
    half used;       /* second of last use << 8 | fullness */
    half reported_s; /* when a denial was last reported; 0: never */
    half silent;     /* denials since */
    /*
     * Of a count: the tick at which a block ends, tagged; the pair of the count; the pair of what is
     * pending: the slot, and units in the one before << 32 | in it.
     * Of a snapshot: when it was asked for, on the host's clock; lag << 48 | what Redis's clock said in
     * ms; units; checksum << 32 | when one request is to ask again; its terms.
     */
    word words[COUNT_WORDS];
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
_Static_assert(offsetof(entry, words) % 16 == 8, "pairs are aligned");
_Static_assert(RL_PRODUCT_MAX <= POSITION_MASK + 1, "a word holds any tick");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics are lock-free");

#define load(p) atomic_load_explicit((p), memory_order_relaxed)
#define load_first(p) atomic_load_explicit((p), memory_order_acquire) /* before what follows */
#define store(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define swap(p, expected, desired) atomic_compare_exchange_strong((p), (expected), (desired))

/* Needs a processor that can: x86-64 (with -mcx16), arm64. */
static int swap_pair(word *w, pair expected, pair desired)
{
    return __sync_bool_compare_and_swap((pair *)w, expected, desired);
}

static pair pair_of(uint64_t first, uint64_t second)
{
    return (pair)second << 64 | first;
}

/* Reads a pair as it was at one moment. */
static pair read_pair(const word *w)
{
    uint64_t first = load_first(&w[0]), second, again;

    for (;; first = again) {
        second = load_first(&w[1]);
        again = load_first(&w[0]);
        if (first == again)
            return pair_of(first, second);
    }
}

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

/* What the cleared words of an entry hold: of each pair, the second is 0. */
static uint64_t tag_of(uint64_t key)
{
    return key << WRITE_SHIFT;
}

/* Empties what the owner before left, unless somebody else has become the owner since. */
static void clear(entry *e, uint64_t making)
{
    uint64_t first = load_first(&e->words[BLOCKED]);
    pair count = read_pair(&e->words[COUNT]), pending = read_pair(&e->words[PENDING]);
    pair empty = tag_of(making);

    if (load_first(&e->key) != making)
        return;
    swap(&e->words[BLOCKED], &first, tag_of(making));
    swap_pair(&e->words[COUNT], count, empty);
    swap_pair(&e->words[PENDING], pending, empty);
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

/* Notes what eviction needs to know. */
static void touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
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

/* --- Counts ------------------------------------------------------------------------------- */

/* A count as it was read. */
typedef struct {
    pair count, pending;
    uint64_t blocked;
} reading;

/* The word that follows a first word, with its number one up. */
static uint64_t next_write(pair was, int64_t position)
{
    uint64_t number = ((uint64_t)was >> WRITE_SHIFT) + 1;

    return number << WRITE_SHIFT | (uint64_t)position;
}

static int64_t position_of(pair p)
{
    return (int64_t)((uint64_t)p & POSITION_MASK);
}

static int64_t upper(pair p)
{
    return (int64_t)((uint64_t)(p >> 64) >> 32);
}

static int64_t lower(pair p)
{
    return (int64_t)((uint64_t)(p >> 64) & 0xffffffff);
}

static void unpack_count(const rl_limit *limit, pair p, rl_state *state)
{
    if (rl_limiter_is_bucket(limit->algorithm)) {
        state->at = position_of(p);
        state->level = (int64_t)(uint64_t)(p >> 64);
    }
    else {
        state->index = position_of(p);
        state->prev = upper(p);
        state->cur = lower(p);
    }
}

static pair pack_count(const rl_limit *limit, pair was, const rl_state *state)
{
    if (rl_limiter_is_bucket(limit->algorithm))
        return pair_of(next_write(was, state->at), (uint64_t)state->level);
    return pair_of(next_write(was, state->index), (uint64_t)state->prev << 32
                                                      | (uint64_t)state->cur);
}

static pair pack_pending(pair was, const rl_pending *pending)
{
    return pair_of(next_write(was, pending->slot), (uint64_t)pending->prev << 32
                                                       | (uint64_t)pending->cur);
}

/* Another process, whose clock was read later than ours, may have moved the count on already. */
static int64_t not_before(const rl_limit *limit, const rl_state *state, int64_t now)
{
    if (rl_limiter_is_bucket(limit->algorithm))
        return max64(now, state->at);
    return max64(now, state->index * limit->window_ms);
}

static void at_least(const rl_limit *limit, rl_state *state, const rl_state *seed, int64_t now)
{
    rl_state known = *seed;

    rl_limiter_roll(limit, &known, now);
    if (rl_limiter_is_bucket(limit->algorithm)) {
        state->level = max64(state->level, known.level);
    }
    else if (known.index == state->index) {
        state->prev = max64(state->prev, known.prev);
        state->cur = max64(state->cur, known.cur);
    }
}

/* Makes a state at *now of what was read. */
static void state_of(const rl_limit *limit, uint64_t key, const reading *was,
                     const rl_state *seed, int64_t *now, rl_state *state)
{
    memset(state, 0, sizeof(*state));
    unpack_count(limit, was->count, state);
    state->pending = (rl_pending){position_of(was->pending), upper(was->pending),
                                  lower(was->pending)};
    if ((was->blocked ^ tag_of(key)) >> WRITE_SHIFT == 0)
        state->blocked_until = (int64_t)(was->blocked & POSITION_MASK);
    *now = not_before(limit, state, *now);
    *now = rl_limiter_roll(limit, state, *now);
    if (seed)
        at_least(limit, state, seed, *now);
}

/* What is pending is read before the count: it is charged before it ceases to be pending. */
static void read_count(const entry *e, reading *was)
{
    was->pending = read_pair(&e->words[PENDING]);
    was->count = read_pair(&e->words[COUNT]);
    was->blocked = load_first(&e->words[BLOCKED]);
}

static int is_overdue(const rl_limit *limit, const reading *was, int64_t now)
{
    int64_t slot = now / (RL_PENDING_SLOT_MS * rl_limiter_ticks(limit));
    int64_t behind = slot - position_of(was->pending);

    return (behind >= 1 && upper(was->pending)) || (behind >= 2 && lower(was->pending));
}

/* Charges what was pending too long: who gets it out of the pair of pending units charges it. */
static void charge_overdue(entry *e, uint64_t key, const rl_limit *limit, reading *was,
                           int64_t now)
{
    rl_state state;
    int64_t at = now;

    state_of(limit, key, was, NULL, &at, &state);
    if (load(&e->key) != key
        || !swap_pair(&e->words[PENDING], was->pending, pack_pending(was->pending, &state.pending)))
        return;
    while (load(&e->key) == key
           && !swap_pair(&e->words[COUNT], was->count, pack_count(limit, was->count, &state))) {
        was->count = read_pair(&e->words[COUNT]);
        at = now;
        state_of(limit, key, was, NULL, &at, &state);
    }
}

void rl_local_peek(rl_local *table, uint64_t key, const rl_limit *limit, const rl_state *seed,
                   int64_t *now, rl_state *state)
{
    entry *e = find(table, key);
    reading was = {0, 0, tag_of(key)};

    if (e)
        read_count(e, &was);
    state_of(limit, key, &was, seed, now, state);
}

/* One attempt to charge; 0 if somebody else was quicker. */
static int try_charge(entry *e, const rl_limit *limit, int64_t cost, const reading *was,
                      const rl_state *state)
{
    rl_state after = *state;

    rl_limiter_charge(limit, &after, cost);
    if (limit->on_response)
        return swap_pair(&e->words[PENDING], was->pending,
                         pack_pending(was->pending, &after.pending));
    return swap_pair(&e->words[COUNT], was->count, pack_count(limit, was->count, &after));
}

int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    const rl_state *seed, int64_t host_ms, int64_t *now, rl_state *state)
{
    entry *e = claim(table, key, host_ms);
    rl_state after;
    reading was;
    int admitted;

    for (;;) {
        if (!e) {
            rl_local_peek(table, key, limit, seed, now, state);
            return rl_limiter_admits(limit, state, *now, cost);
        }
        read_count(e, &was);
        if (is_overdue(limit, &was, *now)) {
            charge_overdue(e, key, limit, &was, *now);
            read_count(e, &was);
        }
        state_of(limit, key, &was, seed, now, state);
        if (load(&e->key) != key) {
            e = claim(table, key, host_ms);
            continue;
        }
        admitted = rl_limiter_admits(limit, state, *now, cost);
        if (!admitted || try_charge(e, limit, cost, &was, state))
            break;
    }
    if (!admitted)
        rl_local_block(table, key, limit, cost, host_ms, *now, state);
    after = *state;
    if (admitted)
        rl_limiter_charge(limit, &after, cost);
    touch(e, limit, &after, *now, host_ms);
    return admitted;
}

void rl_local_block(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, int64_t now, rl_state *state)
{
    uint64_t was, until;
    entry *e;

    if (!rl_limiter_blocks(limit, state, now, cost))
        return;
    state->blocked_until = now + limit->block_ms * rl_limiter_ticks(limit);
    until = tag_of(key) | (uint64_t)state->blocked_until;
    e = claim(table, key, host_ms);
    if (!e)
        return;
    was = load_first(&e->words[BLOCKED]);
    if (load(&e->key) == key && swap(&e->words[BLOCKED], &was, until))
        touch(e, limit, state, now, host_ms);
}

void rl_local_give_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t position,
                        int64_t cost)
{
    entry *e = find(table, key);
    rl_state state;
    pair was;

    do {
        if (!e)
            return;
        was = read_pair(&e->words[COUNT]);
        unpack_count(limit, was, &state);
        rl_limiter_give_back(limit, &state, position, cost);
    } while (load(&e->key) == key
             && !swap_pair(&e->words[COUNT], was, pack_count(limit, was, &state)));
}

/* Charged first, then no longer pending: never is a unit neither. */
void rl_local_settle(rl_local *table, uint64_t key, const rl_limit *limit, int64_t slot,
                     int64_t cost, int charged, int64_t host_ms, int64_t now)
{
    entry *e = claim(table, key, host_ms);
    rl_state state, after;
    reading was;

    for (;;) {
        if (!e)
            return;
        read_count(e, &was);
        if (is_overdue(limit, &was, now)) {
            charge_overdue(e, key, limit, &was, now);
            read_count(e, &was);
        }
        state_of(limit, key, &was, NULL, &now, &state);
        after = state;
        rl_limiter_settle(limit, &after, slot, cost, charged);
        if (load(&e->key) != key)
            return;
        if (slot != state.pending.slot && slot != state.pending.slot - 1)
            return;
        if (charged && !swap_pair(&e->words[COUNT], was.count,
                                  pack_count(limit, was.count, &after)))
            continue;
        charged = 0;
        if (swap_pair(&e->words[PENDING], was.pending, pack_pending(was.pending, &after.pending)))
            break;
    }
    touch(e, limit, &after, now, host_ms);
}

/* --- Snapshots ---------------------------------------------------------------------------- */

/* For any cost a log denies: what a block does. */
#define ANY_COST UINT32_MAX

/* What Redis said, and when. */
typedef struct {
    int64_t asked_ms;
    int64_t redis_now_ms;
    int64_t lag_ms;   /* from asking to the answer, and what the clock's grain adds */
    uint64_t units;   /* a window's prev << 32 | cur; a level; a log's cost that was asked << 32 | used */
    int64_t quota;    /* an override's; -1: the rule's own */
    int64_t denied_ms; /* from redis_now_ms on: a block; of a log, until the cost fits */
} report;

static uint32_t checksum(uint64_t key, const uint64_t w[COUNT_WORDS])
{
    static const int covered[] = {ASKED_MS, REDIS_NOW, UNITS, TERMS};
    uint64_t sum = key;

    for (int i = 0; i < 4; i++) {
        sum = (sum ^ w[covered[i]]) * UINT64_C(0x9e3779b97f4a7c15);
        sum ^= sum >> 29;
    }
    return (uint32_t)(sum >> 32);
}

/* Reads a report whole, or not at all. */
static int read_report(const entry *e, uint64_t key, report *said)
{
    uint64_t w[COUNT_WORDS];

    for (int i = 0; i < COUNT_WORDS; i++)
        w[i] = load(&e->words[i]);
    if (w[CHECK] >> 32 != checksum(key, w))
        return 0;
    said->asked_ms = (int64_t)w[ASKED_MS];
    said->redis_now_ms = (int64_t)(w[REDIS_NOW] & ((UINT64_C(1) << LAG_SHIFT) - 1));
    said->lag_ms = (int64_t)(w[REDIS_NOW] >> LAG_SHIFT);
    said->units = w[UNITS];
    said->quota = (int64_t)(w[TERMS] >> 32) - 1;
    said->denied_ms = (int64_t)(w[TERMS] & UINT32_MAX);
    return 1;
}

static void pack_report(uint64_t key, const report *said, uint64_t w[COUNT_WORDS])
{
    int64_t lag_ms = said->lag_ms < (int64_t)LAG_MAX ? said->lag_ms : (int64_t)LAG_MAX;
    uint32_t renew = (uint32_t)(said->asked_ms + RL_SNAPSHOT_SERVES_MS);

    w[ASKED_MS] = (uint64_t)said->asked_ms;
    w[REDIS_NOW] = (uint64_t)lag_ms << LAG_SHIFT | (uint64_t)said->redis_now_ms;
    w[UNITS] = said->units;
    w[TERMS] = (uint64_t)(said->quota + 1) << 32 | (uint64_t)said->denied_ms;
    w[CHECK] = (uint64_t)checksum(key, w) << 32 | renew;
}

/* The limit and the state that a report speaks of, at the time it was made. */
static void unpack_report(const report *said, rl_limit *limit, rl_state *state)
{
    int64_t ticks = rl_limiter_ticks(limit), now = said->redis_now_ms * ticks;

    memset(state, 0, sizeof(*state));
    if (said->quota >= 0)
        limit->quota = limit->burst = said->quota;
    if (rl_limiter_is_bucket(limit->algorithm)) {
        state->at = now;
        state->level = (int64_t)said->units;
    }
    else if (limit->algorithm == RL_SLIDING_LOG) {
        state->used = (int64_t)(said->units & UINT32_MAX);
        state->asked = (int64_t)(said->units >> 32);
        state->wait_ms = said->denied_ms;
    }
    else {
        state->index = now / limit->window_ms;
        state->prev = (int64_t)(said->units >> 32);
        state->cur = (int64_t)(said->units & UINT32_MAX);
    }
    if (limit->algorithm != RL_SLIDING_LOG || state->asked == ANY_COST)
        state->blocked_until = said->denied_ms ? now + said->denied_ms * ticks : 0;
}

static void describe(const rl_limit *limit, const rl_state *state, int64_t redis_now,
                     report *said)
{
    int64_t ticks = rl_limiter_ticks(limit);
    uint64_t asked = (uint64_t)state->asked;

    said->denied_ms = max64(0, (state->blocked_until - redis_now) / ticks);
    if (rl_limiter_is_bucket(limit->algorithm)) {
        said->units = (uint64_t)state->level;
    }
    else if (limit->algorithm == RL_SLIDING_LOG) {
        said->units = (said->denied_ms ? (uint64_t)ANY_COST : asked) << 32 | (uint64_t)state->used;
        said->denied_ms = said->denied_ms ? said->denied_ms : state->wait_ms;
    }
    else {
        said->units = (uint64_t)state->prev << 32 | (uint64_t)state->cur;
    }
}

/* Follows Redis's clock, but not its jitter: what needs it needs no more. */
static void hear_clock(rl_local *table, int64_t offset_ms)
{
    int64_t off_by = (int64_t)load(&table->redis_offset_ms) - offset_ms;

    if (off_by > 50 || off_by < -50)
        store(&table->redis_offset_ms, (uint64_t)offset_ms);
}

void rl_local_remember(rl_local *table, uint64_t key, const rl_limit *limit, int overridden,
                       const rl_state *state, int64_t redis_now, int64_t sent_ms,
                       int64_t received_ms)
{
    entry *e = claim(table, key, sent_ms);
    uint64_t w[COUNT_WORDS], asked_ms;
    pair count, pending;
    report said, old;

    said.redis_now_ms = redis_now / rl_limiter_ticks(limit);
    hear_clock(table, said.redis_now_ms - sent_ms);
    /* Of an override only the quota is kept: a tier with a burst of its own is not for memory. */
    if (!e || (overridden && limit->burst != limit->quota && limit->quota)
        || (read_report(e, key, &old) && old.asked_ms > sent_ms))
        return;
    said.asked_ms = sent_ms;
    /* Both clocks are cut to whole ms: an age may be one short, so a report is born one old. */
    said.lag_ms = received_ms - sent_ms + 2;
    said.quota = overridden ? limit->quota : -1;
    describe(limit, state, redis_now, &said);
    pack_report(key, &said, w);
    asked_ms = load_first(&e->words[ASKED_MS]);
    count = read_pair(&e->words[REDIS_NOW]);
    pending = read_pair(&e->words[CHECK]);
    if (load(&e->key) == key && swap(&e->words[ASKED_MS], &asked_ms, w[ASKED_MS])
        && swap_pair(&e->words[REDIS_NOW], count, pair_of(w[REDIS_NOW], w[UNITS]))
        && swap_pair(&e->words[CHECK], pending, pair_of(w[CHECK], w[TERMS])))
        touch(e, limit, state, redis_now, sent_ms);
}

void rl_local_forget(rl_local *table, uint64_t key)
{
    entry *e = find(table, key);
    uint64_t check = e ? load_first(&e->words[CHECK]) : 0;

    if (e && load(&e->key) == key)
        swap(&e->words[CHECK], &check, ~check);
}

/* Takes it on to ask again, if that is due and nobody else has. */
static int is_due(entry *e, int64_t host_ms)
{
    uint64_t check = load(&e->words[CHECK]);
    uint32_t renew = (uint32_t)(host_ms + RL_SNAPSHOT_SERVES_MS);

    return (int32_t)((uint32_t)host_ms - (uint32_t)check) >= 0
        && swap(&e->words[CHECK], &check, (check & ~(uint64_t)UINT32_MAX) | renew);
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

/* Whether a report denies cost, as far as it can know. */
static int still_denies(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost,
                        int64_t age_ms)
{
    if (now < state->blocked_until)
        return 1;
    if (limit->algorithm == RL_SLIDING_LOG)
        return cost == state->asked && age_ms < state->wait_ms;
    return !rl_limiter_admits(limit, state, now, cost);
}

rl_recall rl_local_recall(rl_local *table, uint64_t key, rl_limit *limit, int64_t cost,
                          int64_t host_ms, int64_t *now, rl_state *state, int64_t *lag_ms)
{
    entry *e = find(table, key);
    int64_t age_ms;
    report said;

    *now = 0;
    if (!e || !read_report(e, key, &said))
        return RL_RECALL_UNKNOWN;
    unpack_report(&said, limit, state);
    age_ms = max64(0, host_ms - said.asked_ms) + 1;
    *lag_ms = said.lag_ms;
    *now = (said.redis_now_ms + age_ms) * rl_limiter_ticks(limit);
    *now = rl_limiter_roll(limit, state, *now);
    if (!still_denies(limit, state, *now, cost, age_ms))
        return RL_RECALL_UNKNOWN;
    if (limit->algorithm == RL_SLIDING_LOG) {
        state->wait_ms = max64(0, state->wait_ms - age_ms);
        state->next_ms = state->reset_ms = state->wait_ms;
    }
    return is_due(e, host_ms) && may_renew(table, host_ms) ? RL_RECALL_ASK : RL_RECALL_DENY;
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
