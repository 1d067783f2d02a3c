/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay: the places of delayed requests.
 *
 * A delayed request keeps a worker busy while it waits, so RateLimitDelayWorkers bounds how many
 * may wait at a time. The verdict depends on whether a place is free, but only the verdict says for
 * how long the place is needed. So a step looks for a free place first and takes one last; a request
 * that finds the last place taken in between is denied.
 */
#include "decide/step.h"
#include "httpd/worker_load.h"

/* How many requests may be held at a time. */
static int places(const rl_step *s)
{
    int percent = s->context->settings->delay_workers;
    int most = rl_load_workers() * percent / 100;

    return percent > 0 && most == 0 ? 1 : most;
}

void rl_step_check_places(rl_step *s)
{
    s->no_place = s->delay_ms > 0
        && !rl_delayed_has_room(s->context->delayed, s->host_ms, places(s));
    for (int i = 0; i < s->count && s->no_place; i++)
        s->outcomes[i]->limit.delay_ms = 0;
}

/* The longest that a rule wants an admitted request held. */
static int64_t hold_of(const rl_step *s)
{
    int64_t hold_ms = 0;

    for (int i = 0; i < s->count; i++) {
        if (s->outcomes[i]->hold_ms > hold_ms)
            hold_ms = s->outcomes[i]->hold_ms;
    }
    return hold_ms;
}

/*
 * Denies a request that others have left no place since the step began, as it is denied without
 * delay=. Its charges are given back first: how long it has to wait is told without them.
 */
static void deny_for_place(rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->hold_ms > 0) {
            o->limit.delay_ms = 0;
            o->denies = 1;
        }
    }
    rl_step_give_back(s);
}

int64_t rl_step_take_place(rl_step *s)
{
    int64_t hold_ms = hold_of(s);

    if (hold_ms == 0
        || rl_delayed_take(s->context->delayed, rl_local_clock(), hold_ms, places(s)))
        return hold_ms;
    deny_for_place(s);
    return 0;
}
