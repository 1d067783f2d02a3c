/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A world of leases for tests: one Redis (lease_redis.h) and up to 64 hosts (lease_host.h) in
 * virtual time. lease_run.h runs it.
 *
 * Each host has a table of the local tier and does with it what src/decide does: consult() is
 * consult_memory() and take_on_revalidations() of decide.c, settle() is settle_asked() of
 * ask_redis.c, and refill() and take() are those of lease.c. Redis has a state for each counter and
 * does with it what redis/decide.lua does. Tables and arithmetic are the real code. A queue of
 * events, in µs of Redis's clock, orders what threads, network and Redis do; all that is random
 * follows from the seed.
 *
 * What is admitted is kept for the oracle: see lease_oracle.h.
 */
#ifndef LEASE_WORLD_H
#define LEASE_WORLD_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limiter.h"
#include "random.h"
#include "shm/local.h"

#define HOSTS_MAX 64
#define COUNTERS_MAX 64
#define RULES_MAX 3
#define TERMS_MAX 8
#define GRANTS 8             /* leases that are remembered, per host and counter */
#define EPOCH_US INT64_C(1699999200000000) /* where virtual time begins: a full hour */
#define SECOND INT64_C(1000000)

/* What is in force for a counter from some time on: its tier or its override. */
typedef struct {
    int64_t from_us;
    rl_limit limit;  /* with the burst that debits must fit into */
    int64_t burst;   /* that of the rule: the oracle's */
    int unlimited;
} term;

/* What the oracle needs to know of an admission, of a debit that lets a bucket drain, or both. */
typedef struct {
    int64_t at_us;
    int64_t cost;    /* 0: a debit */
    int64_t quota, burst;
} entry;

typedef struct {
    term terms[TERMS_MAX];
    int term_count;
    int overridden;      /* terms after the first are overrides in Redis, not tiers */
    rl_state state;
    rl_state replica;    /* what is left after a failover */
    rl_state ideal;      /* of the algorithm alone, over all that is offered */
    int64_t ideally, counted, admitted, debited, lost_at_us, lost[2]; /* units */
    int64_t granted, leases;
    entry *entries;
    size_t count, room;
} counter;

typedef struct {
    uint64_t lease_key;
    int64_t expires_ms, debit_us;
} grant;

typedef struct {
    rl_local *table;
    int life;            /* how often it has crashed */
    int64_t ppm, wall_us; /* its clock's speed and its wall clock's lead over Redis's */
    int64_t clock_us;    /* its clock when virtual time began */
    int64_t stopped_until_us;
    grant grants[COUNTERS_MAX][GRANTS];
    unsigned next_grant[COUNTERS_MAX];
} host;

typedef enum { FROM_REDIS, FROM_MEMORY, FROM_LEASE, FROM_FALLBACK } source;

/* One rule of a request. */
typedef struct {
    int counter;
    int64_t cost;
    const term *term;    /* what the request's identity has */
    rl_limit limit;
    uint64_t key, lease_key;
    rl_view view;
    rl_lease lease;
    source source;
    int exempt, denies, charged, revalidates, dry;
    int64_t position, debit_us;
    int64_t wanted, leased, now; /* of the call: to Redis, and its reply */
    rl_state state;
    int overridden, unlimited;
} outcome;

/* A request, a refill, or a call that gives units back. */
typedef struct request {
    struct request *next; /* free ones */
    int host, life;
    int is_refill, answered, all, closed, abandoned, denied_later;
    int64_t read_us, host_ms, deadline_us;
    outcome outcomes[RULES_MAX];
    int count;
} request;

typedef enum { ARRIVE, DECIDE, AT_REDIS, REPLY, TIMEOUT, REFILL, LATER_DENIAL, GIVE_BACK, CRASH,
               STOP, CHECKPOINT, FAILOVER } event_kind;

typedef struct {
    int64_t at_us;
    uint64_t number;     /* events of the same µs happen in the order in which they were planned */
    request *request;
    event_kind kind;
} event;

/* What may happen. Chances are one in so many; 0: never. */
typedef struct {
    int hosts, counters;
    rl_limit rules[COUNTERS_MAX]; /* with the rule's burst and no lease_ms */
    int64_t lasts_us, gap_us;     /* mean time between two requests, over all hosts */
    int64_t delay_us, slow_us;    /* of the network, mostly and at times */
    int slow, lost, late_reader;
    int64_t timeout_ms;
    int stall;                    /* a thread stops between its clock and its decision */
    int64_t stall_us;
    int crash, stop, failover;    /* so many seconds between two of them on average */
    int64_t stop_us;
    int64_t ppm;                  /* between the slowest and the fastest clock */
    int64_t wall_us;              /* between wall clocks */
    int edges, waves, pulses;     /* requests come at window edges, in waves, or in pulses */
    int rises;                    /* in every other window more than fit */
    int64_t cost_max;
    int rules_max, changes, overrides, prefork, fail_open, denied_later;
    int64_t denied_us;            /* when a later step denies */
    int one_host_is_hot;
    int64_t warm_us;     /* after which the comparison with the algorithm alone begins */
} plan;

typedef struct {
    plan plan;
    rng rng;
    int64_t now_us;
    event *heap;
    size_t events, room;
    uint64_t number;
    request *free;
    host *hosts;
    counter counters[COUNTERS_MAX];
    int64_t commands, requests, admissions, leased_admissions, checkpoint_us;
    int64_t wave, wave_ends_us, counts_from_us;
} world;

/* --- Time --------------------------------------------------------------------------------- */

static int chance(world *w, int one_in)
{
    return one_in > 0 && rng_one_in(&w->rng, (unsigned)one_in);
}

static int64_t exponential(world *w, double mean)
{
    double u = (double)((rng_next(&w->rng) >> 11) + 1) / 9007199254740993.0;

    return (int64_t)(-log(u) * mean);
}

static int is_before(const event *a, const event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

static void plan_event(world *w, event_kind kind, int64_t at_us, request *r)
{
    event e = {at_us, w->number++, r, kind};
    size_t i;

    if (w->events == w->room) {
        w->room = 2 * w->room + 64;
        w->heap = realloc(w->heap, w->room * sizeof(event));
    }
    for (i = w->events++; i > 0 && is_before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

static event next_event(world *w)
{
    event first = w->heap[0], last = w->heap[--w->events];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < w->events) {
        if (child + 1 < w->events && is_before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!is_before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return first;
}

static int64_t tick(const rl_limit *limit, int64_t at_us)
{
    return at_us / (1000 / rl_limiter_ticks(limit));
}

/* The host's clock, as rl_local_clock() reads it. */
static int64_t clock_ms(const world *w, const host *h)
{
    int64_t passed_us = w->now_us - EPOCH_US;

    return (h->clock_us + passed_us + passed_us * h->ppm / 1000000) / 1000;
}

/* How long a packet takes; -1: it is lost. */
static int64_t travel_us(world *w)
{
    if (chance(w, w->plan.lost))
        return -1;
    if (chance(w, w->plan.slow))
        return 50 + exponential(w, (double)w->plan.slow_us);
    return 50 + exponential(w, (double)w->plan.delay_us);
}

/* --- Terms -------------------------------------------------------------------------------- */

static const term *term_at(const counter *c, int64_t at_us)
{
    int i = c->term_count - 1;

    while (i > 0 && c->terms[i].from_us > at_us)
        i--;
    return &c->terms[i];
}

/* What rl_parse_lease() and, of overrides, decide.lua do to a burst. */
static void lease_limit(term *t, int64_t lease_ms)
{
    t->limit.lease_ms = lease_ms;
    t->burst = t->limit.burst;
    if (rl_limiter_is_bucket(&t->limit))
        t->limit.burst = rl_limiter_leased_burst(t->limit.quota, t->burst, t->limit.window_ms,
                                                 lease_ms);
}

static void change_term(world *w, counter *c, int64_t from_us)
{
    term *t = &c->terms[c->term_count++];
    int64_t most = c->terms[0].limit.quota * 4;

    *t = c->terms[0];
    t->from_us = from_us;
    if (rng_one_in(&w->rng, 4))
        return;
    t->limit.quota = t->limit.burst = rng_scaled(&w->rng, 1, most < 400000 ? most : 400000);
    if (rl_limiter_is_bucket(&t->limit) && t->limit.burst < RL_LEASE_SHARE)
        t->limit.quota = t->limit.burst = RL_LEASE_SHARE;
    t->unlimited = c->overridden && rng_one_in(&w->rng, 8);
}

/* Sets up what is in force when. All tiers of a rule share the lease_ms of the smallest. */
static void prepare_counter(world *w, counter *c, const rl_limit *rule)
{
    int64_t lease_ms = RL_LEASE_MAX_MS, at_us = EPOCH_US;

    memset(&c->state, 0, sizeof(*c) - offsetof(counter, state));
    c->term_count = 1;
    c->overridden = w->plan.overrides;
    c->terms[0] = (term){.limit = *rule};
    while (w->plan.changes && c->term_count < TERMS_MAX) {
        at_us += exponential(w, (double)w->plan.lasts_us / w->plan.changes);
        change_term(w, c, at_us);
    }
    for (int i = 0; i < (c->overridden ? 1 : c->term_count); i++) {
        int64_t ms = rl_limiter_bucket_lease_ms(&c->terms[i].limit);

        if (rl_limiter_is_bucket(rule) && ms < lease_ms)
            lease_ms = ms;
    }
    for (int i = 0; i < c->term_count; i++)
        lease_limit(&c->terms[i], lease_ms);
}

/* --- What is kept for the oracle ---------------------------------------------------------- */

static void keep_entry(counter *c, int64_t at_us, int64_t cost, int64_t quota, int64_t burst)
{
    if (c->count == c->room) {
        c->room = 2 * c->room + 1024;
        c->entries = realloc(c->entries, c->room * sizeof(entry));
    }
    c->entries[c->count++] = (entry){at_us, cost, quota, burst};
}

static void admit(world *w, const request *r, const outcome *o)
{
    counter *c = &w->counters[o->counter];
    int64_t at_us = r->read_us > o->debit_us ? r->read_us : o->debit_us;

    keep_entry(c, at_us, o->cost, o->term->limit.quota, o->term->burst);
    c->admitted += o->cost;
    c->counted += at_us < w->counts_from_us ? 0 : o->cost;
    w->admissions++;
    w->leased_admissions += o->source == FROM_LEASE;
}

#endif
