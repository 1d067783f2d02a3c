/* SPDX-License-Identifier: Apache-2.0 */
/* A run of the world of leases: what is offered, what happens to hosts, all events in order. */
#ifndef LEASE_RUN_H
#define LEASE_RUN_H

#include "lease_host.h"

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
