/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step: the state of one step, and what its parts share.
 *
 * A step is up to RL_ASKS_MAX rules of one request that are decided together, in one call to Redis.
 * decide.c runs it; ask_redis.c, delay.c and undo.c each do a part of it. A step lives on the stack
 * of rl_decide(), rl_decide_peek() or rl_decide_settle(); its outcomes live in the request's pool.
 *
 * Not thread-safe: a step belongs to the thread that serves the request.
 */
#ifndef RL_STEP_H
#define RL_STEP_H

#include "decide/chain.h"
#include "decide/context.h"
#include "redis/script.h"

typedef struct {
    request_rec *r;
    const rl_context *context;
    rl_chain *chain;
    rl_outcome *outcomes[RL_ASKS_MAX];
    int count;
    int shadows;      /* of them, outcomes of shadow rules */
    int peek;         /* nothing is charged */
    int64_t host_ms;
    int64_t delay_ms; /* the largest delay= of live rules */
    int no_place;     /* no place for a delayed request is free: decided as without delay= */
    rl_ask asks[RL_ASKS_MAX];
    rl_outcome *asked[RL_ASKS_MAX]; /* the outcome that each ask is about */
    int ask_count;
} rl_step;

/* --- step.c: one outcome, and the step ---------------------------------------------------- */

/* ms in ticks of an outcome's limit. */
static inline int64_t rl_step_ticks(const rl_outcome *o, int64_t ms)
{
    return ms * rl_limiter_ticks(&o->limit);
}

/* The key of an outcome's entry in the local tier. */
static inline uint64_t rl_step_key(const rl_step *s, const rl_outcome *o)
{
    return rl_local_key(s->context->local, o->kind,
                        o->rule->counter ^ rl_config_settings(s->r->server)->scope_hash,
                        o->identity.raw, o->identity.length);
}

/* The clock that the local tier counts by where it decides an outcome. */
static inline rl_clock rl_step_clock(const rl_outcome *o)
{
    return o->kind == RL_LOCAL_COUNT ? RL_CLOCK_HOST : RL_CLOCK_REDIS;
}

/* Sets whether an outcome denies, by its state. */
static inline void rl_step_judge(rl_outcome *o)
{
    o->denies = !rl_limiter_admits(&o->limit, &o->view.state, o->view.now, o->cost);
}

/* Denies by memory, without asking Redis. */
static inline void rl_step_deny_from_memory(rl_outcome *o)
{
    o->source = RL_SOURCE_LOCAL;
    o->denies = 1;
}

/* Marks an outcome charged: adds the charge to its state, sets its position and its delay. */
void rl_step_mark_charged(rl_outcome *o);

/* Whether a live rule of the step denies. */
static inline int rl_step_is_denied(const rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        if (s->outcomes[i]->denies && !s->outcomes[i]->shadow)
            return 1;
    }
    return 0;
}

/* Appends an ask about an outcome; what only a decision needs is zero. */
rl_ask *rl_step_add_ask(rl_step *s, rl_outcome *o, rl_ask_kind kind);

/* µs that the chain may still wait for Redis; 0 or less: none. */
static inline int64_t rl_step_time_left_us(const rl_step *s)
{
    return s->context->settings->timeout_ms * 1000 - s->chain->waited_us;
}

/* --- ask_redis.c -------------------------------------------------------------------------- */

/*
 * Asks Redis, in one call, about the outcomes that it decides, and takes over its reply. Outcomes
 * without a reply are decided by on-failure=. If memory has denied already, only shadow rules are
 * asked about: a denial does not keep them from being charged. Waits no longer than the chain may.
 */
void rl_step_ask_redis(rl_step *s);

/* Appends an ask for a decision about an outcome, and sets its key in Redis. */
rl_ask *rl_step_ask_about(rl_step *s, rl_outcome *o);

/* --- lease.c ------------------------------------------------------------------------------ */

/*
 * Spends an outcome's cost from a lease of its counter; the outcome is then charged. Returns 0 if
 * no lease has so much.
 */
int rl_step_spend(rl_step *s, rl_outcome *o);

/* Has the ask about an outcome also ask for a lease, unless another request does. */
void rl_step_want_lease(const rl_step *s, const rl_outcome *o, rl_ask *ask);

/* Stores the lease that came with a reply, received at host_ms. */
void rl_step_take_lease(rl_step *s, rl_outcome *o, const rl_ask *ask, int64_t received_ms);

/*
 * Refills the leases of the chain that need it. Without an I/O thread it waits for Redis, as long
 * as a request may: call it after the response then.
 */
void rl_step_refill(rl_step *s);

/* --- delay.c ------------------------------------------------------------------------------ */

/*
 * For a step with a rule that has delay=: if no place for a delayed request is free, the step is
 * decided as without delay=.
 */
void rl_step_check_places(rl_step *s);

/*
 * Takes a place for an admitted request that its outcomes delay. Returns the delay in ms; 0 if
 * there is none. If other requests have taken the last place since the step began, the request is
 * denied as it would be without delay=, and 0 is returned.
 */
int64_t rl_step_take_place(rl_step *s);

/* --- undo.c ------------------------------------------------------------------------------- */

/* Has the keeper prolong what the step has made pending, for as long as the request lives. */
void rl_step_keep(rl_step *s);

/* Takes back what live rules were charged in this step and in earlier ones of the chain. */
void rl_step_give_back(rl_step *s);

/* Settles what the chain has pending: the response has this status. */
void rl_step_settle(rl_step *s, int status);

#endif
