/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster: the nodes of a Redis Cluster, and which of them a slot's calls go to.
 *
 * A server has a place, at its index in the table of slots, and the place has a node. Places are
 * made when they are needed and never freed, so a caller may keep a pointer to a node. When a place
 * gets another server, its node is replaced. A node without slots that has had no calls for a while
 * is suspended: it has no connection, and its breaker is reset.
 *
 * The table is stale when MOVED has corrected it, when a slot has no owner, and as long as a node
 * that has slots is down or its breaker open. A stale table is read again from one node after the
 * other, at most ten times a second, or twice a second while nodes stay down. If no node is up, the
 * seeds are tried: all servers may have new addresses.
 */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include "redis/cluster.h"
#include "redis/slots.h"

#define SEED_US 20000      /* until the next seed is tried, too */
#define PAUSE_US 100000    /* between two readings of the table */
#define PAUSE_MAX_US 500000
#define SUSPEND_US 1000000 /* without slots and calls until a connection is closed */

/* A server of the cluster. */
typedef struct {
    uint32_t serial;   /* of its server, in the table */
    rl_node *node;
    rl_endpoint at;
    char host[RL_HOST_SIZE];
    char name[RL_HOST_SIZE + 10];
    int suspended;
    int has_no_table;  /* it had none when it was asked */
    int64_t wanted_us; /* last named by a redirection */
    int probe_slot;    /* of its probe's keys; RL_SLOTS_NOBODY: none */
} place;

struct rl_cluster {
    rl_cluster_options options;
    apr_pool_t *pool;
    rl_slots slots;
    place *_Atomic places[RL_SLOTS_NODES]; /* read by callers, too: set when complete */
    atomic_int accepting; /* there is a table, or requests may wait for the first one */
    atomic_int gave_up;   /* a request has waited in vain for the first one */
    int known;            /* there is a table */
    int stale;
    int asking;           /* for the table */
    int asked;            /* the index of the node asked last */
    int seed;             /* the next one to try */
    int seeds_left;       /* to be tried for the first time */
    int64_t ask_at_us;    /* not before */
    int64_t seed_at_us;   /* likewise, to try the next seed */
    int64_t pause_us;
    int was_logged;       /* that there is no table */
};

/* --- Places ------------------------------------------------------------------------------- */

static void resume(place *p, int64_t now_us)
{
    p->wanted_us = now_us;
    if (p->suspended)
        rl_node_resume(p->node, now_us);
    p->suspended = 0;
}

static void name_place(place *p, const rl_slots_node *server)
{
    apr_cpystrn(p->host, server->host, sizeof(p->host));
    apr_snprintf(p->name, sizeof(p->name), strchr(p->host, ':') ? "[%s]:%d" : "%s:%d", p->host,
                 server->port);
    p->at.name = p->name;
    p->at.host = p->host;
    p->at.port = (apr_port_t)server->port;
    p->serial = server->serial;
    p->probe_slot = RL_SLOTS_NOBODY;
}

/* The place of a server in the table. Makes it, or gives its node the new server. */
static place *place_of(rl_cluster *c, int index, int64_t now_us)
{
    const rl_slots_node *server = &c->slots.nodes[index];
    place *p = c->places[index];

    if (!p) {
        p = apr_pcalloc(c->pool, sizeof(*p));
        name_place(p, server);
        p->node = c->options.make_node(c->options.owner, p->name, &p->at);
        p->wanted_us = now_us;
        c->places[index] = p;
        rl_node_tick(p->node, now_us);
    }
    else if (p->serial != server->serial) {
        name_place(p, server);
        rl_node_replace(p->node);
        p->suspended = 1;
    }
    return p;
}

static int has_slots(const rl_cluster *c, int index)
{
    return c->slots.nodes[index].slots > 0;
}

/* Suspends the node of a server that has no slots and gets no calls. */
static void suspend_if_unused(rl_cluster *c, int index, int64_t now_us)
{
    place *p = c->places[index];

    if (p->suspended || has_slots(c, index) || !c->known || now_us < p->wanted_us + SUSPEND_US
        || !rl_node_is_idle(p->node))
        return;
    rl_node_suspend(p->node);
    p->suspended = 1;
}

/*
 * The keys of a node's probe must belong to one of its slots, or the reply would be a redirection.
 */
static void fit_probe(rl_cluster *c, int index)
{
    place *p = c->places[index];
    char tag[RL_PROBE_TAG];

    if (!has_slots(c, index) || !rl_node_is_open(p->node)
        || (p->probe_slot != RL_SLOTS_NOBODY && rl_slots_owner(&c->slots, p->probe_slot) == index))
        return;
    for (int i = 0; i < RL_SLOTS; i++) {
        int slot;

        apr_snprintf(tag, sizeof(tag), "%d", i);
        slot = rl_slots_of_key(tag, strlen(tag));
        if (rl_slots_owner(&c->slots, slot) == index) {
            rl_node_set_probe_tag(p->node, tag);
            p->probe_slot = slot;
            return;
        }
    }
}

/* --- The table ---------------------------------------------------------------------------- */

/* Has the table read again soon. */
static void invalidate_table(rl_cluster *c)
{
    c->stale = 1;
}

/* Makes nodes for all servers with slots: rl_cluster_route() relies on them. */
static void meet_owners(rl_cluster *c, int64_t now_us)
{
    for (int i = 0; i < c->slots.count; i++) {
        if (has_slots(c, i)) {
            place *p = place_of(c, i, now_us);

            if (p->suspended)
                resume(p, now_us);
        }
    }
}

/* Tries one more seed. */
static void resume_seed(rl_cluster *c, int64_t now_us)
{
    const rl_url *t = c->options.url;
    const rl_endpoint *at = &t->endpoints[c->seed++ % t->endpoint_count];
    int index = rl_slots_add(&c->slots, at->host, at->port);

    c->seeds_left -= c->seeds_left > 0;
    c->seed_at_us = now_us + (c->seed % t->endpoint_count ? SEED_US : PAUSE_MAX_US);
    if (index != RL_SLOTS_NOBODY)
        resume(place_of(c, index, now_us), now_us);
}

static void take_table(rl_cluster *c, const redisReply *reply, int64_t now_us)
{
    const char *why = "is it part of a cluster?";
    place *from = c->places[c->asked];
    rl_slots *slots = &c->slots;
    int taken = reply ? rl_slots_read(slots, reply, from->host) : 0;

    from->has_no_table = taken <= 0;
    if (taken > 0) {
        c->known = 1;
        c->was_logged = 0;
        meet_owners(c, now_us);
        return;
    }
    c->stale = 1;
    if (!c->known)
        resume_seed(c, now_us);
    if (!reply || c->was_logged)
        return;
    c->was_logged = 1;
    if (reply->type == REDIS_REPLY_ERROR)
        why = reply->str;
    rl_logger_say(&c->options.logger, RL_LOG_ERROR,
                  "Redis at %s has no table of slots: %.*s", from->name, rl_error_shown(why),
                  why);
}

static void on_table(void *data, redisReply *reply)
{
    rl_cluster *c = data;

    c->asking = 0;
    take_table(c, reply, rl_link_clock());
    if (reply)
        freeReplyObject(reply);
}

/* The index of the next node after the one asked last that is up; -1 if none is. */
static int find_ready(const rl_cluster *c)
{
    for (int i = 1; i <= c->slots.count; i++) {
        int index = (c->asked + i) % c->slots.count;
        const place *p = c->places[index];

        if (p && !p->suspended && rl_node_is_ready(p->node))
            return index;
    }
    return -1;
}

static void ask_for_table(rl_cluster *c, int64_t now_us)
{
    static const char bytes[] = "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
    rl_command command = {.bytes = bytes, .length = sizeof(bytes) - 1, .kind = RL_REPLY_TABLE,
                          .on_reply = on_table, .data = c};
    int index = find_ready(c);

    if (index < 0) {
        if (now_us >= c->seed_at_us)
            resume_seed(c, now_us);
        return;
    }
    c->asked = index;
    c->asking = rl_node_send(c->places[index]->node, &command);
    c->stale = !c->asking;
    c->ask_at_us = now_us + c->pause_us;
}

/* A replica may have taken over from a node that is down. */
static int is_any_owner_down(const rl_cluster *c)
{
    for (int i = 0; i < c->slots.count; i++) {
        if (has_slots(c, i) && (!rl_node_is_ready(c->places[i]->node)
                                || rl_node_is_open(c->places[i]->node)))
            return 1;
    }
    return 0;
}

/* The pauses grow while nodes are down, and start short again once all are up. */
static void watch_nodes(rl_cluster *c)
{
    if (!is_any_owner_down(c)) {
        c->pause_us = PAUSE_US;
        return;
    }
    if (!c->stale && !c->asking && c->pause_us < PAUSE_MAX_US)
        c->pause_us = c->pause_us * 5 / 4;
    c->stale = 1;
}

void rl_cluster_tick(rl_cluster *c, int64_t now_us)
{
    int awaited;

    for (int i = 0; i < c->slots.count; i++) {
        if (c->places[i]) {
            suspend_if_unused(c, i, now_us);
            fit_probe(c, i);
        }
    }
    if (c->known)
        watch_nodes(c);
    if (c->stale && !c->asking && now_us >= c->ask_at_us)
        ask_for_table(c, now_us);
    awaited = rl_cluster_is_awaited(c);
    atomic_store_explicit(&c->accepting, c->known || awaited, memory_order_relaxed);
}

int64_t rl_cluster_due(const rl_cluster *c)
{
    if (!c->stale || c->asking)
        return INT64_MAX;
    return find_ready(c) < 0 && c->seed_at_us > c->ask_at_us ? c->seed_at_us : c->ask_at_us;
}

int rl_cluster_is_quiet(const rl_cluster *c)
{
    return !c->stale && !c->asking;
}

/* --- Calls -------------------------------------------------------------------------------- */

int rl_cluster_is_awaited(const rl_cluster *c)
{
    if (c->known || atomic_load_explicit(&c->gave_up, memory_order_relaxed))
        return 0;
    if (c->seeds_left)
        return 1;
    for (int i = 0; i < c->slots.count; i++) {
        const place *p = c->places[i];

        if (p && !p->suspended && !p->has_no_table
            && (rl_node_is_ready(p->node) || rl_node_is_awaited(p->node)))
            return 1;
    }
    return 0;
}

rl_failure rl_cluster_route(rl_cluster *c, int slot, rl_node **node)
{
    int owner = rl_slots_owner(&c->slots, slot);
    place *p = owner == RL_SLOTS_NOBODY ? NULL : c->places[owner];

    *node = p ? p->node : NULL;
    if (p)
        return rl_node_allows(p->node);
    return atomic_load_explicit(&c->accepting, memory_order_relaxed) ? RL_ANSWERED
                                                                     : RL_FAILED_DOWN;
}

void rl_cluster_stop_waiting(rl_cluster *c)
{
    atomic_store_explicit(&c->gave_up, 1, memory_order_relaxed);
}

/* A slot without an owner goes to any node: it redirects, or replies that the cluster is down. */
rl_node *rl_cluster_node(rl_cluster *c, int slot)
{
    int owner = rl_slots_owner(&c->slots, slot);

    if (owner != RL_SLOTS_NOBODY)
        return c->places[owner]->node;
    if (!c->known)
        return NULL;
    invalidate_table(c);
    owner = find_ready(c);
    return owner < 0 ? NULL : c->places[owner]->node;
}

static const char *host_of(const rl_cluster *c, const rl_node *node)
{
    for (int i = 0; i < c->slots.count; i++) {
        if (c->places[i] && c->places[i]->node == node)
            return c->places[i]->host;
    }
    return "";
}

rl_node *rl_cluster_redirect(rl_cluster *c, const rl_node *from, const char *error, int *ask,
                             int64_t now_us)
{
    rl_redirect to = rl_slots_read_redirect(error, host_of(c, from));
    place *p;
    int index;

    *ask = to.kind == RL_REDIRECT_ASK;
    if (!strncmp(error, "CLUSTERDOWN", 11))
        invalidate_table(c);
    if (to.kind == RL_REDIRECT_NONE)
        return NULL;
    index = rl_slots_add(&c->slots, to.host, to.port);
    if (index == RL_SLOTS_NOBODY) {
        invalidate_table(c);
        return NULL;
    }
    p = place_of(c, index, now_us);
    resume(p, now_us);
    if (to.kind == RL_REDIRECT_MOVED) {
        rl_slots_move(&c->slots, to.slot, index);
        invalidate_table(c);
    }
    return p->node;
}

/* --- Life --------------------------------------------------------------------------------- */

rl_cluster *rl_cluster_create(apr_pool_t *pool, const rl_cluster_options *options)
{
    rl_cluster *c = apr_pcalloc(pool, sizeof(*c));

    c->options = *options;
    c->pool = pool;
    rl_slots_init(&c->slots);
    c->stale = 1;
    c->seed = (int)(getpid() % options->url->endpoint_count);
    c->seeds_left = options->url->endpoint_count;
    c->pause_us = PAUSE_US;
    atomic_init(&c->accepting, 1);
    return c;
}
