/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic of windows, buckets and pending units: first tables that a person can check, then
 * what must hold for every state, quota and window up to the ends of their ranges, then traces of
 * many requests. The waits are compared with what the limiter itself says at that time and one
 * millisecond, and five, before.
 */
#include "random.h"
#include "states.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define S RL_SLIDING_WINDOW
#define F RL_FIXED_WINDOW

/* --- Tables: 10 units in 1,000 ms, state in window 5, that is from 5,000 to 5,999 ---------- */

#define NEVER RL_NEVER

static const struct {
    const char *story;
    rl_algorithm algorithm;
    int64_t prev, cur, now, cost;
    int64_t remaining, retry_after, reset, next_unit;
} rows[] = {
    {"nothing yet", S, 0, 0, 5000, 1, 10, 0, 0, NEVER},
    {"nothing yet", F, 0, 0, 5000, 1, 10, 0, 0, NEVER},
    {"one unit gone, early", S, 0, 1, 5000, 1, 9, 0, 2000, 2000},
    {"one unit gone, early", F, 0, 1, 5000, 1, 9, 0, 1000, 1000},
    {"the last unit is admitted", S, 0, 9, 5300, 1, 1, 0, 1700, 812},
    {"the last unit is admitted", F, 0, 9, 5300, 1, 1, 0, 700, 700},
    {"full: the window must turn and a tenth of it fade", S, 0, 10, 5300, 1, 0, 800, 1700, 800},
    {"full: the window must turn", F, 0, 10, 5300, 1, 0, 700, 700, 700},
    {"full, the last ms", F, 0, 10, 5999, 1, 0, 1, 1, 1},
    {"the window before counts whole at the edge", S, 10, 0, 5000, 1, 0, 100, 1000, 100},
    {"the window before does not count", F, 10, 0, 5000, 1, 10, 0, 0, NEVER},
    {"half of it faded", S, 10, 0, 5500, 1, 5, 0, 500, 100},
    {"half of it faded, the rest taken", S, 10, 5, 5500, 1, 0, 100, 1500, 100},
    {"a hair before the unit is free", S, 10, 0, 5099, 1, 0, 1, 901, 1},
    {"to the ms when the unit is free", S, 10, 0, 5100, 1, 1, 0, 900, 100},
    {"dear requests wait longer", S, 10, 0, 5000, 5, 0, 500, 1000, 100},
    {"the whole quota at once waits for the fading", S, 1, 0, 5000, 10, 9, 1000, 1000, 1000},
    {"the whole quota at once waits for two edges", S, 0, 1, 5000, 10, 9, 2000, 2000, 2000},
    {"dearer than the quota waits for ever", S, 0, 0, 5000, 11, 10, NEVER, 0, NEVER},
    {"dearer than the quota waits for ever", F, 0, 0, 5000, 11, 10, NEVER, 0, NEVER},
    {"a cost of nothing passes when full", F, 0, 10, 5000, 0, 0, 0, 1000, 1000},
    {"a quota lowered under the count", S, 0, 20, 5000, 1, 0, 1550, 2000, 1550},
    {"a quota lowered under the count", F, 0, 20, 5000, 1, 0, 1000, 1000, 1000},
    {"a quota lowered under the count before", S, 20, 0, 5000, 1, 0, 550, 1000, 550},
};

static void test_tables(void)
{
    for (size_t i = 0; i < COUNT(rows); i++) {
        rl_limit limit = LIMIT(rows[i].algorithm, 10, 1000);
        rl_state state = WINDOW(5, rows[i].prev, rows[i].cur);
        int64_t now = rows[i].now, cost = rows[i].cost;
        const char *kind = rows[i].algorithm == S ? "sliding" : "fixed";

        is_int(rl_limiter_admits(&limit, &state, now, cost), rows[i].retry_after == 0,
               "%s: %s: admitted or not", kind, rows[i].story);
        is_int(rl_limiter_remaining(&limit, &state, now), rows[i].remaining, "remaining");
        is_int(rl_limiter_retry_after(&limit, &state, now, cost), rows[i].retry_after,
               "retry after");
        is_int(rl_limiter_reset(&limit, &state, now), rows[i].reset, "reset");
        is_int(rl_limiter_next_unit(&limit, &state, now), rows[i].next_unit, "next unit");
    }
}

static const struct {
    const char *story;
    int64_t now, index, time, prev, cur;
} rolls[] = { /* from window 5 with 3 before and 7 in it */
    {"within the window nothing moves", 5999, 5, 5999, 3, 7},
    {"the next window: what was current is previous", 6000, 6, 6000, 7, 0},
    {"two windows on: nothing is left", 7000, 7, 7000, 0, 0},
    {"many windows on: nothing is left", 987654, 987, 987654, 0, 0},
    {"the clock steps back by a ms: the edge counts", 4999, 5, 5000, 3, 7},
    {"the clock steps back by one window: likewise", 4000, 5, 5000, 3, 7},
    {"the clock steps back further: all counts as charged now", 3999, 3, 3999, 0, 10},
    {"the clock steps back to the beginning: likewise", 0, 0, 0, 0, 10},
};

static void test_rolls(void)
{
    rl_limit limit = LIMIT(S, 10, 1000);

    for (size_t i = 0; i < COUNT(rolls); i++) {
        rl_state state = WINDOW(5, 3, 7);

        is_int(rl_limiter_roll(&limit, &state, rolls[i].now), rolls[i].time, "roll: %s",
               rolls[i].story);
        ok(state.index == rolls[i].index && state.prev == rolls[i].prev
               && state.cur == rolls[i].cur, "and so are the counts");
    }
}

static void test_give_back(void)
{
    const rl_limit limit = LIMIT(S, 10, 1000);
    rl_state state = WINDOW(5, 3, 7);

    rl_limiter_give_back(&limit, &state, 5, 2);
    ok(state.cur == 5 && state.prev == 3, "give back: to the window it was taken from");
    rl_limiter_give_back(&limit, &state, 4, 1);
    ok(state.cur == 5 && state.prev == 2, "give back: to that window when it is the one before");
    rl_limiter_give_back(&limit, &state, 3, 1);
    rl_limiter_give_back(&limit, &state, 6, 1);
    ok(state.cur == 5 && state.prev == 2, "give back: to no other");
    rl_limiter_give_back(&limit, &state, 5, RL_COUNT_MAX);
    rl_limiter_give_back(&limit, &state, 4, RL_COUNT_MAX);
    ok(state.cur == 0 && state.prev == 0, "give back: never below zero");
    ok(state.index == 5, "give back: the window stays");
}

/* --- Tables of a bucket: 10 units in 1,000 ms, one each 100 ms, holds 5 ------------------- */

static const struct {
    const char *story;
    int64_t level, delay_ms; /* level in units x ms */
    int64_t blocked_ms, pending, cost;
    int admits, soft;
    int64_t remaining, retry_after, hold, reset, next_unit;
} levels[] = {
    {"empty", 0, 0, 0, 0, 1, 1, 0, 5, 0, 0, 0, NEVER},
    {"one unit in it", 1000, 0, 0, 0, 1, 1, 0, 4, 0, 0, 100, 100},
    {"a hair in it", 1, 0, 0, 0, 1, 1, 0, 4, 0, 0, 1, 1},
    {"full", 5000, 0, 0, 0, 1, 0, 0, 0, 100, 0, 500, 100},
    {"full but for a hair less than a unit", 4001, 0, 0, 0, 1, 0, 0, 0, 1, 0, 401, 1},
    {"full, and dear", 5000, 0, 0, 0, 5, 0, 0, 0, 500, 0, 500, 100},
    {"dearer than it holds", 0, 0, 0, 0, 6, 0, 0, 5, NEVER, 0, 0, NEVER},
    {"fuller than it holds: the burst was lowered", 9000, 0, 0, 0, 1, 0, 0, 0, 500, 0, 900, 500},
    {"full, but it may be held", 5000, 100, 0, 0, 1, 1, 0, 0, 0, 100, 500, 100},
    {"held for a part", 4500, 100, 0, 0, 1, 1, 0, 0, 0, 50, 450, 50},
    {"held too long", 5001, 100, 0, 0, 1, 0, 0, 0, 1, 0, 501, 101},
    {"within the burst nothing is held", 4000, 100, 0, 0, 1, 1, 0, 1, 0, 0, 400, 100},
    {"blocked", 0, 0, 250, 0, 1, 0, 0, 0, 250, 0, 0, 250},
    {"blocked for less than it has to wait", 9000, 0, 250, 0, 1, 0, 0, 0, 500, 0, 900, 500},
    {"blocked, where it would be held", 5000, 100, 250, 0, 1, 0, 0, 0, 250, 100, 500, 250},
    {"units pending that leave room", 0, 0, 0, 4, 1, 1, 0, 1, 0, 0, 0, 1000},
    {"units pending that do not", 0, 0, 0, 5, 1, 0, 1, 0, 1000, 0, 0, 1000},
    {"units pending, and full anyway", 5000, 0, 0, 5, 1, 0, 0, 0, 100, 0, 500, 100},
};

static void test_levels(void)
{
    for (size_t i = 0; i < COUNT(levels); i++) {
        rl_limit limit = {RL_LEAKY_BUCKET, 10, 1000, 5, levels[i].delay_ms, 0, 0};
        int64_t now = INT64_C(7000000), cost = levels[i].cost;
        rl_state state = LEVEL(now, levels[i].level * 1000);

        state.pending = (rl_pending){0, levels[i].pending / 2,
                                     levels[i].pending - levels[i].pending / 2};
        state.blocked_until = levels[i].blocked_ms ? now + levels[i].blocked_ms * 1000 : 0;
        is_int(rl_limiter_admits(&limit, &state, now, cost), levels[i].admits,
               "bucket: %s: admitted or not", levels[i].story);
        is_int(rl_limiter_is_soft(&limit, &state, now, cost), levels[i].soft, "softly or not");
        is_int(rl_limiter_remaining(&limit, &state, now), levels[i].remaining, "remaining");
        is_int(rl_limiter_retry_after(&limit, &state, now, cost), levels[i].retry_after,
               "retry after");
        if (levels[i].admits || levels[i].hold)
            is_int(rl_limiter_delay(&limit, &state, cost), levels[i].hold, "held");
        is_int(rl_limiter_reset(&limit, &state, now), levels[i].reset, "reset");
        is_int(rl_limiter_next_unit(&limit, &state, now), levels[i].next_unit, "next unit");
    }
}

static void test_bucket_rolls(void)
{
    static const rl_limit limit = BUCKET(RL_TOKEN_BUCKET, 10, 60001, 5); /* in ms */
    static const struct {
        const char *story;
        int64_t now, time, level;
    } moves[] = {
        {"no time passes", 1000000, 1000000, 7000},
        {"a ms drains the quota", 1000001, 1000001, 6990},
        {"to the last", 1000700, 1000700, 0},
        {"and no further", 9000000, 9000000, 0},
        {"the clock steps back: the level waits for it", 999999, 1000000, 7000},
        {"by a window: likewise", 1000000 - 60001, 1000000, 7000},
        {"by more: it moves along", 1000000 - 60002, 1000000 - 60002, 7000},
    };

    for (size_t i = 0; i < COUNT(moves); i++) {
        rl_state state = LEVEL(1000000, 7000);

        is_int(rl_limiter_roll(&limit, &state, moves[i].now), moves[i].time, "bucket: %s",
               moves[i].story);
        ok(state.at == moves[i].time && state.level == moves[i].level, "and so is the level");
    }
}

/* --- Pending units ------------------------------------------------------------------------ */

#define PERIOD RL_PENDING_PERIOD_MS

static void test_pending(void)
{
    static const rl_limit limit = {.algorithm = F, .quota = 10, .window_ms = 3600000, .burst = 10,
                                   .on_response = 1};
    rl_state state = WINDOW(0, 0, 0), then;

    rl_limiter_roll(&limit, &state, 5 * PERIOD + 59999);
    is_int(rl_limiter_position(&limit, &state, 5 * PERIOD + 59999), 5,
           "pending: a period is charged");
    rl_limiter_charge(&limit, &state, 4);
    ok(state.cur == 0 && state.pending.period == 5 && state.pending.cur == 4, "and nothing else");
    rl_limiter_roll(&limit, &state, 6 * PERIOD);
    ok(state.cur == 0 && state.pending.period == 6 && state.pending.prev == 4
           && state.pending.cur == 0, "in the next period the units are known as those before");
    rl_limiter_charge(&limit, &state, 3);
    then = state;
    rl_limiter_settle(&limit, &then, 5, 4, 1);
    ok(then.cur == 4 && then.pending.prev == 0 && then.pending.cur == 3, "settled with a charge");
    rl_limiter_settle(&limit, &then, 6, 2, 0);
    ok(then.cur == 4 && then.pending.prev == 0 && then.pending.cur == 1, "and without");
    rl_limiter_settle(&limit, &then, 6, 9, 0);
    ok(then.cur == 4 && then.pending.cur == 0, "never below zero");
    then = state;
    rl_limiter_settle(&limit, &then, 4, 4, 1);
    rl_limiter_settle(&limit, &then, 7, 4, 1);
    ok(then.cur == 0 && then.pending.prev == 4 && then.pending.cur == 3, "of no other period");
    rl_limiter_roll(&limit, &state, 7 * PERIOD);
    ok(state.cur == 4 && state.pending.prev == 3,
       "what is never settled is charged after two periods");
    then = state;
    rl_limiter_settle(&limit, &then, 5, 4, 0);
    ok(then.cur == 4 && then.pending.prev == 3, "then it is too late to settle it");
    then = state;
    ok(rl_limiter_roll(&limit, &then, 5 * PERIOD) == 5 * PERIOD && then.pending.period == 7
           && then.pending.prev == 3,
       "a clock two periods back leaves what is pending where it is");
    rl_limiter_roll(&limit, &then, 4 * PERIOD);
    ok(then.pending.period == 4 && then.pending.prev == 3 && then.cur == 4,
       "one further back takes it along");
    rl_limiter_roll(&limit, &state, 8 * PERIOD);
    ok(state.cur == 7 && state.pending.prev == 0 && state.pending.cur == 0, "and so it ends");
}

static void test_prolonging(void)
{
    static const rl_limit limit = {.algorithm = F, .quota = 10, .window_ms = 3600000, .burst = 10,
                                   .on_response = 1};
    rl_state state = {.pending = {6, 4, 3}}, then = state;

    is_int(rl_limiter_prolong(&then, 6, 2), 6, "prolonged in the latest period");
    ok(then.pending.prev == 4 && then.pending.cur == 3, "units stay there");
    is_int(rl_limiter_prolong(&then, 5, 3), 6, "those of the period before");
    ok(then.pending.period == 6 && then.pending.prev == 1 && then.pending.cur == 6, "come there");
    rl_limiter_prolong(&then, 5, 9);
    ok(then.pending.prev == 0 && then.pending.cur == 7, "never more than there are");
    is_int(rl_limiter_prolong(&then, 4, 3), RL_PERIOD_GONE,
           "those of an earlier period are a charge");
    is_int(rl_limiter_prolong(&then, 7, 3), RL_PERIOD_GONE, "a later period has none");
    ok(then.pending.prev == 0 && then.pending.cur == 7 && then.cur == 0, "and nothing moves");
    then = state;
    rl_limiter_prolong(&then, 5, 4);
    rl_limiter_settle(&limit, &then, 5, 4, 0);
    ok(then.pending.prev == 0 && then.pending.cur == 3, "settled by who has not heard of it: gone");
    then = state;
    rl_limiter_settle(&limit, &then, 6, 5, 1);
    ok(then.pending.prev == 2 && then.pending.cur == 0 && then.cur == 5,
       "or by who has heard of what is still to come");
}

/* --- Scenes ------------------------------------------------------------------------------- */

typedef struct {
    rl_limit limit;
    rl_state state;
    int64_t now, cost;
} scene;

static int is_bucket(const scene *s)
{
    return rl_limiter_is_bucket(&s->limit);
}

static rl_limit any_limit(rng *r)
{
    static const rl_algorithm algorithms[] = {S, F, RL_TOKEN_BUCKET, RL_LEAKY_BUCKET};
    rl_limit limit = {.algorithm = algorithms[rng_next(r) % COUNT(algorithms)]};
    int64_t most;

    limit.window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
    most = RL_PRODUCT_MAX / (limit.window_ms * rl_limiter_ticks(&limit));
    most = most < RL_COUNT_MAX ? most : RL_COUNT_MAX;
    limit.burst = limit.quota = rng_scaled(r, 0, most);
    if (rl_limiter_is_bucket(&limit) && rng_one_in(r, 2))
        limit.burst = rng_scaled(r, 1, most);
    if (limit.algorithm == RL_LEAKY_BUCKET)
        limit.delay_ms = rng_scaled(r, 0, 10000);
    while (!rl_limiter_is_exact(&limit))
        limit.delay_ms /= 2;
    limit.block_ms = rng_one_in(r, 2) ? rng_scaled(r, 1, RL_WINDOW_MAX_MS) : 0;
    return limit;
}

/* Counts and levels may be above the quota: it may have been lowered since. */
static scene any_scene(rng *r)
{
    scene s = {.limit = any_limit(r)};
    int64_t ticks = rl_limiter_ticks(&s.limit), holds = rl_limiter_capacity(&s.limit);

    s.now = rng_scaled(r, 0, ((INT64_C(1) << 42) - 1) * ticks);
    if (is_bucket(&s)) {
        s.state.at = s.now;
        s.state.level = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_PRODUCT_MAX
                                                          : holds * s.limit.window_ms * ticks);
    }
    else {
        s.state.index = s.now / s.limit.window_ms;
        s.state.prev = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : s.limit.quota);
        s.state.cur = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : s.limit.quota);
    }
    s.cost = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : holds);
    return s;
}

/* With a block, or units pending, or both. */
static scene with_more(scene s, rng *r)
{
    int64_t ticks = rl_limiter_ticks(&s.limit), holds = rl_limiter_capacity(&s.limit);

    if (rng_one_in(r, 2)) {
        s.state.pending.period = s.now / (PERIOD * ticks);
        s.state.pending.prev = rng_scaled(r, 0, holds);
        s.state.pending.cur = rng_scaled(r, 0, holds);
    }
    if (rng_one_in(r, 2))
        s.state.blocked_until = s.now + rng_scaled(r, -5, RL_WINDOW_MAX_MS * ticks);
    return s;
}

/* After ms in which nothing is admitted. */
static scene later(scene s, int64_t ms)
{
    s.now = rl_limiter_roll(&s.limit, &s.state, s.now + ms * rl_limiter_ticks(&s.limit));
    return s;
}

static int admits(scene s, int64_t cost)
{
    return rl_limiter_admits(&s.limit, &s.state, s.now, cost);
}

static int64_t remaining(scene s)
{
    return rl_limiter_remaining(&s.limit, &s.state, s.now);
}

static int64_t pending_of(const scene *s)
{
    return s->state.pending.prev + s->state.pending.cur;
}

/* --- Properties --------------------------------------------------------------------------- */

/* The limit as its definition says, in wide numbers; s.state is of the window of now. */
static int defined(const scene *s)
{
    const rl_limit *limit = &s->limit;
    __int128 units = (__int128)pending_of(s) + s->cost, window, used;
    int64_t ticks = rl_limiter_ticks(limit), holds = is_bucket(s) ? limit->burst : limit->quota;

    if (limit->quota == 0)
        holds = 0;
    window = (__int128)limit->window_ms * ticks;
    used = is_bucket(s) ? s->state.level : (__int128)s->state.cur * window;
    if (limit->algorithm == S)
        used += (__int128)s->state.prev * (limit->window_ms - s->now % limit->window_ms);
    return s->now >= s->state.blocked_until && units <= holds
        && used + units * window
            <= holds * window + (__int128)limit->delay_ms * ticks * limit->quota;
}

static int keeps_definition(scene s, rng *r)
{
    s = with_more(s, r);
    return admits(s, s.cost) == defined(&s);
}

/* What is pending is taken to be settled without a charge: nothing else happens. */
static int waits_exactly(scene s, rng *r)
{
    int64_t wait;
    int is_never;

    s = with_more(s, r);
    wait = rl_limiter_retry_after(&s.limit, &s.state, s.now, s.cost);
    is_never = s.cost > rl_limiter_capacity(&s.limit)
        || (s.limit.quota == 0 && is_bucket(&s) && s.state.level > 0);
    if (is_never || wait == RL_NEVER)
        return is_never && wait == RL_NEVER;
    if (rl_limiter_is_soft(&s.limit, &s.state, s.now, s.cost))
        return wait == RL_SOFT_RETRY_MS && !admits(s, s.cost);
    s.state.pending = (rl_pending){0, 0, 0};
    return wait >= 0 && admits(later(s, wait), s.cost)
        && (wait < 1 || !admits(later(s, wait - 1), s.cost))
        && (wait < 5 || !admits(later(s, wait - 5), s.cost));
}

static int denials_are_soft_or_block(scene s, rng *r)
{
    int soft, blocks, blocked;

    s = with_more(s, r);
    soft = rl_limiter_is_soft(&s.limit, &s.state, s.now, s.cost);
    blocks = rl_limiter_blocks(&s.limit, &s.state, s.now, s.cost);
    blocked = s.now < s.state.blocked_until;
    if (admits(s, s.cost))
        return !soft && !blocks;
    if (blocked || s.cost > rl_limiter_capacity(&s.limit))
        return !soft && !blocks;
    s.state.pending = (rl_pending){0, 0, 0};
    return soft == admits(s, s.cost) && blocks == (!soft && s.limit.block_ms > 0);
}

/* Where a request may be held, it is what is admitted without that. */
static int remaining_is_what_is_admitted(scene s, rng *r)
{
    int64_t left;

    s = with_more(s, r);
    left = remaining(s);
    s.limit.delay_ms = 0;
    return left >= 0 && left <= rl_limiter_capacity(&s.limit) && (left == 0 || admits(s, left))
        && !admits(s, left + 1);
}

static int whole(scene s)
{
    if (is_bucket(&s))
        return s.state.level == 0;
    return s.state.cur == 0 && (s.limit.algorithm == F || s.state.prev == 0);
}

static int reset_is_exact(scene s, rng *r)
{
    int64_t reset = rl_limiter_reset(&s.limit, &s.state, s.now);
    int64_t wait = rl_limiter_retry_after(&s.limit, &s.state, s.now, s.cost);
    int64_t holds = rl_limiter_capacity(&s.limit);

    (void)r;
    if (s.limit.quota == 0 && is_bucket(&s))
        return reset == 0;
    if (reset == 0)
        return remaining(s) == holds;
    return whole(later(s, reset)) && !whole(later(s, reset - 1))
        && remaining(later(s, reset)) == holds
        && (s.limit.quota == 0 || remaining(later(s, reset - 1)) < holds) && wait <= reset;
}

/* Blocks count, units pending do not: nobody knows when they are settled. */
static int next_unit_is_exact(scene s, rng *r)
{
    int64_t left, next;

    s = with_more(s, r);
    s.state.pending = (rl_pending){0, 0, 0};
    left = remaining(s);
    next = rl_limiter_next_unit(&s.limit, &s.state, s.now);
    if (next == RL_NEVER)
        return left == rl_limiter_capacity(&s.limit);
    return next > 0 && remaining(later(s, next)) > left && remaining(later(s, next - 1)) <= left;
}

static int waiting_never_hurts(scene s, rng *r)
{
    int64_t left = remaining(s), reset = rl_limiter_reset(&s.limit, &s.state, s.now);

    for (int i = 0; i < 8; i++) {
        s = later(s, reset / 7 + 1 + (int64_t)(rng_next(r) & 1));
        if (remaining(s) < left)
            return 0;
        left = remaining(s);
    }
    return left == rl_limiter_capacity(&s.limit) || (is_bucket(&s) && s.limit.quota == 0);
}

static int stepping_back_never_refills(scene s, rng *r)
{
    int64_t left = remaining(s), window = s.limit.window_ms * rl_limiter_ticks(&s.limit);
    int64_t back = rng_scaled(r, 0, 5 * window);
    scene t = s;

    t.now = rl_limiter_roll(&t.limit, &t.state, t.now - (back < t.now ? back : t.now));
    if (is_bucket(&s))
        return t.state.level == s.state.level && t.state.at == t.now && remaining(t) == left;
    return t.now / t.limit.window_ms == t.state.index && t.state.cur >= s.state.cur
        && remaining(t) <= left;
}

/*
 * A state that was stored where the clock stepped back to is whole again as soon as any other, but
 * for two windows: a step within a window leaves it ahead, and what counts as charged now begins to
 * fade when the window of now is over.
 */
static int stepping_back_soon_passes(scene s, rng *r)
{
    int64_t window = s.limit.window_ms * rl_limiter_ticks(&s.limit);
    int64_t reset = rl_limiter_reset(&s.limit, &s.state, s.now);
    int64_t back = rng_scaled(r, 0, 1000 * window);

    if (s.limit.quota == 0 && is_bucket(&s))
        return 1;
    s.now -= back < s.now ? back : s.now;
    rl_limiter_roll(&s.limit, &s.state, s.now);
    return whole(later(s, reset + 2 * s.limit.window_ms));
}

static int same(const rl_state *a, const rl_state *b)
{
    return a->index == b->index && a->prev == b->prev && a->cur == b->cur;
}

static int giving_back_undoes_a_charge(scene s, rng *r)
{
    int64_t position = rl_limiter_position(&s.limit, &s.state, s.now);
    scene charged = s;

    (void)r;
    if (!admits(s, s.cost))
        return 1;
    rl_limiter_charge(&s.limit, &charged.state, s.cost);
    s = charged;
    rl_limiter_give_back(&s.limit, &s.state, position, s.cost);
    rl_limiter_charge(&s.limit, &s.state, s.cost);
    if (!same(&s.state, &charged.state))
        return 0;
    if (is_bucket(&s))
        return 1;
    s = later(s, s.limit.window_ms - s.now % s.limit.window_ms);
    rl_limiter_give_back(&s.limit, &s.state, position, s.cost);
    return s.state.prev == charged.state.cur - s.cost && s.state.cur == 0;
}

/* From period to period, or in one leap: the same, and nothing is lost on the way. */
static int pending_ends(scene s, rng *r)
{
    int64_t ticks = rl_limiter_ticks(&s.limit), period;
    scene leap, units;

    s.limit.on_response = 1;
    s.state = (rl_state){.at = s.state.at};
    if (!is_bucket(&s))
        s.state.index = s.now / s.limit.window_ms;
    s.now = rl_limiter_roll(&s.limit, &s.state, s.now);
    s.cost = rng_between(r, 1, 1000);
    rl_limiter_charge(&s.limit, &s.state, s.cost);
    period = s.state.pending.period;
    if (pending_of(&s) != s.cost || period != s.now / (PERIOD * ticks))
        return 0;
    leap = later(s, 3 * PERIOD);
    s = units = later(s, PERIOD);
    if (pending_of(&s) != s.cost)
        return 0;
    for (int64_t step = 0; step < 2 * PERIOD; step += PERIOD / 2)
        s = later(s, PERIOD / 2);
    if (pending_of(&s) || !same(&s.state, &leap.state))
        return 0;
    /* At the end of their time they are charged whole. */
    units.now = rl_limiter_roll(&units.limit, &units.state, (period + 2) * PERIOD * ticks);
    if (pending_of(&units))
        return 0;
    return is_bucket(&s) ? units.state.level == s.cost * s.limit.window_ms * ticks
        || s.cost * s.limit.window_ms * ticks > RL_PRODUCT_MAX : units.state.cur == s.cost;
}

/*
 * As long as somebody prolongs units in each period they are pending, and then end as they are
 * settled.
 */
static int prolonged_units_stay(scene s, rng *r)
{
    int64_t period, prolonged;
    int charged = rng_one_in(r, 2);
    rl_state empty;

    s.limit.on_response = 1;
    s.state = (rl_state){.at = s.state.at};
    if (!is_bucket(&s))
        s.state.index = s.now / s.limit.window_ms;
    s.now = rl_limiter_roll(&s.limit, &s.state, s.now);
    s.cost = rng_between(r, 1, 1000);
    rl_limiter_charge(&s.limit, &s.state, s.cost);
    period = s.state.pending.period;
    for (int i = 0; i < 9; i++) {
        s = later(s, rng_between(r, 1, PERIOD));
        prolonged = rl_limiter_prolong(&s.state, period, s.cost);
        if (prolonged != s.state.pending.period || pending_of(&s) != s.cost)
            return 0;
        period = prolonged;
    }
    empty = s.state;
    empty.pending = (rl_pending){period, 0, 0};
    if (charged) {
        rl_limit at_once = s.limit;

        at_once.on_response = 0;
        rl_limiter_charge(&at_once, &empty, s.cost);
    }
    rl_limiter_settle(&s.limit, &s.state, period, s.cost, charged);
    return same(&s.state, &empty) && pending_of(&s) == 0;
}

static const struct {
    const char *promise;
    int (*holds)(scene s, rng *r);
} properties[] = {
    {"the verdict is the definition's", keeps_definition},
    {"retry after is exact to the ms, for quotas that changed, blocks and units pending",
     waits_exactly},
    {"a denial is due to pending units, or blocks, or neither", denials_are_soft_or_block},
    {"remaining is what is admitted, and not one more", remaining_is_what_is_admitted},
    {"reset is exact to the ms, and not before retry after", reset_is_exact},
    {"next unit is exact to the ms", next_unit_is_exact},
    {"with nothing admitted, what remains never falls, and all comes back", waiting_never_hurts},
    {"a clock that steps back refills nothing", stepping_back_never_refills},
    {"and denies nobody for more than two windows longer", stepping_back_soon_passes},
    {"giving back undoes a charge, of a window also from the one after",
     giving_back_undoes_a_charge},
    {"what is never settled is charged after one to two periods, in steps or in a leap",
     pending_ends},
    {"what is prolonged in each period is pending until it is settled", prolonged_units_stay},
};

static const char *const kinds[] = {"sliding window", "fixed window", "log", "token bucket",
                                    "leaky bucket"};

static void describe(const scene *s)
{
    diag("%s: quota %" PRId64 ", window %" PRId64 " ms, burst %" PRId64 ", delay %" PRId64
         " ms, prev %" PRId64 ", cur %" PRId64 ", level %" PRId64 ", now %" PRId64 ", cost %"
         PRId64,
         kinds[s->limit.algorithm], s->limit.quota, s->limit.window_ms, s->limit.burst,
         s->limit.delay_ms, is_bucket(s) ? 0 : s->state.prev, is_bucket(s) ? 0 : s->state.cur,
         is_bucket(s) ? s->state.level : 0, s->now, s->cost);
}

static void test_properties(void)
{
    uint64_t seed = rng_seed(20);
    long rounds = rng_rounds("RL_ROUNDS", 200000);

    for (size_t i = 0; i < COUNT(properties); i++) {
        rng r = {seed + i};
        long n = 0, of[5] = {0};
        scene s;

        do {
            s = any_scene(&r);
            of[s.limit.algorithm]++;
        } while (properties[i].holds(s, &r) && ++n < rounds);
        if (!ok(n == rounds, "%s (%ld scenes: %ld sliding, %ld fixed, %ld token, %ld leaky)",
                properties[i].promise, n, of[S], of[F], of[RL_TOKEN_BUCKET], of[RL_LEAKY_BUCKET])) {
            diag("RL_SEED=%" PRIu64, seed);
            describe(&s);
        }
    }
}

/* --- Traces ------------------------------------------------------------------------------- */

/* A bucket in which much happens: a few units, full every now and then. */
static rl_limit busy_bucket(rng *r, int64_t delay_ms)
{
    return (rl_limit){RL_LEAKY_BUCKET, rng_between(r, 1, 50), rng_between(r, 100, 120000),
                      rng_between(r, 1, 60), delay_ms, 0, 0};
}

static int64_t some_ticks(rng *r, const rl_limit *limit)
{
    int64_t window = limit->window_ms * rl_limiter_ticks(limit);

    return rng_one_in(r, 6) ? rng_between(r, 0, 3 * window) : rng_between(r, 0, window / 20);
}

/*
 * One charge of many is given back, some time later. Beside it the same trace in which that charge
 * never was: its bucket must never be the fuller one, or the give-back admits what it should not.
 */
static int gives_back_too_much(rng *r)
{
    rl_limit limit = busy_bucket(r, 0);
    rl_state with = LEVEL(0, 0), without = LEVEL(0, 0);
    int64_t now = INT64_C(1) << 40, position = -1, cost = 0;
    int begins = (int)rng_between(r, 0, 20), ends = begins + (int)rng_between(r, 1, 20);

    for (int i = 0; i < 60; i++) {
        int64_t units = rng_between(r, 1, 5);

        now += some_ticks(r, &limit);
        rl_limiter_roll(&limit, &with, now);
        rl_limiter_roll(&limit, &without, now);
        if (i == ends && position >= 0)
            rl_limiter_give_back(&limit, &with, position, cost);
        if (with.level < without.level)
            return 1;
        if (!rl_limiter_admits(&limit, &with, now, units))
            continue;
        rl_limiter_charge(&limit, &with, units);
        if (i >= begins && position < 0) {
            position = rl_limiter_position(&limit, &with, now);
            cost = units;
        }
        else {
            rl_limiter_charge(&limit, &without, units);
        }
    }
    return 0;
}

/*
 * Requests that are held leave when they were told to. A bucket without a delay, through which they
 * go as they leave, has room for each, but for the ms that a wait is rounded up by.
 */
static int leaves_too_fast(rng *r, long *held)
{
    rl_limit limit = busy_bucket(r, rng_scaled(r, 1, 10000)), strict = limit;
    int64_t ticks = rl_limiter_ticks(&limit), now = INT64_C(1) << 40, left = 0;
    rl_state state = LEVEL(0, 0), leaving = LEVEL(0, 0);

    strict.delay_ms = 0;
    for (int i = 0; i < 60; i++) {
        int64_t units = rng_between(r, 1, limit.burst), hold_ms;

        now += some_ticks(r, &limit);
        rl_limiter_roll(&limit, &state, now);
        if (!rl_limiter_admits(&limit, &state, now, units))
            continue;
        hold_ms = rl_limiter_delay(&limit, &state, units);
        rl_limiter_charge(&limit, &state, units);
        *held += hold_ms > 0;
        if (hold_ms < 0 || hold_ms > limit.delay_ms)
            return 1;
        left = now + hold_ms * ticks > left ? now + hold_ms * ticks : left;
        rl_limiter_roll(&strict, &leaving, left);
        if (leaving.level + units * limit.window_ms * ticks
            > limit.burst * limit.window_ms * ticks + limit.quota * ticks)
            return 1;
        rl_limiter_charge(&strict, &leaving, units);
    }
    return 0;
}

static void test_traces(void)
{
    long rounds = rng_rounds("RL_ROUNDS", 200000) / 10, wrong = 0, held = 0;
    rng r = {rng_seed(21)};

    for (long n = 0; n < rounds; n++)
        wrong += gives_back_too_much(&r);
    is_int(wrong, 0,
           "%ld traces of a bucket: a give-back leaves no more room than if the charge had "
           "never been", rounds);
    wrong = 0;
    for (long n = 0; n < rounds; n++)
        wrong += leaves_too_fast(&r, &held);
    ok(wrong == 0 && held > rounds, "%ld traces of a bucket with a delay: requests leave no faster "
       "than it drains (%ld held)", rounds, held);
}

/* --- Logs --------------------------------------------------------------------------------- */

/* What Redis summed up is all that is known. */
static void test_logs(void)
{
    static const rl_limit limit = LIMIT(RL_SLIDING_LOG, 10, 1000);
    rl_state state = {.used = 9, .asked = 3, .wait_ms = 400, .next_ms = 100, .reset_ms = 900};

    is_int(rl_limiter_roll(&limit, &state, 5000), 5000, "a log is not moved");
    ok(rl_limiter_admits(&limit, &state, 5000, 1) && !rl_limiter_admits(&limit, &state, 5000, 2),
       "it admits up to its quota");
    is_int(rl_limiter_remaining(&limit, &state, 5000), 1, "of which so much remains");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 3), 400,
           "the cost that was asked knows its wait");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 2), 100,
           "another one when there is more room");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 11), RL_NEVER,
           "one above the quota has none");
    is_int(rl_limiter_next_unit(&limit, &state, 5000), 100,
           "more remains with the first that leaves");
    is_int(rl_limiter_reset(&limit, &state, 5000), 900, "all of it with the last");
    is_int(rl_limiter_position(&limit, &state, 5000), 5000, "a charge stands at its tick");
    rl_limiter_charge(&limit, &state, 1);
    ok(state.used == 10 && state.reset_ms == 1000 && state.next_ms == 100,
       "it counts, and leaves last");
    state = (rl_state){.used = 0};
    is_int(rl_limiter_reset(&limit, &state, 5000), 0, "an empty log is whole");
    is_int(rl_limiter_next_unit(&limit, &state, 5000), RL_NEVER, "to which nothing comes");
    rl_limiter_charge(&limit, &state, 1);
    ok(state.used == 1 && state.next_ms == 1000, "its first charge leaves first");
    state.blocked_until = 5500;
    ok(!rl_limiter_admits(&limit, &state, 5000, 1)
           && rl_limiter_retry_after(&limit, &state, 5000, 1) == 500, "a block holds for it, too");
}

/* --- Ends of the ranges ------------------------------------------------------------------- */

/* The largest numbers that can ever meet: a foreign Redis value may hold them with any window. */
static void test_extremes(void)
{
    scene s = {LIMIT(S, RL_PRODUCT_MAX / RL_WINDOW_MAX_MS, RL_WINDOW_MAX_MS),
               WINDOW(0, RL_COUNT_MAX, RL_COUNT_MAX), 0, RL_COUNT_MAX};
    int64_t wait;

    ok(!admits(s, RL_COUNT_MAX) && !admits(s, 0), "31 days, all counts 10^9: denied");
    is_int(remaining(s), 0, "nothing remains");
    wait = rl_limiter_retry_after(&s.limit, &s.state, s.now, 1);
    ok(admits(later(s, wait), 1) && !admits(later(s, wait - 1), 1), "and the wait is exact");
    s.limit = (rl_limit)LIMIT(S, RL_COUNT_MAX, RL_PRODUCT_MAX / RL_COUNT_MAX);
    s.state = (rl_state)WINDOW(0, RL_COUNT_MAX, 0);
    ok(!admits(s, 1), "a quota of 10^9 in the longest window for it, used up: denied");
    s.now = 1;
    is_int(remaining(s), RL_COUNT_MAX / s.limit.window_ms, "one ms later its share is back");
    s.limit = (rl_limit)LIMIT(RL_TOKEN_BUCKET, 1, RL_WINDOW_MAX_MS);
    s.state = (rl_state)LEVEL(1, RL_PRODUCT_MAX);
    rl_limiter_charge(&s.limit, &s.state, RL_COUNT_MAX);
    is_int(s.state.level, RL_PRODUCT_MAX, "no charge lifts a level beyond what can be counted");
}

static void test_exactness(void)
{
    rl_limit limit = LIMIT(S, RL_PRODUCT_MAX / RL_WINDOW_MAX_MS, RL_WINDOW_MAX_MS);

    ok(rl_limiter_is_exact(&limit), "2^51 units x ticks are exact");
    limit.quota++;
    ok(!rl_limiter_is_exact(&limit), "one unit more is not");
    limit = (rl_limit)BUCKET(RL_TOKEN_BUCKET, 1, 60000, RL_PRODUCT_MAX / 60000000);
    ok(rl_limiter_is_exact(&limit), "a bucket of a minute counts in µs");
    limit.burst++;
    ok(!rl_limiter_is_exact(&limit), "so that it takes a thousandth");
    limit = (rl_limit){RL_LEAKY_BUCKET, 10, 1000, RL_PRODUCT_MAX / 1000000 - 1, 99, 0, 0};
    ok(rl_limiter_is_exact(&limit), "a delay takes its share");
    limit.delay_ms = 10000;
    ok(!rl_limiter_is_exact(&limit), "and no more than there is");
    is_int(rl_limiter_ticks(&limit), 1000, "a bucket's tick is a µs");
    limit.window_ms = 60001;
    is_int(rl_limiter_ticks(&limit), 1, "but a ms beyond a minute");
    limit = (rl_limit)BUCKET(RL_TOKEN_BUCKET, 0, 1000, 100);
    is_int(rl_limiter_capacity(&limit), 0, "a quota of 0 denies everything, whatever the burst");
}

int main(void)
{
    test_tables();
    test_rolls();
    test_give_back();
    test_levels();
    test_bucket_rolls();
    test_pending();
    test_prolonging();
    test_properties();
    test_traces();
    test_logs();
    test_extremes();
    test_exactness();
    return done_testing();
}
