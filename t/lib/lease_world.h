/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A world of leases for tests: one Redis and up to 64 hosts in virtual time.
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

/* --- Redis -------------------------------------------------------------------------------- */

static void note_debit(world *w, counter *c, const outcome *o, int64_t units)
{
    c->debited += units;
    c->granted += o->leased;
    c->leases += o->leased > 0;
    if (w->checkpoint_us) {
        int64_t window = w->now_us / 1000 / o->limit.window_ms;
        int64_t first = w->checkpoint_us / 1000 / o->limit.window_ms;

        c->lost[rl_limiter_is_bucket(&o->limit) ? 0 : window - first > 0] += units;
    }
    if (c->term_count > 1 && rl_limiter_is_bucket(&o->limit))
        keep_entry(c, w->now_us, 0, o->limit.quota, o->limit.burst);
}

static void apply_override(const world *w, outcome *o)
{
    const counter *c = &w->counters[o->counter];
    const term *t = term_at(c, w->now_us);

    if (!c->overridden || t == &c->terms[0])
        return;
    o->unlimited = t->unlimited;
    o->overridden = !t->unlimited;
    if (o->overridden) {
        o->limit.quota = t->limit.quota;
        o->limit.burst = t->limit.burst;
    }
}

static int admits(world *w, outcome *o)
{
    const counter *c = &w->counters[o->counter];

    apply_override(w, o);
    o->state = c->state;
    o->now = tick(&o->limit, w->now_us);
    o->now = rl_limiter_roll(&o->limit, &o->state, o->now);
    return o->unlimited || rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
}

/* The script: all rules are charged, or none. Their states are those before the charge. */
static void run_script(world *w, request *r)
{
    w->commands++;
    r->all = 1;
    for (int i = 0; i < r->count; i++) {
        if (r->outcomes[i].source == FROM_REDIS)
            r->all &= admits(w, &r->outcomes[i]);
    }
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];
        counter *c = &w->counters[o->counter];
        rl_state state = o->state;

        if (o->source != FROM_REDIS || !r->all || o->unlimited)
            continue;
        o->leased = rl_limiter_lease(&o->limit, &state, o->now, o->cost, o->wanted);
        if (o->cost + o->leased == 0)
            continue;
        rl_limiter_charge(&o->limit, &state, o->cost + o->leased);
        c->state = state;
        o->debit_us = w->now_us;
        note_debit(w, c, o, o->cost + o->leased);
    }
}

static void give_back_in_redis(world *w, const request *r)
{
    w->commands++;
    for (int i = 0; i < r->count; i++) {
        const outcome *o = &r->outcomes[i];
        counter *c = &w->counters[o->counter];

        if (o->source != FROM_REDIS || !o->charged)
            continue;
        rl_limiter_roll(&o->limit, &c->state, tick(&o->limit, w->now_us));
        rl_limiter_give_back(&o->limit, &c->state, o->position, o->cost);
        c->debited -= o->cost;
    }
}

/* Writes from now until the failover will be lost. */
static void checkpoint(world *w)
{
    w->checkpoint_us = w->now_us;
    for (int i = 0; i < w->plan.counters; i++) {
        w->counters[i].replica = w->counters[i].state;
        w->counters[i].lost_at_us = w->now_us;
    }
    plan_event(w, FAILOVER, w->now_us + rng_between(&w->rng, 1, SECOND), NULL);
}

static void fail_over(world *w)
{
    w->checkpoint_us = 0;
    for (int i = 0; i < w->plan.counters; i++)
        w->counters[i].state = w->counters[i].replica;
}

/* --- A host's memory ---------------------------------------------------------------------- */

static void start_host(world *w, host *h)
{
    unsigned char seed[RL_LOCAL_SEED];
    uint64_t random[2] = {rng_next(&w->rng), rng_next(&w->rng)};

    memcpy(seed, random, sizeof(seed));
    memset((void *)h->table, 0, RL_LOCAL_MIN_SIZE);
    rl_local_init(h->table, RL_LOCAL_MIN_SIZE, seed, rl_local_clock());
    memset(h->grants, 0, sizeof(h->grants));
}

/* When the units of a lease were debited. */
static int64_t debit_of(const host *h, const outcome *o)
{
    int64_t expires_ms = (int64_t)(o->lease.serial & ((UINT64_C(1) << 40) - 1));

    for (int i = 0; i < GRANTS; i++) {
        const grant *g = &h->grants[o->counter][i];

        if (g->lease_key == o->lease_key && g->expires_ms == expires_ms)
            return g->debit_us;
    }
    return 0;
}

static void remember(host *h, const outcome *o, int64_t expires_ms)
{
    grant *g = &h->grants[o->counter][h->next_grant[o->counter]++ % GRANTS];

    *g = (grant){o->lease_key, expires_ms, o->debit_us};
}

static request *new_request(world *w, int number)
{
    request *r = w->free;

    if (r)
        w->free = r->next;
    else
        r = malloc(sizeof(*r));
    memset(r, 0, offsetof(request, outcomes));
    r->host = number;
    r->life = w->hosts[number].life;
    return r;
}

static void free_request(world *w, request *r)
{
    r->next = w->free;
    w->free = r;
}

/* --- Decisions ---------------------------------------------------------------------------- */

/* Whether Redis has so much left that a refill is worth a call: is_worth_a_call() of lease.c. */
static int is_worth_a_call(const host *h, const request *r, const outcome *o)
{
    rl_limit limit = o->limit;
    rl_view view;
    int64_t left;

    rl_local_snapshot_check(h->table, o->key, &limit, o->cost, r->host_ms, &view);
    if (view.now == 0)
        return 1;
    left = rl_limiter_remaining(&limit, &view.state, view.now);
    return left > 0 && left >= rl_limiter_capacity(&limit) / RL_LEASE_REST;
}

static int spend(const host *h, const request *r, outcome *o)
{
    o->lease_key = rl_local_lease_key(h->table, o->key, &o->limit);
    if (!rl_local_lease_spend(h->table, o->lease_key, o->cost, r->host_ms, &o->lease))
        return 0;
    if (o->lease.refill)
        o->lease.refill = is_worth_a_call(h, r, o);
    o->source = FROM_LEASE;
    o->charged = 1;
    o->debit_us = debit_of(h, o);
    return 1;
}

static void deny_from_memory(outcome *o)
{
    o->source = FROM_MEMORY;
    o->denies = 1;
}

static void check_snapshot(const host *h, const request *r, outcome *o)
{
    rl_limit limit = o->limit;
    rl_snapshot_verdict verdict = rl_local_snapshot_check(h->table, o->key, &limit, o->cost,
                                                          r->host_ms, &o->view);

    if (verdict == RL_SNAPSHOT_UNKNOWN)
        return;
    o->dry = verdict == RL_SNAPSHOT_DRY;
    o->revalidates = verdict == RL_SNAPSHOT_STALE || o->dry;
    if (!o->revalidates)
        deny_from_memory(o);
}

static int is_denied(const request *r)
{
    for (int i = 0; i < r->count; i++) {
        if (r->outcomes[i].denies)
            return 1;
    }
    return 0;
}

static void consult(const host *h, request *r)
{
    int denied;

    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        if (!o->exempt && !spend(h, r, o))
            check_snapshot(h, r, o);
    }
    denied = is_denied(r);
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        if (o->revalidates && (denied || !rl_local_snapshot_revalidate(h->table, o->key, r->host_ms,
                                                                       !o->dry))) {
            o->revalidates = 0;
            deny_from_memory(o);
        }
    }
}

static int64_t claim(const world *w, const host *h, const request *r, const outcome *o)
{
    rl_lease_times times = {.host_ms = r->host_ms,
                            .asked_ms = rl_local_snapshot_asked_ms(h->table, o->key),
                            .until_ms = r->host_ms + w->plan.timeout_ms, .cost = o->cost};

    return rl_local_lease_claim(h->table, o->lease_key, &times);
}

static void give_back(world *w, host *h, request *r)
{
    int in_redis = 0;
    int64_t us = travel_us(w);

    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        if (!o->charged)
            continue;
        if (o->source == FROM_LEASE) {
            rl_local_lease_return(h->table, o->lease_key, o->lease.serial, o->cost);
            continue;
        }
        rl_local_snapshot_drop(h->table, o->key);
        in_redis = 1;
    }
    if (in_redis && us >= 0)
        plan_event(w, GIVE_BACK, w->now_us + us, r);
    else
        free_request(w, r);
}

/* Sends a call. A refill is waited for as long as it takes, a request until its deadline. */
static void send_call(world *w, request *r)
{
    int64_t us = travel_us(w);

    r->deadline_us = w->now_us + w->plan.timeout_ms * 1000;
    if (us >= 0)
        plan_event(w, AT_REDIS, w->now_us + us, r);
    else if (r->is_refill)
        free_request(w, r);
    else
        plan_event(w, TIMEOUT, r->deadline_us, r);
}

static const term *term_of(const world *w, const outcome *o, int64_t at_us)
{
    const counter *c = &w->counters[o->counter];

    return c->overridden ? &c->terms[0] : term_at(c, at_us);
}

/* Asks for more units of one lease, unless the tier has changed since some were spent. */
static void refill(world *w, const host *h, const request *r, const outcome *o)
{
    const term *t = term_of(w, o, r->read_us);
    request *f = new_request(w, r->host);
    outcome *about = &f->outcomes[0];

    f->is_refill = 1;
    f->read_us = r->read_us;
    f->host_ms = r->host_ms;
    f->count = 1;
    memset(about, 0, sizeof(*about));
    about->counter = o->counter;
    about->key = o->key;
    about->lease_key = o->lease_key;
    about->term = t;
    about->limit = t->limit;
    about->wanted = claim(w, h, r, o);
    if (about->wanted && rl_local_lease_key(h->table, o->key, &t->limit) == o->lease_key)
        send_call(w, f);
    else
        free_request(w, f);
}

static void refill_all(world *w, const host *h, const request *r)
{
    for (int i = 0; i < r->count; i++) {
        if (r->outcomes[i].lease.refill)
            refill(w, h, r, &r->outcomes[i]);
    }
}

/* Whether a later step denies: in every other window, so that the next one shows what it did. */
static int is_denied_later(world *w)
{
    return w->now_us / 1000 / w->plan.rules[0].window_ms % 2 == 0
        && chance(w, w->plan.denied_later);
}

static void conclude(world *w, host *h, request *r)
{
    int refused = is_denied(r) || r->closed;

    for (int i = 0; i < r->count; i++) {
        const outcome *o = &r->outcomes[i];

        if (o->lease.refill && w->plan.prefork) {
            request *later = new_request(w, r->host);

            later->count = r->count;
            memcpy(later->outcomes, r->outcomes, sizeof(r->outcomes));
            plan_event(w, REFILL, w->now_us + exponential(w, 3000), later);
            break;
        }
    }
    if (!w->plan.prefork)
        refill_all(w, h, r);
    if (refused) {
        give_back(w, h, r);
        return;
    }
    if (is_denied_later(w)) {
        plan_event(w, LATER_DENIAL, w->now_us + exponential(w, (double)w->plan.denied_us), r);
        return;
    }
    for (int i = 0; i < r->count; i++) {
        if (r->outcomes[i].charged)
            admit(w, r, &r->outcomes[i]);
    }
    free_request(w, r);
}

static void decide(world *w, host *h, request *r)
{
    int asks = 0;

    consult(h, r);
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        if (is_denied(r) || o->exempt || o->source != FROM_REDIS)
            continue;
        asks++;
        o->wanted = claim(w, h, r, o);
    }
    if (asks)
        send_call(w, r);
    else
        conclude(w, h, r);
}

/* --- Replies ------------------------------------------------------------------------------ */

/* Returns the units that are lost. */
static int64_t take(host *h, const request *r, outcome *o, int64_t leased, int64_t received_ms)
{
    int64_t now_ms = o->now / rl_limiter_ticks(&o->limit);
    int is_time = leased == 0
        || rl_local_is_redis_time(h->table, now_ms, r->host_ms, received_ms);
    rl_lease_grant g = {.units = is_time ? leased : 0, .sent_ms = r->host_ms,
                        .life_ms = rl_limiter_lease_ms(&o->limit, o->now),
                        .host_ms = received_ms, .cost = o->cost};

    if (g.units)
        remember(h, o, g.sent_ms + g.life_ms);
    return rl_local_lease_grant(h->table, o->lease_key, &g) + leased - g.units;
}

static void store_snapshot(const host *h, const request *r, outcome *o, int64_t received_ms)
{
    rl_local_reply reply = {.state = &o->state, .redis_now = o->now, .overridden = o->overridden,
                            .sent_ms = r->host_ms, .received_ms = received_ms};

    rl_local_snapshot_store(h->table, o->key, &o->limit, &reply);
}

static void settle(host *h, const request *r, outcome *o, int64_t received_ms)
{
    o->exempt = o->unlimited;
    if (o->exempt) {
        rl_local_snapshot_drop(h->table, o->key);
        return;
    }
    o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
    o->charged = r->all;
    if (o->charged) {
        o->position = rl_limiter_position(&o->limit, &o->state, o->now);
        rl_limiter_charge(&o->limit, &o->state, o->cost);
    }
    if (o->wanted) {
        take(h, r, o, o->charged ? o->leased : 0, received_ms);
        rl_limiter_charge(&o->limit, &o->state, o->charged ? o->leased : 0);
    }
    store_snapshot(h, r, o, received_ms);
}

static void on_refilled(world *w, host *h, request *r)
{
    outcome *o = &r->outcomes[0];
    int64_t received_ms = clock_ms(w, h);

    take(h, r, o, o->leased, received_ms);
    rl_limiter_charge(&o->limit, &o->state, o->leased);
    if (!o->unlimited)
        store_snapshot(h, r, o, received_ms);
    free_request(w, r);
}

static void fall_back(const world *w, request *r, outcome *o)
{
    if (o->revalidates && !o->dry) {
        deny_from_memory(o);
        return;
    }
    o->source = FROM_FALLBACK;
    r->closed |= !w->plan.fail_open;
}

/* A reply arrives, or the deadline comes. */
static void on_reply(world *w, host *h, request *r)
{
    int64_t received_ms = clock_ms(w, h);

    if (r->is_refill) {
        on_refilled(w, h, r);
        return;
    }
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        if (o->exempt || o->source != FROM_REDIS)
            continue;
        if (r->answered)
            settle(h, r, o, received_ms);
        else
            fall_back(w, r, o);
    }
    conclude(w, h, r);
}

static void at_redis(world *w, request *r)
{
    int64_t us;

    run_script(w, r);
    us = travel_us(w);
    if (us < 0 && r->is_refill) {
        free_request(w, r);
        return;
    }
    if (r->is_refill || (us >= 0 && w->now_us + us < r->deadline_us)) {
        r->answered = 1;
        plan_event(w, REPLY, w->now_us + us, r);
        return;
    }
    plan_event(w, TIMEOUT, r->deadline_us > w->now_us ? r->deadline_us : w->now_us, r);
}

/* --- What is offered ---------------------------------------------------------------------- */

static int pick_host(world *w)
{
    if (w->plan.one_host_is_hot && rng_one_in(&w->rng, 2))
        return 0;
    return (int)(rng_next(&w->rng) % (unsigned)w->plan.hosts);
}

/* The rules of a request have different counters. */
static void pick_rules(world *w, request *r)
{
    int first = (int)(rng_next(&w->rng) % (unsigned)w->plan.counters);

    r->count = (int)rng_between(&w->rng, 1, w->plan.rules_max);
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];

        memset(o, 0, sizeof(*o));
        o->counter = (first + i) % w->plan.counters;
        o->cost = 1;
        if (w->plan.cost_max > 1)
            o->cost = rng_scaled(&w->rng, 1, w->plan.cost_max);
    }
}

/* The request's thread reads the clock, and evaluates what the request's identity has. */
static void read_clock(world *w, const host *h, request *r)
{
    r->read_us = w->now_us;
    r->host_ms = clock_ms(w, h);
    for (int i = 0; i < r->count; i++) {
        outcome *o = &r->outcomes[i];
        uint64_t identity = (uint64_t)o->counter;

        o->term = term_of(w, o, w->now_us);
        o->limit = o->term->limit;
        o->key = rl_local_key(h->table, RL_LOCAL_SNAPSHOT, 1, &identity, sizeof(identity));
    }
}

/* What the algorithm alone would do. */
static void offer_ideal(world *w, const outcome *o)
{
    counter *c = &w->counters[o->counter];
    rl_limit limit = o->term->limit;
    int64_t now = tick(&limit, w->now_us);

    limit.burst = o->term->burst;
    now = rl_limiter_roll(&limit, &c->ideal, now);
    if (rl_limiter_admits(&limit, &c->ideal, now, o->cost)) {
        rl_limiter_charge(&limit, &c->ideal, o->cost);
        c->ideally += w->now_us < w->counts_from_us ? 0 : o->cost;
    }
}

static void begin(world *w, request *r)
{
    const host *h = &w->hosts[r->host];

    read_clock(w, h, r);
    if (r->count == 1)
        offer_ideal(w, &r->outcomes[0]);
    if (chance(w, w->plan.stall))
        plan_event(w, DECIDE, w->now_us + exponential(w, (double)w->plan.stall_us), r);
    else
        decide(w, &w->hosts[r->host], r);
}

/* The mean time until the next request: shorter around the end of a window, or in a wave. */
static double mean_gap(world *w)
{
    double mean = (double)w->plan.gap_us;
    int64_t window_us = w->plan.rules[0].window_ms * 1000, phase_us = w->now_us % window_us;
    int64_t edge_us = window_us / 20 < 50000 ? window_us / 20 : 50000;

    if (w->plan.edges)
        mean *= phase_us < edge_us || phase_us > window_us - edge_us ? 0.2 : 3;
    if (w->plan.rises)
        mean *= w->now_us / window_us % 2 ? 0.3 : 1.5;
    if (w->plan.waves && w->now_us >= w->wave_ends_us) {
        w->wave = rng_between(&w->rng, 0, 4);
        w->wave_ends_us = w->now_us + exponential(w, (double)w->plan.waves * 1000);
    }
    if (w->plan.waves)
        mean *= w->wave == 0 ? 20 : w->wave == 4 ? 0.3 : 1;
    return mean;
}

/* When hosts should lease: shortly before the end of a window, or at any time. */
static int64_t pulse_time(world *w, int64_t from_us)
{
    int64_t window_us = w->plan.rules[0].window_ms * 1000;
    int64_t edge_us = from_us + window_us - from_us % window_us;

    if (rng_one_in(&w->rng, 2))
        return edge_us + window_us - exponential(w, 100000);
    return from_us + rng_between(&w->rng, 0, 2 * window_us);
}

/* When they should spend: shortly after a window has begun, or while the leases may still live. */
static int64_t burst_time(world *w, int64_t from_us)
{
    int64_t window_us = w->plan.rules[0].window_ms * 1000;

    if (rng_one_in(&w->rng, 2))
        return from_us + window_us - from_us % window_us + exponential(w, 5000);
    return from_us + rng_between(&w->rng, 0, w->counters[0].terms[0].limit.lease_ms * 1000);
}

/*
 * In turn: a few requests for each host, so that it leases; a pause; and more requests than fit,
 * which spend the leases and all else that is left.
 */
static int64_t next_in_pulses(world *w)
{
    const rl_limit *rule = &w->plan.rules[0];
    int64_t pulse_us = 4000 + 4 * w->plan.delay_us, burst_us = 100000, next_us;
    double gap = w->wave ? (double)burst_us / (4.0 * (double)rl_limiter_capacity(rule))
                         : (double)pulse_us / ((double)w->plan.pulses * w->plan.hosts);

    next_us = w->now_us + exponential(w, gap);
    if (next_us < w->wave_ends_us)
        return next_us;
    w->wave = !w->wave;
    next_us = w->wave ? burst_time(w, w->now_us) : pulse_time(w, w->now_us);
    w->wave_ends_us = next_us + (w->wave ? burst_us : pulse_us);
    return next_us;
}

/* In every other window requests cease shortly before its end, up to the sixteenth of a second. */
static int64_t next_after_rest(world *w)
{
    int64_t next_us = w->now_us + exponential(w, mean_gap(w));
    int64_t window_us = w->plan.rules[0].window_ms * 1000, index = next_us / window_us;
    int64_t edge_us = (index + 1) * window_us, rest_us = index * 7919 % 63 * 1000;

    if (index % 2 == 0 && next_us > edge_us - rest_us)
        return edge_us + exponential(w, 1000);
    return next_us;
}

static int64_t next_arrival(world *w)
{
    if (w->plan.pulses)
        return next_in_pulses(w);
    return w->plan.rises ? next_after_rest(w) : w->now_us + exponential(w, mean_gap(w));
}

static void arrive(world *w)
{
    request *r = new_request(w, pick_host(w));
    int64_t next_us = next_arrival(w);

    pick_rules(w, r);
    w->requests++;
    if (next_us < EPOCH_US + w->plan.lasts_us)
        plan_event(w, ARRIVE, next_us, NULL);
    if (w->hosts[r->host].stopped_until_us > w->now_us) {
        r->abandoned = 1; /* as if its clock had not been read yet */
        plan_event(w, DECIDE, w->now_us, r);
        return;
    }
    begin(w, r);
}

/* --- What happens to hosts ---------------------------------------------------------------- */

static host *any_host(world *w)
{
    return &w->hosts[rng_next(&w->rng) % (unsigned)w->plan.hosts];
}

static void plan_next(world *w, event_kind kind, int every_s)
{
    if (every_s)
        plan_event(w, kind, w->now_us + exponential(w, every_s * 1e6), NULL);
}

/* Its memory is gone, and its threads with it. */
static void crash(world *w)
{
    host *h = any_host(w);

    h->life++;
    start_host(w, h);
    plan_next(w, CRASH, w->plan.crash);
}

/* The process stops; its clock goes on. Often it stops shortly before a window ends. */
static void stop(world *w)
{
    host *h = any_host(w);
    int64_t window_us = w->plan.rules[0].window_ms * 1000;
    int64_t lasts_us = exponential(w, (double)w->plan.stop_us);

    if (rng_one_in(&w->rng, 2))
        lasts_us = window_us - w->now_us % window_us + rng_between(&w->rng, 0, 30000);
    h->stopped_until_us = w->now_us + lasts_us;
    plan_next(w, STOP, w->plan.stop);
}

/* --- The run ------------------------------------------------------------------------------ */

static void on_host(world *w, event_kind kind, request *r)
{
    host *h = &w->hosts[r->host];

    if (r->life != h->life) {
        free_request(w, r);
        return;
    }
    if (h->stopped_until_us > w->now_us) {
        plan_event(w, kind, h->stopped_until_us + rng_between(&w->rng, 0, 2000), r);
        /* A reply that has waited in the socket for longer than the caller may or may not count. */
        if (kind == REPLY && h->stopped_until_us > r->deadline_us && !r->is_refill
            && chance(w, 2))
            r->answered = 0;
        return;
    }
    if (kind == DECIDE && r->abandoned) {
        r->abandoned = 0;
        begin(w, r);
    }
    else if (kind == DECIDE) {
        decide(w, h, r);
    }
    else if (kind == REFILL) {
        r->read_us = w->now_us;
        r->host_ms = clock_ms(w, h);
        refill_all(w, h, r);
        free_request(w, r);
    }
    else if (kind == LATER_DENIAL) {
        give_back(w, h, r);
    }
    else {
        on_reply(w, h, r);
    }
}

static void happen(world *w, const event *e)
{
    w->now_us = e->at_us;
    switch (e->kind) {
    case ARRIVE:
        arrive(w);
        break;
    case AT_REDIS:
        at_redis(w, e->request);
        break;
    case GIVE_BACK:
        give_back_in_redis(w, e->request);
        free_request(w, e->request);
        break;
    case CRASH:
        crash(w);
        break;
    case STOP:
        stop(w);
        break;
    case CHECKPOINT:
        checkpoint(w);
        break;
    case FAILOVER:
        fail_over(w);
        break;
    default:
        on_host(w, e->kind, e->request);
    }
}

static void set_clock(world *w, host *h)
{
    h->ppm = rng_between(&w->rng, -w->plan.ppm / 2, w->plan.ppm / 2);
    h->wall_us = rng_between(&w->rng, -w->plan.wall_us, w->plan.wall_us);
    h->clock_us = rng_between(&w->rng, 100 * SECOND, 100000 * SECOND);
    h->stopped_until_us = 0;
    start_host(w, h);
}

/* Makes a world; world_free() frees it. It can be used for several plans, one after the other. */
static world *world_make(void)
{
    world *w = calloc(1, sizeof(*w));

    w->hosts = calloc(HOSTS_MAX, sizeof(*w->hosts));
    for (int i = 0; i < HOSTS_MAX; i++)
        w->hosts[i].table = aligned_alloc(64, RL_LOCAL_MIN_SIZE);
    return w;
}

static void world_free(world *w)
{
    for (int i = 0; i < HOSTS_MAX; i++)
        free(w->hosts[i].table);
    for (int i = 0; i < COUNTERS_MAX; i++)
        free(w->counters[i].entries);
    while (w->free) {
        request *r = w->free;

        w->free = r->next;
        free(r);
    }
    free(w->heap);
    free(w->hosts);
    free(w);
}

/* Begins with an empty bucket: until it is, the demand is not above the rule's. */
static void use_up(const world *w, counter *c)
{
    const rl_limit *limit = &c->terms[0].limit;
    int64_t window = limit->window_ms * rl_limiter_ticks(limit);

    if (!rl_limiter_is_bucket(limit))
        return;
    c->state.at = c->ideal.at = tick(limit, w->now_us);
    c->state.level = limit->burst * window;
    c->ideal.level = c->terms[0].burst * window;
}

static void world_reset(world *w, const plan *p, uint64_t seed)
{
    w->plan = *p;
    w->rng.state = seed;
    w->now_us = EPOCH_US + rng_between(&w->rng, 0, 10 * SECOND);
    w->plan.lasts_us += w->now_us - EPOCH_US;
    w->commands = w->requests = w->admissions = w->leased_admissions = w->checkpoint_us = 0;
    w->counts_from_us = w->now_us + p->warm_us;
    w->wave = !p->pulses;
    w->wave_ends_us = 0;
    for (int i = 0; i < p->hosts; i++)
        set_clock(w, &w->hosts[i]);
    for (int i = 0; i < p->counters; i++) {
        entry *entries = w->counters[i].entries;
        size_t room = w->counters[i].room;

        prepare_counter(w, &w->counters[i], &p->rules[i]);
        w->counters[i].entries = entries;
        w->counters[i].room = room;
        if (p->warm_us)
            use_up(w, &w->counters[i]);
    }
}

/* Runs a plan from a seed to its end. */
static void world_run(world *w, const plan *p, uint64_t seed)
{
    world_reset(w, p, seed);
    plan_event(w, ARRIVE, w->now_us, NULL);
    plan_next(w, CRASH, p->crash);
    plan_next(w, STOP, p->stop);
    if (p->failover)
        plan_event(w, CHECKPOINT, w->now_us + rng_between(&w->rng, SECOND, p->lasts_us), NULL);
    while (w->events > 0) {
        event e = next_event(w);

        if (e.at_us > EPOCH_US + w->plan.lasts_us && !e.request)
            continue;
        happen(w, &e);
    }
}

#endif
