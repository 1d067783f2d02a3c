/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic of the limiter by examples that can be checked by hand: windows, buckets, pending
 * units, logs, and what is still exact. limiter_properties.c tests what holds for every state.
 */
#include "states.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define S RL_SLIDING_WINDOW
#define F RL_FIXED_WINDOW

/* --- Tables: 10 units in 1,000 ms, state in window 5, that is from 5,000 to 5,999 --------- */

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
    {"the window before counts fully at the edge", S, 10, 0, 5000, 1, 0, 100, 1000, 100},
    {"the window before does not count", F, 10, 0, 5000, 1, 10, 0, 0, NEVER},
    {"half of it faded", S, 10, 0, 5500, 1, 5, 0, 500, 100},
    {"half of it faded, the rest taken", S, 10, 5, 5500, 1, 0, 100, 1500, 100},
    {"1 ms before a unit is free", S, 10, 0, 5099, 1, 0, 1, 901, 1},
    {"at the ms when a unit is free", S, 10, 0, 5100, 1, 1, 0, 900, 100},
    {"a higher cost waits longer", S, 10, 0, 5000, 5, 0, 500, 1000, 100},
    {"the whole quota at once waits for the fading", S, 1, 0, 5000, 10, 9, 1000, 1000, 1000},
    {"the whole quota at once waits for two edges", S, 0, 1, 5000, 10, 9, 2000, 2000, 2000},
    {"a cost above the quota never fits", S, 0, 0, 5000, 11, 10, NEVER, 0, NEVER},
    {"a cost above the quota never fits", F, 0, 0, 5000, 11, 10, NEVER, 0, NEVER},
    {"a cost of 0 passes when full", F, 0, 10, 5000, 0, 0, 0, 1000, 1000},
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

/* --- Tables of a bucket: 10 units in 1,000 ms, one each 100 ms, burst 5 -------------------- */

static const struct {
    const char *story;
    int64_t level, delay_ms; /* level in units x ms */
    int64_t blocked_ms, pending, cost;
    int admits, soft;
    int64_t remaining, retry_after, delayed, reset, next_unit;
} levels[] = {
    {"empty", 0, 0, 0, 0, 1, 1, 0, 5, 0, 0, 0, NEVER},
    {"one unit in it", 1000, 0, 0, 0, 1, 1, 0, 4, 0, 0, 100, 100},
    {"one tick of a unit in it", 1, 0, 0, 0, 1, 1, 0, 4, 0, 0, 1, 1},
    {"full", 5000, 0, 0, 0, 1, 0, 0, 0, 100, 0, 500, 100},
    {"one tick short of room for a unit", 4001, 0, 0, 0, 1, 0, 0, 0, 1, 0, 401, 1},
    {"full, a higher cost", 5000, 0, 0, 0, 5, 0, 0, 0, 500, 0, 500, 100},
    {"a cost above the burst", 0, 0, 0, 0, 6, 0, 0, 5, NEVER, 0, 0, NEVER},
    {"above the burst, which was lowered", 9000, 0, 0, 0, 1, 0, 0, 0, 500, 0, 900, 500},
    {"full, but the request may be delayed", 5000, 100, 0, 0, 1, 1, 0, 0, 0, 100, 500, 100},
    {"delayed for part of the time", 4500, 100, 0, 0, 1, 1, 0, 0, 0, 50, 450, 50},
    {"the delay would be too long", 5001, 100, 0, 0, 1, 0, 0, 0, 1, 0, 501, 101},
    {"within the burst there is no delay", 4000, 100, 0, 0, 1, 1, 0, 1, 0, 0, 400, 100},
    {"blocked", 0, 0, 250, 0, 1, 0, 0, 0, 250, 0, 0, 250},
    {"blocked for less than the wait", 9000, 0, 250, 0, 1, 0, 0, 0, 500, 0, 900, 500},
    {"blocked, but otherwise delayed", 5000, 100, 250, 0, 1, 0, 0, 0, 250, 100, 500, 250},
    {"units pending that leave room", 0, 0, 0, 4, 1, 1, 0, 1, 0, 0, 0, 1000},
    {"units pending that leave no room", 0, 0, 0, 5, 1, 0, 1, 0, 1000, 0, 0, 1000},
    {"units pending, and full anyway", 5000, 0, 0, 5, 1, 0, 0, 0, 100, 0, 500, 100},
};

static void test_levels(void)
{
    for (size_t i = 0; i < COUNT(levels); i++) {
        rl_limit limit = {RL_LEAKY_BUCKET, 10, 1000, 5, levels[i].delay_ms, 0, 0, 0};
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
        if (levels[i].admits || levels[i].delayed)
            is_int(rl_limiter_delay(&limit, &state, cost), levels[i].delayed, "delay");
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
    ok(state.cur == 0 && state.pending.period == 5 && state.pending.cur == 4,
       "nothing but the pending units changes");
    rl_limiter_roll(&limit, &state, 6 * PERIOD);
    ok(state.cur == 0 && state.pending.period == 6 && state.pending.prev == 4
           && state.pending.cur == 0, "in the next period the units are known as those before");
    rl_limiter_charge(&limit, &state, 3);
    then = state;
    rl_limiter_settle(&limit, &then, 5, 4, 1);
    ok(then.cur == 4 && then.pending.prev == 0 && then.pending.cur == 3, "settled with a charge");
    rl_limiter_settle(&limit, &then, 6, 2, 0);
    ok(then.cur == 4 && then.pending.prev == 0 && then.pending.cur == 1,
       "settled without a charge");
    rl_limiter_settle(&limit, &then, 6, 9, 0);
    ok(then.cur == 4 && then.pending.cur == 0, "never below zero");
    then = state;
    rl_limiter_settle(&limit, &then, 4, 4, 1);
    rl_limiter_settle(&limit, &then, 7, 4, 1);
    ok(then.cur == 0 && then.pending.prev == 4 && then.pending.cur == 3,
       "units of another period are not settled");
    rl_limiter_roll(&limit, &state, 7 * PERIOD);
    ok(state.cur == 4 && state.pending.prev == 3,
       "units that are never settled are charged after two periods");
    then = state;
    rl_limiter_settle(&limit, &then, 5, 4, 0);
    ok(then.cur == 4 && then.pending.prev == 3, "settling them then does nothing");
    then = state;
    ok(rl_limiter_roll(&limit, &then, 5 * PERIOD) == 5 * PERIOD && then.pending.period == 7
           && then.pending.prev == 3,
       "a clock two periods back leaves pending units where they are");
    rl_limiter_roll(&limit, &then, 4 * PERIOD);
    ok(then.pending.period == 4 && then.pending.prev == 3 && then.cur == 4,
       "a clock further back takes them along");
    rl_limiter_roll(&limit, &state, 8 * PERIOD);
    ok(state.cur == 7 && state.pending.prev == 0 && state.pending.cur == 0,
       "in the end nothing is pending");
}

static void test_prolonging(void)
{
    static const rl_limit limit = {.algorithm = F, .quota = 10, .window_ms = 3600000, .burst = 10,
                                   .on_response = 1};
    rl_state state = {.pending = {6, 4, 3}}, then = state;

    is_int(rl_limiter_prolong(&then, 6, 2), 6, "prolonged in the latest period");
    ok(then.pending.prev == 4 && then.pending.cur == 3, "units of the latest period stay there");
    is_int(rl_limiter_prolong(&then, 5, 3), 6, "those of the period before");
    ok(then.pending.period == 6 && then.pending.prev == 1 && then.pending.cur == 6,
       "units of the period before move to the latest");
    rl_limiter_prolong(&then, 5, 9);
    ok(then.pending.prev == 0 && then.pending.cur == 7, "no more units move than there are");
    is_int(rl_limiter_prolong(&then, 4, 3), RL_PERIOD_GONE,
           "units of an earlier period have become a charge");
    is_int(rl_limiter_prolong(&then, 7, 3), RL_PERIOD_GONE, "a later period has no units");
    ok(then.pending.prev == 0 && then.pending.cur == 7 && then.cur == 0, "then nothing moves");
    then = state;
    rl_limiter_prolong(&then, 5, 4);
    rl_limiter_settle(&limit, &then, 5, 4, 0);
    ok(then.pending.prev == 0 && then.pending.cur == 3, "settled under their old period: gone");
    then = state;
    rl_limiter_settle(&limit, &then, 6, 5, 1);
    ok(then.pending.prev == 2 && then.pending.cur == 0 && then.cur == 5,
       "settled under a period they are not in yet: taken from the other");
}

/* --- Logs --------------------------------------------------------------------------------- */

static void test_logs(void)
{
    static const rl_limit limit = LIMIT(RL_SLIDING_LOG, 10, 1000);
    rl_state state = {.used = 9, .asked = 3, .wait_ms = 400, .next_ms = 100, .reset_ms = 900};

    is_int(rl_limiter_roll(&limit, &state, 5000), 5000, "a log is not rolled");
    ok(rl_limiter_admits(&limit, &state, 5000, 1) && !rl_limiter_admits(&limit, &state, 5000, 2),
       "a log admits up to its quota");
    is_int(rl_limiter_remaining(&limit, &state, 5000), 1, "remaining is what the quota leaves");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 3), 400,
           "the cost that was asked about has its own wait");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 2), 100,
           "another cost waits for the first unit to leave");
    is_int(rl_limiter_retry_after(&limit, &state, 5000, 11), RL_NEVER,
           "a cost above the quota never fits");
    is_int(rl_limiter_next_unit(&limit, &state, 5000), 100,
           "more remains when the first unit leaves");
    is_int(rl_limiter_reset(&limit, &state, 5000), 900, "all remains when the last unit has left");
    is_int(rl_limiter_position(&limit, &state, 5000), 5000, "a charge is at its tick");
    rl_limiter_charge(&limit, &state, 1);
    ok(state.used == 10 && state.reset_ms == 1000 && state.next_ms == 100,
       "a charge counts, and leaves last");
    state = (rl_state){.used = 0};
    is_int(rl_limiter_reset(&limit, &state, 5000), 0, "an empty log is whole");
    is_int(rl_limiter_next_unit(&limit, &state, 5000), RL_NEVER, "an empty log gets no more room");
    rl_limiter_charge(&limit, &state, 1);
    ok(state.used == 1 && state.next_ms == 1000, "the first charge of an empty log leaves first");
    state.blocked_until = 5500;
    ok(!rl_limiter_admits(&limit, &state, 5000, 1)
           && rl_limiter_retry_after(&limit, &state, 5000, 1) == 500, "a block denies here, too");
}

/* --- What is exact ------------------------------------------------------------------------ */

static void test_exactness(void)
{
    rl_limit limit = LIMIT(S, RL_PRODUCT_MAX / RL_WINDOW_MAX_MS, RL_WINDOW_MAX_MS);

    ok(rl_limiter_is_exact(&limit), "2^51 units x ticks are exact");
    limit.quota++;
    ok(!rl_limiter_is_exact(&limit), "one unit more is not");
    limit = (rl_limit)BUCKET(RL_TOKEN_BUCKET, 1, 60000, RL_PRODUCT_MAX / 60000000);
    ok(rl_limiter_is_exact(&limit), "a bucket of a minute counts in µs");
    limit.burst++;
    ok(!rl_limiter_is_exact(&limit), "so its burst may be a thousandth");
    limit = (rl_limit){RL_LEAKY_BUCKET, 10, 1000, RL_PRODUCT_MAX / 1000000 - 1, 99, 0, 0, 0};
    ok(rl_limiter_is_exact(&limit), "a delay that still fits is exact");
    limit.delay_ms = 10000;
    ok(!rl_limiter_is_exact(&limit), "a longer one is not");
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
    test_logs();
    test_exactness();
    return done_testing();
}
