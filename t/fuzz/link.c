/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes from the server of a link: in the handshake, as replies to commands of each kind, and
 * as messages without a command. Aborts where link.h or logger.h does not keep what it promises.
 * The fuzzer's own limit bounds memory.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "redis/link.h"
#include "redis/logger.h"

#define CALLS RL_REPLY_KINDS

static char path[64];
static int listener = -1;
static int answered[CALLS];
static int greeted, pushed;

static void must(int holds)
{
    if (!holds)
        abort();
}

static void on_reply(void *data, redisReply *reply)
{
    ++*(int *)data;
    freeReplyObject(reply);
}

static void on_push(void *data, redisReply *reply)
{
    (void)data;
    pushed++;
    freeReplyObject(reply);
}

static const char *check(void *context, const redisReply *reply)
{
    (void)context;
    greeted++;
    return reply->type == REDIS_REPLY_NIL ? "it said nothing" : NULL;
}

/* Checks that a line of the log is printable and short. */
static void write_line(void *context, rl_log_level level, const char *line)
{
    (void)context;
    (void)level;
    must(strlen(line) < RL_LOGGER_LINE);
    for (const char *s = line; *s; s++)
        must(*s >= ' ' && *s <= '~');
}

static void log_error(const char *text)
{
    static const rl_logger logger = {write_line, NULL};
    rl_logger_pace pace = {0, 0, 0};

    rl_logger_say(&logger, RL_LOG_ERROR, "lost: %s", text);
    rl_logger_say_at_pace(&logger, &pace, 1000, RL_LOG_ERROR, "lost: %s", text);
    must(rl_error_of(text) < RL_ERROR_KINDS);
    must(rl_error_shown(text) >= 0 && (size_t)rl_error_shown(text) <= strlen(text));
}

static int begin(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    apr_initialize();
    signal(SIGPIPE, SIG_IGN); /* as httpd does */
    snprintf(path, sizeof(path), "/tmp/rl-fuzz-link-%d", (int)getpid());
    memcpy(at.sun_path, path, strlen(path) + 1);
    must(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof(at)) && !listen(fd, 8));
    return fd;
}

static void end(void)
{
    unlink(path);
}

static void step(rl_link *link)
{
    struct pollfd fd = {.fd = -1};
    int64_t due_us;

    fd.fd = rl_link_wait(link, &fd.events, &due_us);
    poll(&fd, 1, 0);
    rl_link_handle_io(link, fd.revents, rl_link_clock());
}

static rl_link *link_of(apr_pool_t *pool, int listens)
{
    static const rl_greeting greetings[] = {
        {.name = "AUTH", .bytes = "A\r\n", .length = 3, .secret = 1},
        {.name = "ROLE", .bytes = "R\r\n", .length = 3, .reply = RL_REPLY_LIST, .check = check},
        {.name = "SCRIPT LOAD", .bytes = "S\r\n", .length = 3, .check = check},
    };
    rl_link_options options = {.connect_us = 1000000, .silent_us = 1000000,
                               .greetings = greetings, .greeting_count = 3, .loading_count = 1,
                               .in_flight = CALLS,
                               .on_push = listens ? on_push : NULL};

    return rl_link_create(pool, &options);
}

/* One call of each kind, beginning with any. */
static int send_calls(rl_link *link, int first)
{
    int sent = 0;

    for (int i = 0; i < CALLS; i++) {
        int kind = (first + i) % CALLS;
        rl_command command = {.bytes = "C\r\n", .length = 3, .kind = (rl_reply_kind)kind,
                              .on_reply = on_reply, .data = &answered[kind]};

        sent += rl_link_send(link, &command);
    }
    return sent;
}

/* The link may have closed the connection. */
static void say(int peer, const void *bytes, size_t length)
{
    ssize_t said = send(peer, bytes, length, 0);

    must(said == (ssize_t)length || said < 0);
}

/* The first byte selects the state of the link; the others are sent to it, in two pieces. */
static void talk(rl_link *link, const uint8_t *data, size_t size)
{
    static const char good[] = "+OK\r\n*1\r\n+master\r\n$1\r\na\r\n";
    const rl_endpoint at = {.name = path, .path = path};
    size_t half = size > 1 ? data[1] % size : 0;
    int sent = 0, peer;

    rl_link_connect(link, &at, "");
    peer = accept(listener, NULL, NULL);
    must(peer >= 0);
    step(link);
    if (*data & 1) {
        say(peer, good, sizeof(good) - 1);
        step(link);
        must(rl_link_read_state(link) == RL_LINK_READY);
        sent = *data & 2 ? 0 : send_calls(link, *data >> 4);
        must(sent == (*data & 2 ? 0 : CALLS));
        step(link);
    }
    for (int i = 0; i < 2; i++) {
        size_t from = i ? half : 0, to = i ? size - 1 : half;

        if (to > from)
            say(peer, data + 1 + from, to - from);
        step(link);
    }
    close(peer);
    for (int i = 0; i < 4 && rl_link_read_state(link) != RL_LINK_DOWN; i++)
        step(link);
    must(rl_link_read_state(link) == RL_LINK_DOWN && rl_link_in_flight(link) == 0);
    for (int i = 0; i < CALLS; i++)
        must(answered[i] == (sent > 0));
    log_error(rl_link_error(link));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool;
    char *text;

    if (listener < 0) {
        listener = begin();
        atexit(end);
    }
    if (size == 0)
        return 0;
    memset(answered, 0, sizeof(answered));
    apr_pool_create(&pool, NULL);
    talk(link_of(pool, *data & 4), data, size);
    text = apr_pstrmemdup(pool, (const char *)data, size);
    log_error(text);
    apr_pool_destroy(pool);
    return 0;
}
