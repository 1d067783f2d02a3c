/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link: one connection to one node of Redis.
 *
 *     DOWN ──connect──► CONNECTING ──connected, secured, all greetings good──► READY
 *       ▲                   │                                                  │
 *       └───────────────────┴── error, end of file, silence, garbage ──────────┘
 *
 * hiredis does the protocol and the socket, in non-blocking mode and without its own event layer;
 * the owner polls. Redis answers in the order of the commands, so a ring of the commands in flight
 * is the only bookkeeping. A connection is closed as soon as anything is wrong with it, because a
 * late reply must never be taken for the next one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <apr_strings.h>
#include <sds.h>

#include "redis/link.h"

#define IDLE_US 1000000        /* without a call until the server may have closed the connection */
#define CHECK_AFTER_US 5000000 /* and until it may be dead without having been closed */

/* A command in flight. */
typedef struct {
    rl_command command; /* its bytes are not kept */
    uint64_t from;      /* position of its first byte, as rl_link.given counts */
} owed;

struct rl_link {
    rl_link_options options;
    redisContext *context;
    rl_link_state state;
    const char *host;
    int connected;      /* the socket is, with TLS if there is any; greetings were sent */
    rl_tls_session *session; /* NULL: no TLS, or not begun */
    int wants;          /* poll events that the socket, or its TLS handshake, waits for */
    int own;            /* greetings and signs of life in flight */
    int unsent;         /* hiredis holds bytes that the socket has not taken yet */
    uint64_t given;     /* bytes given to hiredis, over this connection */
    uint64_t tried;     /* of these, bytes given to TLS: it does not report what it has sent */
    int64_t due_us;     /* connect or silence ends here */
    owed *calls;        /* ring */
    int size, first, count;
    int was_idle;       /* when the last connection ended */
    rl_reader reader;
    rl_error_kind refusal;
    char error[160];
};

rl_link *rl_link_create(apr_pool_t *pool, const rl_link_options *options)
{
    rl_link *link = apr_pcalloc(pool, sizeof(*link));

    link->options = *options;
    link->size = options->in_flight + options->greeting_count + options->loading_count;
    link->calls = apr_pcalloc(pool, sizeof(*link->calls) * (size_t)link->size);
    return link;
}

int64_t rl_link_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

rl_link_state rl_link_read_state(const rl_link *link)
{
    return link->state;
}

const char *rl_link_error(const rl_link *link)
{
    return link->error;
}

rl_error_kind rl_link_refusal(const rl_link *link)
{
    return link->refusal;
}

/* --- Calls in flight ---------------------------------------------------------------------- */

static void push(rl_link *link, const rl_command *command)
{
    link->calls[(link->first + link->count++) % link->size] = (owed){*command, link->given};
    link->given += (uint64_t)command->length;
    link->unsent = 1;
}

static owed pop(rl_link *link)
{
    owed next = link->calls[link->first];

    link->first = (link->first + 1) % link->size;
    link->count--;
    return next;
}

/* How many of the given bytes may have been sent. */
static uint64_t may_be_sent(const rl_link *link)
{
    if (!link->context)
        return link->given;
    return link->session ? link->tried : link->given - sdslen(link->context->obuf);
}

void rl_link_close(rl_link *link, const char *why)
{
    uint64_t sent = may_be_sent(link);

    if (link->context)
        redisFree(link->context);
    link->context = NULL;
    link->state = RL_LINK_DOWN;
    link->session = NULL;
    link->was_idle = link->count == link->own;
    link->connected = link->own = link->unsent = 0;
    link->given = link->tried = 0;
    apr_cpystrn(link->error, why, sizeof(link->error));
    while (link->count > 0) {
        owed next = pop(link);

        if (next.from >= sent && next.command.on_unsent)
            next.command.on_unsent(next.command.data);
        else
            next.command.on_reply(next.command.data, NULL);
    }
}

static void fail(rl_link *link)
{
    const char *error = rl_reader_error(&link->reader, link->context->reader);
    char why[sizeof(link->error)];

    if (!error)
        error = link->context->errstr[0] ? link->context->errstr : "unknown error";
    apr_cpystrn(why, error, sizeof(why));
    rl_link_close(link, why);
}

/* --- Connecting --------------------------------------------------------------------------- */

void rl_link_connect(rl_link *link, const rl_endpoint *at, const char *address)
{
    link->refusal = RL_ERROR_KINDS;
    link->context = at->path ? redisConnectUnixNonBlock(at->path)
                             : redisConnectNonBlock(address, at->port);
    if (!link->context) {
        rl_link_close(link, "out of memory");
        return;
    }
    rl_reader_attach(&link->reader, link->context->reader);
    if (link->context->err) {
        fail(link);
        return;
    }
    fcntl(link->context->fd, F_SETFD, FD_CLOEXEC);
    if (!at->path)
        redisEnableKeepAlive(link->context); /* detects a dead peer after 30 s */
    link->host = at->host ? at->host : "localhost";
    link->wants = POLLOUT;
    link->state = RL_LINK_CONNECTING;
    link->due_us = rl_link_clock() + link->options.connect_us;
}

static void take_greeting(void *data, redisReply *reply);

static void greet(rl_link *link, const rl_greeting *greeting)
{
    rl_command command = {.bytes = greeting->bytes, .length = greeting->length,
                          .kind = greeting->reply, .on_reply = take_greeting, .data = link};
    char *secret = NULL;

    if (greeting->credentials) {
        command.length = rl_credentials_format(greeting->credentials, &secret);
        command.bytes = secret ? secret : "";
    }
    redisAppendFormattedCommand(link->context, command.bytes, (size_t)command.length);
    push(link, &command);
    link->own++;
    if (secret)
        explicit_bzero(secret, (size_t)command.length);
    redisFreeCommand(secret);
}

void rl_link_reload(rl_link *link)
{
    if (link->state != RL_LINK_READY || link->own > 0)
        return;
    for (int i = link->options.loading_count; i > 0; i--)
        greet(link, &link->options.greetings[link->options.greeting_count - i]);
}

static void shake_hands(rl_link *link)
{
    int one = 1;

    /* Fails on a unix socket, which does not delay. */
    setsockopt(link->context->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    for (int i = 0; i < link->options.greeting_count; i++)
        greet(link, &link->options.greetings[i]);
    link->connected = 1;
    link->due_us = rl_link_clock() + link->options.connect_us;
}

static void secure(rl_link *link)
{
    char why[sizeof(link->error)];

    link->wants = rl_tls_shake(link->session, why, sizeof(why));
    if (link->wants == 0)
        shake_hands(link);
    else if (link->wants < 0)
        rl_link_close(link, why);
}

static void finish_connect(rl_link *link)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(link->context->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error)
        rl_link_close(link, strerror(error));
    else if (!link->options.tls)
        shake_hands(link);
    else if ((link->session = rl_tls_begin(link->options.tls, link->context, link->host)))
        secure(link);
    else
        fail(link);
}

/* Keeps the kind of an error reply to a greeting, and formats the reason for the log. */
static void note_refusal(rl_link *link, const rl_greeting *greeting, const char *error,
                         char text[sizeof(link->error)])
{
    link->refusal = rl_error_of(error);
    if (link->refusal != RL_ERROR_OTHER)
        apr_snprintf(text, sizeof(link->error), "it %s", rl_errors[link->refusal].means);
    else
        apr_snprintf(text, sizeof(link->error), "%s: %.*s", greeting->name,
                     greeting->secret ? INT_MAX : rl_error_shown(error),
                     greeting->secret ? "it was refused" : error);
}

/* Whether Redis does not know an optional command, or the user may not run it. */
static int is_forgiven(const rl_greeting *greeting, const char *error)
{
    rl_error_kind kind = rl_error_of(error);

    return greeting->optional && (kind == RL_ERROR_NOPERM || kind == RL_ERROR_NOCOMMAND
                                  || (kind == RL_ERROR_OTHER && !strncmp(error, "ERR ", 4)));
}

static void become_ready(rl_link *link)
{
    link->state = RL_LINK_READY;
    link->due_us = rl_link_clock() + link->options.silent_us;
}

/* Greetings are answered in order, so the number in flight shows which one this is. */
static void take_greeting(void *data, redisReply *reply)
{
    rl_link *link = data;
    const rl_greeting *greeting =
        &link->options.greetings[link->options.greeting_count - link->own];
    char text[sizeof(link->error)];
    const char *wrong = NULL;

    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR && !is_forgiven(greeting, reply->str)) {
        note_refusal(link, greeting, reply->str, text);
        wrong = text;
    }
    else if (greeting->check) {
        wrong = greeting->check(greeting->context, reply);
    }
    if (wrong)
        rl_link_close(link, wrong);
    else if (--link->own == 0)
        become_ready(link);
    freeReplyObject(reply);
}

/* A reply of any kind will do. */
static void take_sign_of_life(void *data, redisReply *reply)
{
    rl_link *link = data;

    if (!reply)
        return;
    freeReplyObject(reply);
    link->own--;
    become_ready(link);
}

/* --- Sending and receiving ---------------------------------------------------------------- */

int rl_link_send(rl_link *link, const rl_command *command)
{
    if (link->state != RL_LINK_READY || link->count >= link->options.in_flight
        || redisAppendFormattedCommand(link->context, command->bytes, (size_t)command->length)
               != REDIS_OK)
        return 0;
    if (link->count == 0)
        link->due_us = rl_link_clock() + link->options.silent_us;
    push(link, command);
    return 1;
}

static void flush(rl_link *link)
{
    int done = 0;

    link->tried = link->given;
    if (redisBufferWrite(link->context, &done) != REDIS_OK)
        fail(link);
    else
        link->unsent = !done;
}

/* The kind of the next reply. */
static rl_reply_kind expected(const rl_link *link)
{
    if (link->count > 0)
        return link->calls[link->first].command.kind;
    return link->options.on_push ? RL_REPLY_LIST : RL_REPLY_TEXT;
}

static void take_reply(rl_link *link, redisReply *reply)
{
    rl_command command;

    if (link->count > 0) {
        command = pop(link).command;
        command.on_reply(command.data, reply);
    }
    else if (link->options.on_push) {
        link->options.on_push(link->options.push_data, reply);
    }
    else {
        freeReplyObject(reply);
        rl_link_close(link, "it sent a reply to no command");
    }
}

static void take_replies(rl_link *link)
{
    const char *error;

    while (link->context) {
        void *reply = NULL;

        rl_reader_expect(&link->reader, expected(link));
        if (redisGetReplyFromReader(link->context, &reply) != REDIS_OK) {
            fail(link);
            return;
        }
        if (!reply)
            break;
        take_reply(link, reply);
    }
    error = link->context ? rl_reader_error(&link->reader, link->context->reader) : NULL;
    if (error)
        rl_link_close(link, error);
}

static void receive(rl_link *link, int64_t now_us)
{
    do {
        if (redisBufferRead(link->context) != REDIS_OK) {
            fail(link);
            return;
        }
    } while (link->session && rl_tls_has_more(link->session));
    if (link->state == RL_LINK_READY)
        link->due_us = now_us + link->options.silent_us;
    take_replies(link);
}

/*
 * Whether a request has time to wait check_us for a sign of life, then to connect again and to be
 * answered: whether four round trips take less. The kernel measures them; 0 on a unix socket.
 */
static int is_near(const rl_link *link)
{
    struct tcp_info info = {.tcpi_rtt = 0};
    socklen_t size = sizeof(info);

    getsockopt(link->context->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
    return (int64_t)info.tcpi_rtt * 4 < link->options.check_us;
}

static void ask_for_sign_of_life(rl_link *link, int64_t now_us)
{
    const rl_greeting *sign = link->options.sign_of_life;
    rl_command command = {.bytes = sign->bytes, .length = sign->length, .kind = sign->reply,
                          .on_reply = take_sign_of_life, .data = link};

    redisAppendFormattedCommand(link->context, command.bytes, (size_t)command.length);
    push(link, &command);
    link->own++;
    link->state = RL_LINK_CONNECTING;
    link->due_us = now_us + link->options.check_us;
}

int rl_link_check_alive(rl_link *link, int64_t now_us)
{
    int64_t idle_us = now_us - (link->due_us - link->options.silent_us);

    if (link->state != RL_LINK_READY || link->count > 0 || idle_us < IDLE_US)
        return 0;
    receive(link, now_us);
    if (link->state == RL_LINK_READY && link->options.sign_of_life && idle_us >= CHECK_AFTER_US
        && is_near(link))
        ask_for_sign_of_life(link, now_us);
    return link->state != RL_LINK_READY;
}

int rl_link_was_idle(const rl_link *link)
{
    return link->was_idle;
}

int rl_link_in_flight(const rl_link *link)
{
    return link->count;
}

int rl_link_wait(const rl_link *link, short *events, int64_t *due_us)
{
    *events = 0;
    *due_us = INT64_MAX;
    if (!link->context)
        return -1;
    *events = link->connected ? POLLIN : (short)link->wants;
    if (link->unsent)
        *events |= POLLOUT;
    if (link->state == RL_LINK_CONNECTING || link->count > 0)
        *due_us = link->due_us;
    return link->context->fd;
}

void rl_link_handle_io(rl_link *link, short revents, int64_t now_us)
{
    if (link->context && link->session && !link->connected && revents)
        secure(link);
    else if (link->context && !link->connected && revents)
        finish_connect(link);
    else if (link->context && revents & (POLLIN | POLLERR | POLLHUP))
        receive(link, now_us);
    if (link->context && link->unsent)
        flush(link);
    if (!link->context || now_us < link->due_us)
        return;
    if (link->state == RL_LINK_CONNECTING)
        rl_link_close(link, "no connection in time: see connect= of RateLimitRedisTimeout");
    else if (link->count > 0)
        rl_link_close(link, "no reply in time: see RateLimitRedisTimeout");
}
