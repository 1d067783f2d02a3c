/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease: the units that a step spends from leases, and how leases are refilled.
 *
 * A request that must ask Redis in any case asks for a lease in the same call. A request that finds
 * about half of a lease left has it refilled: where there is an I/O thread at once and without
 * waiting, otherwise after the response. shm/local_lease.c says why leases are exact.
 */
#include <stdlib.h>
#include <string.h>

#include "decide/step.h"
#include "httpd/log_once.h"
#include "redis/link.h"

/* Whether Redis has so much left, by what it last reported, that a refill is worth its call. */
static int is_worth_a_call(const rl_outcome *o)
{
    int64_t lease = rl_limiter_capacity(&o->limit) / RL_LEASE_REST;
    int64_t left = rl_limiter_remaining(&o->limit, &o->view.state, o->view.now);

    return left > 0 && left >= lease;
}

/*
 * Takes the units that are left out of the state, which contains them as charged. Where Redis has
 * little left, refills before the end of a lease would be many and small.
 */
static void show_left(const rl_step *s, rl_outcome *o)
{
    rl_local *local = s->context->local;

    rl_local_snapshot_check(local, o->key, &o->limit, o->cost, s->host_ms, &o->view);
    if (o->view.now == 0) { /* the snapshot was evicted */
        memset(&o->view.state, 0, sizeof(o->view.state));
        o->view.now = rl_step_ticks(o, rl_local_now(local, RL_CLOCK_REDIS, s->host_ms));
        o->view.now = rl_limiter_roll(&o->limit, &o->view.state, o->view.now);
    }
    if (o->lease.refill)
        o->lease.refill = is_worth_a_call(o);
    o->position = rl_limiter_position(&o->limit, &o->view.state, o->view.now);
    rl_limiter_give_back(&o->limit, &o->view.state, o->position, o->lease.left);
}

int rl_step_spend(rl_step *s, rl_outcome *o)
{
    rl_local *local = s->context->local;

    o->lease_key = rl_local_lease_key(local, o->key, &o->limit);
    if (!rl_local_lease_spend(local, o->lease_key, o->cost, s->host_ms, &o->lease))
        return 0;
    show_left(s, o);
    o->source = RL_SOURCE_LEASE;
    o->charged = 1;
    s->chain->refills |= o->lease.refill;
    return 1;
}

/* --- Refills ------------------------------------------------------------------------------ */

/* How many units to ask Redis for; 0 if another request does. */
static int64_t claim(const rl_step *s, const rl_outcome *o)
{
    rl_local *local = s->context->local;
    int64_t timeout_ms = s->context->settings->timeout_ms;
    rl_lease_times times = {.host_ms = s->host_ms,
                            .asked_ms = rl_local_snapshot_asked_ms(local, o->key),
                            .cost = o->cost};

    /* No reply is awaited after the timeout, and no lease lives longer than the maximum. */
    times.until_ms = s->host_ms + (timeout_ms < RL_LEASE_MAX_MS ? timeout_ms : RL_LEASE_MAX_MS);
    return rl_local_lease_claim(local, o->lease_key, &times);
}

void rl_step_want_lease(const rl_step *s, const rl_outcome *o, rl_ask *ask)
{
    if (o->lease_key)
        ask->wanted = claim(s, o);
}

/* What a reply is stored with: the same whether a request or the I/O thread reads it. */
typedef struct {
    server_rec *server;    /* for the log */
    rl_local *local;
    rl_stats *stats;
    uint64_t lease_key;
    int64_t cost;          /* of the request */
    const rl_limit *limit; /* with the override that Redis applied */
    int64_t sent_ms;
    int64_t received_ms;
} taker;

static taker taker_for(const rl_step *s, const rl_outcome *o, const rl_limit *limit)
{
    return (taker){.server = s->r->server, .local = s->context->local, .stats = s->context->stats,
                   .lease_key = o->lease_key, .cost = o->cost, .limit = limit,
                   .sent_ms = s->host_ms};
}

/* Stores what was leased, unless the time in the reply is not Redis's, and ends the claim. */
static void take(const taker *t, const rl_ask *ask, int64_t leased)
{
    int64_t now_ms = ask->now / rl_limiter_ticks(t->limit);
    int is_time = leased == 0
        || rl_local_is_redis_time(t->local, now_ms, t->sent_ms, t->received_ms);
    rl_lease_grant grant = {.units = is_time ? leased : 0, .sent_ms = t->sent_ms,
                            .life_ms = rl_limiter_lease_ms(t->limit, ask->now), .cost = t->cost,
                            .host_ms = t->received_ms};
    int64_t lost = rl_local_lease_grant(t->local, t->lease_key, &grant) + leased - grant.units;

    rl_stats_count_lease(t->stats, RL_LEASE_REFILLS, leased > 0);
    rl_stats_count_lease(t->stats, RL_LEASE_DEBITED, leased);
    rl_stats_count_lease(t->stats, RL_LEASE_LOST, lost);
    if (!is_time)
        rl_log_once_for_server(t->server, t->local, "a lease of Redis is not used: the time in its "
                               "reply is not that of its clock as it was heard before");
}

void rl_step_take_lease(rl_step *s, rl_outcome *o, const rl_ask *ask, int64_t received_ms)
{
    taker t = taker_for(s, o, &o->limit);

    t.received_ms = received_ms;
    take(&t, ask, o->charged ? ask->leased : 0);
}

/* A refill under way. The thread that reads the reply finishes it. */
typedef struct {
    taker taker;
    uint64_t key;   /* of the snapshot */
    rl_limit limit; /* of the rule, then with the override that Redis applied */
} refill;

static void on_refilled(void *data, rl_ask *ask, rl_failure failure)
{
    refill *f = data;
    rl_local_reply reply = {.state = &ask->state, .redis_now = ask->now,
                            .overridden = ask->override == RL_OVERRIDE_QUOTA,
                            .sent_ms = f->taker.sent_ms};

    if (ask->answered) {
        reply.received_ms = f->taker.received_ms = rl_local_clock();
        take(&f->taker, ask, ask->leased);
        rl_limiter_charge(&f->limit, &ask->state, ask->leased);
        if (ask->override != RL_OVERRIDE_UNLIMITED)
            rl_local_snapshot_store(f->taker.local, f->key, &f->limit, &reply);
    }
    else if (failure == RL_FAILED_GARBAGE) {
        rl_stats_count_redis(f->taker.stats, failure, 0);
    }
    free(f);
}

/* Has a refill answered: by the I/O thread, later, or by this one. */
static void ask_for(rl_step *s, rl_ask *ask, refill *f)
{
    rl_client *client = s->context->client;
    rl_failure failure;
    int64_t began_us;
    int ignored;

    if (rl_client_has_thread(client)) {
        if (!rl_client_post(client, ask, on_refilled, f))
            free(f);
        return;
    }
    began_us = rl_link_clock();
    failure = rl_client_decide(client, ask, 1, 0, began_us + rl_step_time_left_us(s), &ignored);
    s->chain->waited_us += rl_link_clock() - began_us;
    on_refilled(f, ask, failure);
}

/*
 * Without memory, or a way to Redis, a later request refills. So it does if the limit has changed
 * since units were spent: memory has another lease for that.
 */
static void refill_one(rl_step *s, rl_outcome *o)
{
    rl_limit limit;
    int64_t units;
    refill *f;
    rl_ask *ask;

    if (!rl_evaluation_limit(&s->chain->evaluation, o->rule, &limit)
        || rl_local_lease_key(s->context->local, o->key, &limit) != o->lease_key)
        return;
    units = claim(s, o);
    f = units ? malloc(sizeof(*f)) : NULL;
    if (!f)
        return;
    f->key = o->key;
    f->limit = limit;
    f->taker = taker_for(s, o, &f->limit);
    s->ask_count = 0;
    ask = rl_step_ask_about(s, o);
    o->redis_key = NULL; /* the request itself has charged nothing there */
    ask->limit = &f->limit;
    ask->cost = 0;
    ask->wanted = units;
    ask_for(s, ask, f);
}

void rl_step_refill(rl_step *s)
{
    s->chain->refills = 0;
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        if (o->lease.refill)
            refill_one(s, o);
        o->lease.refill = 0;
    }
}
