/* SPDX-License-Identifier: Apache-2.0 */
/* The Redis of the world of leases: for each counter what redis/decide.lua does. */
#ifndef LEASE_REDIS_H
#define LEASE_REDIS_H

#include "lease_world.h"

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

#endif
