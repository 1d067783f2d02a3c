/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases in virtual time: random schedules of hosts, network and Redis, in which no admission may
 * be beyond what the algorithm alone would allow; and how much of a quota leases leave unused.
 *
 * Arguments: the number of schedules of each kind; and, to run only one test, a part of the name of
 * a kind, or "unused units". RL_SEED sets another seed.
 */
#include "lease_oracle.h"
#include "lease_run.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Schedules of each kind: more than 10 million admissions, except under sanitizers. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#define ROUNDS 4
#else
#define SANITIZED 0
#define ROUNDS 60
#endif

/* --- Schedules ---------------------------------------------------------------------------- */

static int64_t one_of(rng *r, const int64_t *numbers, size_t count)
{
    return numbers[rng_next(r) % count];
}

#define ONE_OF(r, ...) \
    one_of(r, (const int64_t[]){__VA_ARGS__}, COUNT(((const int64_t[]){__VA_ARGS__})))

static rl_limit any_rule(rng *r)
{
    static const rl_algorithm algorithms[] = {RL_SLIDING_WINDOW, RL_FIXED_WINDOW, RL_TOKEN_BUCKET,
                                              RL_LEAKY_BUCKET};
    rl_limit rule = {.algorithm = algorithms[rng_next(r) % COUNT(algorithms)]};

    do {
        rule.window_ms = ONE_OF(r, 200, 500, 1000, 1000, 2000, 3000, 10000, 60000);
        rule.quota = rule.burst = rng_scaled(r, 1, 40000);
        if (rl_limiter_is_bucket(&rule) && rng_one_in(r, 2))
            rule.burst = rng_scaled(r, RL_LEASE_SHARE, 40000);
    } while (rl_limiter_is_bucket(&rule)
             && (rule.burst < RL_LEASE_SHARE || rl_limiter_bucket_lease_ms(&rule) < 20));
    return rule;
}

/* The mean time between requests that offer so many times what the rules admit. */
static int64_t gap_for(const plan *p, double times)
{
    double per_us = 0, cost = p->cost_max > 1 ? (double)p->cost_max / 5 : 1, gap;

    for (int i = 0; i < p->counters; i++)
        per_us += (double)p->rules[i].quota / (double)p->rules[i].window_ms / 1000;
    gap = (p->rules_max + 1) / 2.0 * cost / (per_us * times);
    return gap < 5 ? 5 : gap > 20000 ? 20000 : (int64_t)gap;
}

static plan any_plan(rng *r)
{
    plan p = {.hosts = (int)ONE_OF(r, 1, 2, 3, 4, 8, 16, 64),
              .counters = (int)ONE_OF(r, 1, 1, 2, 5)};

    for (int i = 0; i < p.counters; i++)
        p.rules[i] = any_rule(r);
    p.delay_us = ONE_OF(r, 50, 300, 2000, 10000);
    p.timeout_ms = ONE_OF(r, 25, 25, 100);
    p.ppm = 200;
    p.wall_us = 50000;
    p.cost_max = ONE_OF(r, 1, 1, 1, 5, 30);
    p.rules_max = p.counters > 2 ? 3 : p.counters;
    p.prefork = rng_one_in(r, 3);
    p.fail_open = rng_one_in(r, 3);
    p.one_host_is_hot = rng_one_in(r, 4);
    p.denied_later = (int)ONE_OF(r, 0, 0, 50, 5);
    p.denied_us = 30000;
    p.gap_us = gap_for(&p, (double)ONE_OF(r, 5, 10, 12, 20, 30) / 10);
    p.lasts_us = 12000 * p.gap_us;
    if (p.lasts_us < 3 * p.rules[0].window_ms * 1000)
        p.lasts_us = 3 * p.rules[0].window_ms * 1000;
    if (p.lasts_us > 40000 * p.gap_us)
        p.lasts_us = 40000 * p.gap_us;
    return p;
}

static void quiet(plan *p, rng *r)
{
    (void)p;
    (void)r;
}

static void bad_network(plan *p, rng *r)
{
    p->slow = (int)ONE_OF(r, 3, 10, 50);
    p->slow_us = ONE_OF(r, 20000, 200000, 800000);
    p->lost = (int)ONE_OF(r, 0, 10, 100);
}

static void stopped_hosts(plan *p, rng *r)
{
    p->stop = 1;
    p->stop_us = ONE_OF(r, 5000, 100000, 900000);
    p->crash = (int)ONE_OF(r, 0, 1, 5);
    p->stall = (int)ONE_OF(r, 20, 200);
    p->stall_us = ONE_OF(r, 1000, 30000, 500000);
}

static void edges(plan *p, rng *r)
{
    p->edges = 1;
    p->waves = (int)ONE_OF(r, 0, 100);
    for (int i = 0; i < p->counters; i++) {
        p->rules[i].algorithm = (rl_algorithm)ONE_OF(r, RL_SLIDING_WINDOW, RL_FIXED_WINDOW);
        p->rules[i].window_ms = p->rules[0].window_ms;
        p->rules[i].burst = p->rules[i].quota;
    }
}

static void waves(plan *p, rng *r)
{
    p->waves = (int)ONE_OF(r, 50, 300, 2000);
}

/* The worst that can be done to leases: they are old, and everything else is used up. */
static void pulses(plan *p, rng *r)
{
    p->pulses = (int)ONE_OF(r, 4, 10, 30, 100);
    p->counters = p->rules_max = 1;
    p->hosts = (int)ONE_OF(r, 4, 16, 64);
    p->cost_max = 1;
    p->ppm = ONE_OF(r, 200, 200000);
    p->rules[0].window_ms = ONE_OF(r, 500, 1000, 1000, 4000);
    p->rules[0].quota = p->rules[0].burst = rng_between(r, 200, 3000);
    if (rl_limiter_is_bucket(&p->rules[0]))
        p->rules[0].quota /= ONE_OF(r, 1, 2, 4);
    p->slow = (int)ONE_OF(r, 0, 2, 10);
    p->slow_us = ONE_OF(r, 50000, 300000);
    p->timeout_ms = ONE_OF(r, 25, 500);
    p->denied_later = (int)ONE_OF(r, 0, 2);
    p->denied_us = ONE_OF(r, 30000, 300000);
    p->lasts_us = 20 * p->rules[0].window_ms * 1000;
}

/* What is left of leases when a window ends is spent when the next one begins, if it can be. */
static void rises(plan *p, rng *r)
{
    p->counters = p->rules_max = 1;
    p->hosts = (int)ONE_OF(r, 1, 2, 4, 16);
    p->cost_max = 1;
    p->rules[0].algorithm = (rl_algorithm)ONE_OF(r, RL_SLIDING_WINDOW, RL_FIXED_WINDOW);
    p->rules[0].window_ms = ONE_OF(r, 500, 1000);
    p->rules[0].quota = p->rules[0].burst = rng_between(r, 500, 5000);
    p->denied_later = 0;
    p->rises = 1;
    p->gap_us = gap_for(p, 1);
    p->lasts_us = 8 * p->rules[0].window_ms * 1000;
}

/* A step denies after a part of a window that another one was admitted in. */
static void late_returns(plan *p, rng *r)
{
    p->counters = p->rules_max = 1;
    p->hosts = (int)ONE_OF(r, 1, 2, 4);
    p->cost_max = ONE_OF(r, 1, 3);
    p->rules[0].algorithm = (rl_algorithm)ONE_OF(r, RL_SLIDING_WINDOW, RL_FIXED_WINDOW);
    p->rules[0].window_ms = ONE_OF(r, 200, 500, 1000);
    p->rules[0].quota = p->rules[0].burst = rng_between(r, 100, 5000);
    p->denied_later = 2;
    p->denied_us = p->rules[0].window_ms * ONE_OF(r, 100, 500);
    p->gap_us = gap_for(p, 3);
    p->lasts_us = 8 * p->rules[0].window_ms * 1000;
}

static void slow_clocks(plan *p, rng *r)
{
    waves(p, r);
    p->ppm = 200000; /* a tenth slower and faster than Redis's */
    p->delay_us = 50;
}

static void changes(plan *p, rng *r)
{
    p->changes = (int)ONE_OF(r, 2, 6);
    p->overrides = rng_one_in(r, 2);
}

static void failovers(plan *p, rng *r)
{
    p->failover = 1;
    for (int i = 0; i < p->counters; i++)
        p->rules[i].window_ms = p->rules[i].window_ms < 1000 ? 1000 : p->rules[i].window_ms;
    (void)r;
    if (p->lasts_us < 2 * SECOND)
        p->lasts_us = 2 * SECOND;
}

static void everything(plan *p, rng *r)
{
    bad_network(p, r);
    stopped_hosts(p, r);
    waves(p, r);
    changes(p, r);
}

static const struct {
    const char *name;
    void (*add)(plan *p, rng *r);
} kinds[] = {
    {"a good network", quiet}, {"a bad network", bad_network},
    {"hosts that stop and crash", stopped_hosts}, {"requests at window edges", edges},
    {"waves of requests", waves},
    {"old leases, and bursts that use up the rest", pulses},
    {"demand that rises with a window", rises},
    {"units that return late", late_returns},
    {"clocks a tenth too fast and too slow", slow_clocks},
    {"tiers and overrides that change", changes}, {"failover with lost writes", failovers},
    {"everything but failover", everything},
};

static const char *const algorithms[] = {"sliding window", "fixed window", "log", "token bucket",
                                         "leaky bucket"};

static void describe(const world *w, int i, int64_t beyond)
{
    const rl_limit *rule = &w->plan.rules[i];
    const counter *c = &w->counters[i];

    diag("%" PRId64 " beyond of %" PRId64 " admitted: %s, quota %" PRId64 ", window %" PRId64
         " ms, burst %" PRId64 ", %d hosts, costs up to %" PRId64 ", %d rules, %d terms",
         beyond, c->admitted, algorithms[rule->algorithm], rule->quota, rule->window_ms,
         rule->burst, w->plan.hosts, w->plan.cost_max, w->plan.rules_max, c->term_count);
}

/* Returns how many admissions of a schedule were beyond the algorithm, or had no debit. */
static int64_t judge(world *w, uint64_t seed)
{
    int64_t all = 0;

    for (int i = 0; i < w->plan.counters; i++) {
        counter *c = &w->counters[i];
        int64_t beyond = oracle(c) + (c->admitted > c->debited);

        if (beyond)
            describe(w, i, beyond);
        all += beyond;
    }
    if (all)
        diag("seed %" PRIu64, seed);
    return all;
}

static int64_t test_schedules(world *w, size_t kind, long rounds)
{
    uint64_t seed = rng_seed(11) * 1000003 + kind * 100000007;
    int64_t admitted = 0, leased = 0, beyond = 0;

    for (long n = 0; n < rounds && beyond == 0; n++) {
        rng r = {seed + (uint64_t)n};
        plan p = any_plan(&r);

        kinds[kind].add(&p, &r);
        world_run(w, &p, rng_next(&r));
        beyond += judge(w, seed + (uint64_t)n);
        admitted += w->admissions;
        leased += w->leased_admissions;
    }
    ok(beyond == 0, "%s: none of %" PRId64 " admissions, %" PRId64 " of them from leases, is beyond"
       " the algorithm", kinds[kind].name, admitted, leased);
    return admitted;
}

/* --- Denied though units were left -------------------------------------------------------- */

/* Steady random demand for one rule, offered so many times over. */
static plan steady(int hosts, const rl_limit *rule, double times, int windows)
{
    plan p = {.hosts = hosts, .counters = 1, .rules = {*rule}, .delay_us = 200, .timeout_ms = 25,
              .ppm = 200, .wall_us = 50000, .cost_max = 1, .rules_max = 1};

    p.gap_us = (int64_t)((double)rule->window_ms * 1000 / (double)rule->quota / times);
    p.lasts_us = windows * rule->window_ms * 1000;
    p.warm_us = rule->window_ms * 1000;
    return p;
}

/*
 * The units that the algorithm alone would have admitted, less those admitted, in percent of the
 * quota; over so many windows, but the first, and several runs.
 */
static double unused(world *w, const plan *p, int runs)
{
    const counter *c = &w->counters[0];
    int64_t windows = (p->lasts_us - p->warm_us) / 1000 / p->rules[0].window_ms, units = 0;

    for (int i = 0; i < runs; i++) {
        world_run(w, p, rng_seed(12) + (uint64_t)i);
        units += c->ideally - c->counted;
    }
    return 100.0 * (double)units / (double)(p->rules[0].quota * windows * runs);
}

/* The worst of several loads. */
static double worst(world *w, const rl_limit *rule, int hosts)
{
    static const double times[] = {1.0, 1.2, 1.5, 2.0, 3.0};
    int runs = rule->quota < 5000 ? (int)(10000 / rule->quota) + 1 : 1;
    double most = -100;

    for (size_t i = 0; i < COUNT(times); i++) {
        plan p = steady(hosts, rule, times[i], 6);
        double share = unused(w, &p, runs < 20 ? runs : 20);

        most = share > most ? share : most;
    }
    return most;
}

static const rl_algorithm leased[] = {RL_SLIDING_WINDOW, RL_FIXED_WINDOW, RL_TOKEN_BUCKET};

static void test_unused(world *w)
{
    static const struct {
        int64_t quota, window_ms;
        double with_4, with_64; /* the most that may be unused, in percent */
    } rules[] = {{20000, 10000, 1, 5}, {1000, 10000, 1, 5}, {600, 60000, 1, 5}, {100, 60000, 1, 5},
                 {100, 1000, 1, 5}, {1000, 1000, 1, 5}};

    for (size_t i = SANITIZED ? 3 : 0; i < COUNT(rules); i++) {
        for (size_t a = 0; a < COUNT(leased); a++) {
            rl_limit rule = {.algorithm = leased[a], .quota = rules[i].quota,
                             .burst = rules[i].quota, .window_ms = rules[i].window_ms};
            double with_4 = worst(w, &rule, 4), with_64 = worst(w, &rule, 64);

            ok(with_4 <= rules[i].with_4 && with_64 <= rules[i].with_64,
               "%s, %" PRId64 " in %" PRId64 " ms, offered 1 to 3 times: at most %.2f %% denied "
               "though units were left with 4 hosts, %.2f %% with 64", algorithms[leased[a]],
               rule.quota, rule.window_ms, with_4, with_64);
        }
    }
}

static void test_commands(world *w)
{
    for (size_t a = 0; a < COUNT(leased); a++) {
        rl_limit rule = {.algorithm = leased[a], .quota = 20000, .burst = 20000,
                         .window_ms = 10000};
        plan p = steady(4, &rule, 2, 6);
        double share;

        world_run(w, &p, rng_seed(13));
        share = (double)w->commands / (double)w->admissions;
        ok(share <= 0.02, "%s, 20000 in 10 s, 4 hosts, offered twice: %.4f commands for each "
           "admitted request", algorithms[leased[a]], share);
    }
}

/* How many units were left in the windows that lie wholly in the run. */
static int64_t units_missing(world *w, const plan *p, int64_t *windows)
{
    counter *c = &w->counters[0];
    int64_t window_us = p->rules[0].window_ms * 1000, units = 0;
    int64_t last = (EPOCH_US + w->plan.lasts_us) / window_us, first;

    sort_entries(c);
    first = c->entries[0].at_us / window_us;
    for (size_t i = 0; i < c->count; i++) {
        int64_t index = c->entries[i].at_us / window_us;

        units += index > first && index < last;
    }
    *windows += last - first - 1;
    return (last - first - 1) * p->rules[0].quota - units;
}

/* How many units of quotas from 1 to 100 are left, in how many windows. */
static int64_t small_quotas(world *w, int hosts, int64_t *windows)
{
    int64_t missing = 0;

    for (int64_t quota = 1; quota <= 100; quota++) {
        rl_limit rule = {.algorithm = RL_FIXED_WINDOW, .quota = quota, .burst = quota,
                         .window_ms = 2000};
        plan p = steady(hosts, &rule, 4.0 + 20.0 / (double)quota, 5);

        world_run(w, &p, rng_seed(14));
        missing += units_missing(w, &p, windows);
    }
    return missing;
}

static void test_small_quotas(world *w)
{
    int64_t windows = 0, missing = small_quotas(w, 1, &windows) + small_quotas(w, 4, &windows);

    is_int(missing, 0, "1 and 4 hosts use quotas of 1 to 100 whole, in each of %" PRId64 " windows",
           windows);
    windows = 0;
    missing = small_quotas(w, 16, &windows);
    ok(missing * 1000 <= 50 * windows, "16 hosts leave %" PRId64 " units in %" PRId64 " windows",
       missing, windows);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : ROUNDS;
    int64_t admitted = 0;
    world *w = world_make();

    for (size_t i = 0; i < COUNT(kinds); i++) {
        if (argc < 3 || strstr(kinds[i].name, argv[2]))
            admitted += test_schedules(w, i, rounds);
    }
    diag("%" PRId64 " admissions", admitted);
    if (argc < 3 || !strcmp(argv[2], "unused units"))
        test_unused(w);
    if (argc < 3) {
        test_commands(w);
        test_small_quotas(w);
    }
    world_free(w);
    return done_testing();
}
