/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each request is counted once, each wait in its bucket, and the last minute apart from the time
 * before. Time is an argument, so nothing here waits.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/stats.h"
#include "table.h"
#include "tap.h"

static rl_stats_counts counts; /* too large for a stack */

static rl_stats *fresh(void)
{
    return rl_stats_init(shared_memory(rl_stats_size()));
}

static void test_rows(void)
{
    rl_stats *stats = fresh();
    char name[16];

    is_int(rl_stats_row(stats, "login"), 0, "the first rule has the first row");
    is_int(rl_stats_row(stats, "search"), 1, "the second rule has the second");
    is_int(rl_stats_row(stats, "login"), 0, "a name has one row, also after a reload");
    is_str(rl_stats_name(stats, 1), "search", "a row has a name");
    ok(!rl_stats_name(stats, 2), "after the last row there is none");
    for (int i = 0; i < 2 * RL_STATS_ROWS; i++) {
        snprintf(name, sizeof(name), "rule-%d", i);
        rl_stats_row(stats, name);
    }
    is_int(rl_stats_row(stats, "one-more"), RL_STATS_ROWS - 1, "too many rules share the last row");
    is_str(rl_stats_name(stats, RL_STATS_ROWS - 1), "(others)", "which is named so");
}

static void test_verdicts(void)
{
    rl_stats *stats = fresh();
    int row = rl_stats_row(stats, "login");

    rl_stats_count(stats, row, RL_PASSED, RL_SOURCE_REDIS);
    rl_stats_count(stats, row, RL_DENIED, RL_SOURCE_REDIS);
    rl_stats_count(stats, row, RL_DENIED, RL_SOURCE_LOCAL);
    rl_stats_count(stats, row, RL_VETOED, RL_SOURCE_LOCAL);
    rl_stats_read(stats, &counts);
    is_int(rl_stats_of_verdict(&counts, row, RL_DENIED), 2, "two were denied");
    is_int(rl_stats_of_source(&counts, row, RL_SOURCE_LOCAL), 2, "two were decided by memory");
    is_int(rl_stats_of_source(&counts, row, RL_SOURCE_REDIS), 2, "two were decided by Redis");
    is_int(counts.rows[row][RL_DENIED][RL_SOURCE_LOCAL], 1, "one was denied by memory");
    ok(rl_stats_attach(stats) == stats, "another configuration finds the block");
    ok(!rl_stats_attach(shared_memory(rl_stats_size())), "and none in other memory");
}

static void test_bounds(void)
{
    static const struct {
        int64_t us;
        int bucket;
    } waits[] = {{-5, 0}, {0, 0}, {50, 0}, {51, 1}, {100, 1}, {101, 2}, {999999, 13}, {1000000, 13},
                 {1000001, 14}, {INT64_C(1) << 50, 14}};

    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        rl_stats *stats = fresh();

        rl_stats_count_redis(stats, RL_ANSWERED, waits[i].us);
        rl_stats_read(stats, &counts);
        is_int(counts.bounded[waits[i].bucket], 1, "a wait of %" PRId64 " us is in its bucket",
               waits[i].us);
    }
}

static void test_what_waits(void)
{
    rl_stats *stats = fresh();
    uint64_t waits = 0;

    rl_stats_count_redis(stats, RL_FAILED_OPEN, 2);
    rl_stats_count_redis(stats, RL_FAILED_BUSY, 2);
    rl_stats_count_redis(stats, RL_FAILED_DOWN, 2);
    rl_stats_read(stats, &counts);
    for (int i = 0; i <= RL_STATS_BOUNDS; i++)
        waits += counts.bounded[i];
    is_int(waits, 0, "a request that does not ask does not wait");
    is_int(rl_stats_quantile(&counts, 990), 0, "and is in no quantile");
    is_int(counts.redis[RL_FAILED_OPEN], 1, "but its failure is counted");
    rl_stats_count_redis(stats, RL_FAILED_LATE, 25000);
    rl_stats_count_redis(stats, RL_FAILED_DOWN, 20000);
    rl_stats_read(stats, &counts);
    is_int(counts.bounded[8], 2, "a wait without an answer counts");
    is_int(counts.waited_us, 45000, "its time is added");
}

static void test_quantiles(void)
{
    rl_stats *stats = fresh();

    for (int us = 1; us <= 1000; us++)
        rl_stats_count_redis(stats, RL_ANSWERED, us);
    rl_stats_read(stats, &counts);
    for (int per_mille = 100; per_mille <= 1000; per_mille += 100) {
        int64_t said = rl_stats_quantile(&counts, per_mille);

        ok(said >= per_mille && said <= per_mille * 9 / 8, "p%d is %" PRId64 ", to 1/8",
           per_mille / 10, said);
    }
}

static void test_last_minute(void)
{
    rl_stats *stats = fresh();
    int row = rl_stats_row(stats, "login");
    int64_t now = 5000000;

    rl_stats_read(stats, &counts);
    is_int(rl_stats_recent(stats, now, &counts), 0, "at first there is no copy");
    rl_stats_keep(stats, now);
    for (int i = 0; i < 100; i++) {
        now += 1000; /* one request a second; copies are kept by a call each second */
        rl_stats_count(stats, row, RL_DENIED, RL_SOURCE_LOCAL);
        if (i == 19) {
            rl_stats_read(stats, &counts);
            is_int(rl_stats_recent(stats, now + 1, &counts), 20001,
                   "at first the copy is of the start");
            is_int(counts.rows[row][RL_DENIED][RL_SOURCE_LOCAL], 20, "so all requests count");
        }
        rl_stats_keep(stats, now);
    }
    rl_stats_read(stats, &counts);
    now = rl_stats_recent(stats, now + 1, &counts);
    ok(now >= 60000 && now <= 71000, "later it is of a minute ago or so: %" PRId64 " ms", now);
    is_int(counts.rows[row][RL_DENIED][RL_SOURCE_LOCAL], now / 1000, "requests since then count");
}

/* --- Many at once ------------------------------------------------------------------------- */

#define WORKERS 6
#define ROUNDS 20000

static rl_stats *crowded;

static void work(int number)
{
    for (int i = 0; i < ROUNDS; i++) {
        rl_stats_count(crowded, number % 2, RL_PASSED, RL_SOURCE_REDIS);
        rl_stats_count_redis(crowded, RL_ANSWERED, i);
    }
}

static void test_processes(void)
{
    uint64_t before = 0;
    int grew = 1, running = WORKERS;

    crowded = fresh();
    rl_stats_row(crowded, "even");
    rl_stats_row(crowded, "odd");
    for (int i = 0; i < WORKERS; i++) {
        fflush(NULL);
        if (fork() == 0) {
            work(i);
            _exit(0);
        }
    }
    for (int at = 1; running; at += 10000) {
        uint64_t sum;

        rl_stats_keep(crowded, at);
        rl_stats_read(crowded, &counts);
        sum = rl_stats_of_verdict(&counts, 0, RL_PASSED)
            + rl_stats_of_verdict(&counts, 1, RL_PASSED);
        grew &= sum >= before;
        before = sum;
        if (rl_stats_recent(crowded, at + 1, &counts))
            grew &= (int64_t)rl_stats_of_verdict(&counts, 0, RL_PASSED) >= 0;
        while (running && waitpid(-1, NULL, WNOHANG) > 0)
            running--;
    }
    rl_stats_read(crowded, &counts);
    ok(grew, "counters only grow while others count");
    is_int(counts.rows[0][RL_PASSED][RL_SOURCE_REDIS], WORKERS / 2 * ROUNDS, "no request is lost");
    is_int(counts.redis[RL_ANSWERED], WORKERS * ROUNDS, "nor an attempt to ask Redis");
}

int main(void)
{
    test_rows();
    test_verdicts();
    test_bounds();
    test_what_waits();
    test_quantiles();
    test_last_minute();
    test_processes();
    return done_testing();
}
