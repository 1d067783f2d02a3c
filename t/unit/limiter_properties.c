/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Properties of the limiter that hold for every state, quota and window up to the ends of their
 * ranges, tested on random ones, and on traces of many requests. Each wait is compared with the
 * verdicts of the limiter at that time and one millisecond, and five, before it.
 */
#include "random.h"
#include "states.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define S RL_SLIDING_WINDOW
#define F RL_FIXED_WINDOW

#define PERIOD RL_PENDING_PERIOD_MS

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

/* Counts and levels may exceed the quota, as after it was lowered. */
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

/* The scene with a block, pending units, both or neither. */
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

/* The scene after ms in which nothing is admitted. */
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

/* The verdict by the definition, in 128 bits; s->state must be of the window of now. */
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

/* The wait assumes that pending units are settled without a charge. */
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

/* With a delay, remaining is what is admitted without one. */
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

/* Blocks count; pending units do not, because it is not known when they are settled. */
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
 * A state that was stored after the clock stepped back is empty at most two windows later than any
 * other: a step within a window leaves it ahead, and units that count as charged now begin to fade
 * when the window of now is over.
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

/* Rolling from period to period and in one leap give the same, and no unit is lost. */
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
    /* At the end of their time all of them are charged. */
    units.now = rl_limiter_roll(&units.limit, &units.state, (period + 2) * PERIOD * ticks);
    if (pending_of(&units))
        return 0;
    return is_bucket(&s) ? units.state.level == s.cost * s.limit.window_ms * ticks
        || s.cost * s.limit.window_ms * ticks > RL_PRODUCT_MAX : units.state.cur == s.cost;
}

/* Units that are prolonged in each period stay pending until they are settled. */
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

/* Makes the limit one of a counter with leases, as the configuration does. */
static void lease_out(rl_limit *limit, rng *r)
{
    int64_t most_ms = rl_limiter_is_bucket(limit) ? rl_limiter_bucket_lease_ms(limit)
                                                  : RL_LEASE_MAX_MS;

    limit->delay_ms = limit->block_ms = 0;
    limit->lease_ms = rng_one_in(r, 2) ? most_ms : rng_between(r, 0, most_ms);
    if (rl_limiter_is_bucket(limit))
        limit->burst = rl_limiter_leased_burst(limit->quota, limit->burst, limit->window_ms,
                                               limit->lease_ms);
}

/*
 * Part of what is left, and all of a small rest, but no more than half of what can be spent in
 * time.
 */
static int leases_are_shares(scene s, rng *r)
{
    int64_t wanted = rng_scaled(r, 0, (1 << 24) - 1), left, leased, lasts_ms;
    int64_t enough_ms = 2 * RL_LEASE_DEMAND_MS, scarce_ms;

    lease_out(&s.limit, r);
    scarce_ms = s.limit.quota == 0 ? 0 : rl_limiter_capacity(&s.limit) * s.limit.window_ms
                                             / s.limit.quota / RL_LEASE_REST;
    s = with_more(s, r);
    s.cost = rng_one_in(r, 2) ? 0 : s.cost;
    left = remaining(s) - s.cost;
    leased = rl_limiter_lease(&s.limit, &s.state, s.now, s.cost, wanted);
    lasts_ms = rl_limiter_lease_ms(&s.limit, s.now);
    if (leased < 0 || leased > wanted || leased > (left > 0 ? left : 0))
        return 0;
    if (leased > left / 8 && leased > rl_limiter_capacity(&s.limit) / 64)
        return 0;
    if (lasts_ms < enough_ms && leased > wanted * lasts_ms / enough_ms)
        return 0;
    if (scarce_ms < RL_LEASE_DEMAND_MS && leased > left / RL_LEASE_REST
        && leased > wanted * scarce_ms / RL_LEASE_DEMAND_MS)
        return 0;
    if (wanted >= RL_LEASE_DEMAND_MS && left >= 8 && lasts_ms >= enough_ms && scarce_ms > 0
        && leased == 0)
        return 0;
    return leased == 0 || (admits(s, s.cost + leased)
                           && rl_limiter_capacity(&s.limit) >= RL_LEASE_SHARE);
}

static int leases_end_in_time(scene s, rng *r)
{
    int64_t lasts_ms, rest_ms;

    lease_out(&s.limit, r);
    lasts_ms = rl_limiter_lease_ms(&s.limit, s.now);
    if (lasts_ms < 0 || lasts_ms > s.limit.lease_ms || lasts_ms > RL_LEASE_MAX_MS)
        return 0;
    if (is_bucket(&s))
        return 8 * lasts_ms <= 7 * s.limit.lease_ms && 8 * (lasts_ms + 1) > 7 * s.limit.lease_ms;
    rest_ms = s.limit.window_ms - s.now % s.limit.window_ms;
    return 8 * lasts_ms <= 7 * rest_ms && lasts_ms < rest_ms
        && (lasts_ms == s.limit.lease_ms || 8 * (lasts_ms + 1) > 7 * rest_ms);
}

static int leased_bursts_are_enough(scene s, rng *r)
{
    rl_limit whole = s.limit;

    (void)r;
    if (!is_bucket(&s))
        return 1;
    s.limit.lease_ms = rl_limiter_bucket_lease_ms(&whole);
    s.limit.burst = rl_limiter_leased_burst(whole.quota, whole.burst, whole.window_ms,
                                            s.limit.lease_ms);
    if (4 * s.limit.lease_ms > whole.window_ms || s.limit.lease_ms < 0)
        return 0;
    if (whole.burst < RL_LEASE_SHARE)
        return s.limit.burst == whole.burst;
    return s.limit.burst > 0 && 4 * (s.limit.burst + 1) >= 3 * whole.burst
        && (__int128)(whole.burst - s.limit.burst) * whole.window_ms
            >= (__int128)whole.quota * s.limit.lease_ms
        && (__int128)(whole.burst - s.limit.burst - 1) * whole.window_ms
            < (__int128)whole.quota * s.limit.lease_ms;
}

static const struct {
    const char *promise;
    int (*holds)(scene s, rng *r);
} properties[] = {
    {"the verdict is that of the definition", keeps_definition},
    {"retry after is exact to the ms, also with changed quotas, blocks and pending units",
     waits_exactly},
    {"a denial is soft, starts a block, or neither", denials_are_soft_or_block},
    {"remaining units are admitted, and one more is not", remaining_is_what_is_admitted},
    {"reset is exact to the ms, and at least retry after", reset_is_exact},
    {"next unit is exact to the ms", next_unit_is_exact},
    {"while nothing is admitted, remaining never falls, and reaches the capacity",
     waiting_never_hurts},
    {"a clock that steps back refills nothing", stepping_back_never_refills},
    {"a clock that steps back delays the reset by at most two windows", stepping_back_soon_passes},
    {"giving back undoes a charge, also from the window after",
     giving_back_undoes_a_charge},
    {"units that are never settled are charged after one to two periods, in steps or in a leap",
     pending_ends},
    {"units that are prolonged in each period are pending until they are settled",
     prolonged_units_stay},
    {"a lease is a share of what is left, and fits beside the cost", leases_are_shares},
    {"a lease ends before its window, or before its units are too old", leases_end_in_time},
    {"the burst of a leased bucket is smaller by what drains while a unit is leased",
     leased_bursts_are_enough},
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

/* A bucket of a few units, which is full every now and then. */
static rl_limit busy_bucket(rng *r, int64_t delay_ms)
{
    return (rl_limit){RL_LEAKY_BUCKET, rng_between(r, 1, 50), rng_between(r, 100, 120000),
                      rng_between(r, 1, 60), delay_ms, 0, 0, 0};
}

static int64_t some_ticks(rng *r, const rl_limit *limit)
{
    int64_t window = limit->window_ms * rl_limiter_ticks(limit);

    return rng_one_in(r, 6) ? rng_between(r, 0, 3 * window) : rng_between(r, 0, window / 20);
}

/*
 * One charge of many is given back later. A second bucket gets the same charges except that one. It
 * must never be the fuller one; otherwise too much was given back.
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
 * Delayed requests go on when their delay ends. A bucket without a delay, which is charged at these
 * times, has room for each, except for the ms by which a wait is rounded up.
 */
static int leaves_too_fast(rng *r, long *delayed)
{
    rl_limit limit = busy_bucket(r, rng_scaled(r, 1, 10000)), strict = limit;
    int64_t ticks = rl_limiter_ticks(&limit), now = INT64_C(1) << 40, left = 0;
    rl_state state = LEVEL(0, 0), leaving = LEVEL(0, 0);

    strict.delay_ms = 0;
    for (int i = 0; i < 60; i++) {
        int64_t units = rng_between(r, 1, limit.burst), delay_ms;

        now += some_ticks(r, &limit);
        rl_limiter_roll(&limit, &state, now);
        if (!rl_limiter_admits(&limit, &state, now, units))
            continue;
        delay_ms = rl_limiter_delay(&limit, &state, units);
        rl_limiter_charge(&limit, &state, units);
        *delayed += delay_ms > 0;
        if (delay_ms < 0 || delay_ms > limit.delay_ms)
            return 1;
        left = now + delay_ms * ticks > left ? now + delay_ms * ticks : left;
        rl_limiter_roll(&strict, &leaving, left);
        if (leaving.level + units * limit.window_ms * ticks
            > limit.burst * limit.window_ms * ticks + limit.quota * ticks)
            return 1;
        rl_limiter_charge(&strict, &leaving, units);
    }
    return 0;
}

/*
 * Hosts lease units, and spend them as late as clocks that are an eighth slow let them; requests
 * are decided at once in between. The algorithm alone, over the same requests at the times when
 * they are admitted, admits each.
 */
static int leases_admit_too_much(rng *r, long *spent)
{
    static const rl_algorithm algorithms[] = {S, F, RL_TOKEN_BUCKET, RL_LEAKY_BUCKET};
    rl_limit limit = {.algorithm = algorithms[rng_next(r) % COUNT(algorithms)],
                      .quota = rng_scaled(r, 8, 3000), .window_ms = rng_scaled(r, 200, 120000)};
    rl_limit whole;
    int64_t ticks, now = INT64_C(1) << 40;
    rl_state debited = {0}, alone = {0};
    struct {
        int64_t left, ends;
    } leases[8] = {{0, 0}};

    limit.burst = rl_limiter_is_bucket(&limit) ? rng_scaled(r, 8, 3000) : limit.quota;
    whole = limit;
    lease_out(&limit, r);
    ticks = rl_limiter_ticks(&limit);
    for (int i = 0; i < 200; i++) {
        int64_t cost = rng_between(r, 0, 3), leased, wanted = rng_scaled(r, 0, 5000);
        int j = (int)rng_between(r, 0, 7);

        now += rng_one_in(r, 40) ? some_ticks(r, &limit) : rng_between(r, 0, 20 * ticks);
        now += rng_one_in(r, 20) ? leases[j].ends > now ? leases[j].ends - 1 - now : 0 : 0;
        rl_limiter_roll(&limit, &debited, now);
        rl_limiter_roll(&whole, &alone, now);
        if (rng_one_in(r, 2) && leases[j].left > 0 && now < leases[j].ends) {
            cost = rng_one_in(r, 2) ? leases[j].left : 1;
            leases[j].left -= cost;
            *spent += cost;
            if (!rl_limiter_admits(&whole, &alone, now, cost))
                return 1;
            rl_limiter_charge(&whole, &alone, cost);
        }
        else if (rl_limiter_admits(&limit, &debited, now, cost)) {
            leased = rl_limiter_lease(&limit, &debited, now, cost, wanted);
            rl_limiter_charge(&limit, &debited, cost + leased);
            if (!rl_limiter_admits(&whole, &alone, now, cost))
                return 1;
            rl_limiter_charge(&whole, &alone, cost);
            leases[j].left = leased;
            leases[j].ends = now + rl_limiter_lease_ms(&limit, now) * ticks * 8 / 7;
        }
    }
    return 0;
}

static void test_lease_traces(void)
{
    long rounds = rng_rounds("RL_ROUNDS", 200000) / 10, wrong = 0, spent = 0;
    rng r = {rng_seed(22)};

    for (long n = 0; n < rounds && !wrong; n++)
        wrong += leases_admit_too_much(&r, &spent);
    ok(wrong == 0 && spent > rounds,
       "%ld traces of leases: the algorithm admits what hosts spend, whenever they spend it "
       "(%ld units)", rounds, spent);
}

static void test_traces(void)
{
    long rounds = rng_rounds("RL_ROUNDS", 200000) / 10, wrong = 0, delayed = 0;
    rng r = {rng_seed(21)};

    for (long n = 0; n < rounds; n++)
        wrong += gives_back_too_much(&r);
    is_int(wrong, 0,
           "%ld traces of a bucket: a give-back leaves no more room than if the charge had "
           "not been made", rounds);
    wrong = 0;
    for (long n = 0; n < rounds; n++)
        wrong += leaves_too_fast(&r, &delayed);
    ok(wrong == 0 && delayed > rounds,
       "%ld traces of a bucket with a delay: requests go on no faster "
       "than it drains (%ld delayed)", rounds, delayed);
}

/* --- Ends of the ranges ------------------------------------------------------------------- */

/* The largest numbers that can meet; a value in Redis may have them with any window. */
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
    is_int(remaining(s), RL_COUNT_MAX / s.limit.window_ms, "one ms later a share of it is back");
    s.limit = (rl_limit)LIMIT(RL_TOKEN_BUCKET, 1, RL_WINDOW_MAX_MS);
    s.state = (rl_state)LEVEL(1, RL_PRODUCT_MAX);
    rl_limiter_charge(&s.limit, &s.state, RL_COUNT_MAX);
    is_int(s.state.level, RL_PRODUCT_MAX, "no charge raises a level beyond what is exact");
}

int main(void)
{
    test_properties();
    test_traces();
    test_lease_traces();
    test_extremes();
    return done_testing();
}
