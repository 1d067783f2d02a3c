/* SPDX-License-Identifier: Apache-2.0 */
/* The hosts of the world of leases: what src/decide does with a request and with a reply. */
#ifndef LEASE_HOST_H
#define LEASE_HOST_H

#include "lease_redis.h"

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

#endif
