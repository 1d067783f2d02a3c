/*
 * callers: what a decision costs with one blocking connection for each thread.
 *
 *     callers PORT THREADS SECONDS
 *
 * The plain way to use hiredis from a threaded server, as a yardstick for the multiplexed link.
 * Prints decisions, and this process's CPU time in µs.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "redis/script.h"

static atomic_long decisions;
static atomic_int stop;
static int port;
static rl_script_names names;

static void *run(void *number)
{
    redisContext *redis = redisConnect("127.0.0.1", port);
    rl_limit limit = {.algorithm = RL_SLIDING_WINDOW, .quota = RL_COUNT_MAX, .window_ms = 1000,
                      .burst = RL_COUNT_MAX};
    char key[64];
    rl_ask ask = {.key = key, .limit = &limit, .cost = 1};
    int charged = 1;

    for (long n = 0; !atomic_load(&stop) && charged >= 0; n++) {
        redisReply *reply = NULL;
        int length;
        char *command;

        snprintf(key, sizeof(key), "rl:{ip:10.0.%ld.%ld}:page:sliding-window:1s",
                 (long)(size_t)number, n % 16);
        command = rl_script_decide(&names, &ask, 1, 0, &length);
        redisAppendFormattedCommand(redis, command, (size_t)length);
        redisFreeCommand(command);
        if (redisGetReply(redis, (void **)&reply) != REDIS_OK)
            break;
        charged = rl_script_read(reply, &ask, 1);
        freeReplyObject(reply);
        atomic_fetch_add(&decisions, charged == 1);
    }
    redisFree(redis);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 3 ? atoi(argv[2]) : 0;
    pthread_t *thread = calloc((size_t)threads + 1, sizeof(*thread));
    struct timespec pause = {0, 0};
    struct rusage used;
    redisContext *redis;

    if (!threads || !thread)
        return 2;
    port = atoi(argv[1]);
    pause.tv_sec = atoi(argv[3]);
    rl_script_name(&names);
    redis = redisConnect("127.0.0.1", port);
    for (int i = 0; i < RL_SCRIPTS; i++)
        freeReplyObject(redisCommand(redis, "SCRIPT LOAD %s", rl_script_sources[i]));
    redisFree(redis);
    for (int i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, run, (void *)(size_t)i);
    nanosleep(&pause, NULL);
    atomic_store(&stop, 1);
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %ld\n", (long)decisions,
           (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L
               + used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    free(thread);
    return 0;
}
