/*
 * What decide.lua does to keys, in a real Redis and on its clock: what is foreign is overwritten,
 * everything has an end, a denial and a give-back make nothing. Skipped where there is no
 * redis-server.
 */
#include "redis.h"
#include "redis/script.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static rl_ask any_ask(const char *key)
{
    static const rl_limit limit = {RL_SLIDING_WINDOW, 5, 3600000};

    return (rl_ask){key, &limit, 1, 0, 0, {0, 0, 0}};
}

/* Decides as the module does; -1 if the reply makes no sense. */
static int decide(rl_ask *a)
{
    char name[RL_SCRIPT_SHA + 1];
    void *reply = NULL;
    int length, said;
    char *command;

    rl_script_name(name);
    command = rl_script_decide(name, a, 1, &length);
    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    redisGetReply(redis, &reply);
    said = rl_script_read(reply, a, 1);
    freeReplyObject(reply);
    return said;
}

static void give_back(const rl_ask *a)
{
    char name[RL_SCRIPT_SHA + 1];
    void *reply = NULL;
    int length;
    char *command;

    rl_script_name(name);
    command = rl_script_give_back(name, a, 1, &length);
    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    redisGetReply(redis, &reply);
    freeReplyObject(reply);
}

static void test_foreign_values(void)
{
    static const char *const foreign[] = {
        "SET k short", "SET k fifteen-letters", "SET k 12345", "RPUSH k a b", "HSET k a b",
        "SADD k a", "ZADD k 1 a", "XADD k * a b", "SET k \"\""
    };

    for (size_t i = 0; i < COUNT(foreign); i++) {
        rl_ask a = any_ask("k");

        ask("DEL k");
        ask(foreign[i]);
        is_int(decide(&a), 1, "a key that %s made is taken for nothing", foreign[i]);
        is_str(ask("STRLEN k"), "14", "and overwritten");
    }
}

static void test_keys(void)
{
    rl_ask a = any_ask("k");
    long long ttl, kept;

    ask("DEL k");
    ok(decide(&a) == 1 && a.state.cur == 0, "the first request is charged");
    ttl = atoll(ask("PTTL k"));
    ok(ttl > 7200000 - 60000 && ttl <= 7200000, "its key lives for two windows");
    a.state.index = a.now / a.limit->window_ms;
    ask("PEXPIRE k 5000000");
    give_back(&a);
    kept = atoll(ask("PTTL k"));
    ok(kept > 4900000 && kept <= 5000000, "a give-back leaves its life as it is");
    ok(decide(&a) == 1 && a.state.cur == 0, "and takes the charge back");
    ask("PEXPIRE k 5000000");
    for (int i = 0; i < 4; i++)
        decide(&a);
    ask("PEXPIRE k 5000000");
    is_int(decide(&a), 0, "a denial");
    kept = atoll(ask("PTTL k"));
    ok(kept > 4900000 && kept <= 5000000, "does not write");
    ask("DEL k");
    give_back(&a);
    is_str(ask("EXISTS k"), "0", "a give-back makes no key");
    ask("RPUSH k a");
    give_back(&a);
    is_str(ask("LLEN k"), "1", "and leaves alone what is none of ours");
    ask("DEL k");
    a.cost = 0;
    is_int(decide(&a), 1, "a cost of nothing passes");
    ask("DEL k");
}

int main(void)
{
    char name[RL_SCRIPT_SHA + 1];

    if (!start_redis()) {
        pass("# SKIP no redis-server");
        return done_testing();
    }
    rl_script_name(name);
    is_str(ask("SCRIPT LOAD %s", rl_script_source), name, "Redis knows the script by our name");
    test_foreign_values();
    test_keys();
    return done_testing();
}
