/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a redis-server for a test, on a Unix socket in a new directory and without persistence. It
 * ends with the test. RL_REDIS_SERVER names another program, as valkey-server.
 */
#ifndef REDIS_H
#define REDIS_H

#include <hiredis.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static redisContext *redis;

static char directory[] = "/tmp/rl-redis-XXXXXX", socket_path[sizeof(directory) + 16];
static pid_t server;

/* Sends the server a signal and waits for its end, even if it is paused. */
static void end_redis(int sign)
{
    if (redis)
        redisFree(redis);
    redis = NULL;
    kill(server, sign);
    kill(server, SIGCONT);
    waitpid(server, NULL, 0);
}

static void stop_redis(void)
{
    end_redis(SIGTERM);
    unlink(socket_path);
    rmdir(directory);
}

/* Starts the server, always on the same socket. Returns 1 once it answers, 0 if it cannot run. */
static int run_redis(void)
{
    const char *program = getenv("RL_REDIS_SERVER");

    fflush(NULL);
    server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp(program ? program : "redis-server", "redis-server", "--port", "0", "--unixsocket",
               socket_path, "--save", "", "--appendonly", "no", "--logfile", "/dev/null",
               "--dir", directory, (char *)NULL);
        _exit(127);
    }
    while (waitpid(server, NULL, WNOHANG) == 0) {
        redis = redisConnectUnix(socket_path);
        if (redis && !redis->err)
            return 1;
        redisFree(redis);
        usleep(10000);
    }
    redis = NULL;
    return 0;
}

/* Makes the directory and starts the server. Returns 1 once it answers, 0 if it cannot run. */
static int start_redis(void)
{
    if (!mkdtemp(directory))
        return 0;
    snprintf(socket_path, sizeof(socket_path), "%s/redis.sock", directory);
    if (run_redis()) {
        atexit(stop_redis);
        return 1;
    }
    rmdir(directory);
    return 0;
}

/* Sends a command; the reply as text, "(nil)" for nil or none. Valid until the next call. */
__attribute__((unused)) static const char *ask(const char *format, ...)
{
    static char text[256];
    redisReply *reply;
    va_list args;

    va_start(args, format);
    reply = redisvCommand(redis, format, args);
    va_end(args);
    if (!reply || reply->type == REDIS_REPLY_NIL)
        strcpy(text, "(nil)");
    else if (reply->type == REDIS_REPLY_INTEGER)
        snprintf(text, sizeof(text), "%lld", reply->integer);
    else
        snprintf(text, sizeof(text), "%s", reply->str);
    freeReplyObject(reply);
    return text;
}

#endif
