/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A redis-server of a test's own, on a socket in a new directory, that ends with the test. Nothing
 * is kept on disk. RL_REDIS_SERVER names another program, as valkey-server.
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

/* Ends the server, with a signal. */
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

/* Starts it, again on the same socket. Returns when it answers; 0 if there is no redis-server. */
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

/* Returns when it answers; 0 if there is no redis-server. */
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

/* A reply of Redis as text that lasts until the next one; "(nil)" for none. */
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
