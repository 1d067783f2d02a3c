/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's thread, with a local tier: units that are kept stay pending, others become a charge,
 * and thousands of requests that begin and end meanwhile lose and gain no units. Charges are dated
 * a period back, so that nothing here waits for one.
 */
#include <pthread.h>

#include <apr_general.h>

#include "redis/keeper.h"
#include "table.h"
#include "tap.h"

#define SIZE (1024 * 1024)
#define WORKERS 4
#define ROUNDS 20000

static const rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 100000, .burst = 100000,
                               .window_ms = 24 * HOUR, .on_response = 1};
static rl_local *table;
static rl_keeper *keeper;
static int lines; /* logged */
static int64_t last_period;

static void note_line(void *context, rl_log_level level, const char *line)
{
    (void)context;
    (void)level;
    diag("%s", line);
    lines++;
}

static apr_pool_t *make_keeper(int threaded)
{
    rl_keeper_options options = {.local = table, .prolong_ms = 4, .threaded = threaded,
                                 .logger = {note_line, NULL}};
    apr_pool_t *pool;

    apr_pool_create(&pool, NULL);
    keeper = rl_keeper_create(pool, &options);
    return pool;
}

/* Begins a request at host_ms, and keeps its unit. */
static rl_kept *begin(uint64_t key, int64_t host_ms)
{
    rl_keeper_units units = {.key = key, .clock = RL_CLOCK_HOST, .limit = limit, .cost = 1};
    rl_state state;

    charge(table, key, &limit, 1, host_ms, &state);
    units.period = state.pending.period;
    return rl_keeper_add(keeper, &units, host_ms);
}

static void end(uint64_t key, int64_t period, int charged)
{
    int64_t host_ms = rl_local_clock();

    rl_local_settle(table, key, &limit, UNITS(period, 1, host_ms), charged);
}

/* Waits until all pending units are in the latest period. */
static int are_prolonged(uint64_t key, int64_t units)
{
    for (int i = 0; i < 10000; i++) {
        rl_state state = peek(table, key, &limit, rl_local_clock());

        if (state.pending.prev == 0 && state.pending.cur == units)
            return 1;
        usleep(1000);
    }
    return 0;
}

/* As httpd does for requests under way when a child ends. */
static apr_status_t remove_late(void *kept)
{
    last_period = rl_keeper_remove(kept);
    return APR_SUCCESS;
}

static void test_prolonging(int threaded)
{
    uint64_t kept_key = key_of(table, RL_LOCAL_COUNT, 1 + 2 * threaded);
    uint64_t lost_key = key_of(table, RL_LOCAL_COUNT, 2 + 2 * threaded);
    int64_t before = rl_local_clock() - RL_PENDING_PERIOD_MS, after;
    apr_pool_t *pool = make_keeper(threaded);
    rl_kept *kept = begin(kept_key, before);
    rl_state state;
    int64_t period;

    charge(table, lost_key, &limit, 1, before, &state);
    ok(are_prolonged(kept_key, 1), "units that became pending in the period before are prolonged");
    after = rl_local_clock() + RL_PENDING_PERIOD_MS;
    state = peek(table, kept_key, &limit, after);
    ok(state.pending.prev == 1 && state.cur == 0, "so a period later they are still pending");
    state = peek(table, lost_key, &limit, after);
    ok(state.pending.prev == 0 && state.cur == 1, "and units that are not kept are a charge");
    period = rl_keeper_remove(kept);
    end(kept_key, period, 0);
    state = peek(table, kept_key, &limit, after);
    ok(state.pending.prev == 0 && state.cur == 0, "removed and settled, they are free");
    kept = begin(kept_key, before - RL_PENDING_PERIOD_MS);
    ok(kept != NULL, "units are kept too late");
    usleep(20000);
    is_int(rl_keeper_remove(kept), RL_PERIOD_GONE,
           "they have become a charge, and removing them reports it");
    kept = begin(kept_key, rl_local_clock());
    apr_pool_cleanup_register(pool, kept, remove_late, apr_pool_cleanup_null);
    apr_pool_destroy(pool);
    ok(last_period >= period, "units removed while the child ends have their period");
}

static void *come_and_go(void *number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 10 + *(int *)number % 2);
    rl_kept *open[8] = {NULL};

    for (int i = 0; i < ROUNDS; i++) {
        rl_kept **place = &open[i % 8];

        if (*place)
            end(key, rl_keeper_remove(*place), i % 4 == 0);
        *place = begin(key, rl_local_clock());
    }
    for (int i = 0; i < 8; i++)
        end(key, rl_keeper_remove(open[i]), 0);
    return NULL;
}

static void test_coming_and_going(void)
{
    apr_pool_t *pool = make_keeper(1);
    pthread_t threads[WORKERS];
    int numbers[WORKERS];

    for (int i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, come_and_go, &numbers[i]);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) {
        rl_state state = peek(table, key_of(table, RL_LOCAL_COUNT, 10 + i), &limit,
                              rl_local_clock());

        is_int(state.pending.prev + state.pending.cur, 0,
               "%d requests that begin and end: nothing is left pending", WORKERS / 2 * ROUNDS);
        is_int(state.cur, WORKERS / 2 * (ROUNDS - 8) / 4, "and what was to be charged is charged");
    }
    apr_pool_destroy(pool);
}

/* A detached thread keeps its memory until the process ends. */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
    return "leak:apr_pool_create_unmanaged_ex\nleak:rl_keeper_add\n";
}

int main(void)
{
    apr_initialize();
    table = make_table(SIZE);
    test_prolonging(1);
    test_coming_and_going();
    test_prolonging(0);
    is_int(lines, 0, "nothing is logged");
    return done_testing();
}
