/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared table under many processes: together they admit exactly the quota, also when they are
 * killed at any moment, thousands of times. An alarm bounds the whole, so the test fails if a
 * process hangs on what a dead one left.
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE (1024 * 1024)
#define WORKERS 6

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, 10000, 3600000);
static const rl_limit small = LIMIT(RL_FIXED_WINDOW, 7, 3600000);

static const rl_limit small_responding = {.algorithm = RL_FIXED_WINDOW, .quota = 7,
                                          .window_ms = 3600000, .burst = 7, .on_response = 1};
static const rl_limit wide = LIMIT(RL_FIXED_WINDOW, 1000000, 3600000);

static rl_local *table;

static struct {
    _Atomic long admitted[4096]; /* per key, by the results that the workers got */
    _Atomic long go, rounds, wrong;
    _Atomic long at[WORKERS]; /* the step that each has reached */
    _Atomic long granted[16], lost[16], spent[16]; /* units of leases, per key */
} *shared;

UNUSED static pid_t spawn(void (*work)(int), int number)
{
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (!shared->go)
            sched_yield();
        work(number);
        _exit(0);
    }
    return pid;
}

#ifdef __SANITIZE_THREAD__

/* A thread sanitizer emulates the 16-byte swap by a lock of one process, so these are threads. */
static void (*work_of_all)(int);

static void *run_worker(void *number)
{
    while (!shared->go)
        ;
    work_of_all((int)(size_t)number);
    return NULL;
}

static void together(void (*work)(int))
{
    pthread_t threads[WORKERS];

    work_of_all = work;
    shared->go = 0;
    for (size_t i = 0; i < WORKERS; i++)
        pthread_create(&threads[i], NULL, run_worker, (void *)i);
    shared->go = 1;
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
}

#else

/* Runs the work in all workers at once, to its end. */
static void together(void (*work)(int))
{
    pid_t pids[WORKERS];

    shared->go = 0;
    for (int i = 0; i < WORKERS; i++)
        pids[i] = spawn(work, i);
    shared->go = 1;
    for (int i = 0; i < WORKERS; i++)
        waitpid(pids[i], NULL, 0);
}

#endif

static void charge_one_key(int number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, -1);
    rl_state state;

    (void)number;
    for (int i = 0; i < 5000; i++)
        shared->admitted[0] += charge(table, key, &hourly, 1, 1000, &state);
}

static void test_one_key(void)
{
    together(charge_one_key);
    is_int(shared->admitted[0], hourly.quota, "%d processes, one key: the quota, to the unit",
           WORKERS);
}

/* All workers meet at each new key, in sets that other keys compete for. */
static void charge_many_keys(int number)
{
    rl_state state;

    (void)number;
    for (int i = 0; i < 4000; i++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, i);

        for (int j = 0; j < 4; j++)
            shared->admitted[i] += charge(table, key, &small, 1, 1000, &state);
    }
}

static void test_many_keys(void)
{
    int wrong = 0;

    memset(shared, 0, sizeof(*shared));
    together(charge_many_keys);
    for (int i = 0; i < 4000; i++)
        wrong += shared->admitted[i] != small.quota;
    is_int(wrong, 0, "%d processes, 4,000 new keys: the quota of each, to the unit", WORKERS);
}

/*
 * A new key meets all workers at once, and a table in which every place is taken. After each key
 * they wait for each other, so that no other key's first request takes a place from this one.
 */
enum { FIRST_REQUESTS = 20000, FIRST_KEY = 1000000 };
static const rl_limit once = LIMIT(RL_FIXED_WINDOW, 1, 3600000);

static void meet_first_requests(int number)
{
    rl_state state;

    (void)number;
    for (long i = 0; i < FIRST_REQUESTS; i++) {
        shared->rounds++;
        while (shared->rounds < (i + 1) * WORKERS)
            sched_yield();
        if (charge(table, key_of(table, RL_LOCAL_COUNT, FIRST_KEY + (int)i), &once, 1, 1000, &state)
            && shared->admitted[i % 4096]++ != i / 4096)
            shared->wrong++;
    }
}

static void test_first_requests(void)
{
    rl_local_stats stats;
    rl_state state;

    memset(shared, 0, sizeof(*shared));
    table = make_table(RL_LOCAL_MIN_SIZE);
    rl_local_read_stats(table, &stats);
    for (int i = 0; i < 10 * (int)stats.capacity; i++)
        charge(table, key_of(table, RL_LOCAL_COUNT, i), &wide, 1, 1000, &state);
    together(meet_first_requests);
    is_int(shared->wrong, 0,
           "%d keys, each met by %d first requests at once, in a full table: each admits one",
           FIRST_REQUESTS, WORKERS);
    table = make_table(SIZE);
}

/* Threads of one process, where a thread sanitizer sees both sides of every access. */
static void *run_thread(void *number)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, -9);
    rl_state state = WINDOW(BASE / HOUR, 0, 5);
    rl_view view;

    charge_many_keys(*(int *)number);
    for (int i = 0; i < 4000; i++) {
        store_reply(table, key, &hourly, &state, BASE, 1000 + i);
        check_of(table, key, &hourly, 1, 1002 + i, &view);
        rl_local_report(table, key, 1000 + i, 1000);
    }
    return NULL;
}

static void test_threads(void)
{
    int wrong = 0, numbers[WORKERS];
    pthread_t threads[WORKERS];

    memset(shared, 0, sizeof(*shared));
    table = make_table(SIZE);
    for (int i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, run_thread, &numbers[i]);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 4000; i++)
        wrong += shared->admitted[i] != small.quota;
    is_int(wrong, 0, "%d threads, 4,000 new keys: the quota of each, to the unit", WORKERS);
}

/* Each takes what it can and gives half of it back. */
static void charge_and_give_back(int number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, -2);
    rl_state state;

    (void)number;
    for (int i = 0; i < 20000; i++) {
        if (!charge(table, key, &hourly, 1, 1000, &state))
            continue;
        if (i & 1)
            rl_local_give_back(table, key, &hourly, state.index, 1);
        else
            shared->admitted[0]++;
    }
}

static void test_give_back(void)
{
    memset(shared, 0, sizeof(*shared));
    together(charge_and_give_back);
    is_int(peek(table, key_of(table, RL_LOCAL_COUNT, -2), &hourly, 1000).cur, shared->admitted[0],
           "charges and give-backs at once: no unit is lost");
    is_int(shared->admitted[0], hourly.quota, "and the quota is used up");
}

/* --- Buckets and pending units ------------------------------------------------------------- */

static const rl_limit bucket = BUCKET(RL_TOKEN_BUCKET, 10000, 3600000, 7000);
static const rl_limit responding = {.algorithm = RL_FIXED_WINDOW, .quota = 500,
                                    .window_ms = 3600000, .burst = 500, .on_response = 1};
static const rl_limit at_once = LIMIT(RL_FIXED_WINDOW, 500, 3600000);

static void charge_bucket(int number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, -4);
    rl_state state;

    (void)number;
    for (int i = 0; i < 5000; i++)
        shared->admitted[0] += charge(table, key, &bucket, 1, 1000, &state);
}

static void test_bucket(void)
{
    memset(shared, 0, sizeof(*shared));
    together(charge_bucket);
    is_int(shared->admitted[0], bucket.burst,
           "%d processes, one bucket: its burst, to the unit",
           WORKERS);
}

/*
 * Each makes units pending and settles them, every third with a charge; the last worker's rule
 * charges at once. admitted[0] counts those that are certainly pending or charged, admitted[1] the
 * charged.
 */
static void respond(int number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, -5);
    const rl_limit *limit = number == WORKERS - 1 ? &at_once : &responding;
    rl_state state;

    for (int i = 0; i < 3000; i++) {
        if (!charge(table, key, limit, 1, 1000, &state))
            continue;
        if (++shared->admitted[0] > limit->quota)
            shared->wrong++;
        if (limit == &at_once) {
            shared->admitted[1]++;
            i += 30;
            continue;
        }
        if (i % 3 == 0)
            shared->admitted[1]++;
        else
            shared->admitted[0]--;
        rl_local_settle(table, key, limit, UNITS(state.pending.period, 1, 1000), i % 3 == 0);
    }
}

static void test_pending(void)
{
    rl_state state;

    memset(shared, 0, sizeof(*shared));
    together(respond);
    state = peek(table, key_of(table, RL_LOCAL_COUNT, -5), &responding, 1000);
    is_int(shared->wrong, 0, "%d processes, units pending and settled: never more than the quota "
           "at once", WORKERS);
    is_int(state.cur, shared->admitted[1], "the count is what was charged");
    is_int(state.pending.prev + state.pending.cur, 0, "and nothing is left pending");
    ok(shared->admitted[1] > 400, "enough was charged (%ld)", (long)shared->admitted[1]);
}

/* All workers find overdue units in each of many counters. */
static void charge_overdue(int number)
{
    rl_state state;

    (void)number;
    for (int i = 0; i < 2000; i++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, 50000 + i);

        for (int j = 0; j < 3; j++)
            shared->admitted[i] += charge(table, key, number % 2 ? &small : &small_responding, 1,
                                          1000 + 3 * MINUTE, &state);
    }
}

static void test_overdue(void)
{
    int over = 0;
    rl_state state;

    memset(shared, 0, sizeof(*shared));
    table = make_table(SIZE);
    for (int i = 0; i < 2000; i++)
        charge(table, key_of(table, RL_LOCAL_COUNT, 50000 + i), &small_responding, 4, 1000, &state);
    together(charge_overdue);
    for (int i = 0; i < 2000; i++)
        over += shared->admitted[i] > small.quota - 4;
    is_int(over, 0, "%d processes find overdue units in 2,000 counters: no quota is exceeded",
           WORKERS);
}

/*
 * Windows end while the workers charge. Each worker reads a clock that differs by up to 5 ms, and
 * may be stopped for up to 30 s between reading it and charging; the others wait if it takes
 * longer.
 */
enum { TURNS = 400, STOPPED = 3000 };
static const rl_limit turning = LIMIT(RL_FIXED_WINDOW, 50, 1000);

static void charge_over_edges(int number)
{
    uint64_t key = key_of(table, RL_LOCAL_COUNT, -3);
    rl_state state;

    for (long i; (i = shared->rounds++ / 8) < TURNS * 100;) {
        shared->at[number] = i;
        for (int other = 0; other < WORKERS; other++) {
            while (shared->at[other] < i - STOPPED)
                sched_yield();
        }
        if (charge(table, key, &turning, 1, i * 10 + number, &state))
            shared->admitted[state.index - BASE / 1000]++;
    }
    shared->at[number] = LONG_MAX;
}

static void test_edges(void)
{
    int over = 0, short_of = 0;

    memset(shared, 0, sizeof(*shared));
    together(charge_over_edges);
    for (int i = 0; i < TURNS; i++) {
        over += shared->admitted[i] > turning.quota;
        short_of += shared->admitted[i] < turning.quota;
    }
    is_int(over, 0, "%d windows end while clocks differ: none admits more than its quota", TURNS);
    /* A worker that was stopped for whole windows charges none of them; the others do. */
    ok(short_of < TURNS / 10, "and few admit less (%d)", short_of);
}

/* --- Leases --- */

enum { LEASED_KEYS = 10, LEASE_UNITS = 20, LEASES_FROM = 1000 };

static uint64_t lease_key(int i)
{
    return rl_local_lease_key(table, key_of(table, RL_LOCAL_SNAPSHOT, 60000 + i), &hourly);
}

/* Of a key's units: what was granted is counted before the grant, what was spent after a spend. */
static void refill_lease(int i, int64_t host_ms, int64_t life_ms)
{
    rl_lease_times times = {host_ms, host_ms - 1, host_ms + 2, 1};
    int64_t units = rl_local_lease_claim(table, lease_key(i), &times);
    rl_lease_grant grant = {units < LEASE_UNITS ? units : LEASE_UNITS, host_ms, life_ms, host_ms,
                            1};

    if (units == 0)
        return;
    shared->granted[i] += grant.units;
    shared->lost[i] += rl_local_lease_grant(table, lease_key(i), &grant);
}

static void use_lease(rng *r, int i, int64_t host_ms, int64_t life_ms)
{
    int64_t cost = rng_between(r, 1, 3);
    rl_lease spent;

    if (!rl_local_lease_spend(table, lease_key(i), cost, host_ms, &spent)) {
        refill_lease(i, host_ms, life_ms);
        return;
    }
    if (rng_one_in(r, 8))
        rl_local_lease_return(table, lease_key(i), spent.serial, cost);
    else
        shared->spent[i] += cost;
    if (spent.refill)
        refill_lease(i, host_ms, life_ms);
}

/* What is left of a key's units, also of those that have expired; spends it. */
static int64_t rest_of_lease(int i)
{
    rl_lease spent;
    int64_t rest = 0;

    while (rl_local_lease_spend(table, lease_key(i), 1, 0, &spent))
        rest++;
    return rest;
}

/* A clock that is 5 ms later for some, so that leases of 3 ms expire while others spend them. */
static void spend_leases(int number)
{
    rng r = {rng_seed(7) + (uint64_t)number};

    for (long i; (i = shared->rounds++) < 200000;)
        use_lease(&r, (int)(rng_next(&r) % LEASED_KEYS), LEASES_FROM + i / 100 + number, 3);
}

static void test_leases(void)
{
    int more = 0, less = 0;
    long spent = 0, lost = 0;

    memset(shared, 0, sizeof(*shared));
    table = make_table(SIZE);
    together(spend_leases);
    for (int i = 0; i < LEASED_KEYS; i++) {
        int64_t rest = rest_of_lease(i), total = shared->spent[i] + shared->lost[i] + rest;

        more += total > shared->granted[i];
        /* A return to a lease that was replaced loses up to 3 units, which are known to nobody. */
        less += total < shared->granted[i] - shared->spent[i] / 4;
        spent += shared->spent[i];
        lost += shared->lost[i];
    }
    is_int(more, 0, "%d processes, %d keys: no unit of a lease is spent twice", WORKERS,
           LEASED_KEYS);
    is_int(less, 0, "and the others are left, or known to be lost");
    ok(spent > 1000 && lost > 100, "many leases were spent, and some replaced (%ld, %ld)", spent,
       lost);
}

/* --- Killed --- */

enum { KEYS = 40, OTHERS = 10 };

static const rl_limit hourly_bucket = LIMIT(RL_TOKEN_BUCKET, 10000, 3600000);
static const rl_limit hourly_responding = {.algorithm = RL_SLIDING_WINDOW, .quota = 10000,
                                           .window_ms = 3600000, .burst = 10000, .on_response = 1};

/* Charges a bucket, and makes a unit pending and settles it, sometimes with a charge. */
UNUSED static void charge_others(int i, int charged)
{
    uint64_t first = key_of(table, RL_LOCAL_COUNT, 30000 + i);
    uint64_t second = key_of(table, RL_LOCAL_COUNT, 40000 + i);
    rl_state state;

    shared->admitted[100 + i] += charge(table, first, &hourly_bucket, 1, 1000, &state);
    if (!charge(table, second, &hourly_responding, 1, 1000, &state))
        return;
    rl_local_settle(table, second, &hourly_responding, UNITS(state.pending.period, 1, 1000),
                    charged);
    shared->admitted[200 + i] += charged;
}

UNUSED static void charge_until_killed(int number)
{
    rng r = {rng_seed(5) + (uint64_t)number};

    for (;;) {
        int i = (int)(rng_next(&r) % KEYS);
        uint64_t key = key_of(table, RL_LOCAL_COUNT, 10000 + i);
        uint64_t snapshot = key_of(table, RL_LOCAL_SNAPSHOT, 10000 + i);
        rl_state state, report = WINDOW(BASE / HOUR, i, 1000 + i);
        rl_view view;

        if (charge(table, key, &hourly, 1, 1000, &state)) {
            if (rng_one_in(&r, 4))
                rl_local_give_back(table, key, &hourly, state.index, 1);
            else
                shared->admitted[i]++;
        }
        charge_others(i % OTHERS, rng_one_in(&r, 4));
        use_lease(&r, i % LEASED_KEYS, LEASES_FROM + rng_between(&r, 0, 4), 1000);
        store_reply(table, snapshot, &hourly, &report, BASE, 1000);
        check_of(table, snapshot, &hourly, 1, 1002, &view);
        shared->wrong += view.now > 0
            && (view.state.prev != i || view.state.cur != 1000 + i);
        rl_local_report(table, key, 1000, 10000);
        /* New keys evict each other, but none of these, which are fuller. */
        charge(table, key_of(table, RL_LOCAL_COUNT, (int)(50000 + rng_next(&r) % 100000)), &wide,
               1, 1000, &state);
    }
}

/* Takes the rest of a key's quota. */
UNUSED static long take_the_rest(uint64_t key, const rl_limit *limit)
{
    rl_state state;
    long taken = 0;

    while (taken <= hourly.quota && charge(table, key, limit, 1, 1000, &state))
        taken++;
    return taken;
}

static void test_killed(void)
{
#ifdef __SANITIZE_THREAD__
    pass("# SKIP processes that are killed: not among threads");
#else
    long kills = rng_rounds("RL_KILLS", 2000), lost = 0, leased = 0;
    int over = 0, unusable = 0;
    pid_t pids[WORKERS];
    rng r = {rng_seed(6)};

    memset(shared, 0, sizeof(*shared));
    table = make_table(SIZE); /* a new one: entries that deny would evict these */
    for (int i = 0; i < KEYS; i++) { /* full enough to be kept: see the test of eviction */
        rl_state state;

        charge(table, key_of(table, RL_LOCAL_COUNT, 10000 + i), &hourly, 5000, 1000, &state);
        shared->admitted[i] = 5000;
    }
    for (int i = 0; i < OTHERS; i++) {
        rl_state state;

        charge(table, key_of(table, RL_LOCAL_COUNT, 30000 + i), &hourly_bucket, 5000, 1000, &state);
        charge(table, key_of(table, RL_LOCAL_COUNT, 40000 + i), &hourly, 5000, 1000, &state);
        shared->admitted[100 + i] = shared->admitted[200 + i] = 5000;
    }
    shared->go = 1;
    for (int i = 0; i < WORKERS; i++)
        pids[i] = spawn(charge_until_killed, i);
    for (long n = 0; n < kills; n++) {
        int i = (int)(rng_next(&r) % WORKERS);

        usleep((useconds_t)(rng_next(&r) % 300));
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
        pids[i] = spawn(charge_until_killed, (int)n + WORKERS);
    }
    for (int i = 0; i < WORKERS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    for (int i = 0; i < KEYS; i++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, 10000 + i);
        long total = shared->admitted[i] + take_the_rest(key, &hourly);

        over += total > hourly.quota;
        lost += hourly.quota - total;
        unusable += peek(table, key, &hourly, 1000).cur != hourly.quota;
    }
    for (int i = 0; i < OTHERS; i++) {
        uint64_t first = key_of(table, RL_LOCAL_COUNT, 30000 + i);
        uint64_t second = key_of(table, RL_LOCAL_COUNT, 40000 + i);

        over += shared->admitted[100 + i] + take_the_rest(first, &hourly_bucket) > hourly.quota;
        over += shared->admitted[200 + i] + take_the_rest(second, &hourly_responding)
            > hourly.quota;
        unusable += take_the_rest(first, &hourly_bucket) + take_the_rest(second, &hourly_responding)
            != 0;
    }
    for (int i = 0; i < LEASED_KEYS; i++) {
        int64_t rest = rest_of_lease(i);
        rl_lease_grant later = {9, 100000, 1000, 100000, 1};

        over += shared->spent[i] + shared->lost[i] + rest > shared->granted[i];
        leased += shared->spent[i];
        rl_local_lease_grant(table, lease_key(i), &later);
        unusable += rest_of_lease(i) != 9;
    }
    is_int(over, 0, "%ld processes killed at any moment: no quota is exceeded, and no unit of a "
           "lease spent twice", kills + WORKERS);
    ok(leased > 1000, "many units of leases were spent (%ld)", leased);
    ok(lost <= kills + WORKERS, "each lost at most the one unit it had charged (%ld)", lost);
    is_int(unusable, 0, "all counts can still be used");
    is_int(shared->wrong, 0, "no half-written snapshot was trusted");
#endif
}

int main(void)
{
    alarm(1800); /* a busy machine takes minutes */
    shared = shared_memory(sizeof(*shared));
    table = make_table(SIZE);
    test_one_key();
    test_many_keys();
    test_first_requests();
    test_give_back();
    test_bucket();
    test_pending();
    test_overdue();
    test_edges();
    test_leases();
    test_killed();
    test_threads();
    return done_testing();
}
