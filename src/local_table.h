/*
 * local_table: the table of the local tier, as its parts see it.
 *
 * Private to local.c, which finds and evicts entries and explains how all of this holds together;
 * local_count.c, the counts of this host; and local_snapshot.c, what Redis last said.
 */
#ifndef RL_LOCAL_TABLE_H
#define RL_LOCAL_TABLE_H

#include <stdatomic.h>
#include <stddef.h>

#include "local.h"

#define WAYS 8

/* Set in every key, but for an entry that is being made. */
#define READY (UINT64_C(1) << 63)

/*
 * The first word of a count: number of the write, 12 bits; window number or tick, 52 bits: to
 * 2112.
 */
#define WRITE_SHIFT 52
#define POSITION_MASK ((UINT64_C(1) << WRITE_SHIFT) - 1)

typedef _Atomic uint64_t word;
typedef _Atomic uint32_t half;

/* Two words that are swapped as one, the first in the lower half. */
typedef unsigned __int128 pair __attribute__((may_alias));

/* What the words of an entry hold. */
enum { BLOCKED = 0, COUNT = 1, PENDING = 3, ENTRY_WORDS = 5 };
enum { ASKED_MS = 0, REDIS_NOW = 1, UNITS = 2, CHECK = 3, TERMS = 4 };

typedef struct {
    word key; /* 0: free; without READY: being made */
    half expires_s;
    half used;       /* second of last use << 8 | fullness */
    half reported_s; /* when a denial was last reported; 0: never */
    half silent;     /* denials since */
    /*
     * Of a count: the tick at which a block ends, tagged; the pair of the count; the pair of what
     * is pending: the slot, and units in the one before << 32 | in it.
     * Of a snapshot: when it was asked for, on the host's clock; lag << 48 | what Redis's clock
     * said in ms; units; checksum << 32 | when one request is to ask again; its terms.
     */
    word words[ENTRY_WORDS];
} entry;

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
_Static_assert((INT64_C(1) << 42) * 1000 <= POSITION_MASK + 1, "a word holds any tick");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics are lock-free");

#define load(p) atomic_load_explicit((p), memory_order_relaxed)
#define load_first(p) atomic_load_explicit((p), memory_order_acquire) /* before what follows */
#define store(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define swap(p, expected, desired) atomic_compare_exchange_strong((p), (expected), (desired))

/* Needs a processor that can: x86-64 (with -mcx16), arm64. */
static inline int swap_pair(word *w, pair expected, pair desired)
{
    return __sync_bool_compare_and_swap((pair *)w, expected, desired);
}

static inline pair pair_of(uint64_t first, uint64_t second)
{
    return (pair)second << 64 | first;
}

/* Reads a pair as it was at one moment. */
static inline pair read_pair(const word *w)
{
    uint64_t first = load_first(&w[0]), second, again;

    for (;; first = again) {
        second = load_first(&w[1]);
        again = load_first(&w[0]);
        if (first == again)
            return pair_of(first, second);
    }
}

/* What the cleared words of an entry hold: of each pair, the second is 0. */
static inline uint64_t tag_of(uint64_t key)
{
    return key << WRITE_SHIFT;
}

static inline int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The entry of a key, or NULL. */
entry *rl_local_find(const rl_local *table, uint64_t key);

/*
 * The entry of a key, made if there is none. NULL after many lost races: the request then goes
 * uncounted rather than round and round.
 */
entry *rl_local_claim(rl_local *table, uint64_t key, int64_t host_ms);

/* Notes what eviction needs to know of the state at tick now. */
void rl_local_touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
                    int64_t host_ms);

#endif
