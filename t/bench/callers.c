/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callers: the cost of a decision for its callers, over blocking connections or through the client
 * of a child.
 *
 *     callers blocking|client PORT CALLERS SECONDS
 *
 * blocking: each caller has its own hiredis connection and waits in read(), the simplest way to
 * use hiredis from a threaded server. client: all callers share the client, as the threads of a
 * child of httpd do. Script, keys and other work are the same. Prints the decisions, their total
 * duration in µs, the CPU time in µs, and the median and the 99th percentile of the duration in µs.
 */
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <apr_general.h>

#include "client.h"
#include "redis/script.h"

#define BUCKETS 20000 /* of 1 µs */

typedef struct {
    pthread_t thread;
    int number;
    long decisions;
    int64_t waited_ns;
    unsigned waits[BUCKETS];
} caller;

static atomic_int stop;
static int port;
static rl_script_names names;
static rl_client *client;

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns 1 if the decision was made, and charged. */
static int decide_blocking(redisContext *redis, rl_ask *ask)
{
    redisReply *reply = NULL;
    int length, charged;
    char *command = rl_script_decide(&names, ask, 1, 0, &length);

    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    if (redisGetReply(redis, (void **)&reply) != REDIS_OK)
        return 0;
    charged = rl_script_read(reply, ask, 1);
    freeReplyObject(reply);
    return charged == 1;
}

static int decide_shared(rl_ask *ask)
{
    int charged = 0;

    return rl_client_decide(client, ask, 1, 0, rl_link_clock() + 5000000, &charged) == RL_ANSWERED
           && charged == 1;
}

static void *run(void *data)
{
    rl_limit limit = {.algorithm = RL_SLIDING_WINDOW, .quota = RL_COUNT_MAX, .window_ms = 1000,
                      .burst = RL_COUNT_MAX};
    caller *c = data;
    redisContext *redis = client ? NULL : redisConnect("127.0.0.1", port);
    char key[64];
    rl_ask ask = {.key = key, .limit = &limit, .cost = 1};

    while (!atomic_load(&stop)) {
        int64_t start = now_ns(), ns;

        snprintf(key, sizeof(key), "rl:{ip:10.0.%d.%ld}:page:sliding-window:1s", c->number,
                 c->decisions % 16);
        if (!(client ? decide_shared(&ask) : decide_blocking(redis, &ask))) {
            fprintf(stderr, "callers: a decision was not made\n");
            break;
        }
        ns = now_ns() - start;
        c->decisions++;
        c->waited_ns += ns;
        c->waits[ns / 1000 < BUCKETS ? ns / 1000 : BUCKETS - 1]++;
    }
    if (redis)
        redisFree(redis);
    return NULL;
}

/* A percentile of the duration of the decisions of all callers, in µs. */
static int quantile(const caller *callers, int n, long decisions, int percent)
{
    long seen = 0;
    int us;

    for (us = 0; us < BUCKETS - 1; us++) {
        for (int i = 0; i < n; i++)
            seen += callers[i].waits[us];
        if (seen * 100 >= decisions * percent)
            break;
    }
    return us;
}

static long cpu_us(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L + used.ru_utime.tv_usec
           + used.ru_stime.tv_usec;
}

static void load_script(void)
{
    redisContext *redis = redisConnect("127.0.0.1", port);

    rl_script_name(&names);
    for (int i = 0; i < RL_SCRIPTS; i++)
        freeReplyObject(redisCommand(redis, "SCRIPT LOAD %s", rl_script_sources[i]));
    redisFree(redis);
}

static rl_client *start_client(void)
{
    static const rl_breaker_options retry = {50, 2000};
    apr_pool_t *pool;
    char url[64];

    apr_initialize();
    apr_pool_create(&pool, NULL);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%d", port);
    return client_of(pool, url, 1, 5000, 5000, retry);
}

int main(int argc, char **argv)
{
    int n = argc == 5 ? atoi(argv[3]) : 0, shared = n > 0 && strcmp(argv[1], "client") == 0;
    caller *callers = calloc((size_t)n + 1, sizeof(*callers));
    struct timespec pause = {0, 0};
    int64_t waited_ns = 0;
    long decisions = 0;

    if (n < 1 || !callers) {
        fprintf(stderr, "callers blocking|client PORT CALLERS SECONDS\n");
        return 2;
    }
    port = atoi(argv[2]);
    pause.tv_sec = atoi(argv[4]);
    load_script();
    client = shared ? start_client() : NULL;
    if (shared && !client)
        return 1;
    for (int i = 0; i < n; i++) {
        callers[i].number = i;
        pthread_create(&callers[i].thread, NULL, run, &callers[i]);
    }
    nanosleep(&pause, NULL);
    atomic_store(&stop, 1);
    for (int i = 0; i < n; i++) {
        pthread_join(callers[i].thread, NULL);
        decisions += callers[i].decisions;
        waited_ns += callers[i].waited_ns;
    }
    printf("%ld %ld %ld %d %d\n", decisions, (long)(waited_ns / 1000), cpu_us(),
           quantile(callers, n, decisions, 50), quantile(callers, n, decisions, 99));
    if (client)
        rl_client_stop(client);
    free(callers);
    return decisions ? 0 : 1;
}
