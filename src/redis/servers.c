/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fleet: the servers of Redis that one child talks to, and which of them a call goes to.
 *
 * A guided node is at the place that the watch names, and asks ROLE there before anything else: a
 * sentinel may be late. When it loses its connection, or can make none, the watch is told,
 * searches, and names the place again or another one; only when all sentinels were asked in vain
 * the node has failed.
 *
 * A call's node is found when it is sent, not when it is made: by then the cluster's table may be
 * another. From its first redirection on it goes where that says.
 */
#include <string.h>

#include <apr_strings.h>

#include "redis/servers.h"
#include "redis/cluster.h"
#include "redis/sentinel_monitor.h"

#define TRIES_MAX 5 /* how often a call that did not run is sent again */

struct rl_fleet {
    apr_pool_t *pool;
    rl_node_options node; /* of each */
    rl_node *nodes[RL_SLOTS_NODES];
    int count;
    rl_watch *watch;            /* NULL: no sentinels */
    const rl_endpoint *primary; /* where the node was told to be; NULL: nowhere yet */
    unsigned troubles;          /* of the node, that the watch knows of */
    unsigned failures;          /* of the watch, that the node knows of */
    rl_cluster *cluster;        /* NULL: none */
};

static char asking; /* its address stands for ASKING among the calls of a link */

/* --- Sentinels ---------------------------------------------------------------------------- */

static const char *check_role(void *context, const redisReply *reply)
{
    return rl_watch_take_role(((rl_fleet *)context)->watch, reply);
}

/* Puts ROLE before what loads the script. */
static void ask_for_role(rl_fleet *fleet)
{
    static const char role[] = "*1\r\n$4\r\nROLE\r\n";
    rl_node_options *node = &fleet->node;
    size_t before = (size_t)(node->greeting_count - node->loading_count);
    rl_greeting *greetings = apr_pcalloc(fleet->pool,
                                         sizeof(*greetings) * (size_t)(node->greeting_count + 1));

    memcpy(greetings, node->greetings, sizeof(*greetings) * before);
    greetings[before] = (rl_greeting){.name = "ROLE", .bytes = role, .length = sizeof(role) - 1,
                                      .reply = RL_REPLY_LIST, .check = check_role, .context = fleet};
    memcpy(&greetings[before + 1], &node->greetings[before],
           sizeof(*greetings) * (size_t)node->loading_count);
    node->greetings = greetings;
    node->greeting_count++;
}

static void give_up(rl_fleet *fleet, rl_node *node, int64_t now_us)
{
    const char *error = rl_watch_error(fleet->watch);
    char why[240];

    apr_snprintf(why, sizeof(why), "no sentinel names a primary that answers as one%s%s",
                 *error ? "; of the last one that was asked: " : "", error);
    rl_node_fail(node, why, now_us);
}

/* Tells the node what the watch knows. */
static void follow_watch(rl_fleet *fleet, int64_t now_us)
{
    rl_node *node = fleet->nodes[0];
    const rl_endpoint *at;

    rl_watch_look(fleet->watch, now_us);
    at = rl_watch_primary(fleet->watch);
    if (fleet->failures != rl_watch_failures(fleet->watch) && !rl_node_is_ready(node))
        give_up(fleet, node, now_us);
    fleet->failures = rl_watch_failures(fleet->watch);
    if (!at && !rl_node_is_ready(node)) {
        rl_node_doubt(node);
        fleet->primary = NULL;
    }
    if (!at || at == fleet->primary)
        return;
    rl_node_move(node, at, "another server is the primary now");
    fleet->primary = at;
}

/* Tells the watch when the primary was lost or is not to be reached. */
static void tell_watch(rl_fleet *fleet)
{
    unsigned troubles = rl_node_troubles(fleet->nodes[0]);

    if (troubles == fleet->troubles)
        return;
    fleet->troubles = troubles;
    fleet->primary = NULL;
    rl_watch_doubt(fleet->watch);
}

/* --- Calls -------------------------------------------------------------------------------- */

int rl_fleet_is_cluster(const rl_fleet *fleet)
{
    return fleet->cluster != NULL;
}

rl_failure rl_fleet_route(rl_fleet *fleet, int slot, rl_node **node)
{
    if (fleet->cluster)
        return rl_cluster_route(fleet->cluster, slot, node);
    *node = fleet->nodes[0];
    return rl_node_allows(*node);
}

static rl_call_next send_to_node(rl_call *call)
{
    static const char ask[] = "*1\r\n$6\r\nASKING\r\n";

    if (rl_node_is_awaited(call->node))
        return RL_CALL_WAITS;
    return (!call->ask || rl_node_send(call->node, ask, sizeof(ask) - 1, RL_REPLY_TEXT, &asking))
        && rl_node_send(call->node, call->command, call->length, RL_REPLY_TEXT, call)
        ? RL_CALL_GOES : RL_CALL_ENDS;
}

rl_call_next rl_fleet_send(rl_fleet *fleet, rl_call *call)
{
    if (fleet->cluster && call->tries == 0)
        call->node = rl_cluster_node(fleet->cluster, call->slot);
    if (call->node) {
        rl_node_freshen(call->node);
        return send_to_node(call);
    }
    return rl_cluster_is_awaited(fleet->cluster) ? RL_CALL_WAITS : RL_CALL_ENDS;
}

int rl_fleet_take(rl_fleet *fleet, const void *call, redisReply *reply)
{
    if (call == &asking) {
        if (reply)
            freeReplyObject(reply);
        return 1;
    }
    return fleet->cluster && rl_cluster_take(fleet->cluster, call, reply, rl_link_clock());
}

/* A slot that is being moved, with some keys here and some there: as long as that lasts. */
static int is_to_be_split(const rl_fleet *fleet, rl_error_kind kind)
{
    return fleet->cluster && kind == RL_ERROR_TRYAGAIN;
}

rl_call_next rl_fleet_refused(rl_fleet *fleet, rl_call *call, const char *error)
{
    rl_error_kind kind = rl_error_of(error);
    rl_error_action action = rl_node_refused(call->node, kind, error);
    rl_node *to = fleet->cluster ? rl_cluster_redirect(fleet->cluster, call->node, error,
                                                       &call->ask, rl_link_clock()) : NULL;

    if (rl_call_is_forsaken(call) || call->tries++ >= TRIES_MAX || is_to_be_split(fleet, kind))
        return RL_CALL_ENDS;
    if (to)
        call->node = to;
    else if (action != RL_DO_RELOAD && action != RL_DO_RETRY)
        return RL_CALL_ENDS;
    return send_to_node(call);
}

/* --- All together ------------------------------------------------------------------------- */

void rl_fleet_look(rl_fleet *fleet, int64_t now_us)
{
    if (fleet->watch)
        follow_watch(fleet, now_us);
    for (int i = 0; i < fleet->count; i++)
        rl_node_look(fleet->nodes[i], now_us);
    if (fleet->watch)
        tell_watch(fleet);
    if (fleet->cluster)
        rl_cluster_look(fleet->cluster, now_us);
}

static void ask_sooner(int64_t *due_us, int64_t than_us)
{
    if (than_us < *due_us)
        *due_us = than_us;
}

int rl_fleet_wait(rl_fleet *fleet, struct pollfd *fds, int *others, int64_t *due_us)
{
    int64_t now_us = rl_link_clock(), node_due_us;

    for (int i = 0; i < fleet->count; i++) {
        fds[i].fd = rl_node_wait(fleet->nodes[i], now_us, &fds[i].events, &node_due_us);
        fds[i].revents = 0;
        ask_sooner(due_us, node_due_us);
    }
    *others = fleet->watch != NULL;
    if (fleet->watch) {
        struct pollfd *fd = &fds[fleet->count];

        fd->fd = rl_watch_wait(fleet->watch, &fd->events, &node_due_us);
        fd->revents = 0;
        ask_sooner(due_us, node_due_us);
    }
    if (fleet->cluster)
        ask_sooner(due_us, rl_cluster_due(fleet->cluster));
    return fleet->count;
}

void rl_fleet_step(rl_fleet *fleet, const struct pollfd *fds, int count, int64_t now_us)
{
    for (int i = 0; i < fleet->count; i++)
        rl_node_step(fleet->nodes[i], fds && i < count ? fds[i].revents : 0, now_us);
    if (fleet->watch)
        rl_watch_step(fleet->watch, fds ? fds[count].revents : 0, now_us);
}

int rl_fleet_is_settled(const rl_fleet *fleet)
{
    for (int i = 0; i < fleet->count; i++) {
        if (!rl_node_is_settled(fleet->nodes[i]))
            return 0;
    }
    return (!fleet->watch || rl_watch_is_settled(fleet->watch))
        && (!fleet->cluster || rl_cluster_is_settled(fleet->cluster));
}

int rl_fleet_is_any_open(const rl_fleet *fleet)
{
    for (int i = 0; i < fleet->count; i++) {
        if (rl_node_is_open(fleet->nodes[i]))
            return 1;
    }
    return 0;
}

int rl_fleet_probe(rl_fleet *fleet, int64_t now_us)
{
    int probing = 0;

    for (int i = 0; i < fleet->count; i++) {
        if (rl_node_is_open(fleet->nodes[i]))
            probing |= rl_node_probe(fleet->nodes[i], now_us);
    }
    return probing;
}

void rl_fleet_hurry_all(rl_fleet *fleet)
{
    if (fleet->cluster)
        rl_cluster_hurry(fleet->cluster);
}

void rl_fleet_close(rl_fleet *fleet, const char *why)
{
    for (int i = 0; i < fleet->count; i++)
        rl_node_close(fleet->nodes[i], why);
    if (fleet->watch)
        rl_watch_close(fleet->watch);
    rl_resolver_close(fleet->node.resolver);
}

/* --- Life --------------------------------------------------------------------------------- */

static rl_node *add_node(void *owner, const char *name, const rl_endpoint *at)
{
    rl_fleet *fleet = owner;

    fleet->nodes[fleet->count] = rl_node_create(fleet->pool, &fleet->node, name, at);
    return fleet->nodes[fleet->count++];
}

rl_fleet *rl_fleet_create(apr_pool_t *pool, const rl_topology *topology,
                          const rl_node_options *node)
{
    rl_fleet *fleet = apr_pcalloc(pool, sizeof(*fleet));
    rl_resolver *resolver = rl_resolver_create(pool);
    rl_watch_options watch = {topology, node->tls, node->sentinel_credentials, resolver,
                              node->connect_ms, node->retry.retry_min_ms,
                              node->retry.retry_max_ms, node->logger};
    rl_cluster_options cluster = {topology, add_node, fleet, node->logger};

    fleet->pool = pool;
    fleet->node = *node;
    fleet->node.resolver = resolver;
    switch (topology->kind) {
    case RL_TOPOLOGY_CLUSTER:
        fleet->node.in_cluster = 1;
        fleet->cluster = rl_cluster_create(pool, &cluster);
        break;
    case RL_TOPOLOGY_SENTINEL:
        fleet->node.guided = 1;
        fleet->watch = rl_watch_create(pool, &watch);
        ask_for_role(fleet);
        add_node(fleet, apr_pstrcat(pool, topology->primary, " (by Sentinel)", NULL), NULL);
        break;
    default:
        add_node(fleet, topology->name, &topology->endpoints[0]);
    }
    return fleet;
}
