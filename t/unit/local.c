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
    ok(!rl_local_attach(shared_memory(SIZE), SIZE), "nor in memory that holds none");
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
    ok(llabs(rl_local_now(table, RL_CLOCK_HOST, 5) - BASE - 5) <= 1000, "the wall clock runs beside it");
    is_int(rl_local_now(table, RL_CLOCK_REDIS, 5), rl_local_now(table, RL_CLOCK_HOST, 5),
           "Redis's is taken for it before Redis was heard");
    rl_local_remember(table, key, &hourly, 0, &state, BASE + 7777, 1000, 1001);
    is_int(rl_local_now(table, RL_CLOCK_REDIS, 2000), BASE + 8777, "and is Redis's own after that");
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
    return a->index == b->index && a->prev == b->prev && a->cur == b->cur;
}

/* A clock that runs, now and then jumps, and likes the edges of this window. */
static int64_t next_moment(rng *r, int64_t now, int64_t window_ms)
{
    switch (rng_next(r) % 16) {
    case 0:
        return now + rng_between(r, 0, 3 * window_ms);
    case 1:
        return (now / window_ms + 1) * window_ms - rng_between(r, 0, 2);
    case 2:
        return (now / window_ms + 1) * window_ms;
    default:
        return now + rng_between(r, 0, window_ms / 20);
    }
}

/* Charges in the table and in the model, at the time of a caller that may be late. */
static int charge_agrees(rl_local *table, rng *r, counter *c, int64_t now)
{
    int64_t cost = rng_one_in(r, 8) ? rng_between(r, 0, c->limit.quota + 1) : 1;
    rl_state state, model = c->state;
    int64_t table_now = now, model_now = rl_limiter_roll(&c->limit, &model, now);
    int admits = rl_limiter_admits(&c->limit, &model, model_now, cost), charged, agrees;

    charged = rl_local_charge(table, c->key, &c->limit, cost, NULL, now - BASE, &table_now, &state);
    agrees = charged == admits && table_now == model_now && same(&state, &model);
    rl_limiter_charge(&c->limit, &model, cost);
    if (admits)
        c->state = model;
    return agrees;
}

static int give_back_agrees(rl_local *table, rng *r, counter *c)
{
    int64_t index = c->state.index - rng_between(r, 0, 2), cost = rng_between(r, 0, 3);

    rl_limiter_give_back(&c->limit, &c->state, index, cost);
    rl_local_give_back(table, c->key, &c->limit, index, cost);
    return 1;
}

static int peek_agrees(rl_local *table, counter *c, int64_t now)
{
    int64_t table_now = now, model_now;
    rl_state state, model = c->state;

    rl_local_peek(table, c->key, &c->limit, NULL, &table_now, &state);
    model_now = rl_limiter_roll(&c->limit, &model, now);
    return table_now == model_now && same(&state, &model);
}

static void make_counters(rl_local *table, rng *r, counter *counters, int n)
{
    for (int i = 0; i < n; i++) {
        rl_limit *limit = &counters[i].limit;

        memset(&counters[i], 0, sizeof(counters[i]));
        limit->algorithm = rng_one_in(r, 3) ? RL_FIXED_WINDOW : RL_SLIDING_WINDOW;
        limit->window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
        limit->quota = rng_scaled(r, 0, rng_one_in(r, 4) ? RL_PRODUCT_MAX / limit->window_ms : 30);
        if (limit->quota > RL_COUNT_MAX)
            limit->quota = RL_COUNT_MAX;
        limit->burst = limit->quota;
        counters[i].key = key_of(table, RL_LOCAL_COUNT, i);
    }
}

/* jitter_ms: by how much a caller's clock may be late. */
static void test_counts(int jitter_ms, const char *promise)
{
    enum { COUNTERS = 64 };
    rl_local *table = make_table(SIZE);
    rng r = {rng_seed(3) + (uint64_t)jitter_ms};
    counter counters[COUNTERS];
    int64_t now = BASE;
    long n = 0, rounds = rng_rounds("RL_ROUNDS", 200000);
    int agrees = 1;

    make_counters(table, &r, counters, COUNTERS);
    for (; n < rounds && agrees; n++) {
        counter *c = &counters[rng_next(&r) % COUNTERS];
        int64_t late = rng_one_in(&r, 3) ? rng_between(&r, 0, jitter_ms) : 0;

        now = next_moment(&r, now, c->limit.window_ms);
        if (rng_one_in(&r, 10))
            agrees = give_back_agrees(table, &r, c);
        else
            agrees = charge_agrees(table, &r, c, now - late);
        agrees = agrees && peek_agrees(table, c, now);
    }
    ok(agrees, "%s (%ld steps)", promise, rounds);
    if (!agrees)
        diag("step %ld", n);
    munmap(table, SIZE);
}

static void test_late_caller(void)
{
    rl_local *table = make_table(SIZE);
    rl_limit limit = LIMIT(RL_SLIDING_WINDOW, 10, 1000);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);
    int64_t now = BASE + 999;
    rl_state state;

    charge(table, key, &limit, 4, 999, &state);
    ok(charge(table, key, &limit, 1, 1000, &state), "a charge in the new window");
    ok(rl_local_charge(table, key, &limit, 5, NULL, 999, &now, &state),
       "then a caller whose clock is a ms late");
    is_int(now, BASE + 1000, "is counted where the others are");
    state = peek(table, key, &limit, 1000);
    ok(state.prev == 4 && state.cur == 6, "and cannot add to the window that was closed");
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
    is_int(over, 0, "a caller stopped for 1 to 20 windows of 100 ms neither passes nor resets them");
    munmap(table, SIZE);
}

static void test_seeds(void)
{
    rl_local *table = make_table(SIZE);
    uint64_t key = key_of(table, RL_LOCAL_FALLBACK, 1);
    rl_state seed = WINDOW(BASE / HOUR, 4, 8), state;
    int64_t now = BASE;

    rl_local_peek(table, key, &hourly, &seed, &now, &state);
    ok(same(&state, &seed), "a count is at least what is known from elsewhere");
    seed.prev = 0;
    ok(rl_local_charge(table, key, &hourly, 1, &seed, 0, &now, &state) && state.cur == 8,
       "a charge begins there");
    ok(rl_local_charge(table, key, &hourly, 1, &seed, 0, &now, &state) && state.cur == 9,
       "and goes on from what is here");
    ok(!rl_local_charge(table, key, &hourly, 1, &seed, 0, &now, &state), "up to the quota");
    seed = (rl_state)WINDOW(BASE / HOUR - 1, 1000, 4);
    key = key_of(table, RL_LOCAL_FALLBACK, 2);
    ok(rl_local_charge(table, key, &hourly, 1, &seed, 0, &now, &state) && state.prev == 4
           && state.cur == 0, "what is known of the window before counts as such");
    seed = (rl_state)WINDOW(BASE / HOUR - 2, 1000, 1000);
    key = key_of(table, RL_LOCAL_FALLBACK, 3);
    ok(rl_local_charge(table, key, &hourly, 1, &seed, 0, &now, &state) && state.prev == 0
           && state.cur == 0, "what is known of older ones not at all");
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

static int is_held(rl_local *table, uint64_t key)
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
    ok(!is_held(table, rivals[1]), "a ninth: what is over goes first");
    rl_local_read_stats(table, &stats);
    is_int(stats.evictions, 0, "which is no loss");
    charge(table, rivals[9], &hourly, 9, host_ms, &state);
    ok(!is_held(table, rivals[2]), "then what is idle, however full");
    charge(table, rivals[10], &hourly, 9, host_ms, &state);
    ok(!is_held(table, rivals[3]), "then the one with the least used");
    charge(table, rivals[11], &hourly, 9, host_ms, &state);
    ok(!is_held(table, rivals[4]), "and the next");
    ok(is_held(table, rivals[0]), "the one that denies has stayed");
    rl_local_read_stats(table, &stats);
    ok(stats.entries == WAYS && stats.evictions == 3, "three live ones were evicted, and counted");
    for (int i = 1; i < 16; i++)
        charge(table, rivals[i], &hourly, 10, 1000 + host_ms, &state);
    rl_local_read_stats(table, &stats);
    is_int(stats.entries, WAYS, "among denials alone there is still a place for the next one");
    munmap(table, SIZE);
}

static void test_flood(void)
{
    rl_local *table = make_table(RL_LOCAL_MIN_SIZE);
    uint64_t alice = key_of(table, RL_LOCAL_COUNT, -1), snapshot = key_of(table, RL_LOCAL_SNAPSHOT, -1);
    rl_state state, full = WINDOW(BASE / HOUR, 0, 10);
    rl_local_stats stats;
    int64_t now, lag;

    charge(table, alice, &hourly, 10, 0, &state);
    rl_local_remember(table, snapshot, &hourly, 0, &full, BASE, 0, 1);
    rl_local_read_stats(table, &stats);
    ok(stats.capacity * 64 <= RL_LOCAL_MIN_SIZE && stats.capacity * 64 > RL_LOCAL_MIN_SIZE - 1024,
       "a table has room for an entry in each 64 bytes: %" PRIu64, stats.capacity);
    for (uint64_t i = 0; i < 10 * stats.capacity; i++)
        charge(table, key_of(table, RL_LOCAL_COUNT, (int)i), &hourly, 1, (int64_t)i, &state);
    ok(!charge(table, alice, &hourly, 1, 20000, &state), "a flood of ten times that frees no one "
       "who is denied");
    is_int(recall_of(table, snapshot, &hourly, 1, 20, &now, &state, &lag), RL_RECALL_DENY,
           "nor who Redis denies");
    rl_local_read_stats(table, &stats);
    is_int(stats.entries, stats.capacity, "the table is full");
    ok(stats.evictions >= 9 * stats.capacity - 2, "and the rest was evicted, and counted");
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
           "not again by one whose clock is a little late");
    for (int64_t t = 5001; t <= 15000; t += 100)
        reported += rl_local_report(table, key, t, 10000) != 0, silent++;
    is_int(reported, 0, "then silence for ten seconds");
    is_int(rl_local_report(table, key, 16000, 10000), silent + 2, "then one with their number");
    is_int(rl_local_report(table, key, 16001, 10000), 0, "and silence again");
    munmap(table, SIZE);
}

int main(void)
{
    test_attach();
    test_keys();
    test_clock();
    test_counts(0, "counts are the limiter's, charge by charge");
    test_counts(20, "and stay so for callers whose clocks are up to 20 ms late");
    test_late_caller();
    test_stopped_caller();
    test_seeds();
    test_order_of_eviction();
    test_flood();
    test_reports();
    return done_testing();
}
