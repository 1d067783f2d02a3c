/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster: the nodes of a Redis Cluster, and which of them a slot's calls go to.
 *
 * Keeps a table of slots (slots.h) and a node (node.h) for each server in it. The table is read
 * from any seed at the start, corrected by MOVED, and read again in the background when it was
 * found wrong or a node of it is down: a replica may have taken over then. Servers without slots
 * are connected only while redirections name them.
 *
 * rl_cluster_route() and rl_cluster_stop_waiting() may be called from any thread, all others by the
 * owner of the nodes. None ever waits. Times are µs on rl_link_clock().
 */
#ifndef RL_CLUSTER_H
#define RL_CLUSTER_H

#include "redis/node.h"
#include "redis/url.h"

typedef struct rl_cluster rl_cluster;

typedef struct {
    const rl_url *url;
    /* Makes a node. name and at live as long as the pool; rl_node_replace() follows a change. */
    rl_node *(*make_node)(void *owner, const char *name, const rl_endpoint *at);
    void *owner; /* make_node's */
    rl_logger logger;
} rl_cluster_options;

/* Makes a cluster that knows only its seeds. options are copied. */
rl_cluster *rl_cluster_create(apr_pool_t *pool, const rl_cluster_options *options);

/*
 * RL_ANSWERED if calls for a slot may be made, else why not. *node would get them now; NULL if that
 * is not known yet.
 */
rl_failure rl_cluster_route(rl_cluster *cluster, int slot, rl_node **node);

/* A request has waited for the first table in vain: the next ones do not wait for it. */
void rl_cluster_stop_waiting(rl_cluster *cluster);

/* The node that gets a slot's calls; NULL if none can. */
rl_node *rl_cluster_node(rl_cluster *cluster, int slot);

/* Whether calls wait for the first table. */
int rl_cluster_is_awaited(const rl_cluster *cluster);

/*
 * The node that an error of another node redirects a call to; NULL if it is no redirection. *ask:
 * the call must follow ASKING there. MOVED and CLUSTERDOWN have the table read again.
 */
rl_node *rl_cluster_redirect(rl_cluster *cluster, const rl_node *from, const char *error,
                             int *ask, int64_t now_us);

/* Does what is due. Call it after the ticks of the nodes. */
void rl_cluster_tick(rl_cluster *cluster, int64_t now_us);

/* When the next tick is due. */
int64_t rl_cluster_due(const rl_cluster *cluster);

/* Nothing is to be done until a call or a connection fails. */
int rl_cluster_is_quiet(const rl_cluster *cluster);

#endif
