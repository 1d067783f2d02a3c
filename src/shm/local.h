/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local: the local tier, a table in shared memory for all children of a host.
 *
 * The caller passes in memory that it mapped shared before it forks. Nothing in it is ever freed,
 * and no pointer is stored in it. All functions except rl_local_init() and rl_local_move() may be
 * called from any thread of any process at any time; none blocks, allocates or, except
 * rl_local_clock(), makes a system call.
 *
 * host_ms is rl_local_clock(): ms on a clock that is the same for all processes of the host, never
 * steps back and runs while the machine sleeps. now is a number of ticks of a limit since the
 * epoch, made from the ms that rl_local_now() returns.
 */
#ifndef RL_LOCAL_H
#define RL_LOCAL_H

#include <stddef.h>
#include <stdint.h>

#include "core/limiter.h"

#define RL_LOCAL_SEED 16                  /* bytes of secret for the hash */
#define RL_LOCAL_MIN_SIZE (64 * 1024)     /* bytes */
#define RL_SNAPSHOT_SERVES_MS 1000        /* then a snapshot is stale */
#define RL_LEASE_PAUSE_MS 200             /* after which one free unit is worth a call */
#define RL_REVALIDATIONS_PER_SECOND 1000  /* at most, of a host */

typedef struct rl_local rl_local;

/* What an entry is for. An identity may have one entry of each kind under the same counter. */
typedef enum {
    RL_LOCAL_COUNT = 1, /* a count of this host: sync=local, or no Redis */
    RL_LOCAL_FALLBACK,  /* a count of this host while Redis does not answer */
    RL_LOCAL_SNAPSHOT,  /* what Redis last reported; beside it the leases: rl_local_lease_key() */
    RL_LOCAL_LOG_ONCE   /* how often a warning was due: see rl_local_report() */
} rl_local_kind;

/* Whose clock the windows of a count are aligned to. */
typedef enum { RL_CLOCK_HOST, RL_CLOCK_REDIS } rl_clock;

typedef enum {
    RL_SNAPSHOT_UNKNOWN, /* there is none, or it does not deny: ask Redis */
    RL_SNAPSHOT_STALE,   /* it denies, and is stale: see rl_local_snapshot_revalidate() */
    RL_SNAPSHOT_DRY,     /* the same of a leased counter in which units may be free again */
    RL_SNAPSHOT_DENIES   /* Redis would deny */
} rl_snapshot_verdict;

/*
 * Makes a table in size bytes (at least RL_LOCAL_MIN_SIZE) of zeroed memory, aligned to 64. The
 * seed should be random: it keeps clients from choosing identities that collide. epoch_ms is the
 * wall clock's time; windows are aligned to it.
 */
rl_local *rl_local_init(void *memory, size_t size, const unsigned char seed[RL_LOCAL_SEED],
                        int64_t epoch_ms);

/* The table that an earlier rl_local_init() made there, or NULL if it does not fit this code. */
rl_local *rl_local_attach(void *memory, size_t size);

/*
 * Fills a new table, which no other thread uses yet, from another one, which may be in use: live
 * entries, seed, clocks and the number of evictions. Sets *live to the number of live entries, and
 * returns how many of them the new table has. If it is too small it lacks the least useful ones. If
 * the other table is smaller than 2 MB, it lacks most.
 */
uint64_t rl_local_move(rl_local *to, const rl_local *from, int64_t host_ms, uint64_t *live);

/* ms since an arbitrary moment before the process started. */
int64_t rl_local_clock(void);

/* host_ms as ms since the epoch: by the host's clock, or by Redis's as it was last reported. */
int64_t rl_local_now(const rl_local *table, rl_clock clock, int64_t host_ms);

/*
 * The key of an entry: a SipHash of kind, counter and identity with the table's seed; never 0.
 * counter is a hash of scope, rule name, algorithm and window, so that an entry is only read by
 * rules that mean the same by it.
 */
uint64_t rl_local_key(const rl_local *table, rl_local_kind kind, uint64_t counter,
                      const void *identity, size_t length);

/* A counter as it is at a tick. */
typedef struct {
    rl_state state;
    int64_t now;          /* the tick */
    int64_t lag_ms;       /* of a snapshot: Redis's clock may be behind now by up to this */
    const rl_state *seed; /* of a count: what is known of it from elsewhere; NULL: nothing */
} rl_view;

/*
 * Reads the state of a count at view->now, which moves forward if another process has already
 * moved the count on. The count is at least what the seed says.
 */
void rl_local_peek(rl_local *table, uint64_t key, const rl_limit *limit, rl_view *view);

/*
 * Charges cost to a count if the limit admits it, in one atomic step, and starts the block that a
 * denial starts. Returns whether it was charged. The view is of the count before the charge, and
 * otherwise as rl_local_peek() leaves it.
 */
int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, rl_view *view);

/* Starts a block if a denial of cost in this view starts one; the view then contains it. */
void rl_local_block(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, rl_view *view);

/*
 * If a count is ahead of now because a clock stepped back, stores it as rl_limiter_roll() anchors
 * it. To be called when a peeked count denies; rl_local_charge() does it by itself.
 */
void rl_local_anchor(rl_local *table, uint64_t key, const rl_limit *limit, int64_t now);

/* Takes back cost units that were charged at a position: see rl_limiter_give_back(). */
void rl_local_give_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t position,
                        int64_t cost);

/* Pending units, and when they are prolonged or settled. */
typedef struct {
    int64_t period;  /* the one in which they became pending, or were prolonged last */
    int64_t cost;    /* how many */
    int64_t host_ms;
    int64_t now;     /* the same time, in ticks */
} rl_local_units;

/*
 * Prolongs pending units: see rl_limiter_prolong(), also for what it returns. Never makes an entry:
 * without one nothing is pending, and the period returned is the one of units->now.
 */
int64_t rl_local_prolong(rl_local *table, uint64_t key, const rl_limit *limit,
                         const rl_local_units *units);

/* Settles pending units, with a charge or without one: see rl_limiter_settle(). */
void rl_local_settle(rl_local *table, uint64_t key, const rl_limit *limit,
                     const rl_local_units *units, int charged);

/* What Redis reported of a counter. */
typedef struct {
    const rl_state *state;
    int64_t redis_now;   /* the tick that the state is of */
    int overridden;      /* the limit is an override */
    int64_t sent_ms;     /* host_ms when Redis was asked */
    int64_t received_ms; /* and when its reply was there */
} rl_local_reply;

/*
 * Stores the snapshot of a reply. An older reply never replaces a newer one. What is pending is
 * not stored.
 */
void rl_local_snapshot_store(rl_local *table, uint64_t key, const rl_limit *limit,
                             const rl_local_reply *reply);

/* Drops the snapshot: something that it contains has been undone. */
void rl_local_snapshot_drop(rl_local *table, uint64_t key);

/*
 * Whether the snapshot denies cost units at host_ms. It is aged from the moment of asking, so it is
 * never stricter than Redis itself, with one exception: where a counter with leases had no unit
 * left, it denies for up to RL_LEASE_PAUSE_MS longer, until a lease is worth its call. With any
 * result except UNKNOWN, and with UNKNOWN if view->now is above 0, the view is the snapshot's state
 * rolled forward, and *limit the override that Redis applied, if it did.
 */
rl_snapshot_verdict rl_local_snapshot_check(rl_local *table, uint64_t key, rl_limit *limit,
                                            int64_t cost, int64_t host_ms, rl_view *view);

/*
 * Returns 1 if the caller is to revalidate a stale denial, that is, to ask Redis again. If bounded
 * is set, no other caller is told to for a second; otherwise, which is for a dry counter, for
 * RL_LEASE_PAUSE_MS. Returns 0 if another caller already does, or if bounded is set and the host
 * has revalidated too many: then the denial stands.
 */
int rl_local_snapshot_revalidate(rl_local *table, uint64_t key, int64_t host_ms, int bounded);

/* The host_ms when Redis was asked for the snapshot; 0: there is none. */
int64_t rl_local_snapshot_asked_ms(rl_local *table, uint64_t key);

/*
 * The key of the leases of a counter under a limit. key is that of its snapshot. The same key in
 * another table differs, so that leases do not move: processes that still use the old table could
 * spend them a second time.
 */
uint64_t rl_local_lease_key(const rl_local *table, uint64_t key, const rl_limit *limit);

typedef struct {
    uint64_t serial; /* of the lease that the units were taken from */
    int64_t left;    /* units left in the leases of the counter */
    int refill;      /* it is time to ask for more */
} rl_lease;

/*
 * Takes cost units, more than 0, of a lease. Returns 0, and takes none, if no lease that is live at
 * host_ms has so many.
 */
int rl_local_lease_spend(rl_local *table, uint64_t key, int64_t cost, int64_t host_ms,
                         rl_lease *spent);

/* Returns cost units to the lease that they were taken from, if it is still there. */
void rl_local_lease_return(rl_local *table, uint64_t key, uint64_t serial, int64_t cost);

typedef struct {
    int64_t host_ms;
    int64_t asked_ms; /* when Redis was asked about the counter before; 0: not known */
    int64_t until_ms; /* when another caller may claim, if this one gets no reply */
    int64_t cost;     /* of the request, above 0: what leases have less of is of no use to it */
} rl_lease_times;

/*
 * Returns how many units the caller is to ask Redis for; it has then claimed the refill, and no
 * other caller is told to ask until rl_local_lease_grant() or times->until_ms. Returns 0 if another
 * caller refills, there is no place, or the demand is too small.
 */
int64_t rl_local_lease_claim(rl_local *table, uint64_t key, const rl_lease_times *times);

/* What came of a claim. */
typedef struct {
    int64_t units;   /* granted; 0: none */
    int64_t sent_ms; /* host_ms before the command was sent */
    int64_t life_ms; /* from then on: rl_limiter_lease_ms() */
    int64_t host_ms; /* now */
    int64_t cost;    /* of the request; a lease that has less left makes room */
} rl_lease_grant;

/*
 * Stores a grant and ends the claim. Returns how many units are lost: those of the grant if it is
 * too late or has no place, else what the lease in whose place it is stored had left.
 */
int64_t rl_local_lease_grant(rl_local *table, uint64_t key, const rl_lease_grant *grant);

/*
 * Whether Redis's clock, as reported in a reply, has run on as this host's since it was last heard,
 * give or take a second.
 */
int rl_local_is_redis_time(const rl_local *table, int64_t redis_ms, int64_t sent_ms,
                           int64_t received_ms);

/*
 * Counts a denial of key. Returns how many to report: 0, or the denials since the last report, this
 * one included. At most one report per every_ms and key.
 */
uint32_t rl_local_report(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms);

/*
 * Returns how many denials of key have not been reported if the last report was more than every_ms
 * ago, and counts them as reported; otherwise 0.
 */
uint32_t rl_local_unreported(rl_local *table, uint64_t key, int64_t host_ms, int64_t every_ms);

typedef struct {
    uint64_t capacity;  /* entries that fit */
    uint64_t entries;   /* entries in use, live or expired; above 16 MB estimated */
    uint64_t evictions; /* live entries whose place was given to another key */
} rl_local_stats;

/* Reads every entry, or, above 16 MB, one in so many: not for the request path. */
void rl_local_read_stats(const rl_local *table, rl_local_stats *stats);

#endif
