/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay: the places of delayed requests.
 *
 * A delayed request occupies a worker while it waits, so RateLimitDelayWorkers bounds how many may
 * wait at a time. The verdict depends on whether a place is free, and how long the place is needed
 * depends on the verdict. So a step checks for a free place first and takes one last; if other
 * requests took the last place in between, the request is denied.
 */
#include "decide/step.h"
#include "httpd/worker_load.h"

/* How many requests may be delayed at a time. */
static int places(const rl_step *s)
{
    int percent = s->context->settings->delay_workers;
    int most = rl_worker_load_workers() * percent / 100;

    return percent > 0 && most == 0 ? 1 : most;
}

void rl_step_check_places(rl_step *s)
{
    s->no_place = !rl_delayed_has_room(s->context->delayed, s->host_ms, places(s));
    for (int i = 0; i < s->count && s->no_place; i++)
        s->outcomes[i]->limit.delay_ms = 0;
}

/* The longest delay that a rule gives an admitted request, in ms. */
static int64_t delay_of(const rl_step *s)
{
    int64_t delay_ms = 0;

    for (int i = 0; i < s->count; i++) {
        if (s->outcomes[i]->delay_ms > delay_ms)
            delay_ms = s->outcomes[i]->delay_ms;
    }
    return delay_ms;
}

/*
 * Denies a request that finds no place, as without delay=. Its charges are given back, so that its
 * Retry-After does not count them.
 */
static void deny_for_place(rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->delay_ms > 0) {
            o->limit.delay_ms = 0;
            o->denies = 1;
        }
    }
    rl_step_give_back(s);
}

int64_t rl_step_take_place(rl_step *s)
{
    int64_t delay_ms = delay_of(s);

    if (delay_ms == 0
        || rl_delayed_take(s->context->delayed, rl_local_clock(), delay_ms, places(s)))
        return delay_ms;
    deny_for_place(s);
    return 0;
}
