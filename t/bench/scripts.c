/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cost of a decision for Redis, by algorithm, with one rule: calls a second in a pipeline of
 * 64, as a ratio of an empty script that gets the same arguments or none, measured in turns; the
 * CPU time by Redis's own count; the memory of a key. Then the CPU time per rule with 1, 10 and 50
 * rules in a call.
 *
 * RL_CALLS is the number of calls in a turn. Ratios can be compared between machines, numbers not.
 */
#include "random.h"
#include "redis.h"
#include "redis/script.h"
#include "tap.h"

#include <time.h>

enum { DEPTH = 64, TURNS = 7, RULES = 50 };

static rl_script_names names, empty; /* empty: a script that does nothing, by both names */
static long calls;

typedef struct {
    const char *what;
    rl_limit limit;
    int rules, is_empty;
    char *command;
    int length;
    double best_per_s, least_cpu_us;
} contender;

static contender contenders[] = {
    {.what = "empty script"},
    {.what = "empty, same words", .rules = 1, .is_empty = 1,
     .limit = {.algorithm = RL_SLIDING_WINDOW}},
    {.what = "sliding-window", .rules = 1, .limit = {.algorithm = RL_SLIDING_WINDOW}},
    {.what = "fixed-window", .rules = 1, .limit = {.algorithm = RL_FIXED_WINDOW}},
    {.what = "token-bucket", .rules = 1, .limit = {.algorithm = RL_TOKEN_BUCKET}},
    {.what = "leaky-bucket, delay", .rules = 1,
     .limit = {.algorithm = RL_LEAKY_BUCKET, .delay_ms = 1000}},
    {.what = "sliding-log, quota 100", .rules = 1,
     .limit = {.algorithm = RL_SLIDING_LOG, .quota = 100}},
    {.what = "sliding-window, block", .rules = 1,
     .limit = {.algorithm = RL_SLIDING_WINDOW, .block_ms = 60000}},
    {.what = "sliding-window, charge-on", .rules = 1,
     .limit = {.algorithm = RL_SLIDING_WINDOW, .on_response = 1}},
    {.what = "10 sliding windows", .rules = 10, .limit = {.algorithm = RL_SLIDING_WINDOW}},
    {.what = "50 sliding windows", .rules = RULES, .limit = {.algorithm = RL_SLIDING_WINDOW}},
};

#define CONTENDERS (sizeof(contenders) / sizeof(contenders[0]))

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double redis_cpu_s(void)
{
    redisReply *reply = redisCommand(redis, "INFO cpu");
    const char *system = strstr(reply->str, "used_cpu_sys:");
    const char *user = strstr(reply->str, "used_cpu_user:");
    double sum = atof(system + 13) + atof(user + 14);

    freeReplyObject(reply);
    return sum;
}

static void prepare(contender *c)
{
    static char keys[RULES][40];
    rl_ask asks[RULES];

    if (!c->rules) {
        c->length = redisFormatCommand(&c->command, "EVALSHA %s 0", empty.sha[0]);
        return;
    }
    memset(asks, 0, sizeof(asks));
    c->limit.window_ms = 60000;
    if (!c->limit.quota)
        c->limit.quota = 30000000;
    c->limit.burst = c->limit.quota;
    for (int i = 0; i < c->rules; i++) {
        snprintf(keys[i], sizeof(keys[i]), "rl:{ip:203.0.113.7}:rule%03d:x:1m", i);
        asks[i].key = keys[i];
        asks[i].limit = &c->limit;
        asks[i].cost = 1;
    }
    c->command = rl_script_decide(c->is_empty ? &empty : &names, asks, c->rules, 0, &c->length);
}

static void run(contender *c)
{
    long n = c->rules > 1 ? calls / c->rules : calls;
    double began, cpu, took;

    freeReplyObject(redisCommand(redis, "FLUSHALL"));
    cpu = redis_cpu_s();
    began = now_s();
    for (long done = 0; done < n; done += DEPTH) {
        for (int i = 0; i < DEPTH; i++)
            redisAppendFormattedCommand(redis, c->command, (size_t)c->length);
        for (int i = 0; i < DEPTH; i++) {
            void *reply = NULL;

            if (redisGetReply(redis, &reply) != REDIS_OK
                || ((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
                printf("%s: %s\n", c->what, reply ? ((redisReply *)reply)->str : redis->errstr);
                exit(1);
            }
            freeReplyObject(reply);
        }
    }
    took = now_s() - began;
    cpu = (redis_cpu_s() - cpu) / (double)n * 1e6;
    if ((double)n / took > c->best_per_s)
        c->best_per_s = (double)n / took;
    if (c->least_cpu_us == 0 || cpu < c->least_cpu_us)
        c->least_cpu_us = cpu;
}

int main(void)
{
    calls = rng_rounds("RL_CALLS", 64000);
    if (!start_redis())
        return 1;
    rl_script_name(&names);
    for (int i = 0; i < RL_SCRIPTS; i++) {
        redisReply *reply = redisCommand(redis, "SCRIPT LOAD %s", "return 1");

        freeReplyObject(redisCommand(redis, "SCRIPT LOAD %s", rl_script_sources[i]));
        snprintf(empty.sha[i], sizeof(empty.sha[i]), "%s", reply->str);
        freeReplyObject(reply);
    }
    for (size_t i = 0; i < CONTENDERS; i++)
        prepare(&contenders[i]);
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < CONTENDERS; i++)
            run(&contenders[i]);
    }
    printf("%-28s %10s %8s %11s %14s %10s\n", "", "calls/s", "of empty", "same words",
           "Redis us/rule", "key bytes");
    for (size_t i = 0; i < CONTENDERS; i++) {
        contender *c = &contenders[i];
        const char *bytes = "-";

        if (c->rules == 1 && !c->is_empty) {
            run(c);
            bytes = ask("MEMORY USAGE rl:{ip:203.0.113.7}:rule000:x:1m");
        }
        printf("%-28s %10.0f %8.3f %11.3f %14.2f %10s\n", c->what, c->best_per_s,
               c->best_per_s / contenders[0].best_per_s, c->best_per_s / contenders[1].best_per_s,
               c->least_cpu_us / (c->rules ? c->rules : 1), bytes);
        redisFreeCommand(c->command);
    }
    return 0;
}
