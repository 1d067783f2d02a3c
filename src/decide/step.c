/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step: the state of one step, and what its parts share.
 */
#include <string.h>

#include "decide/step.h"

void rl_step_mark_charged(rl_outcome *o)
{
    o->charged = 1;
    o->position = rl_limiter_position(&o->limit, &o->view.state, o->view.now);
    o->delay_ms = o->shadow ? 0 : rl_limiter_delay(&o->limit, &o->view.state, o->cost);
    rl_limiter_charge(&o->limit, &o->view.state, o->cost);
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
    ask->has_block_or_pending = o->rule->has_block_or_pending;
    s->asked[s->ask_count++] = o;
    return ask;
}
