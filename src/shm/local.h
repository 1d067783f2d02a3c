/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local: the shared-memory tier, one table for all children of a host.
 *
 * The table lives in memory that the caller mapped shared before forking and passes in; nothing
 * here is ever freed, and no pointer is stored in it. All functions but rl_local_init may be
 * called from any thread of any process at any time; none blocks, allocates or calls the system.
 *
 * Times named host_ms are rl_local_clock(): ms on a clock that is the same for all processes of
 * the host, never steps back and runs while the machine sleeps. Times named now are ticks of a
 * limit since the epoch, made of the ms that rl_local_now() derives from it.
 */
#ifndef RL_LOCAL_H
#define RL_LOCAL_H

#include <stddef.h>
#include <stdint.h>

#include "core/limiter.h"

#define RL_LOCAL_SEED 16                  /* bytes of secret the hash needs */
#define RL_LOCAL_MIN_SIZE (64 * 1024)     /* bytes */
#define RL_SNAPSHOT_SERVES_MS 1000        /* then one request asks Redis again */
#define RL_REVALIDATIONS_PER_SECOND 1000  /* such asks, per host */

typedef struct rl_local rl_local;

/* What an entry is for. One identity may have one of each under the same counter. */
typedef enum {
    RL_LOCAL_COUNT = 1, /* counts of this host: sync=local, or no Redis */
    RL_LOCAL_FALLBACK,  /* counts of this host while Redis does not answer */
    RL_LOCAL_SNAPSHOT,  /* what Redis last said */
    RL_LOCAL_LOG_ONCE  /* what was complained of */
} rl_local_kind;

/* Whose clock the windows of a count are aligned to. */
typedef enum { RL_CLOCK_HOST, RL_CLOCK_REDIS } rl_clock;

typedef enum {
    RL_SNAPSHOT_UNKNOWN, /* nothing known, or nothing that denies: ask */
    RL_SNAPSHOT_STALE,   /* it denies, and is stale: see rl_local_snapshot_revalidate() */
    RL_SNAPSHOT_DENIES   /* Redis would deny */
} rl_snapshot_verdict;

/*
 * Makes a table in size bytes (at least RL_LOCAL_MIN_SIZE) of zeroed memory, aligned to 64. The
 * seed should be random; it keeps clients from choosing identities that collide. epoch_ms is the
 * wall clock's time, read once, so that windows start where people expect them to.
 */
rl_local *rl_local_init(void *memory, size_t size, const unsigned char seed[RL_LOCAL_SEED],
                        int64_t epoch_ms);

/* The table that an earlier rl_local_init() made there, or NULL if it does not fit this code. */
rl_local *rl_local_attach(void *memory, size_t size);

/*
 * Fills a table that was just made, and is used by nobody yet, with what lives in another one,
 * which may be in use: entries, seed, clocks and the number of evictions. Returns how many entries
 * it holds then, of *live. Where it is too small the least useful ones are left out, and of a table
 * of less than 2 MB most are.
 */
uint64_t rl_local_move(rl_local *to, const rl_local *from, int64_t host_ms, uint64_t *live);

/* ms on the host's clock; 0 is an arbitrary moment before the process started. */
int64_t rl_local_clock(void);

/* host_ms as ms since the epoch: by the host's clock, or by Redis's as last heard. */
int64_t rl_local_now(const rl_local *table, rl_clock clock, int64_t host_ms);

/*
 * The key of an entry: a SipHash of kind, counter and identity under the table's seed. counter
 * stands for scope, rule name, algorithm and window, so that state is never read with another
 * meaning than it was written with. Never 0.
 */
uint64_t rl_local_key(const rl_local *table, rl_local_kind kind, uint64_t counter,
                      const void *identity, size_t length);

/*
 * The state of a count at *now (a tick of the limit's), which moves forward if another process
 * has already moved the count on. seed, if not NULL, is what is known of the counter from
 * elsewhere: the count is at least that.
 */
void rl_local_peek(rl_local *table, uint64_t key, const rl_limit *limit, const rl_state *seed,
                   int64_t *now, rl_state *state);

/*
 * Charges cost to a count if the limit admits it, in one atomic step; a denial that starts a
 * block starts it. Seed as above. Returns whether it was charged; state is the count before the
 * charge, at *now.
 */
int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    const rl_state *seed, int64_t host_ms, int64_t *now, rl_state *state);

/*
 * Starts the block that a denial of cost in this state starts, if it does; the state then says
 * so.
 */
void rl_local_block(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, int64_t now, rl_state *state);

/*
 * Stores a count that a clock has left ahead of now where rl_limiter_roll() anchors it; to be
 * called when a peeked count denies. A denied charge does it by itself.
 */
void rl_local_anchor(rl_local *table, uint64_t key, const rl_limit *limit, int64_t now);

/* Takes back what was charged at a position: see rl_limiter_give_back(). */
void rl_local_give_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t position,
                        int64_t cost);

/*
 * Prolongs the time of what is pending in a period: see rl_limiter_prolong(). Never makes an entry:
 * of one that is gone nothing is pending, and the period returned is the one of now, a tick.
 */
int64_t rl_local_prolong(rl_local *table, uint64_t key, const rl_limit *limit, int64_t period,
                         int64_t cost, int64_t host_ms, int64_t now);

/* Settles what became pending in a period: see rl_limiter_settle(). now is a tick. */
void rl_local_settle(rl_local *table, uint64_t key, const rl_limit *limit, int64_t period,
                     int64_t cost, int charged, int64_t host_ms, int64_t now);

/*
 * Keeps what Redis reported: the state at tick redis_now, asked for at sent_ms and received at
 * received_ms on the host's clock, and whether the limit is an override. An older report never
 * replaces a newer one. What is pending is not kept.
 */
void rl_local_snapshot_store(rl_local *table, uint64_t key, const rl_limit *limit, int overridden,
                       const rl_state *state, int64_t redis_now, int64_t sent_ms,
                       int64_t received_ms);

/* Drops the report, for what it says has been undone. */
void rl_local_snapshot_drop(rl_local *table, uint64_t key);

/*
 * What the kept report says of cost units at host_ms. Aged from the moment of asking, so it is
 * never stricter than Redis itself. On any answer but UNKNOWN, and on UNKNOWN with *now above 0,
 * state and *now hold the report, rolled forward, and the limit the override that it was made
 * with; Redis's clock may be behind *now by up to *lag_ms.
 */
rl_snapshot_verdict rl_local_snapshot_check(rl_local *table, uint64_t key, rl_limit *limit,
                                            int64_t cost,
                          int64_t host_ms, int64_t *now, rl_state *state, int64_t *lag_ms);

/*
 * Has the caller revalidate a stale denial, that is, ask Redis again; for a second no other caller
 * will. Returns 0 if another caller does already, or the host has revalidated too many: then the
 * denial stands.
 */
int rl_local_snapshot_revalidate(rl_local *table, uint64_t key, int64_t host_ms);

/*
 * Counts a denial of key and says how many to report: 0 for silence, else the denials since the
 * last report, this one included. At most one report per every_ms and key.
 */
uint32_t rl_local_report(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms);

/*
 * How many denials of key have not been reported, if the last report was more than every_ms ago;
 * they then count as reported. 0 if there is nothing to say.
 */
uint32_t rl_local_unreported(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms);

typedef struct {
    uint64_t capacity;  /* entries that fit */
    uint64_t entries;   /* entries that a key has, live or expired; counted by looking at them */
    uint64_t evictions; /* entries that were still live when another took their place */
} rl_local_stats;

void rl_local_read_stats(const rl_local *table, rl_local_stats *stats);

#endif
