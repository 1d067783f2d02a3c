/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limiter: the arithmetic of the algorithms.
 *
 * Pure: a state, a time and a cost go in, a verdict comes out. No clock is read, nothing is
 * allocated, nothing is shared; every function may be called from any thread. The same rules
 * stand in redis/decide.lua, which is this file in another language: whoever changes one changes
 * both.
 *
 * Units: counts are units of cost (a plain request takes 1), durations are ms. A time is a number
 * of ticks since the epoch: ms, but µs for buckets whose window is a minute or less, so that a
 * high rate is not lost in rounding. All are whole numbers.
 */
#ifndef RL_LIMITER_H
#define RL_LIMITER_H

#include <stdint.h>

#include "core/algorithms.h"

#define RL_PRODUCT_MAX (INT64_C(1) << 51)        /* the largest quota x window, in ticks */
#define RL_WINDOW_MIN_MS INT64_C(100)
#define RL_WINDOW_MAX_MS (INT64_C(31) * 86400000)
#define RL_US_WINDOW_MAX_MS INT64_C(60000)       /* buckets up to here count time in µs */
#define RL_PERIOD_GONE INT64_C(-1)               /* of units that have become a charge */
#define RL_SOFT_RETRY_MS 1000                    /* a denial by pending units alone */
#define RL_NEVER INT64_C(-1)                     /* a wait that no waiting ends */

/*
 * Pending units that nobody settles or prolongs become charges after one to two periods. The
 * scripts take this text, so it is a plain number. Tests build with a shorter one.
 */
#ifndef RL_PENDING_PERIOD_MS
#define RL_PENDING_PERIOD_MS 60000
#endif

/* What a rule allows. */
typedef struct {
    rl_algorithm algorithm;
    int64_t quota;     /* units per window, 0 to RL_COUNT_MAX; 0 denies everything */
    int64_t window_ms; /* RL_WINDOW_MIN_MS to RL_WINDOW_MAX_MS */
    int64_t burst;     /* of a bucket: what it holds; otherwise the quota */
    int64_t delay_ms;  /* of a leaky bucket: how long a request may be held rather than denied */
    int64_t block_ms;  /* how long a denial lasts at the least; 0: as long as it is due */
    int on_response;   /* a unit is pending until the response says whether it is charged */
} rl_limit;

/*
 * Units admitted whose responses are not known: those of period number `period`, and of the one
 * before.
 */
typedef struct {
    int64_t period; /* of RL_PENDING_PERIOD_MS */
    int64_t prev;
    int64_t cur;
} rl_pending;

/*
 * What a counter holds; which member of the union depends on the algorithm. Window n lasts from
 * n x window_ms up to, and without, (n + 1) x window_ms. All zero: nothing was ever charged.
 */
typedef struct {
    union {
        struct {            /* of a window */
            int64_t index;  /* its number */
            int64_t prev;   /* units charged in the window before it */
            int64_t cur;    /* and in it */
        };
        struct {            /* of a bucket */
            int64_t at;     /* tick that the level is of */
            int64_t level;  /* units x ticks of a window */
        };
        struct {            /* of a log: its sum, as Redis made it at some tick */
            int64_t used;     /* units in the window that ends there */
            int64_t asked;    /* a cost, and the ms after which it fits: */
            int64_t wait_ms;
            int64_t next_ms;  /* the ms after which there is more room at all; 0: nothing is used */
            int64_t reset_ms; /* the ms after which nothing is used */
        };
    };
    rl_pending pending;
    int64_t blocked_until; /* tick; 0 or in the past: not blocked */
} rl_state;

/* Whether a counter of this limit holds a level. */
static inline int rl_limiter_is_bucket(const rl_limit *limit)
{
    return limit->algorithm >= RL_TOKEN_BUCKET;
}

/* Whether it holds each charge. */
static inline int rl_limiter_is_log(const rl_limit *limit)
{
    return limit->algorithm == RL_SLIDING_LOG;
}

/* Ticks in a ms: 1 or 1000. */
static inline int64_t rl_limiter_ticks(const rl_limit *limit)
{
    return rl_limiter_is_bucket(limit) && limit->window_ms <= RL_US_WINDOW_MAX_MS
        ? 1000 : 1;
}

/* The most units that can ever be admitted at once. */
static inline int64_t rl_limiter_capacity(const rl_limit *limit)
{
    return rl_limiter_is_bucket(limit) && limit->quota ? limit->burst : limit->quota;
}

/*
 * Whether all sums stay exact: max(quota, burst) x window, with the delay's share, within
 * RL_PRODUCT_MAX ticks.
 */
int rl_limiter_is_exact(const rl_limit *limit);

/*
 * Moves a state to the time now, and returns the time that counts: now itself, or, for a state
 * from the future, its own: the start of its window, its level's tick. State more than one window
 * ahead of now means that the clock stepped back: it is anchored to now, and a block with it. A
 * level keeps what it holds; of a window everything counts as charged in the window of now, so the
 * step refills nothing. The caller must store an anchored state even if it denies: otherwise it
 * stays ahead, and full, until the clock has caught up with it. Pending units that nobody settled
 * in time are charged to the moment when their time was over. The sum of a log is not moved: it is
 * of its own tick.
 */
int64_t rl_limiter_roll(const rl_limit *limit, rl_state *state, int64_t now);

/*
 * Whether cost units are admitted now: with what is pending, and not while blocked.
 *     sliding window: prev x (window - elapsed) + (cur + cost) x window <= quota x window
 *     fixed window:   cur + cost <= quota
 *     sliding log:    used + cost <= quota
 *     buckets:        level + cost x window <= burst x window + delay x quota
 * The state must have been rolled to now, here and in all that follows.
 */
int rl_limiter_admits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* Whether a denial is due to pending units alone: it may be over with the next response. */
int rl_limiter_is_soft(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* Whether a denial of cost starts a block: hard, of a cost that could be admitted some time. */
int rl_limiter_blocks(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* ms to delay an admitted request by; 0 except for leaky buckets with a delay. */
int64_t rl_limiter_delay(const rl_limit *limit, const rl_state *state, int64_t cost);

/* The most units that would be admitted now, without being held: 0 to the capacity. */
int64_t rl_limiter_remaining(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms after which cost units are admitted if nothing else is until then: 0 when they are now,
 * RL_NEVER when they are dearer than the capacity, or wait for a bucket whose quota is 0. Exact,
 * to the ms: one ms earlier they are still denied. A log knows it for the cost that was asked;
 * for another, when there is more room at all.
 */
int64_t rl_limiter_retry_after(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost);

/* The ms after which the whole quota is there again if nothing is admitted until then. */
int64_t rl_limiter_reset(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms after which more than now remains: the end of a fixed window, the next whole unit of the
 * others. RL_NEVER when all of it remains.
 */
int64_t rl_limiter_next_unit(const rl_limit *limit, const rl_state *state, int64_t now);

/* Charges cost units, or makes them pending, as the limit says, without asking whether they fit. */
void rl_limiter_charge(const rl_limit *limit, rl_state *state, int64_t cost);

/* The period, window or tick that rl_limiter_charge() charges; what a give-back needs. */
int64_t rl_limiter_position(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * Takes back what was charged at a position. A window's: from that window or, when the state has
 * moved on by one, from prev. A bucket's: what has not drained since. Never below zero, never from
 * another window.
 */
void rl_limiter_give_back(const rl_limit *limit, rl_state *state, int64_t position, int64_t cost);

/*
 * Moves cost units that are pending in a period to the latest one, so that their time begins anew.
 * Returns that period, or RL_PERIOD_GONE if they have become a charge.
 */
int64_t rl_limiter_prolong(rl_state *state, int64_t period, int64_t cost);

/*
 * Settles cost units that are pending in a period: they are pending no more, and charged if so
 * said. Units whose period is gone have become a charge already and stay it. What the period lacks
 * is taken from the other one: the units may have been prolonged by a call whose reply is not there
 * yet.
 */
void rl_limiter_settle(const rl_limit *limit, rl_state *state, int64_t period, int64_t cost,
                       int charged);

#endif
