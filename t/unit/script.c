/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands that run the scripts, byte for byte, and which replies are accepted: only those that
 * the scripts can give.
 */
#include <stdlib.h>

#include "random.h"
#include "redis/script.h"
#include "states.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Copies, because a reply may change the limit of its ask. */
static rl_limit sliding = LIMIT(RL_SLIDING_WINDOW, 10, 60000);
static rl_limit widest = LIMIT(RL_FIXED_WINDOW, RL_COUNT_MAX, RL_WINDOW_MAX_MS);
static rl_limit bucket = BUCKET(RL_TOKEN_BUCKET, 100, 60000, 300);
static rl_limit slow_bucket = BUCKET(RL_TOKEN_BUCKET, 100, 60001, 300);
static rl_limit held = {.algorithm = RL_LEAKY_BUCKET, .quota = 10, .window_ms = 1000, .burst = 20,
                        .delay_ms = 10000};
static rl_limit history = LIMIT(RL_SLIDING_LOG, 10, 60000);
static rl_limit blocking = {.algorithm = RL_SLIDING_WINDOW, .quota = 10, .window_ms = 60000,
                            .burst = 10, .block_ms = RL_WINDOW_MAX_MS};
static rl_limit monthly = {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = RL_WINDOW_MAX_MS,
                           .burst = 10, .block_ms = 1000};
static rl_limit on_response = {.algorithm = RL_LEAKY_BUCKET, .quota = 10, .window_ms = 60000,
                               .burst = 10, .on_response = 1};
static rl_limit nothing = LIMIT(RL_TOKEN_BUCKET, 0, 1000);
static rl_limit leased = {.algorithm = RL_SLIDING_WINDOW, .quota = 1000, .window_ms = 60000,
                          .burst = 1000, .lease_ms = 1000};
static rl_limit leased_bucket = {.algorithm = RL_TOKEN_BUCKET, .quota = 100, .window_ms = 60000,
                                 .burst = 298, .lease_ms = 1000};

static const rl_script_names names = {{"FULL", "PLAIN"}};

/* --- Commands ----------------------------------------------------------------------------- */

/* An expected command, made word by word. */
typedef struct {
    char bytes[65536];
    size_t size;
} expected;

static void word(expected *e, const void *bytes, size_t size)
{
    e->size += (size_t)sprintf(e->bytes + e->size, "$%zu\r\n", size);
    memcpy(e->bytes + e->size, bytes, size);
    e->size += size;
    e->size += (size_t)sprintf(e->bytes + e->size, "\r\n");
}

static void text(expected *e, const char *s)
{
    word(e, s, strlen(s));
}

static void number(expected *e, int64_t n)
{
    char s[32];

    sprintf(s, "%" PRId64, n);
    text(e, s);
}

static unsigned char *little(unsigned char *s, int64_t n, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *s++ = (unsigned char)((uint64_t)n >> 8 * i);
    return s;
}

/* A rule's record, in the order of its bytes. */
typedef struct {
    int kind, act;
    int64_t window; /* in ticks */
    int64_t quota, cost, capacity;
    int64_t delay;  /* in ticks */
    int64_t block;  /* in ms */
    int64_t position;
} fields;

static void record(expected *e, int is_plain, fields f)
{
    unsigned char bytes[64], *s = bytes;
    const int64_t fours[] = {f.window, f.quota, f.cost, f.capacity, f.delay, f.block};

    s = little(little(s, f.kind, 1), f.act, 1);
    for (size_t i = 0; i < COUNT(fours); i++)
        s = little(s, fours[i], 4);
    word(e, bytes, (size_t)((is_plain ? s : little(s, f.position, 7)) - bytes));
}

static void begin(expected *e, int words, int is_plain, int keys)
{
    static const rl_script_names *const n = &names;

    e->size = (size_t)sprintf(e->bytes, "*%d\r\n", words);
    text(e, "EVALSHA");
    word(e, n->sha[is_plain ? RL_SCRIPT_PLAIN : RL_SCRIPT_FULL], RL_SCRIPT_SHA);
    number(e, keys);
}

static void is_command(char *got, int length, const expected *want, const char *promise)
{
    if (is_int(length, want->size, "%s: its length", promise))
        is_mem(got, want->bytes, (size_t)length, "%s", promise);
    redisFreeCommand(got);
}

static rl_ask ask_of(const char *key, rl_limit *limit, int64_t cost)
{
    return (rl_ask){.key = key, .limit = limit, .cost = cost};
}

static void test_plain(void)
{
    static expected want;
    rl_ask asks[] = {ask_of("rl:{ip:192.0.2.1}:a", &sliding, 1),
                     ask_of("k y\r\n", &widest, RL_COUNT_MAX), ask_of("b", &bucket, 2),
                     ask_of("s", &slow_bucket, 0)};
    char *got;
    int length;

    begin(&want, 7, 1, 1);
    text(&want, "rl:{ip:192.0.2.1}:a");
    number(&want, 1);
    record(&want, 1, (fields){.window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    got = rl_script_decide(&names, asks, 1, 0, &length);
    is_command(got, length, &want, "a decision over one plain rule goes to the plain script");

    asks[3].shadow = 1;
    begin(&want, 3 + 4 + 1 + 8, 1, 4);
    text(&want, "rl:{ip:192.0.2.1}:a");
    text(&want, "k y\r\n");
    text(&want, "b");
    text(&want, "s");
    number(&want, 3);
    record(&want, 1, (fields){.window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    record(&want, 1, (fields){.kind = 1, .window = RL_WINDOW_MAX_MS, .quota = RL_COUNT_MAX,
                              .cost = RL_COUNT_MAX, .capacity = RL_COUNT_MAX});
    number(&want, 2 * RL_WINDOW_MAX_MS);
    record(&want, 1, (fields){.kind = 2 + 4, .window = 60000000, .quota = 100, .cost = 2,
                              .capacity = 300});
    number(&want, 2 * 180000 + 60000);
    record(&want, 1, (fields){.kind = 2, .window = 60001, .quota = 100, .capacity = 300});
    number(&want, 2 * 180003 + 60001);
    got = rl_script_decide(&names, asks, 4, 0, &length);
    is_command(got, length, &want, "three live rules and a shadow rule, windows and buckets");
}

static void test_full(void)
{
    static expected want;
    rl_ask asks[] = {ask_of("h", &held, 1), ask_of("l", &history, 3), ask_of("b", &blocking, 1),
                     ask_of("r", &on_response, 1), ask_of("z", &nothing, 1)};
    char *got;
    int length;

    begin(&want, 3 + 5 + 1 + 10, 0, 5);
    for (int i = 0; i < 5; i++)
        text(&want, asks[i].key);
    number(&want, 5);
    record(&want, 0, (fields){.kind = 2 + 4, .window = 1000000, .quota = 10, .cost = 1,
                              .capacity = 20, .delay = 10000000});
    number(&want, 2 * (2000 + 10000) + 1000);
    record(&want, 0, (fields){.kind = 3, .window = 60000, .quota = 10, .cost = 3, .capacity = 10});
    number(&want, 120000);
    record(&want, 0, (fields){.kind = 0 + 16, .window = 60000, .quota = 10, .cost = 1,
                              .capacity = 10, .block = RL_WINDOW_MAX_MS});
    number(&want, 120000);
    record(&want, 0, (fields){.kind = 2 + 4 + 8, .window = 60000000, .quota = 10, .cost = 1,
                              .capacity = 10});
    number(&want, 180000);
    record(&want, 0, (fields){.kind = 2 + 4, .window = 1000000, .cost = 1});
    number(&want, 1000);
    got = rl_script_decide(&names, asks, 5, 0, &length);
    is_command(got, length, &want, "delays, logs, blocks and responses go to the full script");

    begin(&want, 3 + 1 + 1 + 2, 0, 1);
    text(&want, "a");
    number(&want, 1);
    record(&want, 0, (fields){.kind = 16, .window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    asks[0] = ask_of("a", &sliding, 1);
    asks[0].has_block_or_pending = 1;
    got = rl_script_decide(&names, asks, 1, 0, &length);
    is_command(got, length, &want, "so does a plain rule whose counter others block");

    begin(&want, 3 + 1 + 1 + 2, 0, 1);
    text(&want, "a");
    number(&want, -2);
    record(&want, 0, (fields){.window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    asks[0].has_block_or_pending = 0;
    got = rl_script_decide(&names, asks, 1, 1, &length);
    is_command(got, length, &want, "and a peek at one live rule");

    begin(&want, 3 + 1 + 1 + 2, 0, 1);
    text(&want, "a");
    number(&want, -1);
    record(&want, 0, (fields){.window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    asks[0].shadow = 1;
    got = rl_script_decide(&names, asks, 1, 1, &length);
    is_command(got, length, &want, "or at one shadow rule");
}

static void test_overrides(void)
{
    static expected want;
    rl_ask asks[] = {ask_of("a", &sliding, 1), ask_of("b", &bucket, 1)};
    char *got;
    int length;

    asks[0].override_key = "o{a}";
    asks[0].tiers = "api gold 1000 1000 ";
    asks[1].override_key = "o{b}";
    asks[1].tiers = "page ";
    begin(&want, 3 + 4 + 1 + 4 + 2, 0, 4);
    text(&want, "a");
    text(&want, "b");
    text(&want, "o{a}");
    text(&want, "o{b}");
    number(&want, 2);
    record(&want, 0, (fields){.kind = 32, .window = 60000, .quota = 10, .cost = 1, .capacity = 10});
    number(&want, 120000);
    record(&want, 0, (fields){.kind = 32 + 2 + 4, .window = 60000000, .quota = 100, .cost = 1,
                              .capacity = 300});
    number(&want, 420000);
    text(&want, "api gold 1000 1000 ");
    text(&want, "page ");
    got = rl_script_decide(&names, asks, 2, 0, &length);
    is_command(got, length, &want,
               "overrides: their keys follow the counters, the tiers the records");
}

static void test_undo(void)
{
    static expected want;
    rl_ask asks[] = {ask_of("a", &sliding, 1), ask_of("b", &bucket, RL_COUNT_MAX),
                     ask_of("c", &on_response, 2), ask_of("d", &on_response, 3)};
    char *got;
    int length;

    asks[0].kind = asks[1].kind = RL_ASK_GIVE_BACK;
    asks[0].position = 28333334;
    asks[1].position = INT64_C(1700000000000000);
    asks[2].kind = RL_ASK_SETTLE;
    asks[2].position = 28333333;
    asks[3].kind = RL_ASK_SETTLE_CHARGED;
    asks[3].position = (INT64_C(1) << 56) - 1;
    begin(&want, 3 + 4 + 1 + 8, 0, 4);
    for (int i = 0; i < 4; i++)
        text(&want, asks[i].key);
    number(&want, 0);
    record(&want, 0, (fields){.act = 1, .window = 60000, .quota = 10, .cost = 1, .capacity = 10,
                              .position = 28333334});
    number(&want, 120000);
    record(&want, 0, (fields){.kind = 6, .act = 1, .window = 60000000, .quota = 100,
                              .cost = RL_COUNT_MAX, .capacity = 300,
                              .position = INT64_C(1700000000000000)});
    number(&want, 420000);
    record(&want, 0, (fields){.kind = 14, .act = 2, .window = 60000000, .quota = 10, .cost = 2,
                              .capacity = 10, .position = 28333333});
    number(&want, 180000);
    record(&want, 0, (fields){.kind = 14, .act = 3, .window = 60000000, .quota = 10, .cost = 3,
                              .capacity = 10, .position = (INT64_C(1) << 56) - 1});
    number(&want, 180000);
    got = rl_script_undo(&names, asks, 4, &length);
    is_command(got, length, &want, "give-backs and settlements, to the full script");
}

/* The units wanted and the lease_ms are where the position of an earlier charge is otherwise. */
static void test_wanted(void)
{
    static expected want;
    rl_ask asks[] = {ask_of("a", &leased, 1), ask_of("b", &leased_bucket, 2)};
    char *got;
    int length;

    begin(&want, 7, 1, 1);
    text(&want, "a");
    number(&want, 1);
    record(&want, 1, (fields){.window = 60000, .quota = 1000, .cost = 1, .capacity = 1000});
    number(&want, 120000);
    got = rl_script_decide(&names, asks, 1, 0, &length);
    is_command(got, length, &want, "a decision that wants no lease goes to the plain script");

    asks[1].wanted = (1 << 24) - 1;
    begin(&want, 3 + 2 + 1 + 4, 0, 2);
    text(&want, "a");
    text(&want, "b");
    number(&want, 2);
    record(&want, 0, (fields){.window = 60000, .quota = 1000, .cost = 1, .capacity = 1000,
                              .position = INT64_C(1000) << 32});
    number(&want, 120000);
    record(&want, 0, (fields){.kind = 2 + 4, .window = 60000000, .quota = 100, .cost = 2,
                              .capacity = 298, .position = INT64_C(1000) << 32 | 0xffffff});
    number(&want, 2 * 178800 + 60000);
    got = rl_script_decide(&names, asks, 2, 0, &length);
    is_command(got, length, &want, "one that wants a lease of one of two rules to the full script");

    asks[0].kind = RL_ASK_GIVE_BACK;
    asks[0].position = 28333333;
    asks[0].cost = 51;
    begin(&want, 7, 0, 1);
    text(&want, "a");
    number(&want, 0);
    record(&want, 0, (fields){.act = 1, .window = 60000, .quota = 1000, .cost = 51,
                              .capacity = 1000, .position = 28333333});
    number(&want, 120000);
    got = rl_script_undo(&names, asks, 1, &length);
    is_command(got, length, &want, "a give-back has its position");
}

static void test_most(void)
{
    rl_ask asks[RL_ASKS_MAX];
    char *got, head[16];
    int length;

    for (int i = 0; i < RL_ASKS_MAX; i++) {
        asks[i] = ask_of("k", &widest, RL_COUNT_MAX);
        asks[i].override_key = "o";
        asks[i].tiers = "t ";
    }
    got = rl_script_decide(&names, asks, RL_ASKS_MAX, 1, &length);
    snprintf(head, sizeof(head), "*%d\r\n", 4 + 5 * RL_ASKS_MAX);
    ok(got && !strncmp(got, head, strlen(head)),
       "the most rules fit into a command, with overrides");
    redisFreeCommand(got);
    got = rl_script_undo(&names, asks, RL_ASKS_MAX, &length);
    ok(got && !strncmp(got, head, strlen(head)), "and into one that gives back");
    redisFreeCommand(got);
}

static void test_names(void)
{
    rl_script_names real;

    rl_script_name(&real);
    for (int i = 0; i < RL_SCRIPTS; i++) {
        is_int(strlen(real.sha[i]), 40, "a script's name has 40 digits");
        is_int(strspn(real.sha[i], "0123456789abcdef"), 40, "in hex, small letters");
        ok(!strstr(rl_script_sources[i], "--") && strlen(rl_script_sources[i]) < 16384,
           "the script that is sent is short, without comments");
    }
    ok(strcmp(real.sha[0], real.sha[1]) != 0, "two scripts have two names");
}

/* --- Replies ------------------------------------------------------------------------------ */

/* A bulk reply of exactly these bytes, on the heap so that ASan sees a byte too many. */
static int read_bytes(const void *bytes, size_t length, rl_ask *asks, int n)
{
    redisReply reply = {.type = REDIS_REPLY_STRING};
    int said;

    reply.str = malloc(length + 1);
    memcpy(reply.str, bytes, length);
    reply.str[length] = '\0';
    reply.len = length;
    said = rl_script_read(&reply, asks, n);
    free(reply.str);
    return said;
}

#define BYTES(text) text, sizeof(text) - 1
#define MS "\x00\x68\xe5\xcf\x8b\x01\x00"  /* 1,700,000,000,000 */
#define US "\x00\x40\x1e\x18\x24\x0a\x06"  /* 1,700,000,000,000,000, in 7 bytes */
#define LATEST_MS "\xff\xff\xff\xff\xff\x03\x00"
#define LATEST_US "\xff\xff\xff\xff\xff\x9f\x0f"
#define MS_TOO_LATE "\x00\x00\x00\x00\x00\x04\x00"
#define US_TOO_LATE "\x00\x00\x00\x00\x00\xa0\x0f"
#define TEN_TO_9 "\x00\xca\x9a\x3b"
#define OVER_10_TO_9 "\x01\xca\x9a\x3b"
#define TWO_TO_51 "\0\0\0\0\0\0\x08\0"
#define NONE "\0\0\0\0"
#define PERIOD "\x55\x53\xb0\x01" /* 28,332,885 */
/* ms blocked, period, pending, quota, capacity, overridden */
#define MORE(blocked, pending, quota, capacity, override) \
    blocked PERIOD pending quota capacity override
#define NO_MORE MORE(NONE, NONE, NONE, NONE, "\0")

static const struct {
    const char *story;
    rl_limit *limit; /* of all its rules */
    const char *bytes;
    size_t length;
    int n, want;
} replies[] = {
    {"charged", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0\0"), 1, 1},
    {"denied", &sliding, BYTES("0" MS "\1\0\0\0\2\0\0\0"), 1, 0},
    {"the largest counts", &sliding, BYTES("1" MS TEN_TO_9 TEN_TO_9), 1, 1},
    {"the latest time", &sliding, BYTES("1" LATEST_MS NONE NONE), 1, 1},
    {"two rules", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0\0" MS "\3\0\0\0\4\0\0\0"), 2, 1},
    {"nothing", &sliding, BYTES(""), 1, -1},
    {"the verdict alone", &sliding, BYTES("1"), 1, -1},
    {"a byte short", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0"), 1, -1},
    {"a byte too many", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0\0\0"), 1, -1},
    {"one rule of two", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0\0"), 2, -1},
    {"two rules of one", &sliding, BYTES("1" MS "\1\0\0\0\2\0\0\0" MS "\3\0\0\0\4\0\0\0"), 1, -1},
    {"another verdict", &sliding, BYTES("2" MS "\1\0\0\0\2\0\0\0"), 1, -1},
    {"a verdict of zero bytes", &sliding, BYTES("\0" MS "\1\0\0\0\2\0\0\0"), 1, -1},
    {"a time beyond all times", &sliding, BYTES("1" MS_TOO_LATE "\1\0\0\0\2\0\0\0"), 1, -1},
    {"a count before beyond 10^9", &sliding, BYTES("1" MS OVER_10_TO_9 NONE), 1, -1},
    {"a count beyond 10^9", &sliding, BYTES("1" MS NONE OVER_10_TO_9), 1, -1},
    {"the second rule's count beyond 10^9", &sliding,
     BYTES("1" MS "\1\0\0\0\2\0\0\0" MS NONE "\xff\xff\xff\xff"), 2, -1},
    {"more than was asked", &sliding, BYTES("1" MS NONE NONE NO_MORE), 1, -1},
    {"a level", &bucket, BYTES("1" US "\7\0\0\0\0\0\0\0"), 1, 1},
    {"the highest level, the latest time", &bucket, BYTES("1" LATEST_US TWO_TO_51), 1, 1},
    {"the highest level", &bucket, BYTES("1" US TWO_TO_51), 1, 1},
    {"a level too high", &bucket, BYTES("1" US "\1\0\0\0\0\0\x08\0"), 1, -1},
    {"a level with its sign bit", &bucket, BYTES("1" US "\0\0\0\0\0\0\0\x80"), 1, -1},
    {"a level at a time beyond all times", &bucket,
     BYTES("1" US_TOO_LATE "\7\0\0\0\0\0\0\0"), 1, -1},
    {"a level in ms at a time in µs", &slow_bucket, BYTES("1" US "\7\0\0\0\0\0\0\0"), 1, -1},
    {"half a level", &bucket, BYTES("1" US "\7\0\0\0"), 1, -1},
    {"a log", &history, BYTES("0" MS "\7\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), 1, 0},
    {"a log without its last wait", &history, BYTES("0" MS "\7\0\0\0\1\0\0\0\2\0\0\0"), 1, -1},
    {"a log of more than 10^9", &history, BYTES("0" MS OVER_10_TO_9 NONE NONE NONE), 1, -1},
    {"a log that waits for weeks", &history,
     BYTES("0" MS "\7\0\0\0\1\0\0\0\2\0\0\0\xff\xff\xff\xff"), 1, -1},
    {"a window with more", &blocking, BYTES("1" MS NONE NONE NO_MORE), 1, 1},
    {"a window without more", &blocking, BYTES("1" MS NONE NONE), 1, -1},
    {"a window with a part of more", &blocking,
     BYTES("1" MS NONE NONE NONE PERIOD NONE NONE NONE), 1, -1},
    {"a level with more", &on_response, BYTES("1" US NONE NONE NO_MORE), 1, 1},
    {"units pending, as many as can be", &on_response,
     BYTES("1" US NONE NONE MORE(NONE, "\0\x94\x35\x77", NONE, NONE, "\0")), 1, 1},
    {"more units pending than can be", &on_response,
     BYTES("1" US NONE NONE MORE(NONE, "\1\x94\x35\x77", NONE, NONE, "\0")), 1, -1},
    {"an override", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, "\5\0\0\0", "\5\0\0\0", "\1")),
     1, 1},
    {"an override that makes a sum too large", &monthly,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, TEN_TO_9, TEN_TO_9, "\1")), 1, -1},
    {"an override beyond 10^9", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, OVER_10_TO_9, NONE, "\1")), 1, -1},
    {"a capacity beyond 10^9", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, NONE, OVER_10_TO_9, "\1")), 1, -1},
    {"unlimited", &blocking, BYTES("1" MS NONE NONE MORE(NONE, NONE, NONE, NONE, "\2")), 1, 1},
    {"an override that is garbage", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, NONE, NONE, "\3")), 1, 1},
    {"an override that cannot be read", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, NONE, NONE, "\5")), 1, 1},
    {"an override of no kind", &blocking,
     BYTES("1" MS NONE NONE MORE(NONE, NONE, NONE, NONE, "\6")), 1, -1},
};

static void test_replies(void)
{
    for (size_t i = 0; i < COUNT(replies); i++) {
        rl_limit limits[2] = {*replies[i].limit, *replies[i].limit};
        rl_ask asks[2] = {ask_of("a", &limits[0], 1), ask_of("b", &limits[1], 1)};

        is_int(read_bytes(replies[i].bytes, replies[i].length, asks, replies[i].n),
               replies[i].want, "a reply: %s", replies[i].story);
    }
}

static void test_windows_and_levels(void)
{
    rl_limit limit = bucket;
    rl_ask asks[2] = {ask_of("a", &sliding, 1), ask_of("b", &limit, 1)};

    read_bytes(BYTES("1" MS "\1\0\0\0\2\0\0\0" US "\7\0\0\0\1\0\0\0"), asks, 2);
    is_int(asks[0].now, 1700000000000, "the time is read");
    is_int(asks[0].state.index, 28333333, "its window");
    ok(asks[0].state.prev == 1 && asks[0].state.cur == 2, "its counts");
    is_int(asks[0].override, RL_OVERRIDE_NONE, "no override");
    ok(asks[0].state.blocked_until == 0 && asks[0].state.pending.cur == 0, "nor anything else");
    is_int(asks[1].now, 1700000000000000, "a bucket's time in µs");
    ok(asks[1].state.at == asks[1].now && asks[1].state.level == INT64_C(0x100000007),
       "is that of its level");
}

static void test_logs(void)
{
    rl_ask a = ask_of("a", &history, 3);

    read_bytes(BYTES("0" MS "\7\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), &a, 1);
    ok(a.state.used == 7 && a.state.asked == 3, "a log: its units, for the cost that was asked");
    ok(a.state.wait_ms == 1 && a.state.next_ms == 2 && a.state.reset_ms == 3, "and its waits");
}

static void test_more(void)
{
    rl_limit limit = on_response;
    rl_ask a = ask_of("a", &limit, 1);

    read_bytes(BYTES("0" US NONE NONE MORE("\5\0\0\0", "\3\0\0\0", "\7\0\0\0", "\x09\0\0\0", "\1")),
               &a, 1);
    is_int(a.state.blocked_until, a.now + 5000, "a block lasts as many ms, in ticks");
    ok(a.state.pending.period == 28332885 && a.state.pending.prev + a.state.pending.cur == 3,
       "the period and what is pending");
    ok(a.override == RL_OVERRIDE_QUOTA && limit.quota == 7 && limit.burst == 9,
       "an override takes the place of quota and burst");
    limit = on_response;
    read_bytes(BYTES("1" US NONE NONE MORE(NONE, NONE, "\7\0\0\0", "\x09\0\0\0", "\3")), &a, 1);
    ok(a.override == RL_OVERRIDE_GARBAGE && limit.quota == 10 && limit.burst == 10,
       "garbage does not");
    read_bytes(BYTES("1" US NONE NONE MORE(NONE, NONE, "\7\0\0\0", "\x09\0\0\0", "\2")), &a, 1);
    ok(a.override == RL_OVERRIDE_UNLIMITED && limit.quota == 10, "nor unlimited, which is said");
    is_int(a.state.blocked_until, 0, "0 ms are no block");
}

#define NO_UNITS NONE NONE
#define LAST_MS "\xdf\x19\xe5\xcf\x8b\x01\x00" /* the last of a window */
#define FULL_LEVEL "\0\x94\x8f\xd9\x02\0\0\0" /* 204 units */
#define AN_OVERRIDE(quota) MORE(NONE, NONE, quota, quota, "\1")

/* Of 999 units left one in eight may be leased: 124. */
static const struct {
    const char *story;
    rl_limit *limit;
    const char *bytes;
    size_t length;
    int64_t cost, wanted;
    int shadow, overridden, want;
    int64_t leased;
} leases[] = {
    {"what was wanted", &leased, BYTES("1" MS NO_UNITS "\x32\0\0\0"), 1, 50, 0, 0, 1, 50},
    {"less", &leased, BYTES("1" MS NO_UNITS "\1\0\0\0"), 1, 50, 0, 0, 1, 1},
    {"nothing", &leased, BYTES("1" MS NO_UNITS NONE), 1, 50, 0, 0, 1, 0},
    {"one more than was wanted", &leased, BYTES("1" MS NO_UNITS "\x33\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"the whole share", &leased, BYTES("1" MS NO_UNITS "\x7c\0\0\0"), 1, 1000, 0, 0, 1, 124},
    {"one more than the share", &leased, BYTES("1" MS NO_UNITS "\x7d\0\0\0"), 1, 1000, 0, 0, -1, 0},
    {"all of a small rest", &leased, BYTES("1" MS NO_UNITS "\x0f\0\0\0"), 985, 50, 0, 0, 1, 15},
    {"more than the rest", &leased, BYTES("1" MS NO_UNITS "\x10\0\0\0"), 985, 50, 0, 0, -1, 0},
    {"a unit where none is left", &leased,
     BYTES("1" MS NONE "\xe7\3\0\0" "\1\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"2^32 - 1 units", &leased, BYTES("1" MS NO_UNITS "\xff\xff\xff\xff"), 1, 50, 0, 0, -1, 0},
    {"a unit with a denial", &leased, BYTES("0" MS NO_UNITS "\1\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"none with a denial", &leased, BYTES("0" MS NO_UNITS NONE), 1, 50, 0, 0, 0, 0},
    {"a unit of a shadow rule, with a denial", &leased,
     BYTES("0" MS NO_UNITS "\1\0\0\0"), 1, 50, 1, 0, 0, 1},
    {"a unit in the last ms of a window", &leased,
     BYTES("1" LAST_MS NO_UNITS "\1\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"a unit of a counter without leases", &sliding,
     BYTES("1" MS NO_UNITS "\1\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"three bytes of a number", &leased, BYTES("1" MS NO_UNITS "\1\0\0"), 1, 50, 0, 0, -1, 0},
    {"a byte too many", &leased, BYTES("1" MS NO_UNITS NONE "\0"), 1, 50, 0, 0, -1, 0},
    {"no number", &leased, BYTES("1" MS NO_UNITS), 1, 50, 0, 0, -1, 0},
    {"a number that is not wanted", &leased, BYTES("1" MS NO_UNITS NONE), 1, 0, 0, 0, -1, 0},
    {"units of a bucket", &leased_bucket, BYTES("1" US NO_UNITS "\x25\0\0\0"), 1, 50, 0, 0, 1, 37},
    {"more than the share of a bucket", &leased_bucket,
     BYTES("1" US NO_UNITS "\x26\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"more than the share of a fuller bucket", &leased_bucket,
     BYTES("1" US FULL_LEVEL "\x0c\0\0\0"), 1, 50, 0, 0, -1, 0},
    {"a share under an override", &leased,
     BYTES("1" MS NO_UNITS AN_OVERRIDE("\x64\0\0\0") "\x0c\0\0\0"), 1, 50, 0, 1, 1, 12},
    {"more than the share under an override", &leased,
     BYTES("1" MS NO_UNITS AN_OVERRIDE("\x64\0\0\0") "\x0d\0\0\0"), 1, 50, 0, 1, -1, 0},
    {"a unit under an override that is too small", &leased,
     BYTES("1" MS NO_UNITS AN_OVERRIDE("\7\0\0\0") "\1\0\0\0"), 1, 50, 0, 1, -1, 0},
    {"a unit under an override of 0", &leased,
     BYTES("1" MS NO_UNITS AN_OVERRIDE(NONE) "\1\0\0\0"), 1, 50, 0, 1, -1, 0},
    {"a unit of an unlimited counter", &leased,
     BYTES("1" MS NO_UNITS MORE(NONE, NONE, NONE, NONE, "\2") "\1\0\0\0"), 1, 50, 0, 1, -1, 0},
    {"none of an unlimited counter", &leased,
     BYTES("1" MS NO_UNITS MORE(NONE, NONE, NONE, NONE, "\2") NONE), 1, 50, 0, 1, 1, 0},
    {"a unit of a blocked counter", &leased,
     BYTES("1" MS NO_UNITS MORE("\1\0\0\0", NONE, NONE, NONE, "\0") "\1\0\0\0"),
     1, 50, 0, 1, -1, 0},
};

static void test_leases(void)
{
    for (size_t i = 0; i < COUNT(leases); i++) {
        rl_limit limit = *leases[i].limit;
        rl_ask a = ask_of("a", &limit, leases[i].cost);
        int said;

        a.wanted = leases[i].wanted;
        a.shadow = leases[i].shadow;
        if (leases[i].overridden)
            a.override_key = "o";
        said = read_bytes(leases[i].bytes, leases[i].length, &a, 1);
        is_int(said, leases[i].want, "a lease: %s", leases[i].story);
        if (said >= 0)
            is_int(a.leased, leases[i].leased, "%s: its units", leases[i].story);
    }
}

static void test_other_types(void)
{
    static const struct {
        int type;
        const char *name;
    } types[] = {{REDIS_REPLY_ERROR, "an error"}, {REDIS_REPLY_STATUS, "a status"},
                 {REDIS_REPLY_INTEGER, "an integer"}, {REDIS_REPLY_NIL, "nil"},
                 {REDIS_REPLY_ARRAY, "an array"}};
    rl_ask a = ask_of("a", &sliding, 1);

    for (size_t i = 0; i < COUNT(types); i++) {
        redisReply reply = {.type = types[i].type};

        if (types[i].type == REDIS_REPLY_ERROR || types[i].type == REDIS_REPLY_STATUS) {
            reply.str = (char *)(uintptr_t)replies[0].bytes;
            reply.len = replies[0].length;
        }
        is_int(rl_script_read(&reply, &a, 1), -1, "%s is no reply, whatever it says",
               types[i].name);
    }
}

/*
 * Any bytes of the right length: refused, or a state the limiter can decide on, and a limit it can
 * count by.
 */
static void test_random_replies(void)
{
    static rl_limit *const limits[] = {&sliding, &monthly, &bucket, &slow_bucket, &held, &history,
                                       &blocking, &on_response, &nothing, &leased,
                                       &leased_bucket};
    long rounds = rng_rounds("RL_ROUNDS", 200000), believed = 0, wrong = 0;
    rng r = {rng_seed(12)};

    for (long n = 0; n < rounds; n++) {
        rl_limit limit = *limits[rng_next(&r) % COUNT(limits)];
        rl_ask a = ask_of("k", &limit, rng_scaled(&r, 0, RL_COUNT_MAX));
        unsigned char bytes[64] = {'1'};
        size_t length = 16 + (limit.algorithm == RL_SLIDING_LOG ? 8 : 0)
            + (limit.block_ms || limit.on_response ? 21 : 0) + (limit.lease_ms ? 4 : 0);
        int64_t wait;

        a.wanted = limit.lease_ms ? rng_scaled(&r, 1, 1000) : 0;
        a.cost = limit.lease_ms ? 1 : a.cost;

        for (size_t i = 1; i < length; i++)
            bytes[i] = rng_one_in(&r, 3) ? (unsigned char)rng_next(&r) : 0;
        little(bytes + 1, rng_scaled(&r, 0, (INT64_C(1) << 42) * rl_limiter_ticks(&limit)), 7);
        if (read_bytes(bytes, length, &a, 1) < 0)
            continue;
        believed++;
        wrong += rl_limiter_roll(&limit, &a.state, a.now) != a.now
            || (a.override == RL_OVERRIDE_QUOTA && !rl_limiter_is_exact(&limit));
        wait = rl_limiter_retry_after(&limit, &a.state, a.now, a.cost);
        wrong += wait != RL_NEVER && wait < 0;
        wrong += rl_limiter_reset(&limit, &a.state, a.now) < 0;
        wrong += rl_limiter_remaining(&limit, &a.state, a.now) < 0;
        wrong += a.leased < 0 || a.leased > a.wanted
            || (a.leased && !rl_limiter_admits(&limit, &a.state, a.now, a.cost + a.leased));
    }
    ok(!wrong && believed > rounds / 10, "what is believed of random bytes can be decided on "
       "(%ld of %ld)", believed, rounds);
}

int main(void)
{
    test_plain();
    test_full();
    test_overrides();
    test_undo();
    test_wanted();
    test_most();
    test_names();
    test_replies();
    test_windows_and_levels();
    test_logs();
    test_more();
    test_leases();
    test_other_types();
    test_random_replies();
    return done_testing();
}
