/*
 * decide.lua against limiter.c against the definition: three who must agree. A real Redis runs
 * the script, with its clock and its expiry replaced so that the test decides what time it is;
 * random steps mix algorithms, costs, changed quotas, clock jumps both ways, several rules in one
 * call, shadow rules and give-backs. The third one knows nothing of two counters: it keeps every
 * admission and adds up.
 *
 * RL_STEPS and RL_SEED say how many and which. Skipped where there is no redis-server.
 */
#include "random.h"
#include "redis.h"
#include "redis/script.h"
#include "tap.h"

enum { COUNTERS = 24, RULES_MAX = 6, BATCH = 100 };

static char sha[RL_SCRIPT_SHA + 1]; /* of the script whose clock we set */

/* --- The script under a clock of ours --- */

/* Replaces the one place where text stands; the source is as large as it has to be. */
static void replace(char *source, const char *text, const char *by)
{
    char *at = strstr(source, text);

    if (!ok(at && !strstr(at + 1, text), "the script says %s once", text))
        exit(1);
    memmove(at + strlen(by), at + strlen(text), strlen(at + strlen(text)) + 1);
    memcpy(at, by, strlen(by));
}

static void load_script(void)
{
    char source[16384];
    redisReply *reply;

    strcpy(source, rl_script_source);
    replace(source, "call('TIME')", "call('MGET', 'clock:s', 'clock:us')");
    replace(source, "2 * ARGV[4 * i - 1]", "(1000000000 + 2 * ARGV[4 * i - 1])");
    reply = redisCommand(redis, "SCRIPT LOAD %s", source);
    snprintf(sha, sizeof(sha), "%s", reply->str);
    freeReplyObject(reply);
}

/* --- The definition: every admission, by its window --- */

typedef struct {
    int64_t index, units;
} admission;

typedef struct {
    rl_algorithm algorithm;
    int64_t window_ms;
    rl_state state; /* as limiter.c has it */
    admission *admissions;
    int count, room;
    int64_t latest; /* window */
    char key[64];
} counter;

static counter counters[COUNTERS];

static int64_t units_in(const counter *c, int64_t index)
{
    int64_t units = 0;

    for (int i = 0; i < c->count; i++)
        units += c->admissions[i].index == index ? c->admissions[i].units : 0;
    return units;
}

static void admit(counter *c, int64_t index, int64_t units)
{
    if (c->count == c->room) {
        c->room = c->room ? 2 * c->room : 64;
        c->admissions = realloc(c->admissions, (size_t)c->room * sizeof(admission));
    }
    c->admissions[c->count++] = (admission){index, units};
    c->latest = index;
}

/* The time that counts: a clock far behind the latest admission takes its window along. */
static int64_t defined_now(counter *c, int64_t now)
{
    int64_t index = now / c->window_ms, kept = 0;

    if (c->count == 0 || c->latest <= index)
        return now;
    if (c->latest == index + 1)
        return c->latest * c->window_ms;
    for (int i = 0; i < c->count; i++) {
        admission a = c->admissions[i];

        if (a.index >= c->latest - 1)
            c->admissions[kept++] = (admission){index - (c->latest - a.index), a.units};
    }
    c->count = (int)kept;
    c->latest = index;
    return now;
}

static int defined_verdict(const counter *c, int64_t quota, int64_t now, int64_t cost)
{
    int64_t index = now / c->window_ms, left = (index + 1) * c->window_ms - now;
    __int128 used = (__int128)(units_in(c, index) + cost) * c->window_ms;

    if (c->algorithm == RL_SLIDING_WINDOW)
        used += (__int128)units_in(c, index - 1) * left;
    return used <= (__int128)quota * c->window_ms;
}

/* What is older than the window before never counts again, unless the clock turns back to it. */
static void forget_old(counter *c)
{
    int kept = 0;

    for (int i = 0; i < c->count; i++) {
        if (c->admissions[i].index >= c->latest - 1)
            c->admissions[kept++] = c->admissions[i];
    }
    c->count = kept;
}

static void defined_give_back(counter *c, int64_t index, int64_t cost)
{
    if (index > c->latest || index < c->latest - 1)
        return;
    for (int i = 0; i < c->count && cost > 0; i++) {
        int64_t less = c->admissions[i].units < cost ? c->admissions[i].units : cost;

        if (c->admissions[i].index != index)
            continue;
        c->admissions[i].units -= less;
        cost -= less;
    }
}

/* --- One step --- */

/* A call that was sent, and what it must bring. */
typedef struct {
    int is_give_back, n, charged;
    rl_limit limits[RULES_MAX];
    rl_ask asks[RULES_MAX]; /* expected */
    long number;
} sent_call;

static int64_t clock_ms = INT64_C(1700000000000);

static void move_clock(rng *r, const counter *c)
{
    int64_t window_ms = c->window_ms;

    switch (rng_next(r) % 24) {
    case 0:
        clock_ms += rng_between(r, 0, 3 * window_ms);
        break;
    case 1:
        clock_ms -= rng_between(r, 0, window_ms);
        break;
    case 2:
        clock_ms -= rng_between(r, 0, 5 * window_ms);
        break;
    case 3:
        clock_ms = (clock_ms / window_ms + 1) * window_ms;
        break;
    case 4:
        clock_ms = (clock_ms / window_ms + 1) * window_ms - 1;
        break;
    default:
        clock_ms += rng_between(r, 0, window_ms / 64);
    }
    if (clock_ms < INT64_C(1000000000000) || clock_ms > INT64_C(4000000000000))
        clock_ms = INT64_C(1700000000000);
}

static void make_counters(rng *r)
{
    for (int i = 0; i < COUNTERS; i++) {
        counters[i].algorithm = rng_one_in(r, 3) ? RL_FIXED_WINDOW : RL_SLIDING_WINDOW;
        counters[i].window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
        snprintf(counters[i].key, sizeof(counters[i].key), "rl:{ip:192.0.2.%d}:r", i);
    }
}

static int64_t any_quota(rng *r, const counter *c)
{
    int64_t most = RL_PRODUCT_MAX / c->window_ms;

    if (!rng_one_in(r, 16))
        return rng_between(r, 3, 12);
    return rng_scaled(r, 0, most < RL_COUNT_MAX ? most : RL_COUNT_MAX);
}

/* A copy to go back to: what charges nothing is not stored, and so never was. */
static counter saved(const counter *c)
{
    counter copy = *c;
    size_t size = (size_t)c->room * sizeof(admission);

    copy.admissions = memcpy(malloc(size + 1), c->admissions ? (void *)c->admissions : "", size);
    return copy;
}

/* Some different counters, live rules before shadow rules. Returns 0 if the two models differ. */
static int expect_decision(rng *r, sent_call *call, counter **chosen)
{
    int shadow_from = (int)rng_between(r, 0, 2 * call->n), agree = 1;
    int admitted[RULES_MAX];
    counter before[RULES_MAX];

    call->charged = 1;
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];
        rl_ask *a = &call->asks[i];
        int64_t now;

        before[i] = saved(c);
        call->limits[i] = (rl_limit){c->algorithm, any_quota(r, c), c->window_ms};
        a->cost = rng_one_in(r, 6) ? rng_scaled(r, 0, call->limits[i].quota + 1) : 1;
        a->cost = a->cost > RL_COUNT_MAX ? RL_COUNT_MAX : a->cost;
        a->shadow = i >= shadow_from;
        a->now = rl_limiter_roll(&call->limits[i], &c->state, clock_ms);
        a->state = c->state;
        admitted[i] = rl_limiter_admits(&call->limits[i], &c->state, a->now, a->cost);
        now = defined_now(c, clock_ms);
        agree &= now == a->now && units_in(c, c->state.index) == c->state.cur
                 && units_in(c, c->state.index - 1) == c->state.prev
                 && defined_verdict(c, call->limits[i].quota, now, a->cost) == admitted[i];
        call->charged &= admitted[i] || a->shadow;
    }
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];

        if (!admitted[i] || !(call->charged || call->asks[i].shadow)) {
            free(c->admissions);
            *c = before[i];
            continue;
        }
        free(before[i].admissions);
        c->state.cur += call->asks[i].cost;
        admit(c, c->state.index, call->asks[i].cost);
        forget_old(c);
    }
    return agree;
}

static void expect_give_back(rng *r, sent_call *call, counter **chosen)
{
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];

        call->limits[i] = (rl_limit){c->algorithm, 1, c->window_ms};
        call->asks[i].cost = rng_between(r, 0, 3);
        call->asks[i].state.index = c->state.index - rng_between(r, -1, 2);
        if (c->count) {
            rl_limiter_give_back(&c->state, call->asks[i].state.index, call->asks[i].cost);
            defined_give_back(c, call->asks[i].state.index, call->asks[i].cost);
        }
    }
}

/* Sends the next call. Returns 0 if the two models differ. */
static int next_call(rng *r, sent_call *call)
{
    counter *chosen[RULES_MAX];
    int first = (int)(rng_next(r) % COUNTERS), agree = 1, length;
    char *command;

    call->n = rng_one_in(r, 3) ? (int)rng_between(r, 2, RULES_MAX) : 1;
    for (int i = 0; i < call->n; i++) {
        chosen[i] = &counters[(first + 7 * i) % COUNTERS];
        call->asks[i].key = chosen[i]->key;
        call->asks[i].limit = &call->limits[i];
    }
    call->is_give_back = rng_one_in(r, 8);
    if (call->is_give_back) {
        expect_give_back(r, call, chosen);
        command = rl_script_give_back(sha, call->asks, call->n, &length);
    }
    else {
        move_clock(r, chosen[0]);
        agree = expect_decision(r, call, chosen);
        command = rl_script_decide(sha, call->asks, call->n, &length);
        redisAppendCommand(redis, "MSET clock:s %lld clock:us %lld", (long long)clock_ms / 1000,
                           (long long)(clock_ms % 1000 * 1000 + rng_between(r, 0, 999)));
    }
    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    return agree;
}

/* Reads the replies to a call: 1 if they say what was expected. */
static int arrived(const sent_call *call)
{
    rl_ask got[RULES_MAX];
    void *reply = NULL;
    int good;

    if (call->is_give_back) {
        good = redisGetReply(redis, &reply) == REDIS_OK
               && ((redisReply *)reply)->type == REDIS_REPLY_STRING
               && !strcmp(((redisReply *)reply)->str, "1");
        freeReplyObject(reply);
        return good;
    }
    if (redisGetReply(redis, &reply) == REDIS_OK)
        freeReplyObject(reply);
    if (redisGetReply(redis, &reply) != REDIS_OK)
        return 0;
    memcpy(got, call->asks, sizeof(got));
    good = rl_script_read(reply, got, call->n) == call->charged;
    if (((redisReply *)reply)->type == REDIS_REPLY_ERROR)
        diag("Redis says %s", ((redisReply *)reply)->str);
    freeReplyObject(reply);
    for (int i = 0; i < call->n; i++) {
        const rl_ask *a = &got[i], *b = &call->asks[i];

        if (!good || a->now != b->now || a->state.index != b->state.index
            || a->state.prev != b->state.prev || a->state.cur != b->state.cur) {
            diag("rule %d of %d: %s, window %" PRId64 ", quota %" PRId64 ", cost %" PRId64
                 ": expected now %" PRId64 " prev %" PRId64 " cur %" PRId64
                 ", got %" PRId64 " %" PRId64 " %" PRId64, i, call->n,
                 b->limit->algorithm == RL_FIXED_WINDOW ? "fixed" : "sliding",
                 b->limit->window_ms, b->limit->quota, b->cost, b->now, b->state.prev,
                 b->state.cur, a->now, a->state.prev, a->state.cur);
            return 0;
        }
    }
    return good;
}

static void test_three_agree(void)
{
    static sent_call calls[BATCH];
    uint64_t seed = rng_seed(2);
    long steps = rng_rounds("RL_STEPS", 100000), n = 0, charged = 0, denied = 0;
    rng r = {seed};
    int models = 1, script = 1;

    diag("RL_SEED=%" PRIu64 " RL_STEPS=%ld", seed, steps);
    make_counters(&r);
    while (n < steps && models && script) {
        for (int i = 0; i < BATCH; i++) {
            memset(&calls[i], 0, sizeof(calls[i]));
            models &= next_call(&r, &calls[i]);
            calls[i].number = n++;
        }
        for (int i = 0; i < BATCH && script; i++) {
            script = arrived(&calls[i]);
            if (!script)
                diag("step %ld%s", calls[i].number, calls[i].is_give_back ? ", a give-back" : "");
            charged += !calls[i].is_give_back && calls[i].charged;
            denied += !calls[i].is_give_back && !calls[i].charged;
        }
    }
    ok(models, "limiter.c says what the definition says");
    ok(script, "decide.lua says what limiter.c says (%ld steps)", n);
    if (!models || !script)
        exit(done_testing());
    ok(charged > n / 10 && denied > n / 10, "both verdicts are common: %ld charged, %ld denied",
       charged, denied);
}

int main(void)
{
    if (!start_redis()) {
        pass("# SKIP no redis-server");
        return done_testing();
    }
    load_script();
    test_three_agree();
    for (int i = 0; i < COUNTERS; i++)
        free(counters[i].admissions);
    return done_testing();
}
