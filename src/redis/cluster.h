/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster: the nodes of a Redis Cluster, and which of them a slot's calls go to.
 *
 * Keeps a table of slots (slots.h) and a node (node.h) for each server in it. The table is read
 * from any seed at the start, corrected by MOVED, and read again in the background when it was
 * found wrong or a node of it is down: then a replica may have taken over. Servers without
 * slots are talked to only when a redirection names them, and let go soon after.
 *
 * rl_cluster_route() and rl_cluster_stop_waiting() may be called from any thread, all else by who steps
 * the nodes. None ever waits. Times are µs on rl_link_clock().
 */
#ifndef RL_CLUSTER_H
#define RL_CLUSTER_H

#include "redis/node.h"
#include "redis/url.h"

typedef struct rl_cluster rl_cluster;

typedef struct {
    const rl_url *url;
    /* Makes a node with a breaker. name and at live as long as the pool and may change. */
    rl_node *(*make_node)(void *owner, const char *name, const rl_endpoint *at);
    void *owner; /* of nodes */
    rl_logger logger;
} rl_cluster_options;

/* Makes a cluster that knows its seeds. options are copied. */
rl_cluster *rl_cluster_create(apr_pool_t *pool, const rl_cluster_options *options);

/*
 * RL_ANSWERED if calls for a slot may be made, else why not. *node is who would get them now; NULL
 * if that is not known yet.
 */
rl_failure rl_cluster_route(rl_cluster *cluster, int slot, rl_node **node);

/* A request has waited in vain for the first table: others shall not. */
void rl_cluster_stop_waiting(rl_cluster *cluster);

/* Who gets a slot's calls; NULL if nobody can have them. */
rl_node *rl_cluster_node(rl_cluster *cluster, int slot);

/* Whether requests may wait for the first table: calls are to be kept. */
int rl_cluster_is_awaited(const rl_cluster *cluster);

/*
 * Where a node's error sends a call: NULL if nowhere. *ask is 1 if the call has to follow an ASKING
 * there. CLUSTERDOWN has the table read again.
 */
rl_node *rl_cluster_redirect(rl_cluster *cluster, const rl_node *from, const char *error,
                             int *ask, int64_t now_us);

/* Does what is due. To be called when the nodes have been looked at. */
void rl_cluster_tick(rl_cluster *cluster, int64_t now_us);

/* When to look at the latest. */
int64_t rl_cluster_due(const rl_cluster *cluster);

/* Nothing to be done until a call or a connection tells of something. */
int rl_cluster_is_quiet(const rl_cluster *cluster);

#endif
