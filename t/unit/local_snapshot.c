/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of Redis's replies: memory denies only what Redis would deny, however long a reply
 * took; one request a second revalidates a denial, within a budget; a torn snapshot is ignored.
 */
#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE (4 * 1024 * 1024)

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, 10, 3600000);
static const rl_state full = WINDOW(BASE / HOUR, 0, 10), half_full = WINDOW(BASE / HOUR, 0, 5);

static rl_view view;

static rl_snapshot_verdict check(rl_local *table, uint64_t key, int64_t host_ms)
{
    return check_of(table, key, &hourly, 1, host_ms, &view);
}

/* Stores a reply that was received this much later. */
static void store_late(rl_local *table, uint64_t key, const rl_state *state, int64_t sent_ms,
                       int64_t received_ms)
{
    rl_local_reply reply = {state, BASE, 0, sent_ms, received_ms};

    rl_local_snapshot_store(table, key, &hourly, &reply);
}

/* Stores a reply whose limit is an override. */
static void store_override(rl_local *table, uint64_t key, const rl_limit *limit,
                           const rl_state *state, int64_t redis_now, int64_t sent_ms)
{
    rl_local_reply reply = {state, redis_now, 1, sent_ms, sent_ms + 1};

    rl_local_snapshot_store(table, key, limit, &reply);
}

static void test_storing(rl_local *table)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 1);

    is_int(check(table, key, 1000), RL_SNAPSHOT_UNKNOWN, "at first there is no snapshot");
    is_int(view.now, 0, "the view has no time then");
    store_late(table, key, &full, 1000, 1005);
    is_int(check(table, key, 1005), RL_SNAPSHOT_DENIES, "what Redis denied is denied");
    ok(view.state.index == full.index && view.state.prev == 0 && view.state.cur == 10,
       "the view has its state");
    ok(view.now >= BASE + 5 && view.now <= BASE + 7,
       "at the latest time that Redis's clock can have");
    ok(view.lag_ms >= 5 && view.lag_ms <= 8, "the lag is the time from asking to the reply");
    store_late(table, key, &half_full, 990, 1006);
    is_int(check(table, key, 1006), RL_SNAPSHOT_DENIES,
           "an older reply does not replace a newer one");
    store_reply(table, key, &hourly, &half_full, BASE, 1006);
    is_int(check(table, key, 1007), RL_SNAPSHOT_UNKNOWN, "a newer one does");
    is_int(view.state.cur, 5, "its state is in the view, though it does not deny");
    is_int(check_of(table, key, &hourly, 6, 1007, &view), RL_SNAPSHOT_DENIES,
           "a higher cost is denied");
    store_late(table, key, &full, 1008, 1008 + 100000);
    ok(check(table, key, 1009) == RL_SNAPSHOT_DENIES && view.state.cur == 10,
       "a reply after 100 s leaves the counts as they are");
}

static void test_revalidation(rl_local *table)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 2);
    int asks = 0;

    store_reply(table, key, &hourly, &full, BASE, 10000);
    is_int(check(table, key, 10999), RL_SNAPSHOT_DENIES, "for a second a snapshot serves");
    is_int(check(table, key, 11000), RL_SNAPSHOT_STALE, "then one request revalidates it");
    for (int i = 0; i < 100; i++)
        asks += check(table, key, 11000 + i * 9) == RL_SNAPSHOT_STALE;
    is_int(asks, 0, "the others are denied");
    is_int(check(table, key, 12001), RL_SNAPSHOT_STALE,
           "if its reply never comes, another one revalidates");
    store_reply(table, key, &hourly, &full, BASE + 2001, 12001);
    is_int(check(table, key, 12500), RL_SNAPSHOT_DENIES, "a new reply serves for a second again");
}

static void test_budget(rl_local *table)
{
    enum { KEYS = 1500 };
    int asks = 0, denials = 0;

    for (int i = 0; i < KEYS; i++)
        store_reply(table, key_of(table, RL_LOCAL_SNAPSHOT, 1000 + i), &hourly, &full, BASE, 20000);
    for (int i = 0; i < KEYS; i++) {
        /* Some callers' clocks are still in the second before. */
        rl_snapshot_verdict said = check(table, key_of(table, RL_LOCAL_SNAPSHOT, 1000 + i),
                                i > 0 && i % 100 == 0 ? 21999 : 22000);

        asks += said == RL_SNAPSHOT_STALE;
        denials += said == RL_SNAPSHOT_DENIES;
    }
    is_int(asks, RL_REVALIDATIONS_PER_SECOND, "1,000 revalidations a second, and no more");
    is_int(denials, KEYS - RL_REVALIDATIONS_PER_SECOND, "the other denials stand");
    is_int(check(table, key_of(table, RL_LOCAL_SNAPSHOT, 999 + KEYS), 23001), RL_SNAPSHOT_STALE,
           "the next second has its own budget");
}

static void test_torn(rl_local *table)
{
    enum { WORDS = 8 };
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 3), *line, good[WORDS];
    int trusted = 0, forgotten = 0, stuck = 0;

    store_reply(table, key, &hourly, &full, BASE, 30000);
    line = line_of(table, SIZE, key);
    memcpy(good, line, sizeof(good));
    for (int word = 1; word < WORDS; word++) {
        for (int bit = 0; bit < 64; bit++) {
            line[word] ^= UINT64_C(1) << bit;
            check(table, key, 30002);
            if (view.now == 0)
                forgotten++;
            else if (view.state.cur != full.cur || view.state.prev != full.prev
                     || view.state.index != full.index
                     || view.lag_ms > 4)
                trusted++;
            store_reply(table, key, &hourly, &full, BASE, 30000);
            stuck += check(table, key, 30002) != RL_SNAPSHOT_DENIES;
            memcpy(line, good, sizeof(good));
        }
    }
    is_int(trusted, 0, "a snapshot with any bit of its memory flipped is not trusted");
    is_int(forgotten, 5 * 64 - 32,
           "it is ignored, except for the bits of the time when it becomes stale");
    is_int(stuck, 0, "the next reply is stored");
}

/* --- Snapshots of other limits than a window's ---------------------------------------------- */

static void test_kinds(rl_local *table)
{
    rl_limit limit = BUCKET(RL_TOKEN_BUCKET, 10, 1000, 5);
    int64_t redis_now = (BASE + 77) * 1000 + 123;
    rl_state said = LEVEL(redis_now, 5000000);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 4);

    store_reply(table, key, &limit, &said, redis_now, 40000);
    is_int(check_of(table, key, &limit, 1, 40001, &view), RL_SNAPSHOT_DENIES,
           "a bucket that is full denies");
    ok(view.now > redis_now && view.now <= redis_now + 3000 && view.state.at == view.now
           && view.state.level <= 5000000 && view.state.level >= 5000000 - 30 * 1000,
       "with its level, drained to now");
    is_int(check_of(table, key, &limit, 1, 40099, &view), RL_SNAPSHOT_UNKNOWN,
           "until a unit has drained");
    is_int(check_of(table, key, &limit, 2, 40099, &view), RL_SNAPSHOT_DENIES,
           "one drained unit is not enough for two");

    limit = (rl_limit)LIMIT(RL_SLIDING_LOG, 10, 60000);
    said = (rl_state){.used = 9, .asked = 2, .wait_ms = 500, .next_ms = 500, .reset_ms = 60000};
    key = key_of(table, RL_LOCAL_SNAPSHOT, 5);
    store_reply(table, key, &limit, &said, BASE, 41000);
    is_int(check_of(table, key, &limit, 2, 41100, &view), RL_SNAPSHOT_DENIES,
           "a log denies the cost that was asked about");
    ok(view.state.wait_ms > 390 && view.state.wait_ms < 400, "for what is left of its wait");
    is_int(check_of(table, key, &limit, 3, 41100, &view), RL_SNAPSHOT_UNKNOWN,
           "another cost is unknown");
    is_int(check_of(table, key, &limit, 2, 41499, &view), RL_SNAPSHOT_UNKNOWN,
           "so is this one when the wait is over");
    is_int(view.state.used, 9, "the units used are in the view then");
    check_of(table, key, &limit, 2, 41000 + 60000, &view);
    is_int(view.state.used, 0, "and are 0 when all have left the window");
}

static void test_blocks(rl_local *table)
{
    static const rl_limit limits[] = {
        {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = 1000, .burst = 10,
         .block_ms = 5000},
        {.algorithm = RL_LEAKY_BUCKET, .quota = 10, .window_ms = 1000, .burst = 10,
         .block_ms = 5000},
        {.algorithm = RL_SLIDING_LOG, .quota = 10, .window_ms = 1000, .burst = 10,
         .block_ms = 5000}};

    for (int i = 0; i < 3; i++) {
        int64_t ticks = rl_limiter_ticks(&limits[i]);
        rl_state said = {.blocked_until = (BASE + 4000) * ticks, .asked = 1};
        uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 10 + i);

        if (limits[i].algorithm == RL_LEAKY_BUCKET)
            said.at = BASE * ticks;
        store_reply(table, key, &limits[i], &said, BASE * ticks, 50000);
        ok(check_of(table, key, &limits[i], 1, 53900, &view) != RL_SNAPSHOT_UNKNOWN
               && check_of(table, key, &limits[i], 7, 53900, &view)
                  != RL_SNAPSHOT_UNKNOWN,
           "a block is kept, for any cost, beyond the window");
        ok(view.state.blocked_until > view.now && rl_limiter_retry_after(&limits[i], &view.state,
                                                                         view.now, 1) <= 100,
           "the view has its end");
        is_int(check_of(table, key, &limits[i], 1, 54000, &view), RL_SNAPSHOT_UNKNOWN,
               "it ends in time");
        rl_local_snapshot_drop(table, key);
        is_int(check_of(table, key, &limits[i], 1, 50002, &view), RL_SNAPSHOT_UNKNOWN,
               "a dropped snapshot does not deny");
        ok(view.now == 0, "nor fill in a view");
    }
}

/* A client that only waits for the block to end is denied and blocked again. */
static void test_blocked_log(rl_local *table)
{
    rl_limit limit = {.algorithm = RL_SLIDING_LOG, .quota = 10, .window_ms = HOUR, .burst = 10,
                      .block_ms = 5000};
    rl_state said = {.used = 10, .asked = 1, .wait_ms = HOUR - 1000, .next_ms = HOUR - 1000,
                     .reset_ms = HOUR, .blocked_until = BASE + 5000};
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 15);

    for (int overridden = 0; overridden <= 1; overridden++) {
        rl_limit rule = limit;
        int64_t wait_ms;

        rule.quota = rule.burst = overridden ? 100 : 10;
        if (overridden)
            store_override(table, key, &limit, &said, BASE, 52001);
        else
            store_reply(table, key, &limit, &said, BASE, 52000);
        check_of(table, key, &limit, 7, 52100, &view);
        ok(view.now < view.state.blocked_until, "a block of a log denies any cost");
        rl_local_snapshot_check(table, key, &rule, 1, 52100, &view);
        wait_ms = rl_limiter_retry_after(&rule, &view.state, view.now, 1);
        ok(wait_ms > HOUR - 1200 && wait_ms <= HOUR - 1000,
           "the wait is that of the log, beyond it");
        is_int(rule.quota, 10, "under the limit that was asked about");
        is_int(check_of(table, key, &limit, 1, 58000, &view) != RL_SNAPSHOT_UNKNOWN, 1,
               "which still denies when the block is over");
        is_int(check_of(table, key, &limit, 7, 58000, &view), RL_SNAPSHOT_UNKNOWN,
               "but not another cost");
        rl_local_snapshot_drop(table, key);
    }
}

/* 2^31 ms are 24.8 days. */
static void test_long_denials(rl_local *table)
{
    static const int64_t day = 24 * HOUR;
    rl_limit limit = LIMIT(RL_FIXED_WINDOW, 10, 31 * day);
    int64_t start = (BASE / (31 * day) + 1) * 31 * day;
    rl_state said = WINDOW(start / (31 * day), 0, 10);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 16);
    int wrong = 0;

    store_reply(table, key, &limit, &said, start, 1000);
    for (int64_t age = 2000; age < 31 * day - 1000; age += 6 * HOUR + 1234) {
        wrong += rl_local_snapshot_check(table, key, &limit, 1, 1000 + age, &view)
            != RL_SNAPSHOT_STALE;
        wrong += !rl_local_snapshot_revalidate(table, key, 1000 + age, 1);
        wrong += rl_local_snapshot_check(table, key, &limit, 1, 1000 + age, &view)
            != RL_SNAPSHOT_DENIES;
    }
    is_int(wrong, 0, "a denial of 31 days is revalidated at any age");
    store_reply(table, key, &limit, &said, start + 1, 1001);
    is_int(check_of(table, key, &limit, 1, 1000 + 27 * day, &view), RL_SNAPSHOT_STALE,
           "also by the first request after 27 days");
}

static void test_overrides(rl_local *table)
{
    rl_limit limit = hourly, bucket = BUCKET(RL_TOKEN_BUCKET, 10, 1000, 50);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 20);
    rl_state said = WINDOW(BASE / HOUR, 0, 5);

    limit.quota = limit.burst = 5;
    store_override(table, key, &limit, &said, BASE, 60000);
    limit = hourly;
    is_int(rl_local_snapshot_check(table, key, &limit, 1, 60002, &view),
           RL_SNAPSHOT_DENIES,
           "an override denies what the rule would not");
    ok(limit.quota == 5 && limit.burst == 5, "its limit is returned");
    limit.quota = limit.burst = 0;
    store_override(table, key, &limit, &said, BASE, 60003);
    limit = hourly;
    ok(rl_local_snapshot_check(table, key, &limit, 1, 60005, &view) == RL_SNAPSHOT_DENIES
           && limit.quota == 0, "so does one of 0");
    limit.quota = limit.burst = 100;
    store_override(table, key, &limit, &full, BASE, 60006);
    limit = hourly;
    is_int(rl_local_snapshot_check(table, key, &limit, 1, 60008, &view),
           RL_SNAPSHOT_UNKNOWN,
           "a higher one does not deny what the rule would");

    said = (rl_state)LEVEL(BASE * 1000, 10000000);
    limit = bucket;
    limit.quota = limit.burst = 10;
    key = key_of(table, RL_LOCAL_SNAPSHOT, 21);
    store_override(table, key, &limit, &said, BASE * 1000, 61000);
    limit = bucket;
    ok(rl_local_snapshot_check(table, key, &limit, 1, 61002, &view) == RL_SNAPSHOT_DENIES
           && limit.burst == 10, "of a bucket it is also the burst");
    key = key_of(table, RL_LOCAL_SNAPSHOT, 22);
    limit.burst = 20;
    said.level = 20000000;
    store_override(table, key, &limit, &said, BASE * 1000, 61000);
    is_int(rl_local_snapshot_check(table, key, &limit, 1, 61002, &view),
           RL_SNAPSHOT_UNKNOWN,
           "an override with another burst is not stored");
}

/* --- Counters with leases ------------------------------------------------------------------- */

static rl_snapshot_verdict leased_check(rl_local *table, uint64_t key, const rl_limit *rule,
                                        int64_t cost, int64_t host_ms)
{
    rl_limit limit = *rule;

    return rl_local_snapshot_check(table, key, &limit, cost, host_ms, &view);
}

/* 10 units, a sixty-fourth of the capacity, are free 16 ms after this state; the first after 2. */
static void test_dry_window(rl_local *table)
{
    rl_limit limit = LIMIT(RL_SLIDING_WINDOW, 640, 1000);
    rl_state said = WINDOW(BASE / 1000, 640, 0);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 30);

    store_reply(table, key, &limit, &said, BASE, 70000);
    is_int(leased_check(table, key, &limit, 1, 70003), RL_SNAPSHOT_UNKNOWN,
           "a counter without leases does not deny when a unit is free");
    limit.lease_ms = 1000;
    store_reply(table, key, &limit, &said, BASE, 70001);
    is_int(leased_check(table, key, &limit, 1, 70001), RL_SNAPSHOT_DENIES,
           "one with leases denies while it has no unit");
    is_int(leased_check(table, key, &limit, 1, 70016), RL_SNAPSHOT_DENIES,
           "and until a sixty-fourth of its capacity is free");
    is_int(leased_check(table, key, &limit, 1, 70017), RL_SNAPSHOT_DRY, "then Redis is asked");
    leased_check(table, key, &limit, 1, 70010);
    is_int(rl_limiter_remaining(&limit, &view.state, view.now), 0,
           "until then the view has nothing left");
    is_int(view.lag_ms, 7, "and a wait that lasts until somebody asks");
    is_int(leased_check(table, key, &limit, 11, 70017), RL_SNAPSHOT_STALE,
           "a cost that is denied still is stale as ever");
    ok(rl_local_snapshot_revalidate(table, key, 70017, 0), "one caller asks");
    ok(!rl_local_snapshot_revalidate(table, key, 70017, 0), "no other one");
    is_int(leased_check(table, key, &limit, 1, 70018), RL_SNAPSHOT_DENIES,
           "the others are denied meanwhile");
    is_int(leased_check(table, key, &limit, 1, 70017 + RL_LEASE_PAUSE_MS - 1), RL_SNAPSHOT_DENIES,
           "for as long as a reply may take");
    is_int(leased_check(table, key, &limit, 1, 71000), RL_SNAPSHOT_DRY,
           "then another caller asks, up to a second from the first question on");
    is_int(leased_check(table, key, &limit, 1, 71001), RL_SNAPSHOT_UNKNOWN,
           "after which a snapshot with free units denies no more");
    said = (rl_state)WINDOW(BASE / 1000, 639, 0);
    store_reply(table, key, &limit, &said, BASE, 72000);
    is_int(leased_check(table, key, &limit, 1, 72000), RL_SNAPSHOT_UNKNOWN,
           "a counter that had one unit left was not dry");
    is_int(leased_check(table, key, &limit, 9, 72001), RL_SNAPSHOT_DENIES,
           "it denies a cost that does not fit");
    is_int(leased_check(table, key, &limit, 2, 72010), RL_SNAPSHOT_UNKNOWN, "and no other");
}

/* The first unit is free after 500 ms, a sixty-fourth of the burst after 5 s. */
static void test_dry_bucket(rl_local *table)
{
    rl_limit limit = BUCKET(RL_TOKEN_BUCKET, 20, 10000, 640);
    rl_state said = LEVEL(BASE * 1000, INT64_C(640) * 10000 * 1000);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 31);
    int wrong = 0;

    limit.lease_ms = 500;
    store_reply(table, key, &limit, &said, BASE * 1000, 73000);
    for (int64_t host_ms = 73000; host_ms < 73700; host_ms++)
        wrong += leased_check(table, key, &limit, 1, host_ms) != RL_SNAPSHOT_DENIES;
    is_int(wrong, 0, "a slow bucket with leases denies until its first unit is free for 200 ms");
    is_int(leased_check(table, key, &limit, 1, 73700), RL_SNAPSHOT_DRY, "then Redis is asked");

    limit.quota = 5;
    key = key_of(table, RL_LOCAL_SNAPSHOT, 32);
    store_reply(table, key, &limit, &said, BASE * 1000, 74000);
    is_int(leased_check(table, key, &limit, 1, 74999), RL_SNAPSHOT_DENIES,
           "one that has a unit after 2 s serves for a second, as any other");
    is_int(leased_check(table, key, &limit, 1, 75000), RL_SNAPSHOT_STALE, "and is stale then");
    limit.quota = 0;
    key = key_of(table, RL_LOCAL_SNAPSHOT, 33);
    store_reply(table, key, &limit, &said, BASE * 1000, 74000);
    ok(leased_check(table, key, &limit, 1, 74999) == RL_SNAPSHOT_DENIES
           && leased_check(table, key, &limit, 1, 75000) == RL_SNAPSHOT_STALE,
       "likewise one that never has a unit");
}

/* An override of a leased bucket also has a burst that is less by what drains in lease_ms. */
static void test_leased_overrides(rl_local *table)
{
    rl_limit rule = BUCKET(RL_TOKEN_BUCKET, 100, 10000, 95), limit = rule;
    rl_state said = LEVEL(BASE * 1000, INT64_C(38) * 10000 * 1000);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 34);

    limit.lease_ms = rule.lease_ms = 500;
    limit.quota = 40;
    limit.burst = rl_limiter_leased_burst(40, 40, 10000, 500);
    is_int(limit.burst, 38, "an override of 40 leaves a burst of 38");
    store_override(table, key, &limit, &said, BASE * 1000, 76000);
    limit = rule;
    is_int(rl_local_snapshot_check(table, key, &limit, 1, 76001, &view), RL_SNAPSHOT_DENIES,
           "which denies from memory");
    ok(limit.quota == 40 && limit.burst == 38 && limit.lease_ms == 500, "with its limit");
    ok(rl_local_snapshot_asked_ms(table, key) == 76000, "and is known to have been asked about");
}

static void test_unbounded(void)
{
    rl_local *table = make_table(SIZE);
    enum { KEYS = RL_REVALIDATIONS_PER_SECOND + 20 };
    int bounded = 0, others = 0;

    for (int i = 0; i < KEYS; i++)
        store_reply(table, key_of(table, RL_LOCAL_SNAPSHOT, 3000 + i), &hourly, &full, BASE, 80000);
    for (int i = 0; i < KEYS - 10; i++)
        bounded += rl_local_snapshot_revalidate(table, key_of(table, RL_LOCAL_SNAPSHOT, 3000 + i),
                                                82000, 1);
    for (int i = KEYS - 10; i < KEYS; i++)
        others += rl_local_snapshot_revalidate(table, key_of(table, RL_LOCAL_SNAPSHOT, 3000 + i),
                                               82000, 0);
    is_int(bounded, RL_REVALIDATIONS_PER_SECOND, "1,000 revalidations that count as such");
    is_int(others, 10, "those that do not count are not bounded");
    ok(!rl_local_snapshot_revalidate(table, key_of(table, RL_LOCAL_SNAPSHOT, 3000 + KEYS), 82000,
                                     0), "there is none without a snapshot");
    munmap(table, SIZE);
}

static void test_redis_time(void)
{
    rl_local *table = make_table(RL_LOCAL_MIN_SIZE);
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 1);

    ok(rl_local_is_redis_time(table, 5, 1000, 1001), "at first any time may be Redis's");
    store_reply(table, key, &hourly, &half_full, BASE, 1000);
    ok(rl_local_is_redis_time(table, BASE + 9000, 10000, 10020), "then its clock runs as ours");
    ok(rl_local_is_redis_time(table, BASE + 8000, 10000, 10020)
           && !rl_local_is_redis_time(table, BASE + 7999, 10000, 10020),
       "it may be a second behind what it was when the request was sent");
    ok(rl_local_is_redis_time(table, BASE + 10020, 10000, 10020)
           && !rl_local_is_redis_time(table, BASE + 10021, 10000, 10020),
       "and a second ahead of what it was when the reply was received");
    store_reply(table, key, &hourly, &half_full, BASE - HOUR, 20000);
    ok(rl_local_is_redis_time(table, BASE - HOUR + 1000, 21000, 21001)
           && !rl_local_is_redis_time(table, BASE + 20000, 21000, 21001),
       "a clock that was set is the one from then on");
    munmap(table, RL_LOCAL_MIN_SIZE);
}

/* --- A Redis, and a host beside it --------------------------------------------------------- */

/*
 * A model of Redis, a host with another clock, and requests that take time; in µs. Other hosts
 * make Redis admit requests in between. Whenever memory denies, this Redis must deny at that
 * moment.
 */
typedef struct {
    rl_limit rule, limit; /* the rule's, and the one that Redis applies */
    rl_state state;
    struct {
        int64_t ms, units;
    } log[4096];
    int first, count; /* of the log: the first charge that counts, all charges */
} fake_redis;

static int64_t tick_of(const fake_redis *f, int64_t us)
{
    return rl_limiter_ticks(&f->rule) > 1 ? us : us / 1000;
}

/* The state of a log with these charges, asked about cost. */
static void sum_up(fake_redis *f, int64_t now_ms, int64_t cost)
{
    int64_t over;

    while (f->first < f->count && f->log[f->first].ms <= now_ms - f->rule.window_ms)
        f->state.used -= f->log[f->first++].units;
    f->state.asked = cost;
    f->state.wait_ms = f->state.next_ms = f->state.reset_ms = 0;
    if (f->first == f->count)
        return;
    f->state.next_ms = f->log[f->first].ms + f->rule.window_ms - now_ms;
    f->state.reset_ms = f->log[f->count - 1].ms + f->rule.window_ms - now_ms;
    over = cost <= f->limit.quota ? f->state.used + cost - f->limit.quota : 0;
    for (int i = f->first; over > 0 && i < f->count; i++) {
        over -= f->log[i].units;
        f->state.wait_ms = f->log[i].ms + f->rule.window_ms - now_ms;
    }
}

static int64_t come_to(fake_redis *f, int64_t us, int64_t cost)
{
    int64_t at = rl_limiter_roll(&f->limit, &f->state, tick_of(f, us));

    if (f->rule.algorithm == RL_SLIDING_LOG)
        sum_up(f, at, cost);
    return at;
}

/* Decides as the script does. Returns the state before the charge, as a reply does. */
static rl_state decide(fake_redis *f, int64_t at, int64_t cost)
{
    rl_state before = f->state;

    if (rl_limiter_admits(&f->limit, &f->state, at, cost)) {
        if (f->rule.algorithm == RL_SLIDING_LOG && cost > 0) {
            f->log[f->count].ms = at;
            f->log[f->count++].units = cost;
        }
        rl_limiter_charge(&f->limit, &f->state, cost);
    }
    else if (rl_limiter_blocks(&f->limit, &f->state, at, cost)) {
        f->state.blocked_until = at + f->limit.block_ms * rl_limiter_ticks(&f->limit);
        before = f->state;
    }
    return before;
}

static void make_redis(fake_redis *f, rng *r)
{
    rl_limit *rule = &f->rule;

    memset(f, 0, sizeof(*f));
    rule->algorithm = (rl_algorithm)rng_between(r, RL_SLIDING_WINDOW, RL_LEAKY_BUCKET);
    rule->window_ms = rng_one_in(r, 8) ? rng_between(r, 60000, 70000) : rng_scaled(r, 100, 3000);
    rule->quota = rule->burst = rng_between(r, 0, 20);
    if (rl_limiter_is_bucket(rule) && rng_one_in(r, 2))
        rule->burst = rng_between(r, 1, 30);
    if (rule->algorithm == RL_LEAKY_BUCKET && rng_one_in(r, 2))
        rule->delay_ms = rng_between(r, 1, 1000);
    rule->block_ms = rng_one_in(r, 4) ? rng_scaled(r, 1, 3000) : 0;
    rule->on_response = rng_one_in(r, 5) && !rule->delay_ms && rule->algorithm != RL_SLIDING_LOG;
    f->limit = *rule;
    if (rng_one_in(r, 4))
        f->limit.quota = f->limit.burst = rng_between(r, 0, 20);
}

static int is_overridden(const fake_redis *f)
{
    return f->limit.quota != f->rule.quota || f->limit.burst != f->rule.burst;
}

/* Requests of this host and others, of which memory denies some. */
static void test_conservative(rl_local *table)
{
    static fake_redis f;
    rng r = {rng_seed(9)};
    long rounds = rng_rounds("RL_ROUNDS", 200000), denials[5] = {0}, wrong = 0, total = 0;
    int64_t us = 77777777777, offset_us = BASE * 1000 + 333;
    uint64_t key = 0;

    for (long n = 0; n < rounds && !wrong; n++) {
        int64_t cost = rng_one_in(&r, 4) ? rng_between(&r, 1, 5) : 1, sent_us, at;
        rl_limit limit;
        rl_state reported;

        if (n % 100 == 0) {
            make_redis(&f, &r);
            key = key_of(table, RL_LOCAL_SNAPSHOT, (int)(100000 + n));
        }
        us += rng_scaled(&r, 0, rng_one_in(&r, 10) ? 3 * f.rule.window_ms * 1000 : 30000);
        at = come_to(&f, us + offset_us, cost);
        limit = f.rule;
        if (rl_local_snapshot_check(table, key, &limit, cost, us / 1000, &view)
            != RL_SNAPSHOT_UNKNOWN) {
            denials[f.rule.algorithm]++;
            total++;
            wrong += rl_limiter_admits(&f.limit, &f.state, at, cost);
        }
        if (wrong)
            break;
        sent_us = us;
        us += rng_scaled(&r, 0, 20000);
        at = come_to(&f, us + offset_us, cost);
        reported = decide(&f, at, cost);
        if (rng_one_in(&r, 2)) {
            rl_local_reply reply = {&reported, at, is_overridden(&f), sent_us / 1000, 0};

            us += rng_scaled(&r, 0, 20000);
            reply.received_ms = us / 1000;
            rl_local_snapshot_store(table, key, &f.limit, &reply);
        }
    }
    ok(!wrong && total > rounds / 10,
       "memory denies only what Redis would: %ld denials of sliding, "
       "%ld fixed, %ld log, %ld token, %ld leaky", denials[0], denials[1], denials[2], denials[3],
       denials[4]);
    if (wrong)
        diag("algorithm %d, quota %" PRId64 " of %" PRId64 ", window %" PRId64 ", burst %" PRId64
             ", delay %" PRId64 ", block %" PRId64, f.rule.algorithm, f.limit.quota, f.rule.quota,
             f.rule.window_ms, f.limit.burst, f.rule.delay_ms, f.rule.block_ms);
    for (int i = 0; i < 5; i++)
        ok(denials[i] > rounds / 500, "and it denies under algorithm %d", i);
}

int main(void)
{
    rl_local *table = make_table(SIZE);

    test_storing(table);
    test_revalidation(table);
    test_budget(table);
    test_torn(table);
    test_kinds(table);
    test_blocks(table);
    test_blocked_log(table);
    test_long_denials(table);
    test_overrides(table);
    test_dry_window(table);
    test_dry_bucket(table);
    test_leased_overrides(table);
    test_unbounded();
    test_redis_time();
    test_conservative(table);
    return done_testing();
}
