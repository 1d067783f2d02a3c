/* SPDX-License-Identifier: Apache-2.0 */
/*
 * servers: the servers of Redis that one child talks to, and which of them a call goes to.
 *
 * With sentinels, the one node connects to the address that the monitor names, and sends ROLE there
 * before the scripts: a sentinel may not have noticed a failover yet. When the node loses its
 * connection, or cannot make one, the monitor searches again and names the same address or another.
 * The node has failed only when all sentinels were asked in vain.
 *
 * In a cluster, a call's node is found when the call is sent, because the table may have changed
 * since it was made. After a redirection it goes to the node that the redirection names.
 */
#include <string.h>

#include <apr_strings.h>

#include "redis/servers.h"
#include "redis/cluster.h"
#include "redis/sentinel_monitor.h"

#define TRIES_MAX 5 /* how often a call that did not run is sent again */

struct rl_servers {
    apr_pool_t *pool;
    rl_node_options node; /* of each */
    rl_node *nodes[RL_SLOTS_NODES];
    int count;
    rl_sentinel_monitor *monitor; /* NULL: no sentinels */
    const rl_endpoint *primary;   /* that the node was moved to; NULL: none yet */
    unsigned losses;              /* of the node, at the last tick */
    unsigned failures;            /* of the monitor, at the last tick */
    rl_cluster *cluster;          /* NULL: none */
};

/* --- Sentinels ---------------------------------------------------------------------------- */

static const char *check_role(void *context, const redisReply *reply)
{
    return rl_sentinel_monitor_take_role(((rl_servers *)context)->monitor, reply);
}

/* Inserts ROLE before the greetings that load the scripts. */
static void ask_for_role(rl_servers *servers)
{
    static const char role[] = "*1\r\n$4\r\nROLE\r\n";
    rl_node_options *node = &servers->node;
    size_t before = (size_t)(node->greeting_count - node->loading_count);
    rl_greeting *greetings = apr_pcalloc(servers->pool,
                                         sizeof(*greetings) * (size_t)(node->greeting_count + 1));

    memcpy(greetings, node->greetings, sizeof(*greetings) * before);
    greetings[before] = (rl_greeting){.name = "ROLE", .bytes = role, .length = sizeof(role) - 1,
                                      .reply = RL_REPLY_LIST, .check = check_role,
                                      .context = servers};
    memcpy(&greetings[before + 1], &node->greetings[before],
           sizeof(*greetings) * (size_t)node->loading_count);
    node->greetings = greetings;
    node->greeting_count++;
}

static void give_up(rl_servers *servers, rl_node *node, int64_t now_us)
{
    const char *error = rl_sentinel_monitor_error(servers->monitor);
    char why[240];

    apr_snprintf(why, sizeof(why), "no sentinel names a primary that answers as a primary%s%s",
                 *error ? "; the last one that was asked: " : "", error);
    rl_node_fail(node, why, now_us);
}

/* Passes on to the node what the monitor has found. */
static void follow_monitor(rl_servers *servers, int64_t now_us)
{
    rl_sentinel_monitor *monitor = servers->monitor;
    rl_node *node = servers->nodes[0];
    const rl_endpoint *at;

    rl_sentinel_monitor_tick(monitor, now_us);
    at = rl_sentinel_monitor_primary(monitor);
    if (servers->failures != rl_sentinel_monitor_failures(monitor) && !rl_node_is_ready(node))
        give_up(servers, node, now_us);
    servers->failures = rl_sentinel_monitor_failures(monitor);
    if (!at && !rl_node_is_ready(node)) {
        rl_node_invalidate(node);
        servers->primary = NULL;
    }
    if (!at || at == servers->primary)
        return;
    rl_node_move(node, at, "another server is the primary now");
    servers->primary = at;
}

/* Has the monitor search again when the primary was lost or cannot be reached. */
static void tell_monitor(rl_servers *servers)
{
    unsigned losses = rl_node_losses(servers->nodes[0]);

    if (losses == servers->losses)
        return;
    servers->losses = losses;
    servers->primary = NULL;
    rl_sentinel_monitor_invalidate(servers->monitor);
}

/* --- Calls -------------------------------------------------------------------------------- */

int rl_servers_is_cluster(const rl_servers *servers)
{
    return servers->cluster != NULL;
}

rl_failure rl_servers_route(rl_servers *servers, int slot, rl_node **node)
{
    if (servers->cluster)
        return rl_cluster_route(servers->cluster, slot, node);
    *node = servers->nodes[0];
    return rl_node_allows(*node);
}

static void drop_reply(void *data, redisReply *reply)
{
    (void)data;
    if (reply)
        freeReplyObject(reply);
}

static rl_call_next send_to_node(rl_call *call)
{
    static const char bytes[] = "*1\r\n$6\r\nASKING\r\n";
    static const rl_command asking = {.bytes = bytes, .length = sizeof(bytes) - 1,
                                      .kind = RL_REPLY_TEXT, .on_reply = drop_reply};

    if (rl_node_is_awaited(call->node))
        return RL_CALL_WAITS;
    return (!call->ask || rl_node_send(call->node, &asking))
        && rl_node_send(call->node, &call->command) ? RL_CALL_GOES : RL_CALL_ENDS;
}

rl_call_next rl_servers_send(rl_servers *servers, rl_call *call)
{
    if (servers->cluster && call->tries == 0)
        call->node = rl_cluster_node(servers->cluster, call->slot);
    if (call->node) {
        rl_node_check_alive(call->node);
        return send_to_node(call);
    }
    return rl_cluster_is_awaited(servers->cluster) ? RL_CALL_WAITS : RL_CALL_ENDS;
}

/* The slot is being moved and has keys at both ends: the caller splits the call. */
static int is_to_be_split(const rl_servers *servers, rl_error_kind kind)
{
    return servers->cluster && kind == RL_ERROR_TRYAGAIN;
}

rl_call_next rl_servers_refused(rl_servers *servers, rl_call *call, const char *error)
{
    rl_error_kind kind = rl_error_of(error);
    rl_error_action action = rl_node_refused(call->node, kind, error);
    rl_node *to = servers->cluster ? rl_cluster_redirect(servers->cluster, call->node, error,
                                                         &call->ask, rl_link_clock()) : NULL;

    if (rl_call_is_cancelled(call) || call->tries++ >= TRIES_MAX || is_to_be_split(servers, kind))
        return RL_CALL_ENDS;
    if (to)
        call->node = to;
    else if (action != RL_DO_RELOAD && action != RL_DO_RETRY)
        return RL_CALL_ENDS;
    return send_to_node(call);
}

/* --- All together ------------------------------------------------------------------------- */

void rl_servers_tick(rl_servers *servers, int64_t now_us)
{
    if (servers->monitor)
        follow_monitor(servers, now_us);
    for (int i = 0; i < servers->count; i++)
        rl_node_tick(servers->nodes[i], now_us);
    if (servers->monitor)
        tell_monitor(servers);
    if (servers->cluster)
        rl_cluster_tick(servers->cluster, now_us);
}

static void lower(int64_t *due_us, int64_t than_us)
{
    if (than_us < *due_us)
        *due_us = than_us;
}

int rl_servers_wait(rl_servers *servers, struct pollfd *fds, int *others, int64_t *due_us)
{
    int64_t now_us = rl_link_clock(), node_due_us;

    for (int i = 0; i < servers->count; i++) {
        fds[i].fd = rl_node_wait(servers->nodes[i], now_us, &fds[i].events, &node_due_us);
        fds[i].revents = 0;
        lower(due_us, node_due_us);
    }
    *others = servers->monitor != NULL;
    if (servers->monitor) {
        struct pollfd *fd = &fds[servers->count];

        fd->fd = rl_sentinel_monitor_wait(servers->monitor, &fd->events, &node_due_us);
        fd->revents = 0;
        lower(due_us, node_due_us);
    }
    if (servers->cluster)
        lower(due_us, rl_cluster_due(servers->cluster));
    return servers->count;
}

void rl_servers_handle_io(rl_servers *servers, const struct pollfd *fds, int count, int64_t now_us)
{
    for (int i = 0; i < servers->count; i++)
        rl_node_handle_io(servers->nodes[i], fds && i < count ? fds[i].revents : 0, now_us);
    if (servers->monitor)
        rl_sentinel_monitor_handle_io(servers->monitor, fds ? fds[count].revents : 0, now_us);
}

int rl_servers_is_quiet(const rl_servers *servers)
{
    for (int i = 0; i < servers->count; i++) {
        if (!rl_node_is_quiet(servers->nodes[i]))
            return 0;
    }
    return (!servers->monitor || rl_sentinel_monitor_is_quiet(servers->monitor))
        && (!servers->cluster || rl_cluster_is_quiet(servers->cluster));
}

int rl_servers_is_any_open(const rl_servers *servers)
{
    for (int i = 0; i < servers->count; i++) {
        if (rl_node_is_open(servers->nodes[i]))
            return 1;
    }
    return 0;
}

int rl_servers_probe(rl_servers *servers, int64_t now_us)
{
    int probing = 0;

    for (int i = 0; i < servers->count; i++) {
        if (rl_node_is_open(servers->nodes[i]))
            probing |= rl_node_probe(servers->nodes[i], now_us);
    }
    return probing;
}

void rl_servers_stop_waiting(rl_servers *servers)
{
    if (servers->cluster)
        rl_cluster_stop_waiting(servers->cluster);
}

void rl_servers_close(rl_servers *servers, const char *why)
{
    for (int i = 0; i < servers->count; i++)
        rl_node_close(servers->nodes[i], why);
    if (servers->monitor)
        rl_sentinel_monitor_close(servers->monitor);
    rl_resolver_close(servers->node.resolver);
}

/* --- Life --------------------------------------------------------------------------------- */

static rl_node *add_node(void *owner, const char *name, const rl_endpoint *at)
{
    rl_servers *servers = owner;

    servers->nodes[servers->count] = rl_node_create(servers->pool, &servers->node, name, at);
    return servers->nodes[servers->count++];
}

rl_servers *rl_servers_create(apr_pool_t *pool, const rl_url *url,
                              const rl_node_options *node)
{
    rl_servers *servers = apr_pcalloc(pool, sizeof(*servers));
    rl_resolver *resolver = rl_resolver_create(pool);
    rl_sentinel_monitor_options monitor = {url, node->tls, node->sentinel_credentials, resolver,
                              node->connect_ms, node->retry.retry_min_ms,
                              node->retry.retry_max_ms, node->logger};
    rl_cluster_options cluster = {url, add_node, servers, node->logger};

    servers->pool = pool;
    servers->node = *node;
    servers->node.resolver = resolver;
    switch (url->kind) {
    case RL_URL_CLUSTER:
        servers->node.in_cluster = 1;
        servers->cluster = rl_cluster_create(pool, &cluster);
        break;
    case RL_URL_SENTINEL:
        servers->node.by_sentinel = 1;
        servers->monitor = rl_sentinel_monitor_create(pool, &monitor);
        ask_for_role(servers);
        add_node(servers, apr_pstrcat(pool, url->primary, " (by Sentinel)", NULL), NULL);
        break;
    default:
        add_node(servers, url->name, &url->endpoints[0]);
    }
    return servers;
}
