/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_table: the layout of the local tier's table, and what its C files share.
 *
 * Only for local.c, which finds and evicts entries and explains the invariants of the table;
 * local_count.c, the counts of this host; local_snapshot.c, what Redis last reported;
 * local_lease.c, the units that this host has leased; and local_move.c, which copies a table. Any
 * thread of any process may call the functions.
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
 * An entry is one cache line.
 *
 *  offset  bytes  member      meaning
 *       0      8  owner       the key that the entry belongs to
 *       8      4  expires_s   second at which it expires
 *      12      4  used        when it was used last, and how full it was
 *      16      4  reported_s  1 + the second at which a denial was last reported; 0: never
 *      20      4  silent      denials since then
 *      24     40  words       a count, a snapshot or two leases
 *
 * The bits of its words, the highest first. Seconds are those of host_ms. G is a generation: in
 * owner the one of the tenure, in other words the one of the tenure that wrote them.
 *
 *  word            bits  meaning
 *  owner             12  G
 *                     1  the tenure is being made
 *                    51  fingerprint of the key; 0: the entry is free
 *  used              24  second of the last use
 *                     8  fullness: see local.c
 *
 *  of a count
 *  BLOCKED           12  G
 *                    52  tick at which a block ends
 *  COUNT             12  G
 *                    52  number of the window; of a bucket, tick that the level is of
 *  COUNT + 1          1  side: see local_count.c
 *                    31  units in the window before   } of a bucket, 63 bits: the level
 *                    32  units in the window          }
 *  PENDING           12  G
 *                     1  side
 *                     2  number of periods whose units are overdue
 *                    49  number of the period
 *  PENDING + 1       32  units pending in the period before
 *                    32  units pending in the period
 *
 *  of a snapshot
 *  ASKED_MS          12  G
 *                    12  lag in ms
 *                    40  host_ms when Redis was asked
 *  REDIS_NOW         12  G
 *                    10  low bits of the checksum
 *                    42  Redis's clock in ms
 *  UNITS             32  units in the window before   } of a bucket, 64 bits: the level
 *                    32  units in the window          }
 *                        of a log: 32 ms until the cost fits, 16 quota, 16 cost
 *  CHECK             12  G
 *                    20  high bits of the checksum
 *                    32  low bits of the host_ms from which on the snapshot is stale
 *  TERMS             32  1 + quota of the override; 0: none
 *                        of a log: 1 overridden, 31 units used
 *                    32  ms that a block lasts from REDIS_NOW on
 *
 *  of leases
 *  CLAIM             12  G
 *                    52  host_ms until which a refill is claimed
 *  LEASE             12  G
 *                    12  serial
 *                    40  host_ms at which the lease expires
 *  LEASE + 1         24  units left
 *                    24  units of the grant
 *                     1  used up
 *                    15  ms from the sending of the request for it to its expiry; once it is used
 *                        up, until it was
 *  LEASE + 2, + 3    another lease
 *
 * COUNT, PENDING, REDIS_NOW, CHECK, LEASE and LEASE + 2 are each a pair with the word behind them:
 * the two are swapped as one.
 */
enum { BLOCKED = 0, COUNT = 1, PENDING = 3, ENTRY_WORDS = 5 };
enum { ASKED_MS = 0, REDIS_NOW = 1, UNITS = 2, CHECK = 3, TERMS = 4 };
enum { CLAIM = 0, LEASE = 1 };

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
 * The bits of a key that its fingerprint has. With 4,096 sets or more, the other bits follow from
 * the set, so that no two keys look the same. Bit 63 is set in every key.
 */
#define KEY_BIT (UINT64_C(1) << 63)
#define FINGERPRINT_SHIFT 12
#define FINGERPRINT (BEING_MADE - 1)

struct rl_local {
    uint64_t magic;
    uint64_t size;
    uint64_t sets;
    int64_t epoch_offset_ms; /* the wall clock at the start less host_ms */
    unsigned char seed[RL_LOCAL_SEED];
    word redis_offset_ms;    /* Redis's clock, as last heard, less host_ms; 0: never heard */
    word revalidations;     /* second << 32 | revalidations in it */
    _Alignas(64) word evictions;
    uint64_t lease_salt;    /* of the keys of leases: differs between tables */
    _Alignas(64) entry table[][WAYS];
};

_Static_assert(sizeof(entry) == 64, "an entry is one cache line");
_Static_assert(offsetof(entry, words) % 16 == 8, "pairs are aligned");
_Static_assert((INT64_C(1) << 42) * 1000 <= VALUE + 1, "a word holds any tick");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics are lock-free");

/*
 * An entry while it belongs to one key. Words that are read or written through a tenure are that
 * key's; once the tenure is over, writing has no effect. entry is NULL if the key has no entry.
 */
typedef struct {
    entry *entry;
    uint64_t owner; /* the entry's owner word during the tenure */
} tenure;

/* Whether a word was written in the tenure of this owner. A word that was not reads as zero. */
static inline int is_of(uint64_t w, uint64_t owner)
{
    return (w ^ owner) >> GENERATION_SHIFT == 0;
}

/*
 * Whether a tenure is not over. To be called between reading a word and swapping it. The word read
 * is then not of a later tenure. If a later one begins before the swap, either its writes make the
 * swap fail, or the swap leaves a word of an earlier generation, which reads as zero. The reads
 * before this one are acquire, so none of them is made after it; the swap comes after it, too.
 */
static inline int is_current(const tenure *t)
{
    return load_acquire(&t->entry->owner) == t->owner;
}

/*
 * Reads a pair as it was at one moment. Within a tenure the first word only grows, or has a serial,
 * so if it reads the same twice it did not change in between, and the second word belongs to it.
 * Only a clock that steps back by more than a window and forth again, all between two loads, can
 * make this return two words that never were a pair: one peek is then wrong, and a swap from such a
 * pair fails.
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

/* The ready tenure of a key; its entry is NULL if there is none. */
tenure rl_local_find(const rl_local *table, uint64_t key);

/* The ready tenure of a key, made if there is none. Evicts another key if the set is full. */
tenure rl_local_claim(rl_local *table, uint64_t key, int64_t host_ms);

/*
 * Stores what eviction needs to know of an entry: when it expires, its last use and its fullness,
 * by the state at tick now. Not bound to a tenure: if the entry has a new owner by then, eviction
 * misjudges it until the next call.
 */
void rl_local_touch(entry *e, const rl_limit *limit, const rl_state *state, int64_t now,
                    int64_t host_ms);

/* The same for an entry that is in full use and lasts for so many ms. */
void rl_local_keep(entry *e, int64_t host_ms, int64_t lasts_ms);

#endif
