/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_table: the table of the local tier, as its parts see it.
 *
 * Private to local.c, which finds and evicts entries and explains how all of this holds together;
 * local_count.c, the counts of this host; and local_snapshot.c, what Redis last said.
 */
#ifndef RL_LOCAL_TABLE_H
#define RL_LOCAL_TABLE_H

#include <stddef.h>

#include "core/atomics.h"
#include "shm/local.h"

#define WAYS 8

typedef _Atomic uint64_t word;
typedef _Atomic uint32_t half;

/*
 * An entry is one cache line. G is a generation, 12 bits.
 *
 *  offset  bytes  of a count                              of a snapshot
 *       0      8  the owner: G, being made 1, fingerprint of the key 51; fingerprint 0: free
 *       8      4  second at which it expires
 *      12      4  second of last use 24, fullness 8
 *      16      4  second at which a denial was last reported; 0: never
 *      20      4  denials since
 *      24      8  G, tick at which a block ends 52        G, lag in ms 12, host_ms when asked 40
 *      32      8  G, window number or tick 52             G, checksum 10, Redis's clock in ms 42
 *      40      8  side 1, units before 31, units 32;      units
 *                 of a bucket: side 1, level 63
 *      48      8  G, side 1, overdue 2, period 49           G, checksum 20, ms when to ask again 32
 *      56      8  pending before 32, pending 32           terms 32, ms blocked 32
 *
 * Words at 32 and 40 are a pair that is swapped as one, and so are those at 48 and 56.
 */
enum { BLOCKED = 0, COUNT = 1, PENDING = 3, ENTRY_WORDS = 5 };
enum { ASKED_MS = 0, REDIS_NOW = 1, UNITS = 2, CHECK = 3, TERMS = 4 };

typedef struct {
    word owner;
    half expires_s;
    half used;
    half reported_s;
    half silent;
    word words[ENTRY_WORDS];
} entry;

#define GENERATION_SHIFT 52
#define GENERATION (UINT64_MAX << GENERATION_SHIFT)
#define VALUE (~GENERATION) /* the rest of a word that has one */
#define BEING_MADE (UINT64_C(1) << 51)

/*
 * The bits of a key that an owner keeps. With 4,096 sets and more, those it does not keep are told
 * by the set, so that two keys never look the same. Bit 63 is set in every key.
 */
#define KEY_BIT (UINT64_C(1) << 63)
#define FINGERPRINT_SHIFT 12
#define FINGERPRINT (BEING_MADE - 1)

struct rl_local {
    uint64_t magic;
    uint64_t size;
    uint64_t sets;
    int64_t epoch_offset_ms; /* what makes host_ms the wall clock's ms, as of the start */
    unsigned char seed[RL_LOCAL_SEED];
    word redis_offset_ms;    /* the same for Redis's clock as last heard; 0: never heard */
    word revalidations;     /* second << 32 | revalidations in it */
    _Alignas(64) word evictions;
    _Alignas(64) entry table[][WAYS];
};

_Static_assert(sizeof(entry) == 64, "an entry is one cache line");
_Static_assert(offsetof(entry, words) % 16 == 8, "pairs are aligned");
_Static_assert((INT64_C(1) << 42) * 1000 <= VALUE + 1, "a word holds any tick");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics are lock-free");

/*
 * An entry while it belongs to one key: what is read and written through a tenure is of that key,
 * or of no effect. entry is NULL where there is none.
 */
typedef struct {
    entry *entry;
    uint64_t owner; /* the entry's owner word all that time */
} tenure;

/* Whether a word was written in a tenure. One that was not reads as zero. */
static inline int is_of(uint64_t w, uint64_t owner)
{
    return (w ^ owner) >> GENERATION_SHIFT == 0;
}

/*
 * Whether a tenure is not over. Asked between reading a word and swapping it: what was read then is
 * not from a later tenure, and if one has begun since, either its writes make the swap fail, or the
 * swap leaves a word of an earlier generation. Reads are acquire, so they come before this one, and
 * the swap after it.
 */
static inline int is_held(const tenure *t)
{
    return load_acquire(&t->entry->owner) == t->owner;
}

/*
 * Reads a pair as it was at one moment. Within a tenure the first word only grows, so what is read
 * twice was there all the time; the second word, one atomic load, is then the one that stood beside
 * it. A clock that steps back and forth again by more than a window while a reader is between two
 * loads makes it see a mix: as a look that is wrong once, for a swap of a mix fails.
 */
static inline rl_pair read_pair(const word *w)
{
    uint64_t first = load_acquire(&w[0]), second, again;

    for (;; first = again) {
        second = load_acquire(&w[1]);
        again = load_acquire(&w[0]);
        if (first == again)
            return pair_of(first, second);
    }
}

static inline int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The tenure of a key; its entry is NULL if the key has none. */
tenure rl_local_find(const rl_local *table, uint64_t key);

/* The tenure of a key, begun if there is none. */
tenure rl_local_claim(rl_local *table, uint64_t key, int64_t host_ms);

/*
 * Notes what eviction needs to know of the state at tick now. Not bound to a tenure: a late call
 * misleads eviction until the next one.
 */
void rl_local_touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
                    int64_t host_ms);

#endif
