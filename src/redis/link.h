/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link: one connection to one node of Redis.
 *
 * A state machine that its owner drives, when its descriptor is ready or its time has come. It
 * connects, sends its greetings, sends commands in order, and hands each reply to the command that
 * it belongs to. It never blocks, sleeps or looks up a name.
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

/* A command. Each one that rl_link_send() accepts ends with exactly one callback. */
typedef struct {
    const char *bytes;  /* formatted; copied by rl_link_send() */
    int length;
    rl_reply_kind kind; /* of the reply */
    /* Gets the reply, and frees it by freeReplyObject(); NULL: the connection ended before. */
    void (*on_reply)(void *data, redisReply *reply);
    /*
     * The connection ended before any byte was sent: the command did not run, and may be sent again
     * over the next connection. NULL: on_reply(data, NULL) is called instead.
     */
    void (*on_unsent)(void *data);
    void *data;
} rl_command;

typedef struct {
    int64_t connect_us; /* for the connection, and again for the handshake */
    int64_t silent_us;  /* a link that owes replies and receives nothing for so long is closed */
    const rl_greeting *greetings; /* at least one */
    int greeting_count;
    int loading_count;  /* how many of them, the last ones, load scripts */
    const rl_tls *tls;  /* NULL: in clear */
    int in_flight;      /* commands that may wait for their replies at a time */
    const rl_greeting *sign_of_life; /* any reply to it will do; NULL: idle links are not checked */
    int64_t check_us;   /* how long the reply may take */
    /* Gets a reply that no command waits for, and frees it. NULL: it ends the connection. */
    void (*on_push)(void *push_data, redisReply *reply);
    void *push_data;
} rl_link_options;

/* Makes a link that is down. options are copied, greetings are not. */
rl_link *rl_link_create(apr_pool_t *pool, const rl_link_options *options);

/* µs, monotonic. */
int64_t rl_link_clock(void);

/*
 * Begins to connect, to a numeric address of the endpoint's host and to the endpoint's port, or to
 * its unix socket; address is not used then.
 */
void rl_link_connect(rl_link *link, const rl_endpoint *at, const char *address);

rl_link_state rl_link_read_state(const rl_link *link);

/* Sends the loading greetings again, before all later commands. Does nothing unless ready. */
void rl_link_reload(rl_link *link);

/* Why the last connection ended, for logs; "" if none did. */
const char *rl_link_error(const rl_link *link);

/* The error reply that ended the last handshake; RL_ERROR_KINDS: something else did. */
rl_error_kind rl_link_refusal(const rl_link *link);

/*
 * Sends a command at the next rl_link_handle_io(). Returns 0 if the link is not ready or too many
 * commands are in flight; no callback follows then.
 */
int rl_link_send(rl_link *link, const rl_command *command);

/*
 * Call it before sending. Makes sure that a connection that was idle is alive: after a second
 * without a call, checks whether the server has closed it; after five, asks the server for a sign
 * of life, and is connecting until that comes. Does nothing while commands are in flight. Returns 1
 * if the state has changed.
 */
int rl_link_check_alive(rl_link *link, int64_t now_us);

/* Whether no command was in flight when the last connection ended. */
int rl_link_was_idle(const rl_link *link);

/* How many commands are in flight. */
int rl_link_in_flight(const rl_link *link);

/* Returns the descriptor to poll (-1: none). *due_us: when to handle I/O at the latest. */
int rl_link_wait(const rl_link *link, short *events, int64_t *due_us);

/* Does the I/O that is possible, and what is due. revents: from poll(), 0 for nothing. */
void rl_link_handle_io(rl_link *link, short revents, int64_t now_us);

/* Ends the connection. The callback of every command in flight is called. */
void rl_link_close(rl_link *link, const char *why);

#endif
