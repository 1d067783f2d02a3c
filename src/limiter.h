/*
 * limiter: the arithmetic of the algorithms.
 *
 * Pure: a state, a time and a cost go in, a verdict comes out. No clock is read, nothing is
 * allocated, nothing is shared; every function may be called from any thread. The same rules
 * stand in redis/decide.lua, which is this file in another language: whoever changes one changes
 * both.
 *
 * Units: times are ticks of 1 ms since the epoch, durations are ms, counts are units of cost
 * (a plain request takes 1). All are whole numbers.
 */
#ifndef RL_LIMITER_H
#define RL_LIMITER_H

#include <stdint.h>

#define RL_COUNT_MAX INT64_C(1000000000)         /* the largest quota, burst and cost */
#define RL_PRODUCT_MAX (INT64_C(1) << 51)        /* the largest quota x window, in ticks */
#define RL_WINDOW_MIN_MS INT64_C(100)
#define RL_WINDOW_MAX_MS (INT64_C(31) * 86400000)
#define RL_NEVER INT64_C(-1)                     /* a wait that no waiting ends */

typedef enum {
    RL_SLIDING_WINDOW,
    RL_FIXED_WINDOW,
    RL_SLIDING_LOG,
    RL_TOKEN_BUCKET,
    RL_LEAKY_BUCKET
} rl_algorithm;

/* What a rule allows. */
typedef struct {
    rl_algorithm algorithm;
    int64_t quota;     /* units per window, 0 to RL_COUNT_MAX; 0 denies everything */
    int64_t window_ms; /* RL_WINDOW_MIN_MS to RL_WINDOW_MAX_MS */
} rl_limit;

/*
 * What a counter holds: the units admitted in window number `index` and in the one before it.
 * Window n lasts from n x window_ms up to, and without, (n + 1) x window_ms.
 */
typedef struct {
    int64_t index;
    int64_t prev;
    int64_t cur;
} rl_state;

/*
 * Moves a state to the time now, and returns the time that counts: now itself, or, for a state
 * from the future, the start of its window. State more than one window ahead of now is taken for
 * a clock that stepped back: it is anchored to the window of now with its counts kept, so that no
 * step of the clock refills a quota.
 */
int64_t rl_limiter_roll(const rl_limit *limit, rl_state *state, int64_t now);

/*
 * Whether cost units are admitted: for a sliding window
 * prev x (window - elapsed) + (cur + cost) x window <= quota x window, for a fixed one
 * cur + cost <= quota. The state must have been rolled to now, here and in all that follows.
 */
int rl_limiter_admits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost);

/* The most units that would be admitted now: 0 to quota. */
int64_t rl_limiter_remaining(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms after which cost units are admitted if nothing else is until then: 0 when they are now,
 * RL_NEVER when they are dearer than the quota. Exact: one ms earlier they are still denied.
 */
int64_t rl_limiter_retry_after(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost);

/* The ms after which the whole quota is there again if nothing is admitted until then. */
int64_t rl_limiter_reset(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * The ms after which more than now remains: the end of a fixed window, the next whole unit of a
 * sliding one. RL_NEVER when the whole quota remains.
 */
int64_t rl_limiter_next_unit(const rl_limit *limit, const rl_state *state, int64_t now);

/*
 * Takes back what was charged in window number index: from that window or, when the state has
 * moved on by one, from prev. Never below zero, never from another window.
 */
void rl_limiter_give_back(rl_state *state, int64_t index, int64_t cost);

#endif
