/*
 * The arithmetic of both windows: first tables that a person can check, then what must hold for
 * every state, quota and window up to the ends of their ranges. The waits are compared with what
 * the limiter itself says at that time and one millisecond before.
 */

#include "states.h"
#include "random.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define S RL_SLIDING_WINDOW
#define F RL_FIXED_WINDOW

/* --- Tables: 10 units in 1,000 ms, state in window 5, that is from 5,000 to 5,999 --- */

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
    {"the clock steps back further: the counts move along", 3999, 3, 3999, 3, 7},
    {"the clock steps back to the beginning: likewise", 0, 0, 0, 3, 7},
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

/* --- Properties --- */

typedef struct {
    rl_limit limit;
    rl_state state;
    int64_t now, cost;
} scene;

/* Counts may be above the quota: it may have been lowered since. */
static scene any_scene(rng *r)
{
    scene s = {0};
    int64_t product_max;

    s.limit.algorithm = rng_one_in(r, 3) ? RL_FIXED_WINDOW : RL_SLIDING_WINDOW;
    s.limit.window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
    product_max = RL_PRODUCT_MAX / s.limit.window_ms;
    s.limit.quota = rng_scaled(r, 0, product_max < RL_COUNT_MAX ? product_max : RL_COUNT_MAX);
    s.limit.burst = s.limit.quota;
    s.now = rng_scaled(r, 0, (INT64_C(1) << 47) - 1);
    s.state.index = s.now / s.limit.window_ms;
    s.state.prev = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : s.limit.quota);
    s.state.cur = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : s.limit.quota);
    s.cost = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_COUNT_MAX : s.limit.quota);
    return s;
}

/* The limit as its definition says, in wide numbers; s.state is of the window of now. */
static int defined(const scene *s)
{
    __int128 left = (__int128)(s->state.cur + s->cost) * s->limit.window_ms;

    if (s->limit.algorithm == RL_SLIDING_WINDOW)
        left += (__int128)s->state.prev * (s->limit.window_ms - s->now % s->limit.window_ms);
    return left <= (__int128)s->limit.quota * s->limit.window_ms;
}

/* After ms in which nothing is admitted. */
static scene later(scene s, int64_t ms)
{
    s.now = rl_limiter_roll(&s.limit, &s.state, s.now + ms);
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

static int keeps_definition(scene s)
{
    return admits(s, s.cost) == defined(&s);
}

static int waits_exactly(scene s)
{
    int64_t wait = rl_limiter_retry_after(&s.limit, &s.state, s.now, s.cost);

    if (wait == RL_NEVER)
        return s.cost > s.limit.quota;
    if (s.cost > s.limit.quota || wait < 0 || wait > 2 * s.limit.window_ms)
        return 0;
    return admits(later(s, wait), s.cost) && (wait == 0 || !admits(later(s, wait - 1), s.cost));
}

static int remaining_is_what_is_admitted(scene s)
{
    int64_t left = remaining(s);

    return left >= 0 && left <= s.limit.quota && (left == 0 || admits(s, left))
        && !admits(s, left + 1);
}

static int whole(scene s)
{
    return s.state.cur == 0 && (s.limit.algorithm == RL_FIXED_WINDOW || s.state.prev == 0);
}

static int reset_is_exact(scene s)
{
    int64_t reset = rl_limiter_reset(&s.limit, &s.state, s.now);
    int64_t wait = rl_limiter_retry_after(&s.limit, &s.state, s.now, s.cost);

    if (reset == 0)
        return remaining(s) == s.limit.quota;
    return whole(later(s, reset)) && !whole(later(s, reset - 1))
        && remaining(later(s, reset)) == s.limit.quota
        && (s.limit.quota == 0 || remaining(later(s, reset - 1)) < s.limit.quota)
        && wait <= reset;
}

static int next_unit_is_exact(scene s)
{
    int64_t left = remaining(s), next = rl_limiter_next_unit(&s.limit, &s.state, s.now);

    if (next == RL_NEVER)
        return left == s.limit.quota;
    return next > 0 && remaining(later(s, next)) > left && remaining(later(s, next - 1)) <= left;
}

static int waiting_never_hurts(scene s)
{
    int64_t left = remaining(s);

    for (int i = 0; i < 8; i++) {
        s = later(s, s.limit.window_ms / 3 + (s.now & 1));
        if (remaining(s) < left)
            return 0;
        left = remaining(s);
    }
    return left == s.limit.quota;
}

static int stepping_back_never_refills(scene s)
{
    int64_t left = remaining(s), back = s.state.prev % (5 * s.limit.window_ms);
    scene t = s;

    if (back > s.now)
        back = s.now;
    t.now = rl_limiter_roll(&t.limit, &t.state, t.now - back);
    if (t.now / t.limit.window_ms != t.state.index || t.state.cur < s.state.cur
        || t.state.prev < s.state.prev)
        return 0;
    /* Within a sliding window time may go either way; at its start nothing has faded yet. */
    return t.limit.algorithm == RL_SLIDING_WINDOW && t.state.index < s.state.index
        ? 1 : remaining(t) <= left;
}

static int giving_back_undoes_a_charge(scene s)
{
    rl_state charged = s.state;
    int64_t index = s.state.index;

    if (!admits(s, s.cost))
        return 1;
    charged.cur += s.cost;
    rl_limiter_give_back(&s.limit, &charged, index, s.cost);
    if (charged.cur != s.state.cur || charged.prev != s.state.prev)
        return 0;
    charged.cur += s.cost;
    rl_limiter_roll(&s.limit, &charged, (index + 1) * s.limit.window_ms);
    rl_limiter_give_back(&s.limit, &charged, index, s.cost);
    return charged.prev == s.state.cur && charged.cur == 0;
}

static const struct {
    const char *promise;
    int (*holds)(scene s);
} properties[] = {
    {"the verdict is the definition's", keeps_definition},
    {"retry after is exact to the ms", waits_exactly},
    {"remaining is what is admitted, and not one more", remaining_is_what_is_admitted},
    {"reset is exact to the ms, and not before retry after", reset_is_exact},
    {"next unit is exact to the ms", next_unit_is_exact},
    {"with nothing admitted, what remains never falls, and all comes back", waiting_never_hurts},
    {"a clock that steps back refills nothing", stepping_back_never_refills},
    {"giving back undoes a charge, also from the window after", giving_back_undoes_a_charge},
};

static void test_properties(void)
{
    uint64_t seed = rng_seed(20);
    long rounds = rng_rounds("RL_ROUNDS", 200000);

    diag("RL_SEED=%" PRIu64 " RL_ROUNDS=%ld", seed, rounds);
    for (size_t i = 0; i < COUNT(properties); i++) {
        rng r = {seed + i};
        long n = 0;
        scene s;

        do
            s = any_scene(&r);
        while (properties[i].holds(s) && ++n < rounds);
        if (!ok(n == rounds, "%s (%ld scenes)", properties[i].promise, rounds))
            diag("%s: quota %" PRId64 ", window %" PRId64 " ms, prev %" PRId64 ", cur %" PRId64
                 ", now %" PRId64 ", cost %" PRId64,
                 s.limit.algorithm == RL_FIXED_WINDOW ? "fixed" : "sliding", s.limit.quota,
                 s.limit.window_ms, s.state.prev, s.state.cur, s.now, s.cost);
    }
}

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
}

int main(void)
{
    test_tables();
    test_rolls();
    test_give_back();
    test_properties();
    test_extremes();
    return done_testing();
}
