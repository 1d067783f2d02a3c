/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step: one step's bookkeeping.
 *
 * What the parts of a decision do to an outcome in the same way, whoever decides it.
 */
#include <string.h>

#include "decide/step.h"
#include "redis/link.h"

/* --- One outcome -------------------------------------------------------------------------- */

int64_t rl_step_ticks(const rl_outcome *o, int64_t ms)
{
    return ms * rl_limiter_ticks(&o->limit);
}

rl_clock rl_step_clock(const rl_outcome *o)
{
    return o->kind == RL_LOCAL_COUNT ? RL_CLOCK_HOST : RL_CLOCK_REDIS;
}

uint64_t rl_step_key(const rl_step *s, const rl_outcome *o)
{
    return rl_local_key(s->context->local, o->kind,
                        o->rule->counter ^ rl_config_settings(s->r->server)->scope_hash,
                        o->identity.raw, o->identity.length);
}

void rl_step_deny_from_memory(rl_outcome *o)
{
    o->source = RL_SOURCE_LOCAL;
    o->denies = 1;
}

void rl_step_judge(rl_outcome *o)
{
    o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
}

void rl_step_mark_charged(rl_outcome *o)
{
    o->charged = 1;
    o->position = rl_limiter_position(&o->limit, &o->state, o->now);
    o->delay_ms = o->shadow ? 0 : rl_limiter_delay(&o->limit, &o->state, o->cost);
    rl_limiter_charge(&o->limit, &o->state, o->cost);
}

/* --- The step ----------------------------------------------------------------------------- */

int rl_step_is_denied(const rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        if (s->outcomes[i]->denies && !s->outcomes[i]->shadow)
            return 1;
    }
    return 0;
}

rl_ask *rl_step_add_ask(rl_step *s, rl_outcome *o, rl_ask_kind kind)
{
    rl_ask *ask = &s->asks[s->ask_count];

    memset(ask, 0, sizeof(*ask));
    ask->key = o->redis_key;
    ask->limit = &o->limit;
    ask->kind = kind;
    ask->cost = o->cost;
    ask->position = o->position;
    ask->has_tail = o->rule->has_tail;
    s->asked[s->ask_count++] = o;
    return ask;
}

int64_t rl_step_time_left_us(const rl_step *s)
{
    return s->context->settings->timeout_ms * 1000 - s->chain->waited_us;
}
