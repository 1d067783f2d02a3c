/* SPDX-License-Identifier: Apache-2.0 */
/*
 * servers: the servers of Redis that one child talks to, and which of them a call goes to.
 *
 * There is one server, or one that sentinels name (sentinel_monitor.h), or those of a cluster
 * (cluster.h). The client need not know which. Each server is a node (node.h).
 *
 * One thread at a time owns and ticks them. Only the functions of the first section may be called
 * from any thread. None ever waits. Times are µs on rl_link_clock().
 */
#ifndef RL_SERVERS_H
#define RL_SERVERS_H

#include <poll.h>

#include "redis/call.h"
#include "redis/node.h"
#include "redis/slots.h"
#include "redis/url.h"

#define RL_SERVERS_FDS (RL_SLOTS_NODES + 1)

typedef struct rl_servers rl_servers;

/* What happens to a call next: it is complete, in flight, or to be kept for a later try. */
typedef enum { RL_CALL_ENDS, RL_CALL_GOES, RL_CALL_WAITS } rl_call_next;

/* Makes the servers of a URL. node has the options that their nodes share, and is copied. */
rl_servers *rl_servers_create(apr_pool_t *pool, const rl_url *url,
                              const rl_node_options *node);

/* --- Any thread --------------------------------------------------------------------------- */

/* Whether keys of different slots may be on different servers. */
int rl_servers_is_cluster(const rl_servers *servers);

/*
 * RL_ANSWERED if calls for a slot may be made, else why not. *node would get them now; NULL if that
 * is not known yet.
 */
rl_failure rl_servers_route(rl_servers *servers, int slot, rl_node **node);

/* A request has waited in vain for its node to be known: the next ones do not wait for that. */
void rl_servers_stop_waiting(rl_servers *servers);

/* --- The owner ---------------------------------------------------------------------------- */

/* Does what is due. Call it before each wait. */
void rl_servers_tick(rl_servers *servers, int64_t now_us);

/*
 * Sends a call to its node. Returns RL_CALL_ENDS if it cannot be sent, RL_CALL_WAITS if the caller
 * must keep it and try again.
 */
rl_call_next rl_servers_send(rl_servers *servers, rl_call *call);

/*
 * Acts on a node's error. Returns RL_CALL_ENDS, unless the call did not run and may be sent again:
 * it was sent then, or the caller must keep it for rl_servers_send().
 */
rl_call_next rl_servers_refused(rl_servers *servers, rl_call *call, const char *error);

/*
 * Sets what to poll, at most RL_SERVERS_FDS descriptors: those of nodes first, whose number it
 * returns, then *others. Lowers *due_us to the time when the next tick is due, if that is sooner.
 */
int rl_servers_wait(rl_servers *servers, struct pollfd *fds, int *others, int64_t *due_us);

/*
 * Does the I/O that is possible. fds: from rl_servers_wait() and poll(), with count nodes, or NULL
 * for nothing.
 */
void rl_servers_handle_io(rl_servers *servers, const struct pollfd *fds, int count, int64_t now_us);

/* Whether nothing is to be done but to send and to receive. */
int rl_servers_is_quiet(const rl_servers *servers);

/* Probes nodes whose breakers are open, as rl_node_probe(). Returns 1 while one is under way. */
int rl_servers_probe(rl_servers *servers, int64_t now_us);

/* Whether the breaker of any node is open. */
int rl_servers_is_any_open(const rl_servers *servers);

/* Ends all connections. The callback of every command in flight is called. */
void rl_servers_close(rl_servers *servers, const char *why);

#endif
