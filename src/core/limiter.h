/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limiter: the arithmetic of the algorithms.
 *
 * Pure functions of a limit, a state, a time and a cost: they read no clock, allocate nothing and
 * share nothing, so any thread may call them. redis/decide.lua is the same arithmetic in Lua; a
 * change to one is a change to both.
 *
 * Units: counts are units of cost (a plain request costs 1), durations are ms. A time is a number
 * of ticks since the epoch. A tick is a ms, or a µs for buckets with a window of up to a minute,
 * so that high rates are not lost in rounding. All are whole numbers.
 */
#ifndef RL_LIMITER_H
#define RL_LIMITER_H

#include <stdint.h>

#include "core/algorithms.h"

#define RL_PRODUCT_MAX (INT64_C(1) << 51)        /* the largest quota x window, in ticks */
#define RL_WINDOW_MIN_MS INT64_C(100)
#define RL_WINDOW_MAX_MS (INT64_C(31) * 86400000)
#define RL_US_WINDOW_MAX_MS INT64_C(60000)       /* a bucket's tick is a µs up to this window */
#define RL_PERIOD_GONE INT64_C(-1)               /* the units have become a charge */
#define RL_SOFT_RETRY_MS 1000                    /* after a denial by pending units alone */
#define RL_NEVER INT64_C(-1)                     /* in place of a wait: waiting does not help */

/* Plain numbers, because the scripts take their texts. */
#define RL_LEASE_MAX_MS 1000  /* a lease lives no longer */
#define RL_LEASE_DEMAND_MS 150 /* a host leases what it needs for so long */
#define RL_LEASE_SHARE 8      /* of what is left, a lease may be one in so many */
#define RL_LEASE_REST 64      /* and all that is left if that is one in so many of the capacity */

/*
 * Pending units that are neither settled nor prolonged become charges after one to two periods. The
 * scripts take this text, so it must be a plain number. Tests build with a shorter one.
 */
#ifndef RL_PENDING_PERIOD_MS
#define RL_PENDING_PERIOD_MS 60000
#endif

/* What a rule allows. */
typedef struct {
    rl_algorithm algorithm;
    int64_t quota;     /* units per window, 0 to RL_COUNT_MAX; 0 denies everything */
    int64_t window_ms; /* RL_WINDOW_MIN_MS to RL_WINDOW_MAX_MS */
    int64_t burst;     /* of a bucket: its size in units; otherwise the quota */
    int64_t delay_ms;  /* of a leaky bucket: for how long a request may be delayed */
    int64_t block_ms;  /* how long a denial blocks the counter; 0: not at all */
    int on_response;   /* units are pending until the response decides whether they are charged */
    int64_t lease_ms;  /* how old a leased unit may become, at most RL_LEASE_MAX_MS; 0: no leases */
} rl_limit;

/* Admitted units whose responses are not known yet. */
typedef struct {
    int64_t period; /* number of a period of RL_PENDING_PERIOD_MS */
    int64_t prev;   /* units of the period before */
    int64_t cur;    /* units of the period */
} rl_pending;

/*
 * The state of a counter; the algorithm decides which member of the union it is. Window n begins at
 * n x window_ms and ends before (n + 1) x window_ms. All zero: nothing was ever charged.
 */
typedef struct {
    union {
        struct {            /* of a window */
            int64_t index;  /* its number */
            int64_t prev;   /* units charged in the window before */
            int64_t cur;    /* units charged in the window */
        };
        struct {            /* of a bucket */
            int64_t at;     /* the tick at which it has this level */
            int64_t level;  /* units x ticks of a window */
        };
        struct {              /* of a log: what Redis computed from it at some tick */
            int64_t used;     /* units in the window that ends at that tick */
            int64_t asked;    /* the cost that was asked about */
            int64_t wait_ms;  /* ms until that cost fits */
            int64_t next_ms;  /* ms until the first unit leaves the window; 0: none is used */
            int64_t reset_ms; /* ms until the last unit leaves it */
        };
    };
    rl_pending pending;
    int64_t blocked_until; /* a tick; 0 or in the past: not blocked */
} rl_state;

/* Whether a counter of this limit has a level. */
static inline int rl_limiter_is_bucket(const rl_limit *limit)
{
    return limit->algorithm >= RL_TOKEN_BUCKET;
}

/* Whether a counter of this limit stores each charge. */
static inline int rl_limiter_is_log(const rl_limit *limit)
{
    return limit->algorithm == RL_SLIDING_LOG;
}

/* Ticks per ms: 1 or 1000. */
static inline int64_t rl_limiter_ticks(const rl_limit *limit)
{
    return rl_limiter_is_bucket(limit) && limit->window_ms <= RL_US_WINDOW_MAX_MS
        ? 1000 : 1;
}

/* The most units that one request can ever be admitted for. */
static inline int64_t rl_limiter_capacity(const rl_limit *limit)
{
    return rl_limiter_is_bucket(limit) && limit->quota ? limit->burst : limit->quota;
}

/*
 * Whether all sums stay exact: max(quota, burst) x window, plus delay x quota, is at most
 * RL_PRODUCT_MAX.
 */
int rl_limiter_is_exact(const rl_limit *limit);

/*
 * Moves a state to the time now. Returns the time that counts: now, or, for a state from the
 * future, the start of its window or the tick of its level.
 *
 * A state that is more than one window ahead of now means that the clock stepped back. It is
 * anchored to now, with its block: a bucket keeps its level; all units of a window count as charged
 * in the window of now. So the step refills nothing. The caller must store an anchored state even
 * if it denies; otherwise it stays ahead, and full, until the clock has caught up with it.
 *
 * Pending units that were not settled in time are charged at the time when they became overdue. A
 * log is not moved: its numbers belong to the tick at which Redis computed them.
 */
int64_t rl_limiter_roll(const rl_limit *limit, rl_state *state, int64_t now);

/*
 * Whether cost units are admitted now, besides those that are pending; none are while blocked.
 *     sliding window: prev x (window - elapsed) + (cur + cost) x window <= quota x window
 *     fixed window:   cur + cost <= quota
 *     sliding log:    used + cost <= quota
 *     buckets:        level + cost x window <= burst x window + delay x quota
 * The state must have been rolled to now, for this and all functions below.
 */
int rl_limiter_admits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* Whether a denial is due to pending units alone, so that the next response may end it. */
int rl_limiter_is_soft(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/*
 * Whether a denial of cost starts a block. It does if it is not due to pending units alone, the
 * cost is within the capacity, and no block lasts.
 */
int rl_limiter_blocks(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* ms to delay an admitted request by; 0 except for leaky buckets with a delay. */
int64_t rl_limiter_delay(const rl_limit *limit, const rl_state *state, int64_t cost);

/* The most units that would be admitted now without a delay: 0 to the capacity. */
int64_t rl_limiter_remaining(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms until cost units are admitted if nothing else is admitted before: 0 if they are now;
 * RL_NEVER if the cost exceeds the capacity, or a bucket with a quota of 0 is not empty; 1 s if
 * pending units alone deny. Exact if none are pending: one ms earlier the units are still denied.
 * For a log it is exact for the cost that was asked about; for another cost it is the time until
 * the first unit leaves.
 */
int64_t rl_limiter_retry_after(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost);

/* The ms until the whole quota is available again if nothing is admitted before. */
int64_t rl_limiter_reset(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms until more remains than now: for a fixed window its end, for others the next whole unit.
 * RL_NEVER if nothing is used.
 */
int64_t rl_limiter_next_unit(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * Leases: units that Redis charges at once and a host spends later, see shm/local_lease.c.
 *
 * How many of the wanted units, the demand of RL_LEASE_DEMAND_MS, a request of this cost is leased
 * beyond it: about half of what can be spent before a lease that begins now ends, and no more than
 * the share of what is left. Where little is left, all hosts together hold about one in
 * RL_LEASE_REST of the capacity, so that few requests are denied although another host has units.
 */
int64_t rl_limiter_lease(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost,
                         int64_t wanted);

/*
 * For how many ms a host may spend units that are leased now, counted from when it asked: 7/8 of
 * what remains of a window, or of limit->lease_ms for a bucket, so that a clock that is up to an
 * eighth slower than Redis's does no harm.
 */
int64_t rl_limiter_lease_ms(const rl_limit *limit, int64_t now);

/* The lease_ms of a bucket: at most a quarter of its window and of the time its burst drains in. */
int64_t rl_limiter_bucket_lease_ms(const rl_limit *limit);

/*
 * The burst that each debit of a leased bucket must fit into, whether it is a lease or not: less
 * than the burst by what drains in lease_ms, because units may be spent so much later. A burst that
 * is too small for leases stays as it is.
 */
int64_t rl_limiter_leased_burst(int64_t quota, int64_t burst, int64_t window_ms, int64_t lease_ms);

/* Charges cost units, or makes them pending if limit->on_response, whether they fit or not. */
void rl_limiter_charge(const rl_limit *limit, rl_state *state, int64_t cost);

/* The period, window or tick that rl_limiter_charge() charges; needed to take the charge back. */
int64_t rl_limiter_position(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * Takes back cost units that were charged at a position: of a window, from that window, which may
 * be prev by now, and from no other; of a bucket, what has not drained since. Never goes below
 * zero.
 */
void rl_limiter_give_back(const rl_limit *limit, rl_state *state, int64_t position, int64_t cost);

/*
 * Moves cost units that are pending in a period to the latest one, so that their time starts again.
 * Returns the latest period, or RL_PERIOD_GONE if they have become a charge.
 */
int64_t rl_limiter_prolong(rl_state *state, int64_t period, int64_t cost);

/*
 * Settles cost units that are pending in a period: they are no longer pending, and are charged if
 * charged is not 0. Units whose period is gone have become a charge already; they stay charged. If
 * the period has fewer units than that, the rest is taken from the other period: a call whose reply
 * has not arrived yet may have prolonged them.
 */
void rl_limiter_settle(const rl_limit *limit, rl_state *state, int64_t period, int64_t cost,
                       int charged);

#endif
