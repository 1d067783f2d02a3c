/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the scripts do to keys, in a real Redis and on its clock: the value of each algorithm, that
 * every key is small and expires, that foreign values are overwritten, that denials and give-backs
 * make no keys; overrides, blocks, and logs that stay short. Skipped if there is no redis-server.
 */
#include "redis.h"
#include "redis/script.h"
#include "states.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define HOUR 3600000

static rl_script_names names;

static rl_ask ask_of(const char *key, rl_limit *limit, int64_t cost)
{
    return (rl_ask){.key = key, .limit = limit, .cost = cost};
}

static redisReply *send_command(char *command, int length)
{
    void *reply = NULL;

    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    redisGetReply(redis, &reply);
    return reply;
}

/* Decides as the module does; -1 if the reply is not valid. */
static int decide_all(rl_ask *asks, int n, int peek)
{
    int length, said;
    char *command = rl_script_decide(&names, asks, n, peek, &length);
    redisReply *reply = send_command(command, length);

    said = rl_script_read(reply, asks, n);
    if (reply->type == REDIS_REPLY_ERROR)
        diag("Redis says %s", reply->str);
    freeReplyObject(reply);
    return said;
}

static int decide(rl_ask *a)
{
    return decide_all(a, 1, 0);
}

/* Decides by the full script, even if the plain one could. */
static int decide_fully(rl_ask *a)
{
    int said;

    a->has_block_or_pending = 1;
    said = decide(a);
    a->has_block_or_pending = 0;
    return said;
}

/* Gives back or settles the last charge. */
static void undo(rl_ask *a, rl_ask_kind kind)
{
    int length;
    char *command;

    a->kind = kind;
    command = rl_script_undo(&names, a, 1, &length);
    freeReplyObject(send_command(command, length));
    a->kind = RL_ASK_DECIDE;
}

static long long number(const char *answer)
{
    return atoll(answer);
}

/* Whether a key's TTL is within a minute below ms. */
static int lives(const char *key, int64_t ms)
{
    long long ttl = number(ask("PTTL %s", key));

    if (ttl > ms - 60000 && ttl <= ms)
        return 1;
    diag("PTTL %s: %lld, not %" PRId64, key, ttl, ms);
    return 0;
}

/* --- What lies under a key ---------------------------------------------------------------- */

static const struct {
    const char *name;
    rl_limit limit;
    int size, size_with_tail; /* bytes of the value after one charge */
    int64_t lives_ms;
} kinds[] = {
    {"sliding window", LIMIT(RL_SLIDING_WINDOW, 5, HOUR), 14, 33, 2 * HOUR},
    {"fixed window", LIMIT(RL_FIXED_WINDOW, 5, HOUR), 14, 33, 2 * HOUR},
    {"token bucket", BUCKET(RL_TOKEN_BUCKET, 5, HOUR, 10), 20, 39, 5 * HOUR},
    {"bucket in µs", BUCKET(RL_TOKEN_BUCKET, 5, 60000, 600), 20, 39, 2 * 2 * HOUR + 60000},
    {"leaky bucket", {.algorithm = RL_LEAKY_BUCKET, .quota = 5, .window_ms = HOUR, .burst = 5,
                      .delay_ms = 10000}, 20, 39, 3 * HOUR + 20000},
    {"log", LIMIT(RL_SLIDING_LOG, 5, HOUR), 37, 37, 2 * HOUR},
};

#define KEY_OF_32 "rl:{ip:192.0.2.55}:api:window:1h"

static void test_formats(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit, responds = limit;
        rl_ask a = ask_of(KEY_OF_32, &limit, 1);

        ask("DEL " KEY_OF_32);
        ok(decide(&a) == 1 && lives(a.key, kinds[i].lives_ms),
           "%s: charged, and the key has an end", kinds[i].name);
        is_int(number(ask("STRLEN " KEY_OF_32)), kinds[i].size, "its value is packed");
        if (i < 4)
            ok(number(ask("MEMORY USAGE " KEY_OF_32)) <= 140, "and takes 140 bytes at most: %s",
               ask("MEMORY USAGE " KEY_OF_32));
        ask("DEL " KEY_OF_32);
        ok(decide_fully(&a) == 1 && lives(a.key, kinds[i].lives_ms),
           "%s: the full script does the same", kinds[i].name);
        is_int(number(ask("STRLEN " KEY_OF_32)), kinds[i].size, "to the byte");
        if (limit.delay_ms)
            continue;
        responds.on_response = 1;
        a.limit = &responds;
        ask("DEL " KEY_OF_32);
        ok(decide(&a) == 1 && lives(a.key, kinds[i].lives_ms + 120000),
           "%s: with a unit pending the key lives until it is overdue", kinds[i].name);
        is_int(number(ask("STRLEN " KEY_OF_32)),
               limit.algorithm == RL_SLIDING_LOG ? 27 : kinds[i].size_with_tail, "with a tail");
    }
}

/* Every charge leaves a key that expires, whether this or an earlier charge set its time. */
static void test_ends(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit;
        rl_ask a = ask_of("k", &limit, 1);
        int64_t due;

        ask("DEL k");
        for (int n = 0; n < 5; n++) {
            if (decide(&a) != 1 || number(ask("PTTL k")) <= 0) {
                fail("%s: charge %d leaves a key with an end", kinds[i].name, n);
                return;
            }
        }
        limit.on_response = 0;
        decide_all(&a, 1, 1);
        due = rl_limiter_reset(&limit, &a.state, a.now);
        ok(number(ask("PTTL k")) >= due - 1000,
           "%s: five charges, and the key lives until its quota is whole", kinds[i].name);
    }
}

/* After the clock was set back a level is in the future: even another rule's denial stores it. */
static void test_anchored_end(void)
{
    static const char plant[] =
        "local t = redis.call('TIME') return redis.call('PSETEX', KEYS[1], 4000, "
        "struct.pack('<I7I7I6', (t[1] + 100) * 1000000, 1000000, t[1] * 1000 + 4000))";
    rl_limit bucket = BUCKET(RL_TOKEN_BUCKET, 1, 1000, 100), full = LIMIT(RL_FIXED_WINDOW, 0, HOUR);
    rl_ask asks[] = {ask_of("bucket", &bucket, 1), ask_of("full", &full, 1)};

    ask("EVAL %s 1 bucket", plant);
    is_int(decide_all(asks, 2, 0), 0, "another rule denies");
    ok(number(ask("PTTL bucket")) > 100000,
       "the key of a bucket lives as long as its value says, not as long as before");
}

/* --- What must not be written ------------------------------------------------------------- */

static void test_untouched(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit;
        rl_ask a = ask_of("k", &limit, 1);
        char before[256];

        ask("DEL k");
        is_int(decide_all(&a, 1, 1), 1, "%s: a peek admits", kinds[i].name);
        is_str(ask("EXISTS k"), "0", "and makes no key");
        a.position = rl_limiter_position(&limit, &a.state, a.now);
        undo(&a, RL_ASK_GIVE_BACK);
        is_str(ask("EXISTS k"), "0", "nor does a give-back");
        a.cost = 0;
        is_int(decide(&a), 1, "a cost of nothing passes");
        a.cost = rl_limiter_capacity(&limit) + 1;
        is_int(decide(&a), 0, "a cost above the quota does not");
        is_int(decide_fully(&a), 0, "nor in the full script");
        a.cost = rl_limiter_capacity(&limit);
        decide(&a);
        a.cost = 5000; /* beyond any delay */
        ask("PEXPIRE k 5000000");
        snprintf(before, sizeof(before), "%s", ask("DUMP k"));
        is_int(decide(&a), 0, "a denial");
        is_str(ask("DUMP k"), before, "does not write");
        ok(lives("k", 5000000), "nor prolong");
    }
}

static void test_give_back(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit;
        rl_ask a = ask_of("k", &limit, 5), peek;

        ask("DEL k");
        decide(&a);
        a.position = rl_limiter_position(&limit, &a.state, a.now);
        if (rl_limiter_is_bucket(&limit))
            a.position = a.now;
        a.cost = 2;
        undo(&a, RL_ASK_GIVE_BACK);
        peek = ask_of("k", &limit, 1);
        decide_all(&peek, 1, 1);
        ok(rl_limiter_remaining(&limit, &peek.state, peek.now) == rl_limiter_capacity(&limit) - 3,
           "%s: five charged, two given back", kinds[i].name);
        ok(number(ask("PTTL k")) > 0, "and the key has an end");
        ask("DEL k");
        ask("RPUSH k a");
        undo(&a, RL_ASK_GIVE_BACK);
        is_str(ask("LLEN k"), "1", "%s: a give-back leaves a foreign value alone", kinds[i].name);
    }
}

/* --- Foreign values ----------------------------------------------------------------------- */

#define LETTERS_50 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee"

static void test_foreign_values(void)
{
    static const char *const foreign[] = {
        "SET k \"\"", "SET k short", "SET k 12345", "SET k fourteenletter", "SET k fifteen-letters",
        "SET k twenty-letters-of-it", "SET k thirty-three-letters-are-like-it!",
        "SET k thirty-nine-letters-are-somewhat-longer", "SET k a-head-of-27-letters-is-it",
        "SET k and-one-of-37-letters-which-is-a-log!", ("SET k " LETTERS_50 LETTERS_50),
        "RPUSH k a b", "HSET k a b", "SADD k a", "ZADD k 1 a", "XADD k * a b"
    };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        for (size_t j = 0; j < 2 * COUNT(foreign); j++) {
            rl_limit limit = kinds[i].limit;
            rl_ask a = ask_of("k", &limit, 1);
            int said;

            ask("DEL k");
            ask(foreign[j / 2]);
            said = j % 2 ? decide_fully(&a) : decide(&a);
            ok(said == 1 && number(ask("STRLEN k")) == kinds[i].size
                   && lives("k", kinds[i].lives_ms),
               "%s: a key that %.20s... made is taken for nothing and overwritten", kinds[i].name,
               foreign[j / 2]);
            if (said != 1)
                diag("said %d", said);
        }
    }
}

/* --- Overrides ---------------------------------------------------------------------------- */

static rl_ask overridden(rl_limit *limit, const rl_limit *rule)
{
    rl_ask a = ask_of("k", limit, 1);

    *limit = *rule;
    a.override_key = "o";
    a.tiers = "api gold 1000 2000 free 0 0 staff unlimited 0 a 7 7 ";
    return a;
}

static const struct {
    const char *said; /* the value of the rule's field */
    rl_override override;
    int64_t quota, burst; /* for a bucket; a window has only the quota */
} overrides[] = {
    {NULL, RL_OVERRIDE_NONE, 5, 10},
    {"1000", RL_OVERRIDE_QUOTA, 1000, 1000},
    {"0", RL_OVERRIDE_QUOTA, 0, 0},
    {"007", RL_OVERRIDE_QUOTA, 7, 7},
    {"625499", RL_OVERRIDE_QUOTA, 625499, 625499},
    {"unlimited", RL_OVERRIDE_UNLIMITED, 5, 10},
    {"gold", RL_OVERRIDE_QUOTA, 1000, 2000},
    {"a", RL_OVERRIDE_QUOTA, 7, 7},
    {"free", RL_OVERRIDE_QUOTA, 0, 0},
    {"staff", RL_OVERRIDE_UNLIMITED, 5, 10},
    {"silver", RL_OVERRIDE_GARBAGE, 5, 10},
    {"api", RL_OVERRIDE_GARBAGE, 5, 10},
    {"Gold", RL_OVERRIDE_GARBAGE, 5, 10},
    {"gold 1000", RL_OVERRIDE_GARBAGE, 5, 10},
    {" gold", RL_OVERRIDE_GARBAGE, 5, 10},
    {"", RL_OVERRIDE_GARBAGE, 5, 10},
    {"-1", RL_OVERRIDE_GARBAGE, 5, 10},
    {"1e3", RL_OVERRIDE_GARBAGE, 5, 10},
    {"0x10", RL_OVERRIDE_GARBAGE, 5, 10},
    {"1.5", RL_OVERRIDE_GARBAGE, 5, 10},
    {"10 ", RL_OVERRIDE_GARBAGE, 5, 10},
    {"nan", RL_OVERRIDE_GARBAGE, 5, 10},
    {"1000000001", RL_OVERRIDE_GARBAGE, 5, 10},
    {"10000000000", RL_OVERRIDE_GARBAGE, 5, 10},
    {"99999999999999999999", RL_OVERRIDE_GARBAGE, 5, 10},
    {"1000000000", RL_OVERRIDE_GARBAGE, 5, 10}, /* in an hour: a sum too large */
    {"%s%n", RL_OVERRIDE_GARBAGE, 5, 10},
    {".*", RL_OVERRIDE_GARBAGE, 5, 10},
};

static void test_overrides(void)
{
    static const rl_limit rules[] = {LIMIT(RL_SLIDING_WINDOW, 5, HOUR),
                                     LIMIT(RL_FIXED_WINDOW, 5, HOUR),
                                     BUCKET(RL_TOKEN_BUCKET, 5, HOUR, 10),
                                     LIMIT(RL_SLIDING_LOG, 5, HOUR)};

    for (size_t i = 0; i < COUNT(rules); i++) {
        for (size_t j = 0; j < COUNT(overrides); j++) {
            rl_limit limit;
            rl_ask a = overridden(&limit, &rules[i]);
            int is_bucket = rl_limiter_is_bucket(&rules[i]);
            int64_t quota = overrides[j].quota, holds;
            rl_override want = overrides[j].override;

            ask("DEL k o");
            if (overrides[j].said)
                ask("HSET o api %s", overrides[j].said);
            if (rules[i].algorithm == RL_SLIDING_LOG && quota > RL_LOG_QUOTA_MAX) {
                want = RL_OVERRIDE_GARBAGE;
                quota = 5;
            }
            holds = is_bucket ? overrides[j].burst : quota;
            decide(&a);
            ok(a.override == want && limit.quota == quota && rl_limiter_capacity(&limit) == holds,
               "%s, \"%s\": as it should be", kinds[i > 2 ? 5 : i].name,
               overrides[j].said ? overrides[j].said : "nothing");
            a.cost = want == RL_OVERRIDE_UNLIMITED ? RL_COUNT_MAX : holds;
            limit = rules[i];
            ask("DEL k");
            is_int(decide(&a), 1, "and so much is admitted");
            a.cost = holds / 2 + 1; /* more than a bucket drains meanwhile */
            limit = rules[i];
            is_int(decide(&a), want == RL_OVERRIDE_UNLIMITED, "and no more");
            if (want == RL_OVERRIDE_UNLIMITED)
                is_str(ask("EXISTS k"), "0", "which is not counted");
        }
    }
}

static void test_override_keys(void)
{
    rl_limit limit;
    rl_ask a = overridden(&limit, &kinds[0].limit);

    ask("DEL k o");
    ask("SET o 1000");
    ok(decide(&a) == 1 && a.override == RL_OVERRIDE_WRONG_TYPE && limit.quota == 5,
       "a key of overrides that is not a hash is reported, and the rule's own quota is used");
    ask("DEL o");
    ask("HSET o other 1000");
    ok(decide(&a) == 1 && a.override == RL_OVERRIDE_NONE, "nor is a field of another rule");
    ask("PEXPIRE o 100000");
    ok(lives("o", 100000), "the hash keeps its own time to live");
}

/* --- Blocks ------------------------------------------------------------------------------- */

static void test_blocks(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit, plain;
        rl_ask a = ask_of("k", &limit, rl_limiter_capacity(&kinds[i].limit)), other;

        limit.block_ms = 10 * HOUR;
        limit.delay_ms = 0;
        plain = limit;
        plain.block_ms = 0;
        ask("DEL k");
        is_int(decide(&a), 1, "%s: all there is, charged", kinds[i].name);
        a.cost = rl_limiter_capacity(&limit) + 1;
        ok(decide(&a) == 0 && decide(&a) == 0 && a.state.blocked_until == 0,
           "a cost that is never admitted starts no block");
        a.cost = 1;
        decide(&a);
        is_int(decide(&a), 0, "the denial of one that could be does");
        ok(a.state.blocked_until > a.now && rl_limiter_retry_after(&limit, &a.state, a.now, 1)
               > 9 * HOUR, "for its time");
        ok(lives("k", 10 * HOUR), "in the same key, which lives as long");
        ask("PEXPIRE k 5000000");
        decide(&a);
        ok(lives("k", 5000000), "a denial while blocked does not prolong it");
        a.cost = 0;
        is_int(decide(&a), 0, "a cost of nothing does not pass either");
        other = ask_of("k", &plain, 1);
        other.has_block_or_pending = 1;
        ok(decide(&other) == 0 && other.state.blocked_until > other.now,
           "another rule of the same counter is bound by it");
        a.cost = 1;
        a.position = rl_limiter_position(&limit, &a.state, a.now);
        undo(&a, RL_ASK_GIVE_BACK);
        ok(decide(&a) == 0 && a.state.blocked_until > a.now, "a give-back does not lift it");
        ask("DEL k");
        is_int(decide(&a), 1, "DEL does");
    }
}

/* A block that starts beside the denial of another rule; a peek, which starts none. */
static void test_blocks_of_many(void)
{
    rl_limit a = kinds[0].limit, b = kinds[2].limit;
    rl_ask asks[2] = {ask_of("a", &a, 1), ask_of("b", &b, 1)};

    a.quota = a.burst = 0;
    b.block_ms = HOUR;
    ask("DEL a b");
    asks[1].cost = 10;
    decide(&asks[1]);
    asks[1].cost = 1;
    ok(decide_all(asks, 2, 1) == 0 && decide_all(asks, 2, 1) == 0
           && asks[1].state.blocked_until == 0, "a peek starts no block");
    decide_all(asks, 2, 0);
    ok(decide_all(asks, 2, 0) == 0 && asks[1].state.blocked_until > asks[1].now,
       "a denial starts one even if another rule denies, too");
    is_str(ask("EXISTS a"), "0", "and the other rule gets no key");
}

/* --- Responses ---------------------------------------------------------------------------- */

static void test_pending(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit;
        rl_ask a = ask_of("k", &limit, 1);
        int64_t holds;

        limit.delay_ms = 0;
        limit.on_response = 1;
        holds = rl_limiter_capacity(&limit);
        ask("DEL k");
        a.cost = holds;
        ok(decide(&a) == 1, "%s: all there is becomes pending", kinds[i].name);
        a.cost = 1;
        is_int(decide(&a), 0, "then the next is denied");
        ok(a.state.pending.cur == holds && rl_limiter_is_soft(&limit, &a.state, a.now, 1),
           "for what is pending alone");
        a.position = a.state.pending.period;
        undo(&a, RL_ASK_SETTLE);
        decide_all(&a, 1, 1);
        ok(a.state.pending.cur == holds - 1
               && rl_limiter_remaining(&limit, &a.state, a.now) == 1,
           "what is settled without a charge is free again");
        a.cost = holds - 1;
        undo(&a, RL_ASK_SETTLE_CHARGED);
        a.cost = 1;
        decide_all(&a, 1, 1);
        ok(a.state.pending.cur == 0 && rl_limiter_remaining(&limit, &a.state, a.now) == 1,
           "what is settled with one is charged");
        ok(number(ask("PTTL k")) > 0, "and the key has an end");
        ask("DEL k");
        undo(&a, RL_ASK_SETTLE);
        is_str(ask("EXISTS k"), "0", "without a key nothing is settled");
    }
}

/* As if so many periods had passed since its units became pending. */
static void age_pending(int64_t period, int periods)
{
    uint32_t aged = (uint32_t)(period - periods); /* little endian, as in Redis */

    ask("SETRANGE k %d %b", (int)number(ask("STRLEN k")) - 12, &aged, sizeof(aged));
}

/* Of a log the tail is behind the head, and entries follow. */
static void test_prolonging(void)
{
    for (size_t i = 0; i < COUNT(kinds); i++) {
        rl_limit limit = kinds[i].limit;
        rl_ask a = ask_of("k", &limit, 2);
        int64_t period;

        limit.delay_ms = 0;
        limit.on_response = 1;
        ask("DEL k");
        decide(&a);
        period = a.state.pending.period;
        age_pending(period, 1);
        ask("PEXPIRE k 5000");
        a.position = period - 1;
        a.kind = RL_ASK_PROLONG;
        a.shadow = 1;
        ok(decide(&a) == 1 && rl_limiter_prolong(&a.state, a.position, 2) == period,
           "%s: what is pending in the period before is prolonged", kinds[i].name);
        ok(lives("k", kinds[i].lives_ms + 120000), "and the key lives until it would be overdue");
        age_pending(period, 1);
        decide_all(&a, 1, 1);
        ok(a.state.pending.cur == 2,
           "now it is of the latest one: a period later it is still pending");
        age_pending(period, 3);
        decide(&a);
        is_int(rl_limiter_prolong(&a.state, period - 3, 2), RL_PERIOD_GONE,
               "too late, it is a charge");
        is_int(a.state.pending.cur, 0, "and nothing is pending");
        ask("DEL k");
        ok(decide(&a) == 1 && !strcmp(ask("EXISTS k"), "0"),
           "a key that is gone is not made again");
        a.position = a.state.pending.period;
        undo(&a, RL_ASK_SETTLE_CHARGED);
        a.kind = RL_ASK_DECIDE;
        a.cost = limit.quota;
        ok(!decide_all(&a, 1, 1) || !rl_limiter_admits(&limit, &a.state, a.now, limit.burst),
           "but a settlement with a charge makes one");
    }
}

/* --- Logs --------------------------------------------------------------------------------- */

static void test_logs(void)
{
    rl_limit limit = LIMIT(RL_SLIDING_LOG, RL_LOG_QUOTA_MAX, HOUR);
    rl_ask a = ask_of("k", &limit, 1);
    int admitted = 0;

    ask("DEL k");
    for (int i = 0; i < 300; i++)
        admitted += decide(&a);
    is_int(admitted, 300, "a log of 300 entries");
    is_int(number(ask("STRLEN k")), 27 + 300 * 10, "has 10 bytes for each");
    a.cost = RL_LOG_QUOTA_MAX;
    ok(decide(&a) == 0 && a.state.used == 300 && a.state.wait_ms > HOUR - 60000
           && a.state.wait_ms <= HOUR && a.state.next_ms <= a.state.wait_ms
           && a.state.reset_ms >= a.state.wait_ms,
       "and reports the waits until the cost fits, until more fits, until all fits");
    a.cost = 1;
    ok(decide(&a) == 1 && lives("k", 2 * HOUR), "each charge renews its time to live");
}

/* In a short window entries soon leave it: they are dropped, and their bytes freed. */
static void test_compaction(void)
{
    rl_limit limit = LIMIT(RL_SLIDING_LOG, 200, 100);
    rl_ask a = ask_of("k", &limit, 1);
    long long longest = 0, size;
    int turns = 0, over = 0;

    ask("DEL k");
    for (int charged = 0; charged < 3000;) {
        if (decide(&a) == 1) {
            charged++;
            size = number(ask("STRLEN k"));
            longest = size > longest ? size : longest;
            over += a.state.used >= 200;
        }
        else {
            turns++;
            usleep((useconds_t)a.state.wait_ms * 1000);
        }
    }
    is_int(over, 0, "3,000 charges in a log that takes 200 in 100 ms (%d denials)", turns);
    ok(longest <= 27 + 10 * 2 * (200 + 64), "it is never longer than twice what counts: %lld bytes",
       longest);
}

/* Windows of an hour: waits if one would end while these tests run. */
static void wait_for_room(void)
{
    redisReply *reply;
    long long left_s;

    do {
        reply = redisCommand(redis, "TIME");
        left_s = 3600 - atoll(reply->element[0]->str) % 3600;
        freeReplyObject(reply);
        usleep(left_s < 60 ? 100000 : 0);
    } while (left_s < 60);
}

int main(void)
{
    if (!start_redis()) {
        pass("# SKIP no redis-server");
        return done_testing();
    }
    wait_for_room();
    rl_script_name(&names);
    for (int i = 0; i < RL_SCRIPTS; i++)
        is_str(ask("SCRIPT LOAD %s", rl_script_sources[i]), names.sha[i],
               "Redis has the same name for the script");
    test_formats();
    test_ends();
    test_anchored_end();
    test_untouched();
    test_give_back();
    test_foreign_values();
    test_overrides();
    test_override_keys();
    test_blocks();
    test_blocks_of_many();
    test_pending();
    test_prolonging();
    test_logs();
    test_compaction();
    return done_testing();
}
