/*
 * What is said to Redis, byte for byte, and what is believed of its replies: nothing but what the
 * script can say.
 */
#include <stdlib.h>

#include "redis/script.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const rl_limit sliding = {RL_SLIDING_WINDOW, 10, 60000};
static const rl_limit widest = {RL_FIXED_WINDOW, RL_COUNT_MAX, RL_WINDOW_MAX_MS};

static void is_command(char *got, int length, const char *want, const char *promise)
{
    if (is_int(length, strlen(want), "%s: its length", promise))
        is_mem(got, want, (size_t)length, "%s", promise);
    redisFreeCommand(got);
}

static void test_commands(void)
{
    rl_ask asks[RL_ASKS_MAX] = {
        {"rl:{ip:192.0.2.1}:a", &sliding, 1, 0, 0, {28333334, 0, 0}},
        {"k y\r\n", &widest, RL_COUNT_MAX, 0, 0, {634, 0, 0}},
        {"s", &sliding, 0, 1, 0, {0, 0, 0}}};
    char *command, *end;
    int length;

    command = rl_script_decide("SHA", asks, 1, &length);
    is_command(command, length,
               "*9\r\n$7\r\nEVALSHA\r\n$3\r\nSHA\r\n$1\r\n1\r\n$19\r\nrl:{ip:192.0.2.1}:a\r\n"
               "$1\r\n1\r\n$1\r\ns\r\n$5\r\n60000\r\n$2\r\n10\r\n$1\r\n1\r\n",
               "a decision over one rule");
    command = rl_script_decide("SHA", asks, 3, &length);
    is_command(command, length,
               "*19\r\n$7\r\nEVALSHA\r\n$3\r\nSHA\r\n$1\r\n3\r\n$19\r\nrl:{ip:192.0.2.1}:a\r\n"
               "$5\r\nk y\r\n\r\n$1\r\ns\r\n$1\r\n2\r\n"
               "$1\r\ns\r\n$5\r\n60000\r\n$2\r\n10\r\n$1\r\n1\r\n"
               "$1\r\nf\r\n$10\r\n2678400000\r\n$10\r\n1000000000\r\n$10\r\n1000000000\r\n"
               "$1\r\ns\r\n$5\r\n60000\r\n$2\r\n10\r\n$1\r\n0\r\n",
               "a decision over two live rules and a shadow rule");
    command = rl_script_decide("SHA", NULL, 0, &length);
    is_command(command, length,
               "*4\r\n$7\r\nEVALSHA\r\n$3\r\nSHA\r\n$1\r\n0\r\n$1\r\n0\r\n", "a probe");
    command = rl_script_give_back("SHA", asks, 2, &length);
    is_command(command, length,
               "*12\r\n$7\r\nEVALSHA\r\n$3\r\nSHA\r\n$1\r\n2\r\n$19\r\nrl:{ip:192.0.2.1}:a\r\n"
               "$5\r\nk y\r\n\r\n$9\r\ngive-back\r\n"
               "$5\r\n60000\r\n$8\r\n28333334\r\n$1\r\n1\r\n"
               "$10\r\n2678400000\r\n$3\r\n634\r\n$10\r\n1000000000\r\n",
               "a give-back over two rules");
    for (int i = 0; i < RL_ASKS_MAX; i++)
        asks[i] = (rl_ask){"k", &widest, RL_COUNT_MAX, 0, 0, {INT64_MAX, 0, 0}};
    command = rl_script_decide("SHA", asks, RL_ASKS_MAX, &length);
    ok(command && !strncmp(command, "*324\r\n", 6), "the most rules fit into a decision");
    ok(strstr(command, "$2\r\n64\r\n") != NULL, "which says how many");
    redisFreeCommand(command);
    command = rl_script_give_back("SHA", asks, RL_ASKS_MAX, &length);
    end = command + length - 19;
    ok(command && !strncmp(command, "*260\r\n", 6), "and into a give-back");
    ok(strstr(end - 30, "9223372036854775807") != NULL, "the longest numbers too");
    redisFreeCommand(command);
}

static void test_name(void)
{
    char name[RL_SCRIPT_SHA + 1];

    rl_script_name(name);
    is_int(strlen(name), 40, "a script's name has 40 digits");
    is_int(strspn(name, "0123456789abcdef"), 40, "in hex, small letters");
    ok(!strstr(rl_script_source, "--") && strlen(rl_script_source) < 4096,
       "the script that is sent is short");
}

/* --- Replies --- */

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

#define NOW "\x00\x68\xe5\xcf\x8b\x01" /* 1,700,000,000,000 */
#define TEN_TO_9 "\x00\xca\x9a\x3b"
#define BYTES(text) text, sizeof(text) - 1

static const struct {
    const char *story;
    const char *bytes;
    size_t length;
    int n, want;
} replies[] = {
    {"charged", BYTES("1" NOW "\1\0\0\0\2\0\0\0"), 1, 1},
    {"denied", BYTES("0" NOW "\1\0\0\0\2\0\0\0"), 1, 0},
    {"the largest counts", BYTES("1" NOW TEN_TO_9 TEN_TO_9), 1, 1},
    {"the latest time", BYTES("1\xff\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0\0"), 1, 1},
    {"a probe", BYTES("1"), 0, 1},
    {"two rules", BYTES("1" NOW "\1\0\0\0\2\0\0\0" NOW "\3\0\0\0\4\0\0\0"), 2, 1},
    {"nothing", BYTES(""), 1, -1},
    {"nothing to a probe", BYTES(""), 0, -1},
    {"the verdict alone", BYTES("1"), 1, -1},
    {"a byte short", BYTES("1" NOW "\1\0\0\0\2\0\0"), 1, -1},
    {"a byte too many", BYTES("1" NOW "\1\0\0\0\2\0\0\0\0"), 1, -1},
    {"one rule of two", BYTES("1" NOW "\1\0\0\0\2\0\0\0"), 2, -1},
    {"two rules of one", BYTES("1" NOW "\1\0\0\0\2\0\0\0" NOW "\3\0\0\0\4\0\0\0"), 1, -1},
    {"another verdict", BYTES("2" NOW "\1\0\0\0\2\0\0\0"), 1, -1},
    {"a verdict of zero bytes", BYTES("\0" NOW "\1\0\0\0\2\0\0\0"), 1, -1},
    {"a time beyond all times", BYTES("1\0\0\0\0\0\x80\1\0\0\0\2\0\0\0"), 1, -1},
    {"a count before beyond 10^9", BYTES("1" NOW "\x01\xca\x9a\x3b\0\0\0\0"), 1, -1},
    {"a count beyond 10^9", BYTES("1" NOW "\0\0\0\0\x01\xca\x9a\x3b"), 1, -1},
    {"the second rule's count beyond 10^9",
     BYTES("1" NOW "\1\0\0\0\2\0\0\0" NOW "\0\0\0\0\xff\xff\xff\xff"), 2, -1},
};

static void test_replies(void)
{
    rl_ask asks[2] = {{"a", &sliding, 1, 0, 0, {0, 0, 0}}, {"b", &sliding, 1, 0, 0, {0, 0, 0}}};

    for (size_t i = 0; i < COUNT(replies); i++)
        is_int(read_bytes(replies[i].bytes, replies[i].length, asks, replies[i].n),
               replies[i].want, "a reply: %s", replies[i].story);
    read_bytes(replies[5].bytes, replies[5].length, asks, 2);
    is_int(asks[0].now, 1700000000000, "the time is read");
    is_int(asks[0].state.index, 28333333, "its window");
    ok(asks[0].state.prev == 1 && asks[0].state.cur == 2, "the counts of the first rule");
    ok(asks[1].state.prev == 3 && asks[1].state.cur == 4, "and of the second");
}

static void test_other_types(void)
{
    static const struct {
        int type;
        const char *name;
    } types[] = {{REDIS_REPLY_ERROR, "an error"}, {REDIS_REPLY_STATUS, "a status"},
                 {REDIS_REPLY_INTEGER, "an integer"}, {REDIS_REPLY_NIL, "nil"},
                 {REDIS_REPLY_ARRAY, "an array"}};
    rl_ask a = {"a", &sliding, 1, 0, 0, {0, 0, 0}};

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

int main(void)
{
    test_commands();
    test_name();
    test_replies();
    test_other_types();
    return done_testing();
}
