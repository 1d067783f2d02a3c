/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node: one server of Redis in the life of a child.
 *
 * A link and what keeps it alive: addresses are found and tried, a lost connection is made again
 * after a pause, failures climb the ladder to the breaker, which all children share, and an open
 * breaker's server is probed. Who has calls for it hands them over one by one; which calls these
 * are, and who waits for them, is not known here.
 *
 * One owner at a time steps a node; functions say if any thread may call them. None ever waits.
 * Times are µs on rl_link_clock().
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
    int failures;             /* in a row that end a connection */
    rl_breaker_options retry;
    const rl_greeting *greetings; /* as in rl_link_options */
    int greeting_count;
    int loading_count;
    const rl_greeting *sign_of_life;
    const rl_tls *tls;
    int in_flight;
    rl_probe_maker probe;
    int by_sentinel;          /* sentinels name the server's place before each connection */
    int in_cluster;           /* what is wrong with a slot is not the server's fault */
    int threaded;             /* its owner has time of its own, and is not a request */
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

/* Counts what became of a call. Returns 1 if the owner has to look at the node because of it. */
int rl_node_count(rl_node *node, rl_failure failure);

/* Its breaker is open, and it is not suspended. */
int rl_node_is_open(const rl_node *node);

/* --- The owner ---------------------------------------------------------------------------- */

/*
 * Does what is due: connects, notices what has become of the link. To be called before each wait.
 */
void rl_node_tick(rl_node *node, int64_t now_us);

/*
 * While the breaker is open: claims a probe that is due, sends it, and gives up on a late one. To
 * be called before rl_node_tick(), by owners who have the time. Returns 1 while a probe is under
 * way.
 */
int rl_node_probe(rl_node *node, int64_t now_us);

/* Whether requests may wait for the connection that is being made: calls for it are to be kept. */
int rl_node_is_awaited(const rl_node *node);

/* Connected, and nothing to be done but to send and to receive. */
int rl_node_is_quiet(const rl_node *node);

/* Connected: calls can be sent. */
int rl_node_is_ready(const rl_node *node);

/* No call is in flight. */
int rl_node_is_idle(const rl_node *node);

/* How often a connection was lost or could not be made: grows. */
unsigned rl_node_losses(const rl_node *node);

/* One request has waited in vain for the connection: others shall not. */
void rl_node_stop_waiting(rl_node *node);

/* Before a call is sent: sees to it that the connection has not died while it was idle. */
void rl_node_check_alive(rl_node *node);

/* As rl_link_send(). */
int rl_node_send(rl_node *node, const rl_command *command);

/*
 * Redis answered a call with an error of this kind: counts it and does what the node has to do
 * about it, which is not to send the call again. Returns the kind's action, for the caller.
 */
rl_error_action rl_node_refused(rl_node *node, rl_error_kind kind, const char *text);

/* The descriptor (-1: none), the poll events to wait for, and when to look at the latest. */
int rl_node_wait(const rl_node *node, int64_t now_us, short *events, int64_t *due_us);

/* Moves the link on: revents are what poll() reported, 0 if nothing. */
void rl_node_handle_io(rl_node *node, short revents, int64_t now_us);

/*
 * The node's server is another one, or the name of its host has a new meaning: closes the
 * connection and makes it again at this endpoint, which must live as long as the node stays there,
 * once its name has been resolved again.
 */
void rl_node_move(rl_node *node, const rl_endpoint *at, const char *why);

/* No sentinel knows where the server is: counts a failed attempt to connect. */
void rl_node_fail(rl_node *node, const char *why, int64_t now_us);

/* Sentinels are being asked where the server is: stays connected, but does not connect again. */
void rl_node_invalidate(rl_node *node);

/* The node's name and endpoint have changed in place: they mean another server. Suspends it. */
void rl_node_replace(rl_node *node);

/* The tag of the keys of its probes, with less than RL_PROBE_TAG bytes. */
void rl_node_set_probe_tag(rl_node *node, const char *tag);

/* Nobody needs the server: ends the connection and forgets failures, until rl_node_resume(). */
void rl_node_suspend(rl_node *node);
void rl_node_resume(rl_node *node, int64_t now_us);

/* Ends the connection; every call in flight gets its NULL. */
void rl_node_close(rl_node *node, const char *why);

#endif
