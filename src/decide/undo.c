/* SPDX-License-Identifier: Apache-2.0 */
/*
 * undo: what happens to a charge after the decision, in Redis and on this host alike.
 *
 * A charge is given back if a later rule of the chain denies. A charge that depends on the response
 * (charge-on=) is pending until the response is known, and settled then. In between the keeper
 * prolongs it, because a pending unit that is not settled in time becomes a charge.
 */
#include "decide/step.h"
#include "redis/link.h"

/* --- Keeping ------------------------------------------------------------------------------ */

/* Has the keeper forget an outcome's pending units; takes over the position that it kept. */
static apr_status_t stop_keeping(void *outcome)
{
    rl_outcome *o = outcome;

    if (o->kept)
        o->position = rl_keeper_remove(o->kept);
    o->kept = NULL;
    return APR_SUCCESS;
}

/*
 * The log phase normally ends this. A request without one is not settled either: its pool ends the
 * keeping, and the units become a charge.
 */
void rl_step_keep(rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];
        rl_keeper_units units = {.redis_key = o->redis_key, .key = o->key,
                                 .clock = rl_step_clock(o), .limit = o->limit,
                                 .period = o->position, .cost = o->cost};

        if (!o->charged || !o->limit.on_response || o->cost == 0)
            continue;
        o->kept = rl_keeper_add(s->context->keeper, &units, s->host_ms);
        apr_pool_cleanup_register(s->r->pool, o, stop_keeping, apr_pool_cleanup_null);
    }
}

/* --- Giving back -------------------------------------------------------------------------- */

/* Takes back what this host counted or has pending for an outcome. */
static void give_back_here(rl_step *s, rl_outcome *o)
{
    rl_local *local = s->context->local;
    rl_local_units units = {o->position, o->cost, s->host_ms, o->view.now};

    if (o->source == RL_SOURCE_LEASE)
        rl_local_lease_return(local, o->lease_key, o->lease.serial, o->cost);
    else if (o->limit.on_response)
        rl_local_settle(local, o->key, &o->limit, &units, 0);
    else
        rl_local_give_back(local, o->key, &o->limit, o->position, o->cost);
}

/* Takes the charge back from the outcome's state, which the response shows. */
static void unmark_charged(rl_outcome *o)
{
    o->charged = 0;
    o->delay_ms = 0;
    if (o->limit.on_response)
        o->view.state.pending.cur -= o->cost;
    else if (rl_limiter_is_log(&o->limit))
        o->view.state.used -= o->cost;
    else
        rl_limiter_give_back(&o->limit, &o->view.state, o->position, o->cost);
}

/* Sends the collected asks if there are at least so many. */
static void send_undo(rl_step *s, int at_least)
{
    int64_t began_us;

    if (s->ask_count == 0 || s->ask_count < at_least)
        return;
    began_us = rl_link_clock();
    rl_client_undo(s->context->client, s->asks, s->ask_count, began_us + rl_step_time_left_us(s));
    s->chain->waited_us += rl_link_clock() - began_us;
    s->ask_count = 0;
}

/*
 * A call has one ask for each key at most: the script reads all of its keys before it writes any.
 */
static void undo(rl_step *s, rl_outcome *o, rl_ask_kind kind)
{
    for (int i = 0; i < s->ask_count; i++) {
        if (s->asked[i]->counter == o->counter)
            send_undo(s, 1);
    }
    rl_step_add_ask(s, o, kind);
    send_undo(s, RL_ASKS_MAX);
}

void rl_step_give_back(rl_step *s)
{
    s->ask_count = 0;
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        if (!o->charged || o->shadow)
            continue;
        stop_keeping(o);
        unmark_charged(o);
        if (o->redis_key) {
            undo(s, o, o->limit.on_response ? RL_ASK_SETTLE : RL_ASK_GIVE_BACK);
            rl_local_snapshot_drop(s->context->local, o->key);
        }
        else {
            give_back_here(s, o);
        }
    }
    send_undo(s, 1);
}

/* --- The response ------------------------------------------------------------------------- */

static void settle_here(rl_step *s, rl_outcome *o, int charged)
{
    rl_local *local = s->context->local;
    rl_local_units units = {o->position, o->cost, s->host_ms, 0};

    units.now = rl_step_ticks(o, rl_local_now(local, rl_step_clock(o), s->host_ms));
    rl_local_settle(local, o->key, &o->limit, &units, charged);
}

void rl_step_settle(rl_step *s, int status)
{
    s->ask_count = 0;
    s->chain->waited_us = 0; /* the response has been sent: the full time is available again */
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        /* Without our denial the response would be another one, so shadow rules are not charged. */
        int charged = rl_rule_charges_on(o->rule, status) && !s->chain->denial && !s->chain->closed;

        if (!o->charged || !o->limit.on_response || o->cost == 0)
            continue;
        stop_keeping(o);
        o->charged = 0;
        if (o->position == RL_PERIOD_GONE)
            continue;
        if (o->redis_key)
            undo(s, o, charged ? RL_ASK_SETTLE_CHARGED : RL_ASK_SETTLE);
        else
            settle_here(s, o, charged);
    }
    send_undo(s, 1);
}
