/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle of leases: the algorithm alone, with the whole burst, over what a world has admitted,
 * in the order of admission. A request is admitted when its thread read the clock or, if that was
 * later, when its units were debited. The algorithm must have room for each.
 *
 * After a quota has changed, units that were debited before may be spent for RL_LEASE_MAX_MS: the
 * largest quota of that time counts, or that of the request, which is the one of the moment at
 * which it was evaluated. After a failover what was debited in the lost writes may be admitted once
 * more.
 */
#ifndef LEASE_ORACLE_H
#define LEASE_ORACLE_H

#include "lease_world.h"

static int by_time(const void *a, const void *b)
{
    const entry *x = a, *y = b;

    return (x->at_us > y->at_us) - (x->at_us < y->at_us);
}

/* Nearly all are in order already. */
static void sort_entries(counter *c)
{
    size_t i;

    for (i = 1; i < c->count && c->entries[i - 1].at_us <= c->entries[i].at_us; i++)
        continue;
    if (i < c->count)
        qsort(c->entries, c->count, sizeof(entry), by_time);
}

/* What is in force at the time of an entry. Returns 0 if everything is. */
static int limit_at(const counter *c, const entry *e, rl_limit *limit)
{
    const term *now = term_at(c, e->at_us);

    *limit = now->limit;
    limit->quota = e->quota;
    limit->burst = e->burst;
    for (const term *t = term_at(c, e->at_us - RL_LEASE_MAX_MS * 1000); t <= now; t++) {
        if (t->unlimited)
            return 0;
        limit->quota = t->limit.quota > limit->quota ? t->limit.quota : limit->quota;
        limit->burst = t->burst > limit->burst ? t->burst : limit->burst;
    }
    return 1;
}

/* How many of the units in lost writes still count. */
static int64_t lost_units(const counter *c, const rl_limit *limit, int64_t now)
{
    int64_t window = c->lost_at_us / 1000 / limit->window_ms, units = 0;
    int64_t rest = limit->window_ms - now % limit->window_ms;

    for (int i = 0; i < 2; i++) {
        int64_t age = now / limit->window_ms - window - i;

        if (age == 0)
            units += c->lost[i];
        else if (age == 1 && limit->algorithm == RL_SLIDING_WINDOW)
            units += (c->lost[i] * rest + limit->window_ms - 1) / limit->window_ms;
    }
    return units;
}

static void add_lost(const counter *c, rl_limit *limit, const entry *e)
{
    if (c->lost_at_us == 0 || e->at_us < c->lost_at_us)
        return;
    if (rl_limiter_is_bucket(limit))
        limit->burst += c->lost[0];
    else
        limit->quota += lost_units(c, limit, e->at_us / 1000);
}

/* Returns how many admissions were beyond the algorithm. */
static int64_t oracle(counter *c)
{
    rl_state state = {.at = 0};
    int64_t beyond = 0;
    rl_limit limit;

    sort_entries(c);
    for (size_t i = 0; i < c->count; i++) {
        const entry *e = &c->entries[i];
        int is_limited = limit_at(c, e, &limit);
        int64_t now = tick(&limit, e->at_us);

        now = rl_limiter_roll(&limit, &state, now);
        add_lost(c, &limit, e);
        if (e->cost == 0)
            continue;
        beyond += is_limited && !rl_limiter_admits(&limit, &state, now, e->cost);
        rl_limiter_charge(&limit, &state, e->cost);
    }
    return beyond;
}

#endif
