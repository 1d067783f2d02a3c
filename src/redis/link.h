/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link: one connection to one node of Redis.
 *
 * A state machine without a thread of its own: whoever owns the link steps it when its descriptor
 * is ready or its time has come. It connects, shakes hands with the commands it was made with,
 * sends what it is given in order, and hands each reply to the call it belongs to. It never blocks,
 * sleeps or resolves a name.
 *
 * Not thread-safe: one owner at a time. Times are µs on the clock of rl_link_clock().
 */
#ifndef RL_LINK_H
#define RL_LINK_H

#include <apr_pools.h>
#include <hiredis.h>

#include "redis/errors.h"
#include "redis/greeting.h"
#include "redis/reader.h"
#include "redis/tls.h"
#include "redis/url.h"

typedef struct rl_link rl_link;

typedef enum { RL_LINK_DOWN, RL_LINK_CONNECTING, RL_LINK_READY } rl_link_state;

/*
 * A command. The callback and the kind of reply it expects travel with each command as one struct.
 * Each command that rl_link_send() accepted ends with exactly one callback.
 */
typedef struct {
    const char *bytes;  /* formatted; copied when it is sent */
    int length;
    rl_reply_kind kind; /* of the reply */
    /* reply is the callee's, for freeReplyObject(); NULL: the connection ended before it came. */
    void (*on_reply)(void *data, redisReply *reply);
    /*
     * The connection ended before any byte was sent: the command certainly did not run, and may be
     * sent again over the next one. NULL: on_reply(data, NULL) then, too.
     */
    void (*on_unsent)(void *data);
    void *data;
} rl_command;

typedef struct {
    int64_t connect_us; /* to connect, and again to shake hands */
    int64_t silent_us;  /* a link that owes replies and is silent for so long is closed */
    const rl_greeting *greetings; /* at least one */
    int greeting_count;
    int loading_count;  /* how many of them, the last ones, load what calls need */
    const rl_tls *tls;  /* NULL: in clear */
    int in_flight;      /* calls that may be sent and unanswered */
    const rl_greeting *sign_of_life; /* any reply to it will do; NULL: none is asked for */
    int64_t check_us;   /* how long that may take */
    /* Takes what comes when no reply is owed, and frees it. NULL: that ends the connection. */
    void (*on_push)(void *push_data, redisReply *reply);
    void *push_data;
} rl_link_options;

/* Makes a link that is down. options are copied, greetings not. */
rl_link *rl_link_create(apr_pool_t *pool, const rl_link_options *options);

/* µs, monotonic. */
int64_t rl_link_clock(void);

/*
 * Begins to connect: to an address in numbers of the endpoint's host, which the endpoint's port
 * belongs to; where it is a unix socket address says nothing.
 */
void rl_link_connect(rl_link *link, const rl_endpoint *at, const char *address);

rl_link_state rl_link_read_state(const rl_link *link);

/* Sends the loading greetings again, ahead of what is sent from now on. Only when ready. */
void rl_link_reload(rl_link *link);

/* What ended the last connection, for logs; "" if nothing did. */
const char *rl_link_error(const rl_link *link);

/* The error of Redis that ended the last handshake; RL_ERROR_KINDS if that was something else. */
rl_error_kind rl_link_refusal(const rl_link *link);

/*
 * Sends a command at the next rl_link_handle_io(). Only when ready and with room in flight; otherwise
 * returns 0, and no callback follows.
 */
int rl_link_send(rl_link *link, const rl_command *command);

/*
 * To be called before something is sent. Over a connection that was idle for long nothing is sent
 * before it is known to be alive: one that the other side has closed meanwhile is found to be down,
 * and one that was idle for longer still is asked for a sign of life, and connecting until that
 * comes. Otherwise, and always when busy, this does nothing. Returns 1 if the state has changed.
 */
int rl_link_check_alive(rl_link *link, int64_t now_us);

/* Whether nothing but a handshake or a sign of life was owed when the last connection ended. */
int rl_link_was_idle(const rl_link *link);

/* How many calls are in flight. */
int rl_link_in_flight(const rl_link *link);

/* The descriptor (-1: none), the poll events to wait for, and when to step at the latest. */
int rl_link_wait(const rl_link *link, short *events, int64_t *due_us);

/* Moves on: revents are what poll() reported, 0 if nothing. */
void rl_link_handle_io(rl_link *link, short revents, int64_t now_us);

/* Ends the connection; every call in flight gets its NULL. */
void rl_link_close(rl_link *link, const char *why);

#endif
