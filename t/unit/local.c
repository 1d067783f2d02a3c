/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared table as one process sees it: counts are the limiter's, also when callers' clocks
 * differ by some ms around a window's edge; snapshots never deny what Redis would admit; a full
 * table drops what is missed least. Time is an argument, so nothing here waits.
 */
#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE (1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, 10, 3600000);

/* --- Making a table --- */

static void test_attach(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t alice = key_of(table, RL_LOCAL_COUNT, 1);
    rl_state state;

    charge(table, alice, &hourly, 3, 0, &state);
    ok(rl_local_attach(table, SIZE) == table, "a table that is there is found again");
    is_int(peek(rl_local_attach(table, SIZE), alice, &hourly, 0).cur, 3, "with its counts");
    ok(!rl_local_attach(table, SIZE - 64), "not with another size");
    *(unsigned char *)table ^= 1;
    ok(!rl_local_attach(table, SIZE), "nor with another magic number");
    ok(!rl_local_attach(shared_memory(SIZE), SIZE), "nor in memory without a table");
    munmap(table, SIZE);
}

static void test_keys(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t key = rl_local_key(table, RL_LOCAL_COUNT, 7, "alice", 5);
    int zeros = 0;

    ok(key == rl_local_key(table, RL_LOCAL_COUNT, 7, "alice", 5), "a key is the same again");
    ok(key != rl_local_key(table, RL_LOCAL_SNAPSHOT, 7, "alice", 5), "not for another kind");
    ok(key != rl_local_key(table, RL_LOCAL_COUNT, 8, "alice", 5), "nor another counter");
    ok(key != rl_local_key(table, RL_LOCAL_COUNT, 7, "alicf", 5), "nor another identity");
    ok(key != rl_local_key(table, RL_LOCAL_COUNT, 7, "alice", 4), "nor a part of it");
    for (int i = 0; i < 100000; i++)
        zeros += key_of(table, RL_LOCAL_COUNT, i) == 0;
    is_int(zeros, 0, "no key is 0");
    munmap(table, SIZE);
}

static void test_clock(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 1);
    rl_state state = WINDOW(0, 0, 0);

    ok(rl_local_clock() <= rl_local_clock(), "the clock does not step back");
    ok(llabs(rl_local_now(table, RL_CLOCK_HOST, 5) - BASE - 5) <= 1000,
       "the wall clock is BASE ahead of it");
    is_int(rl_local_now(table, RL_CLOCK_REDIS, 5), rl_local_now(table, RL_CLOCK_HOST, 5),
           "before the first reply Redis's clock is taken to be the host's");
    store_reply(table, key, &hourly, &state, BASE + 7777, 1000);
    is_int(rl_local_now(table, RL_CLOCK_REDIS, 2000), BASE + 8777, "after it, it is Redis's own");
    munmap(table, SIZE);
}

/* --- Counts --- */

/* One counter, in the table and beside it as the limiter has it. */
typedef struct {
    rl_limit limit;
    uint64_t key;
    rl_state state;
} counter;

static int same(const rl_state *a, const rl_state *b)
{
    return a->index == b->index && a->prev == b->prev && a->cur == b->cur
        && !memcmp(&a->pending, &b->pending, sizeof(a->pending))
        && a->blocked_until == b->blocked_until;
}

/* A clock that runs, now and then jumps, and likes the edges of this window. In ms. */
static int64_t next_moment(rng *r, int64_t now, int64_t window_ms)
{
    int64_t edge = (now / window_ms + 1) * window_ms;

    switch (rng_next(r) % 16) {
    case 0:
        return now + rng_between(r, 0, 3 * window_ms);
    case 1:
        return edge - rng_between(r, 0, edge - now < 2 ? edge - now : 2);
    case 2:
        return edge;
    default:
        return now + rng_between(r, 0, window_ms / 20);
    }
}

/* Where the model is at now: a caller that is late meets what others have moved on. */
static int64_t model_time(const counter *c, int64_t now)
{
    int64_t start = rl_limiter_is_bucket(&c->limit) ? c->state.at
                                                             : c->state.index * c->limit.window_ms;

    return now > start ? now : start;
}

/* Charges in the table and in the model, at the time of a caller that may be late. */
static int charge_agrees(rl_local *table, rng *r, counter *c, int64_t now_ms)
{
    int64_t capacity = rl_limiter_capacity(&c->limit), ticks = rl_limiter_ticks(&c->limit);
    int64_t cost = rng_one_in(r, 8) ? rng_between(r, 0, capacity + 1) : 1;
    int64_t table_now = now_ms * ticks, model_now = model_time(c, table_now);
    rl_view view = {.now = table_now};
    rl_state model = c->state, moved;
    int admits, charged;

    model_now = rl_limiter_roll(&c->limit, &model, model_now);
    moved = model;
    admits = rl_limiter_admits(&c->limit, &model, model_now, cost);
    charged = rl_local_charge(table, c->key, &c->limit, cost, now_ms - BASE, &view);
    if (rl_limiter_blocks(&c->limit, &model, model_now, cost))
        moved.blocked_until = c->state.blocked_until
            = model_now + c->limit.block_ms * ticks;
    if (charged != admits || view.now != model_now || !same(&view.state, &moved))
        return 0;
    rl_limiter_charge(&c->limit, &model, cost);
    if (admits)
        c->state = model;
    return 1;
}

/* Likewise what is given back, prolonged or settled. */
static int undo_agrees(rl_local *table, rng *r, counter *c, int64_t now_ms)
{
    int64_t ticks = rl_limiter_ticks(&c->limit), cost = rng_between(r, 0, 3), position;
    int64_t now = now_ms * ticks;

    if (c->limit.on_response) {
        rl_local_units units = {0, cost, now_ms - BASE, now};
        int charged = rng_one_in(r, 2);

        rl_limiter_roll(&c->limit, &c->state, model_time(c, now));
        units.period = c->state.pending.period - rng_between(r, 0, 2);
        if (rng_one_in(r, 2))
            return rl_local_prolong(table, c->key, &c->limit, &units)
                == rl_limiter_prolong(&c->state, units.period, cost);
        rl_limiter_settle(&c->limit, &c->state, units.period, cost, charged);
        rl_local_settle(table, c->key, &c->limit, &units, charged);
        return 1;
    }
    position = rl_limiter_position(&c->limit, &c->state, now);
    position -= rl_limiter_is_bucket(&c->limit)
        ? rng_scaled(r, 0, c->limit.window_ms * ticks) : rng_between(r, 0, 2);
    rl_limiter_give_back(&c->limit, &c->state, position, cost);
    rl_local_give_back(table, c->key, &c->limit, position, cost);
    return 1;
}

static int peek_agrees(rl_local *table, counter *c, int64_t now_ms)
{
    rl_view view = {.now = now_ms * rl_limiter_ticks(&c->limit)};
    int64_t model_now = model_time(c, view.now);
    rl_state model = c->state;

    rl_local_peek(table, c->key, &c->limit, &view);
    model_now = rl_limiter_roll(&c->limit, &model, model_now);
    return view.now == model_now && same(&view.state, &model);
}

static rl_limit any_limit(rng *r)
{
    static const rl_algorithm algorithms[] = {RL_SLIDING_WINDOW, RL_FIXED_WINDOW, RL_TOKEN_BUCKET,
                                              RL_LEAKY_BUCKET};
    rl_limit limit = {.algorithm = algorithms[rng_next(r) % COUNT(algorithms)]};
    int64_t most;

    limit.window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
    most = RL_PRODUCT_MAX / (limit.window_ms * rl_limiter_ticks(&limit));
    most = most < RL_COUNT_MAX ? most : RL_COUNT_MAX;
    limit.quota = limit.burst = rng_scaled(r, 0, rng_one_in(r, 4) || most < 30 ? most : 30);
    if (limit.algorithm == RL_LEAKY_BUCKET && limit.quota < most / 2)
        limit.delay_ms = rng_scaled(r, 0, limit.window_ms < 10000 ? limit.window_ms : 10000);
    limit.block_ms = rng_one_in(r, 3) ? rng_scaled(r, 1, limit.window_ms) : 0;
    limit.on_response = rng_one_in(r, 3) && !limit.delay_ms;
    return limit;
}

static void make_counters(rl_local *table, rng *r, counter *counters, int n)
{
    for (int i = 0; i < n; i++) {
        memset(&counters[i], 0, sizeof(counters[i]));
        counters[i].limit = any_limit(r);
        counters[i].key = key_of(table, RL_LOCAL_COUNT, i);
    }
}

#define LATEST (INT64_C(1) << 42) /* the year 2109 */

/* jitter_ms: by how much a caller's clock may be late. */
static void test_counts(int jitter_ms, const char *promise)
{
    enum { COUNTERS = 64 };
    rl_local *table = make_table(SIZE);
    rng r = {rng_seed(3) + (uint64_t)jitter_ms};
    counter counters[COUNTERS];
    int64_t now = BASE;
    long n = 0, rounds = rng_rounds("RL_ROUNDS", 200000);
    int agrees = 1, last = 0;

    make_counters(table, &r, counters, COUNTERS);
    for (; n < rounds && agrees; n++) {
        counter *c = &counters[last = (int)(rng_next(&r) % COUNTERS)];
        /* What is only pending leaves the count at its tick: the model does not. */
        int may_be_late = !c->limit.on_response && rng_one_in(&r, 3);
        int64_t late = may_be_late ? rng_between(&r, 0, jitter_ms) : 0;

        now = next_moment(&r, now, c->limit.window_ms);
        if (rng_one_in(&r, 10))
            agrees = undo_agrees(table, &r, c, now);
        else
            agrees = charge_agrees(table, &r, c, now - late);
        agrees = agrees && peek_agrees(table, c, now);
        if (now > LATEST - 10 * RL_WINDOW_MAX_MS) {
            munmap(table, SIZE);
            table = make_table(SIZE);
            make_counters(table, &r, counters, COUNTERS);
            now = BASE;
        }
    }
    ok(agrees, "%s (%ld steps)", promise, rounds);
    if (!agrees) {
        const rl_limit *limit = &counters[last].limit;

        diag("step %ld: algorithm %d, quota %" PRId64 ", window %" PRId64 ", delay %" PRId64
             ", block %" PRId64 ", on response %d", n, limit->algorithm, limit->quota,
             limit->window_ms, limit->delay_ms, limit->block_ms, limit->on_response);
    }
    munmap(table, SIZE);
}

static void test_late_caller(void)
{
    rl_local *table = make_table(SIZE);
    rl_limit limit = LIMIT(RL_SLIDING_WINDOW, 10, 1000);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    rl_view late = {.now = BASE + 999};
    rl_state state;

    charge(table, key, &limit, 4, 999, &state);
    ok(charge(table, key, &limit, 1, 1000, &state), "a charge in the new window");
    ok(rl_local_charge(table, key, &limit, 5, 999, &late),
       "so is one of a caller whose clock is 1 ms late");
    is_int(late.now, BASE + 1000, "it is counted in the new window");
    state = peek(table, key, &limit, 1000);
    ok(state.prev == 4 && state.cur == 6, "nothing is added to the window before");
    munmap(table, SIZE);
}

/* A worker read the clock, then was stopped while the window turned again and again. */
static void test_stopped_caller(void)
{
    rl_local *table = make_table(SIZE);
    rl_limit limit = LIMIT(RL_FIXED_WINDOW, 10, 100);
    rl_state state;
    int over = 0;

    for (int turns = 1; turns <= 20; turns++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, turns);

        charge(table, key, &limit, 5, 1000, &state);
        charge(table, key, &limit, 10, 1000 + turns * 100, &state);
        over += charge(table, key, &limit, 1, 1000, &state);
        over += charge(table, key, &limit, 1, 1000 + turns * 100, &state);
    }
    is_int(over, 0,
           "a caller stopped for 1 to 20 windows of 100 ms is not admitted beyond the quota");
    munmap(table, SIZE);
}

/* Fallback counts are of Redis's clock, as last heard. */
static void test_clock_steps_back(void)
{
    static const rl_limit limits[] = {
        LIMIT(RL_SLIDING_WINDOW, 10, 2000), LIMIT(RL_FIXED_WINDOW, 10, 2000),
        BUCKET(RL_TOKEN_BUCKET, 10, 2000, 10),
        {.algorithm = RL_SLIDING_WINDOW, .quota = 10, .window_ms = 2000, .burst = 10,
         .block_ms = 5000},
        {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = 2000, .burst = 10,
         .on_response = 1}};
    rl_local *table = make_table(SIZE);
    rl_state state;

    for (int i = 0; i < 5; i++) {
        uint64_t key = key_of(table, RL_LOCAL_FALLBACK, i);
        int64_t now = BASE - HOUR; /* with the clock an hour back */
        int refilled, waits_ms = limits[i].on_response ? 4 * RL_PENDING_PERIOD_MS : 10000;

        charge(table, key, &limits[i], 10, 0, &state);
        charge(table, key, &limits[i], 1, 0, &state);
        refilled = charge(table, key, &limits[i], 1, -HOUR, &state);
        ok(!refilled && !charge(table, key, &limits[i], 1, 10 - HOUR, &state),
           "a clock an hour back refills nothing");
        ok(charge(table, key, &limits[i], 1, waits_ms - HOUR, &state),
           "a clock an hour back does not deny for that hour");

        key = key_of(table, RL_LOCAL_FALLBACK, 100 + i);
        charge(table, key, &limits[i], 10, 0, &state);
        rl_local_anchor(table, key, &limits[i], now * rl_limiter_ticks(&limits[i]));
        ok(charge(table, key, &limits[i], 1, waits_ms - HOUR, &state),
           "nor after the count was peeked at");
    }
    munmap(table, SIZE);
}

static void test_seeds(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_FALLBACK, 1);
    rl_state seed = WINDOW(BASE / HOUR, 4, 8);
    rl_view view = {.now = BASE, .seed = &seed};

    rl_local_peek(table, key, &hourly, &view);
    ok(view.state.index == seed.index && view.state.prev == 4 && view.state.cur == 8,
       "a count is at least what is known from elsewhere");
    seed.prev = 0;
    ok(rl_local_charge(table, key, &hourly, 1, 0, &view) && view.state.cur == 8,
       "the first charge starts from the seed");
    ok(rl_local_charge(table, key, &hourly, 1, 0, &view) && view.state.cur == 9,
       "the next from the count");
    ok(!rl_local_charge(table, key, &hourly, 1, 0, &view), "until the quota is used");
    seed = (rl_state)WINDOW(BASE / HOUR - 1, 1000, 4);
    key = key_of(table, RL_LOCAL_FALLBACK, 2);
    ok(rl_local_charge(table, key, &hourly, 1, 0, &view) && view.state.prev == 4
           && view.state.cur == 0, "a seed of the window before counts as prev");
    seed = (rl_state)WINDOW(BASE / HOUR - 2, 1000, 1000);
    key = key_of(table, RL_LOCAL_FALLBACK, 3);
    ok(rl_local_charge(table, key, &hourly, 1, 0, &view) && view.state.prev == 0
           && view.state.cur == 0, "a seed of an older window does not count");
    munmap(table, SIZE);
}

static void test_bucket_seeds(void)
{
    static const rl_limit bucket = BUCKET(RL_TOKEN_BUCKET, 10, 1000, 5);
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_FALLBACK, 1);
    rl_state seed = LEVEL(BASE * 1000 - 100000, 5000000);
    rl_view view = {.now = BASE * 1000, .seed = &seed};

    ok(rl_local_charge(table, key, &bucket, 1, 0, &view) && view.state.level == 4000000,
       "the seed of a bucket is drained to now");
    ok(!rl_local_charge(table, key, &bucket, 1, 0, &view), "and is not added to the level");
    munmap(table, SIZE);
}

/* --- Blocks ------------------------------------------------------------------------------- */

static void test_blocks(void)
{
    static const rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = 1000,
                                   .burst = 10, .block_ms = 5000};
    static const rl_limit plain = LIMIT(RL_FIXED_WINDOW, 10, 1000);
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    rl_view view = {.now = BASE};
    rl_state state;

    charge(table, key, &limit, 10, 0, &state);
    charge(table, key, &limit, 11, 0, &state);
    is_int(peek(table, key, &limit, 0).blocked_until, 0, "a cost above the quota starts no block");
    ok(!charge(table, key, &limit, 1, 10, &state) && state.blocked_until == BASE + 5010,
       "a denial starts a block and returns it");
    ok(!charge(table, key, &limit, 1, 4000, &state) && state.blocked_until == BASE + 5010,
       "another denial does not extend it");
    ok(!charge(table, key, &plain, 1, 5009, &state), "it applies to all rules of the counter");
    ok(charge(table, key, &limit, 1, 5010, &state), "it ends");
    key = key_of(table, RL_LOCAL_COUNT, 2);
    charge(table, key, &limit, 10, 0, &state);
    rl_local_peek(table, key, &limit, &view);
    rl_local_block(table, key, &limit, 1, 0, &view);
    ok(view.state.blocked_until == BASE + 5000
           && peek(table, key, &limit, 0).blocked_until == BASE + 5000,
       "after a peek, rl_local_block() starts it");
    key = key_of(table, RL_LOCAL_COUNT, 3);
    rl_local_peek(table, key, &limit, &view);
    rl_local_block(table, key, &limit, 1, 0, &view);
    ok(view.state.blocked_until == 0 && !line_of(table, SIZE, key),
       "without a denial there is no block, and no entry");
    munmap(table, SIZE);
}

/* --- Pending units ------------------------------------------------------------------------ */

static void test_pending(void)
{
    static const rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = HOUR,
                                   .burst = 10, .on_response = 1};
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    int64_t period = BASE / MINUTE;
    rl_state state;

    ok(charge(table, key, &limit, 6, 0, &state) && charge(table, key, &limit, 4, 0, &state),
       "the whole quota may be pending");
    ok(!charge(table, key, &limit, 1, 0, &state) && state.pending.cur == 10 && state.cur == 0,
       "then one more is denied");
    rl_local_settle(table, key, &limit, UNITS(period, 6, 1), 0);
    state = peek(table, key, &limit, 1);
    ok(state.pending.cur == 4 && state.cur == 0, "units settled without a charge are free");
    rl_local_settle(table, key, &limit, UNITS(period, 3, MINUTE), 1);
    state = peek(table, key, &limit, MINUTE);
    ok(state.pending.prev == 1 && state.cur == 3,
       "units settled with a charge in the next period are charged");
    state = peek(table, key, &limit, 2 * MINUTE);
    ok(state.pending.prev == 0 && state.cur == 4,
       "units never settled are charged after two periods");
    rl_local_settle(table, key, &limit, UNITS(period, 1, 2 * MINUTE), 1);
    state = peek(table, key, &limit, 2 * MINUTE);
    ok(state.pending.prev == 0 && state.cur == 4, "settling them afterwards changes nothing");
    ok(charge(table, key, &limit, 6, 2 * MINUTE, &state)
           && !charge(table, key, &limit, 1, 2 * MINUTE, &state),
       "free units are admitted again");
    munmap(table, SIZE);
}

/* Units of two requests become pending together; those of only one are prolonged each minute. */
static void test_prolonging(void)
{
    static const rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = HOUR,
                                   .burst = 10, .on_response = 1};
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    int64_t period = BASE / MINUTE;
    rl_state state;

    charge(table, key, &limit, 3, 0, &state);
    charge(table, key, &limit, 2, 0, &state);
    for (int64_t ms = MINUTE; ms <= 5 * MINUTE; ms += MINUTE)
        period = rl_local_prolong(table, key, &limit, UNITS(period, 3, ms));
    is_int(period, BASE / MINUTE + 5, "prolonged units are of the latest period");
    state = peek(table, key, &limit, 5 * MINUTE);
    ok(state.pending.cur == 3 && state.cur == 2,
       "they are pending; the others have become a charge");
    rl_local_settle(table, key, &limit, UNITS(period, 3, 5 * MINUTE), 0);
    state = peek(table, key, &limit, 9 * MINUTE);
    ok(state.pending.prev + state.pending.cur == 0 && state.cur == 2,
       "settled without a charge, they are gone");
    charge(table, key, &limit, 4, 9 * MINUTE, &state);
    is_int(rl_local_prolong(table, key, &limit, UNITS(BASE / MINUTE + 9, 4, 12 * MINUTE)),
           RL_PERIOD_GONE, "units prolonged too late have become a charge");
    key = key_of(table, RL_LOCAL_COUNT, 2);
    is_int(rl_local_prolong(table, key, &limit, UNITS(BASE / MINUTE, 1, MINUTE)),
           BASE / MINUTE + 1, "without an entry nothing is prolonged");
    ok(!line_of(table, SIZE, key), "and none is made");
    rl_local_settle(table, key, &limit, UNITS(BASE / MINUTE + 1, 1, MINUTE), 1);
    is_int(peek(table, key, &limit, MINUTE).cur, 1, "settling with a charge makes one");
    munmap(table, SIZE);
}

/* --- Eviction --- */

enum { WAYS = 8 }; /* entries that share a place in the table */

/* Keys that compete with alice for a place. */
static void find_rivals(rl_local *table, uint64_t alice, uint64_t *rivals, int n)
{
    rl_local *copy = shared_memory(SIZE);
    rl_state state;
    size_t place;

    memcpy(copy, table, SIZE);
    charge(copy, alice, &hourly, 1, 0, &state);
    place = (size_t)((char *)line_of(copy, SIZE, alice) - (char *)copy) / (WAYS * 64);
    for (int i = 1000, found = 0; found < n; i++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, i);

        memcpy(copy, table, SIZE);
        charge(copy, key, &hourly, 1, 0, &state);
        if ((size_t)((char *)line_of(copy, SIZE, key) - (char *)copy) / (WAYS * 64) == place)
            rivals[found++] = key;
    }
    munmap(copy, SIZE);
}

static int has_entry(rl_local *table, uint64_t key)
{
    return line_of(table, SIZE, key) != NULL;
}

static void test_order_of_eviction(void)
{
    static const rl_limit second = LIMIT(RL_FIXED_WINDOW, 10, 1000);
    rl_local *table = make_table(SIZE);
    uint64_t rivals[16];
    int64_t host_ms = 20000;
    rl_local_stats stats;
    rl_state state;

    find_rivals(table, key_of(table, RL_LOCAL_COUNT, 1), rivals, 16);
    charge(table, rivals[0], &hourly, 10, 0, &state);           /* denies, and was idle since */
    charge(table, rivals[1], &second, 1, host_ms - 5000, &state); /* over */
    charge(table, rivals[2], &hourly, 9, host_ms - 15000, &state); /* idle */
    for (int i = 3; i < WAYS; i++)
        charge(table, rivals[i], &hourly, i - 1, host_ms, &state); /* 2 to 6 of 10 used */
    rl_local_read_stats(table, &stats);
    ok(stats.entries == WAYS && stats.evictions == 0, "eight rivals have a place each");
    charge(table, rivals[8], &hourly, 9, host_ms, &state);
    ok(!has_entry(table, rivals[1]), "a ninth evicts an expired entry first");
    rl_local_read_stats(table, &stats);
    is_int(stats.evictions, 0, "which does not count as an eviction");
    charge(table, rivals[9], &hourly, 9, host_ms, &state);
    ok(!has_entry(table, rivals[2]), "then an idle one, however full");
    charge(table, rivals[10], &hourly, 9, host_ms, &state);
    ok(!has_entry(table, rivals[3]), "then the one with the fewest units used");
    charge(table, rivals[11], &hourly, 9, host_ms, &state);
    ok(!has_entry(table, rivals[4]), "and the next");
    ok(has_entry(table, rivals[0]), "the one that denies stays");
    rl_local_read_stats(table, &stats);
    ok(stats.entries == WAYS && stats.evictions == 3, "three live ones were evicted, and counted");
    for (int i = 1; i < 16; i++)
        charge(table, rivals[i], &hourly, 10, 1000 + host_ms, &state);
    rl_local_read_stats(table, &stats);
    is_int(stats.entries, WAYS, "if all entries deny, the next key still gets a place");
    munmap(table, SIZE);
}

/* A process reads the clock, and is preempted while others use the entries a second later. */
static void test_evicting_late(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t rivals[9];
    rl_state state;

    find_rivals(table, key_of(table, RL_LOCAL_COUNT, 1), rivals, 9);
    for (int i = 0; i < WAYS; i++)
        charge(table, rivals[i], &hourly, 9, i == 5 ? 5000 : 21000, &state);
    charge(table, rivals[8], &hourly, 1, 20999, &state);
    for (int i = 0; i < WAYS; i++) {
        if (i == 5)
            ok(!has_entry(table, rivals[i]),
               "a caller whose clock is a second behind evicts an idle entry");
        else if (!has_entry(table, rivals[i]))
            fail("and not one that was used a second ahead of its clock");
    }
    munmap(table, SIZE);
}

static void test_flood(void)
{
    rl_local *table = make_table(RL_LOCAL_MIN_SIZE);
    uint64_t alice = key_of(table, RL_LOCAL_COUNT, -1);
    uint64_t snapshot = key_of(table, RL_LOCAL_SNAPSHOT, -1);
    rl_state state, full = WINDOW(BASE / HOUR, 0, 10);
    rl_local_stats stats;
    rl_view view;

    charge(table, alice, &hourly, 10, 0, &state);
    store_reply(table, snapshot, &hourly, &full, BASE, 0);
    rl_local_read_stats(table, &stats);
    ok(stats.capacity * 64 <= RL_LOCAL_MIN_SIZE && stats.capacity * 64 > RL_LOCAL_MIN_SIZE - 1024,
       "a table has room for an entry in each 64 bytes: %" PRIu64, stats.capacity);
    for (uint64_t i = 0; i < 10 * stats.capacity; i++)
        charge(table, key_of(table, RL_LOCAL_COUNT, (int)i), &hourly, 1, (int64_t)i, &state);
    ok(!charge(table, alice, &hourly, 1, 20000, &state), "ten times as many new keys free no "
       "denied client");
    is_int(check_of(table, snapshot, &hourly, 1, 20, &view), RL_SNAPSHOT_DENIES,
           "nor one that Redis denies");
    rl_local_read_stats(table, &stats);
    is_int(stats.entries, stats.capacity, "the table is full");
    ok(stats.evictions >= 9 * stats.capacity - 2, "evictions are counted");
    munmap(table, RL_LOCAL_MIN_SIZE);
}

/* --- Reports --- */

static void test_reports(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    rl_state state;
    int silent = 0, reported = 0;

    charge(table, key, &hourly, 10, 5000, &state);
    is_int(rl_local_report(table, key, 5000, 10000), 1, "the first denial is reported at once");
    is_int(rl_local_report(table, key, 4990, 10000), 0,
           "not again by a caller whose clock is a little late");
    for (int64_t t = 5001; t <= 15000; t += 100)
        reported += rl_local_report(table, key, t, 10000) != 0, silent++;
    is_int(reported, 0, "then nothing is reported for ten seconds");
    is_int(rl_local_report(table, key, 16000, 10000), silent + 2, "then their number");
    is_int(rl_local_report(table, key, 16001, 10000), 0, "then nothing again");
    munmap(table, SIZE);
}

int main(void)
{
    test_attach();
    test_keys();
    test_clock();
    test_counts(0, "counts are those of the limiter, charge by charge");
    test_counts(20, "and stay so for callers whose clocks are up to 20 ms late");
    test_late_caller();
    test_stopped_caller();
    test_clock_steps_back();
    test_seeds();
    test_bucket_seeds();
    test_blocks();
    test_pending();
    test_prolonging();
    test_order_of_eviction();
    test_evicting_late();
    test_flood();
    test_reports();
    return done_testing();
}
