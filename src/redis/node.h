/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node: one server of Redis, as a child sees it.
 *
 * A node keeps a link to its server: it finds and tries addresses, connects again after a pause,
 * opens the breaker, which all children share, when calls or connections fail, and probes the
 * server while the breaker is open. It sends the commands that it is given, and knows nothing of
 * their callers.
 *
 * A node has one owner at a time, which ticks it. Only the functions of the first section may be
 * called from any thread. None ever waits. Times are µs on rl_link_clock().
 */
#ifndef RL_NODE_H
#define RL_NODE_H

#include "redis/breaker.h"
#include "redis/link.h"
#include "redis/logger.h"
#include "redis/prober.h"
#include "redis/resolver.h"

typedef struct rl_node rl_node;

typedef struct {
    int64_t timeout_ms;       /* what a request may wait; a silent link is closed after four */
    int64_t connect_ms;
    int failures;             /* in a row, that end a connection */
    rl_breaker_options retry;
    const rl_greeting *greetings; /* as in rl_link_options */
    int greeting_count;
    int loading_count;
    const rl_greeting *sign_of_life;
    const rl_tls *tls;
    int in_flight;
    rl_probe_maker probe;
    int by_sentinel;          /* sentinels name the server's place before each connection */
    int in_cluster;           /* CLUSTERDOWN and the like do not end the connection */
    int threaded;             /* the owner runs at any time, not only during requests */
    rl_resolver *resolver;    /* the owner's */
    const rl_credentials *sentinel_credentials; /* NULL: none */
    rl_breakers *breakers;    /* shared by all children */
    rl_logger logger;
} rl_node_options;

/*
 * Makes a node that is not connected yet. options are copied, what they point to is not. name is
 * for logs and pages and stays the same wherever the node moves. With by_sentinel, at may be NULL,
 * and the endpoint is dropped when a connection is lost or cannot be made: requests then wait for
 * rl_node_move() or rl_node_fail() as they wait for a connection.
 */
rl_node *rl_node_create(apr_pool_t *pool, const rl_node_options *options, const char *name,
                        const rl_endpoint *at);

/* --- Any thread --------------------------------------------------------------------------- */

const char *rl_node_name(const rl_node *node);

/* RL_ANSWERED if a call may be made, else why not: RL_FAILED_OPEN or RL_FAILED_DOWN. */
rl_failure rl_node_allows(rl_node *node);

/* Counts the result of a call. Returns 1 if it makes a tick due. */
int rl_node_count(rl_node *node, rl_failure failure);

/* Whether its breaker is open and it is not suspended. */
int rl_node_is_open(const rl_node *node);

/* --- The owner ---------------------------------------------------------------------------- */

/* Does what is due: connects, and acts on changes of the link. Call it before each wait. */
void rl_node_tick(rl_node *node, int64_t now_us);

/*
 * While the breaker is open: claims a probe that is due, sends it, and gives up a late one. Call it
 * before rl_node_tick(), when there is time to wait for a reply. Returns 1 while a probe is under
 * way.
 */
int rl_node_probe(rl_node *node, int64_t now_us);

/* Whether requests wait for the connection that is being made. */
int rl_node_is_awaited(const rl_node *node);

/* Whether it is connected or suspended, and nothing is to be done but to send and to receive. */
int rl_node_is_quiet(const rl_node *node);

/* Whether commands can be sent. */
int rl_node_is_ready(const rl_node *node);

/* Whether no command is in flight. */
int rl_node_is_idle(const rl_node *node);

/* How often a connection was lost or could not be made, so far. */
unsigned rl_node_losses(const rl_node *node);

/* A request has waited for the connection in vain: the next ones do not wait for it. */
void rl_node_stop_waiting(rl_node *node);

/* Before a command is sent: checks a connection that was idle, as rl_link_check_alive(). */
void rl_node_check_alive(rl_node *node);

/* As rl_link_send(). */
int rl_node_send(rl_node *node, const rl_command *command);

/*
 * Redis answered with an error of this kind; text is NULL for one in a handshake. Counts it, and
 * does the node's part of the kind's action, which it returns. Sending a call again is the caller's
 * part.
 */
rl_error_action rl_node_refused(rl_node *node, rl_error_kind kind, const char *text);

/* Returns the descriptor to poll (-1: none). *due_us: when the next tick is due at the latest. */
int rl_node_wait(const rl_node *node, int64_t now_us, short *events, int64_t *due_us);

/* Does the link's I/O. revents: from poll(), 0 for nothing. */
void rl_node_handle_io(rl_node *node, short revents, int64_t now_us);

/*
 * The server has another endpoint, or its host name may have another address: closes the
 * connection, looks the name up, and connects to this endpoint, which must live as long as the node
 * is there.
 */
void rl_node_move(rl_node *node, const rl_endpoint *at, const char *why);

/* No sentinel knows where the server is: counts a failed attempt to connect. */
void rl_node_fail(rl_node *node, const char *why, int64_t now_us);

/* Sentinels are being asked where the server is: stays connected, but does not connect again. */
void rl_node_invalidate(rl_node *node);

/* The node's name and endpoint have changed in place, to those of another server. Suspends it. */
void rl_node_replace(rl_node *node);

/* As rl_prober_set_tag(). */
void rl_node_set_probe_tag(rl_node *node, const char *tag);

/* Nothing needs the server: closes the connection and the breaker, until rl_node_resume(). */
void rl_node_suspend(rl_node *node);
void rl_node_resume(rl_node *node, int64_t now_us);

/* Ends the connection. The callback of every command in flight is called. */
void rl_node_close(rl_node *node, const char *why);

#endif
