/* SPDX-License-Identifier: Apache-2.0 */
/*
 * servers: the servers of Redis that one child talks to, and which of them a call goes to.
 *
 * There is one server, or one that sentinels point to (sentinel_monitor.h), or those of a cluster
 * (cluster.h): here is what the client need not know of that. Each server is a node (node.h).
 *
 * One thread at a time owns them and steps them; functions say if any thread may call them. None
 * ever waits. Times are µs on rl_link_clock().
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

/* What becomes of a call after its reply. */
typedef enum { RL_CALL_ENDS, RL_CALL_GOES, RL_CALL_WAITS } rl_call_next;

/* Makes the servers of a URL. node is what their nodes have in common, and is copied. */
rl_servers *rl_servers_create(apr_pool_t *pool, const rl_url *url,
                              const rl_node_options *node);

/* --- Any thread --------------------------------------------------------------------------- */

/* Keys of different slots may be at different servers. */
int rl_servers_is_cluster(const rl_servers *servers);

/*
 * RL_ANSWERED if calls for a slot may be made, else why not. *node is who would get them now; NULL
 * if that is not known yet.
 */
rl_failure rl_servers_route(rl_servers *servers, int slot, rl_node **node);

/* A request has waited in vain, and its node was not known yet: others shall not wait for that. */
void rl_servers_stop_waiting(rl_servers *servers);

/* --- The owner ---------------------------------------------------------------------------- */

/* Does what is due. To be called before each wait. */
void rl_servers_tick(rl_servers *servers, int64_t now_us);

/*
 * Sends a call to the node that it goes to. RL_CALL_ENDS if it cannot be sent, RL_CALL_WAITS if it
 * has to be kept and given again.
 */
rl_call_next rl_servers_send(rl_servers *servers, rl_call *call);

/*
 * Does what a node's error asks for. RL_CALL_ENDS unless the call certainly did not run and may be
 * sent again: then it has been, or has to be kept and given to rl_servers_send().
 */
rl_call_next rl_servers_refused(rl_servers *servers, rl_call *call, const char *error);

/*
 * What to poll: the descriptors of nodes, then of what else there is, at most RL_SERVERS_FDS;
 * returns how many of each. When to look at the latest comes in *due_us, if that is sooner.
 */
int rl_servers_wait(rl_servers *servers, struct pollfd *fds, int *others, int64_t *due_us);

/*
 * Moves on: fds is what poll() reported of what rl_servers_wait() gave, count nodes first, or NULL.
 */
void rl_servers_handle_io(rl_servers *servers, const struct pollfd *fds, int count, int64_t now_us);

/* Nothing to be done but to send and to receive. */
int rl_servers_is_quiet(const rl_servers *servers);

/* Probes nodes whose breakers are open, as rl_node_probe(). Returns 1 while one is under way. */
int rl_servers_probe(rl_servers *servers, int64_t now_us);
int rl_servers_is_any_open(const rl_servers *servers);

/* Ends all connections; every call in flight gets its NULL. */
void rl_servers_close(rl_servers *servers, const char *why);

#endif
