/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client: decisions by Redis, for the requests of one child.
 *
 * A decision is formatted (script.h), routed (servers.h), sent and waited for (leader.h), and read.
 * In a cluster it is one call for each slot, one after the other, with one deadline for all
 * (cross_slot.h). The client also makes the greetings of connections, and the probes.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include "redis/client.h"
#include "redis/cross_slot.h"
#include "redis/leader.h"
#include "redis/probe.h"
#include "redis/slots.h"

#define GREETINGS_MAX (4 + RL_SCRIPTS)

struct rl_client {
    rl_client_options options;
    apr_pool_t *pool;
    rl_script_names names;
    rl_greeting greetings[GREETINGS_MAX];
    int greeting_count;
    rl_greeting sign_of_life;
    rl_servers *servers;
    rl_leader *leader;
};

/* --- Calls of one slot -------------------------------------------------------------------- */

static rl_failure read_reply(const redisReply *reply, rl_ask *asks, int n, int *admitted)
{
    if (!reply)
        return RL_FAILED_LOST;
    if (reply->type == REDIS_REPLY_ERROR)
        return RL_FAILED_REFUSED;
    *admitted = rl_script_read(reply, asks, n);
    return *admitted < 0 ? RL_FAILED_GARBAGE : RL_ANSWERED;
}

/* Whether the slot of a call is being moved and has keys at both ends. */
static int is_split(const redisReply *reply)
{
    return reply && reply->type == REDIS_REPLY_ERROR
        && rl_error_of(reply->str) == RL_ERROR_TRYAGAIN;
}

/* Remembers the ways of calls, because probes do what calls do. */
static void note_ways(rl_client *client, unsigned ways)
{
    _Atomic uint64_t *known = &client->options.breakers->ways;

    if (ways & ~atomic_load_explicit(known, memory_order_relaxed))
        atomic_fetch_or(known, ways);
}

/* A decision over one slot: one call. */
static rl_failure decide(rl_client *client, rl_slot_decision *d, int64_t deadline_us)
{
    int length, leads;
    rl_failure failure;
    rl_node *node;
    char *command;
    rl_call *call;

    failure = rl_servers_route(client->servers, d->slot, &node);
    if (failure != RL_ANSWERED)
        return failure;
    note_ways(client, rl_probe_ways(d->asks, d->n, d->peek));
    command = rl_script_decide(&client->names, d->asks, d->n, d->peek, &length);
    call = command ? rl_leader_enqueue(client->leader, node, d->slot, command, length, &leads)
                   : NULL;
    if (!call)
        return RL_FAILED_BUSY;
    failure = RL_FAILED_LATE;
    if (rl_leader_wait(client->leader, call, leads, deadline_us)) {
        node = call->node;
        d->split = is_split(call->reply);
        failure = read_reply(call->reply, d->asks, d->n, &d->admitted);
        rl_leader_release(client->leader, call);
    }
    if (!node && failure == RL_FAILED_LATE)
        rl_servers_stop_waiting(client->servers);
    if (node && !d->split && rl_node_count(node, failure))
        rl_leader_wake(client->leader);
    return failure;
}

static void undo(rl_client *client, int slot, const rl_ask *asks, int n)
{
    rl_node *node;
    int length;
    char *command;

    if (rl_servers_route(client->servers, slot, &node) != RL_ANSWERED)
        return;
    note_ways(client, rl_probe_ways(asks, n, 1)); /* by the full script, as a peek */
    command = rl_script_undo(&client->names, asks, n, &length);
    if (command)
        rl_leader_enqueue(client->leader, node, slot, command, length, NULL);
}

/* --- Calls of several slots --------------------------------------------------------------- */

typedef struct {
    rl_client *client;
    int64_t deadline_us; /* of all calls together */
} chain;

static rl_failure decide_slot(void *context, rl_slot_decision *decision)
{
    const chain *c = context;

    return decide(c->client, decision, c->deadline_us);
}

static void undo_slot(void *context, int slot, const rl_ask *asks, int n)
{
    undo(((const chain *)context)->client, slot, asks, n);
}

/* --- For requests ------------------------------------------------------------------------- */

rl_failure rl_client_decide(rl_client *client, rl_ask *asks, int n, int peek,
                            int64_t deadline_us, int *admitted)
{
    chain c = {client, deadline_us};
    rl_cross_slot_calls calls = {decide_slot, undo_slot, &c};
    rl_slot_decision one = {.asks = asks, .n = n, .peek = peek};
    rl_failure failure;

    if (!client->options.threaded)
        rl_leader_catch_up(client->leader);
    if (!rl_servers_is_cluster(client->servers)) {
        failure = decide(client, &one, deadline_us);
        *admitted = one.admitted;
        for (int i = 0; i < n; i++)
            asks[i].answered = failure == RL_ANSWERED;
        return failure;
    }
    failure = rl_cross_slot_decide(&calls, asks, n, peek, admitted);
    if (!client->options.threaded)
        rl_leader_send_queued(client->leader); /* what was given back */
    return failure;
}

void rl_client_undo(rl_client *client, const rl_ask *asks, int n, int64_t deadline_us)
{
    chain c = {client, 0};
    rl_cross_slot_calls calls = {decide_slot, undo_slot, &c};

    if (rl_servers_is_cluster(client->servers))
        rl_cross_slot_undo(&calls, asks, n);
    else
        undo(client, 0, asks, n);
    if (!client->options.threaded)
        rl_leader_flush(client->leader, deadline_us);
}

/* An ask whose answer nobody waits for. */
typedef struct {
    rl_ask ask;
    rl_client_on_end *on_end;
    void *data;
} posted;

static void on_posted_end(void *data, const redisReply *reply)
{
    posted *p = data;
    int ignored;
    rl_failure failure = read_reply(reply, &p->ask, 1, &ignored);

    p->ask.answered = failure == RL_ANSWERED;
    p->on_end(p->data, &p->ask, failure);
    free(p);
}

int rl_client_has_thread(const rl_client *client)
{
    return client->options.threaded;
}

int rl_client_post(rl_client *client, const rl_ask *ask, rl_client_on_end *on_end, void *data)
{
    rl_post post = {.slot = rl_slots_of_key(ask->key, strlen(ask->key)), .on_end = on_posted_end};
    posted *p = client->options.threaded ? malloc(sizeof(*p)) : NULL;
    rl_node *node;

    if (!p)
        return 0;
    *p = (posted){*ask, on_end, data};
    post.data = p;
    if (rl_servers_route(client->servers, post.slot, &node) == RL_ANSWERED) {
        note_ways(client, rl_probe_ways(&p->ask, 1, 0));
        post.command = rl_script_decide(&client->names, &p->ask, 1, 0, &post.length);
        if (post.command && rl_leader_post(client->leader, node, &post))
            return 1;
    }
    free(p);
    return 0;
}

void rl_client_probe(rl_client *client)
{
    if (!client->options.threaded)
        rl_leader_probe(client->leader, client->options.timeout_ms * 1000);
}

/* --- Life --------------------------------------------------------------------------------- */

static void add_greeting(rl_client *client, rl_greeting greeting)
{
    client->greetings[client->greeting_count++] = greeting;
}

static void make_greetings(rl_client *client)
{
    const rl_client_options *o = &client->options;
    const char *select[] = {"SELECT", apr_itoa(client->pool, o->url->db)};

    if (o->credentials)
        add_greeting(client, rl_greeting_auth(o->credentials));
    add_greeting(client, rl_greeting_hello());
    add_greeting(client, rl_greeting_set_name(client->pool));
    if (o->url->db)
        add_greeting(client, rl_greeting_make(client->pool, "SELECT", 2, select));
    for (int i = 0; i < RL_SCRIPTS; i++) {
        const char *load[] = {"SCRIPT", "LOAD", rl_script_sources[i]};

        add_greeting(client, rl_greeting_make(client->pool, "SCRIPT LOAD", 3, load));
    }
    /* Changes nothing. If the user may not run it, the error reply is a sign of life, too. */
    client->sign_of_life = rl_greeting_make(client->pool, "SELECT", 2, select);
}

static char *make_probe(void *data, const char *tag, unsigned turn, int *length)
{
    const rl_client *client = data;
    unsigned ways = (unsigned)atomic_load(&client->options.breakers->ways);

    return rl_probe_make(&client->names, client->options.prefix, tag, ways, turn, length);
}

static void make_servers(rl_client *client)
{
    const rl_client_options *o = &client->options;
    rl_node_options options = {.timeout_ms = o->timeout_ms, .connect_ms = o->connect_ms,
                               .failures = o->failures, .retry = o->retry,
                               .greetings = client->greetings,
                               .greeting_count = client->greeting_count,
                               .loading_count = RL_SCRIPTS,
                               .tls = o->tls, .in_flight = RL_LEADER_IN_FLIGHT,
                               .sign_of_life = &client->sign_of_life,
                               .threaded = o->threaded, .probe = {make_probe, client},
                               .sentinel_credentials = o->sentinel_credentials,
                               .breakers = o->breakers, .logger = o->logger};

    client->servers = rl_servers_create(client->pool, o->url, &options);
}

rl_client *rl_client_create(apr_pool_t *pool, const rl_client_options *options)
{
    rl_client *client = apr_pcalloc(pool, sizeof(*client));

    client->options = *options;
    client->pool = pool;
    rl_script_name(&client->names);
    make_greetings(client);
    make_servers(client);
    client->leader = rl_leader_create(pool, client->servers, options->threaded);
    return client->leader ? client : NULL;
}

void rl_client_stop(rl_client *client)
{
    rl_leader_stop(client->leader);
}

void rl_client_abandon(rl_client *client)
{
    rl_leader_abandon(client->leader);
}
