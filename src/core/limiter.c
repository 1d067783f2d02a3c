/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limiter: the arithmetic of the algorithms.
 *
 * Both kinds of window have the same two counts. They differ in how much of the previous window
 * still counts: in a sliding window a share that falls as time passes, in a fixed window nothing.
 * The share assumes that the units of the previous window came evenly, which is the usual
 * approximation of a sliding log by two counts. While nothing is admitted the estimate only falls,
 * also where one window ends: there cur becomes prev, with its full weight. The waits below rely on
 * that.
 *
 * A bucket stores its level and not the time at which it will be empty, so that a changed quota
 * does not change what was used. The level is in units x ticks of the window and falls by quota
 * each tick. A leaky bucket with a delay also admits a request that would fit within the delay. Its
 * level then exceeds the burst, and the request is delayed until it would have fitted into the
 * burst.
 *
 * Nothing is divided before it is compared: both sides are multiplied by the window. Quota x window
 * is at most 2^51 ticks (checked when the configuration is read) and counts are at most 10^9, so no
 * sum reaches 2^53, up to which the doubles of Lua are exact, nor 2^63.
 */
#include "core/limiter.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Whether a share of the previous window still counts. */
static int fades(const rl_limit *limit)
{
    return limit->algorithm == RL_SLIDING_WINDOW;
}

/* The window in ticks. */
static int64_t window_of(const rl_limit *limit)
{
    return limit->window_ms * rl_limiter_ticks(limit);
}

/* By how much a delay lets a level exceed the burst, in units x ticks. */
static int64_t delay_room(const rl_limit *limit)
{
    return limit->delay_ms * rl_limiter_ticks(limit) * limit->quota;
}

int rl_limiter_is_exact(const rl_limit *limit)
{
    int64_t window = window_of(limit), room = RL_PRODUCT_MAX;

    if (limit->quota > room / window || limit->burst > room / window)
        return 0;
    room -= rl_limiter_capacity(limit) * window;
    return limit->quota == 0
        || limit->delay_ms <= room / limit->quota / rl_limiter_ticks(limit);
}

/* --- Time passes -------------------------------------------------------------------------- */

/* A block moves together with a state that is anchored to an earlier time. */
static void move_block_back(rl_state *state, int64_t ticks)
{
    state->blocked_until = most(0, state->blocked_until - ticks);
}

/*
 * Anchors a state to an earlier window. How much of prev had faded is not known, so all of it
 * counts as charged in the new window: the estimate is at least what it was.
 */
static void anchor_window(const rl_limit *limit, rl_state *state, int64_t index)
{
    move_block_back(state, (state->index - index) * limit->window_ms);
    if (fades(limit))
        state->cur = least(state->cur + state->prev, RL_COUNT_MAX);
    state->prev = 0;
    state->index = index;
}

static int64_t roll_window(const rl_limit *limit, rl_state *state, int64_t now)
{
    int64_t index = now / limit->window_ms;

    if (state->index == index)
        return now;
    if (state->index == index + 1)
        return state->index * limit->window_ms;
    if (state->index > index) {
        anchor_window(limit, state, index);
        return now;
    }
    state->prev = state->index == index - 1 ? state->cur : 0;
    state->cur = 0;
    state->index = index;
    return now;
}

static int64_t roll_bucket(const rl_limit *limit, rl_state *state, int64_t now)
{
    int64_t passed = now - state->at;

    if (passed < 0 && -passed <= window_of(limit))
        return state->at;
    if (passed < 0)
        move_block_back(state, -passed);
    if (passed > 0 && limit->quota > 0)
        state->level -= passed > state->level / limit->quota ? state->level : passed * limit->quota;
    state->at = now;
    return now;
}

static int64_t roll(const rl_limit *limit, rl_state *state, int64_t now)
{
    if (rl_limiter_is_bucket(limit))
        return roll_bucket(limit, state, now);
    return rl_limiter_is_log(limit) ? now : roll_window(limit, state, now);
}

static void charge(const rl_limit *limit, rl_state *state, int64_t cost)
{
    if (rl_limiter_is_bucket(limit))
        state->level = least(state->level + cost * window_of(limit), RL_PRODUCT_MAX);
    else
        state->cur = least(state->cur + cost, RL_COUNT_MAX);
}

/* The tick that a state was last moved to; of a window, its start. */
static int64_t moved_to(const rl_limit *limit, const rl_state *state)
{
    return rl_limiter_is_bucket(limit) ? state->at : state->index * limit->window_ms;
}

/* Charges overdue units at the end of a period, or later if the state has moved on already. */
static void overdue(const rl_limit *limit, rl_state *state, int64_t units, int64_t period)
{
    int64_t ended = period * RL_PENDING_PERIOD_MS * rl_limiter_ticks(limit);

    if (units == 0)
        return;
    if (ended > moved_to(limit, state))
        roll(limit, state, ended);
    charge(limit, state, units);
}

/* If a clock stepped back, the periods stay up to two ahead of it. */
static void roll_pending(const rl_limit *limit, rl_state *state, int64_t now)
{
    rl_pending was = state->pending;
    int64_t period = now / (RL_PENDING_PERIOD_MS * rl_limiter_ticks(limit));

    if (was.prev + was.cur > 0 && was.period >= period && was.period <= period + 2)
        return;
    state->pending.period = period;
    if (was.period >= period)
        return;
    overdue(limit, state, was.prev, was.period + 1);
    state->pending.prev = was.period == period - 1 ? was.cur : 0;
    state->pending.cur = 0;
    if (was.period < period - 1)
        overdue(limit, state, was.cur, was.period + 2);
}

/* If a block ends later than one that starts now would, a clock stepped back: shortens it. */
static void roll_block(const rl_limit *limit, rl_state *state, int64_t now)
{
    int64_t most_ms = limit->block_ms ? limit->block_ms : RL_WINDOW_MAX_MS;

    state->blocked_until = least(state->blocked_until, now + most_ms * rl_limiter_ticks(limit));
}

int64_t rl_limiter_roll(const rl_limit *limit, rl_state *state, int64_t now)
{
    if (limit->on_response || state->pending.prev || state->pending.cur)
        roll_pending(limit, state, now);
    now = roll(limit, state, now);
    if (state->blocked_until)
        roll_block(limit, state, now);
    return now;
}

/* --- Verdicts ----------------------------------------------------------------------------- */

static int64_t pending_units(const rl_state *state)
{
    return state->pending.prev + state->pending.cur;
}

static int64_t elapsed(const rl_limit *limit, const rl_state *state, int64_t now)
{
    return now - state->index * limit->window_ms;
}

/* What is used now, and below what may be used, both multiplied by the window. */
static int64_t used(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t sum;

    if (rl_limiter_is_bucket(limit))
        return state->level;
    if (rl_limiter_is_log(limit))
        return state->used * limit->window_ms;
    sum = state->cur * limit->window_ms;
    if (fades(limit))
        sum += state->prev * (limit->window_ms - elapsed(limit, state, now));
    return sum;
}

static int64_t room(const rl_limit *limit)
{
    return rl_limiter_capacity(limit) * window_of(limit);
}

static int fits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t units)
{
    return units <= rl_limiter_capacity(limit)
        && used(limit, state, now) + units * window_of(limit) <= room(limit) + delay_room(limit);
}

int rl_limiter_admits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost)
{
    return now >= state->blocked_until && fits(limit, state, now, pending_units(state) + cost);
}

int rl_limiter_is_soft(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost)
{
    return now >= state->blocked_until && fits(limit, state, now, cost)
        && !fits(limit, state, now, pending_units(state) + cost);
}

int rl_limiter_blocks(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost)
{
    return limit->block_ms > 0 && now >= state->blocked_until
        && cost <= rl_limiter_capacity(limit) && !fits(limit, state, now, cost);
}

int64_t rl_limiter_delay(const rl_limit *limit, const rl_state *state, int64_t cost)
{
    int64_t over;

    if (limit->delay_ms == 0)
        return 0;
    over = state->level + cost * window_of(limit) - room(limit);
    return over <= 0 ? 0 : divide_up(over, limit->quota * rl_limiter_ticks(limit));
}

int64_t rl_limiter_remaining(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t left = room(limit) - used(limit, state, now);

    left = left > 0 ? left / window_of(limit) - pending_units(state) : 0;
    return now >= state->blocked_until ? most(left, 0) : 0;
}

/* --- Waits -------------------------------------------------------------------------------- */

/*
 * The elapsed time at which a fading count of the previous window has come down to units: the least
 * e with count x (window - e) <= units x window.
 */
static int64_t faded(const rl_limit *limit, int64_t count, int64_t units)
{
    if (count <= units)
        return 0;
    return limit->window_ms - units * limit->window_ms / count;
}

static int64_t wait_for_window(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost)
{
    int64_t gone = elapsed(limit, state, now);
    int64_t to_end = limit->window_ms - gone;
    int64_t units = limit->quota - cost;

    if (!fades(limit))
        return to_end;
    if (state->cur <= units)
        return faded(limit, state->prev, units - state->cur) - gone;
    return to_end + faded(limit, state->cur, units);
}

static int64_t wait_for_bucket(const rl_limit *limit, const rl_state *state, int64_t cost)
{
    int64_t over = state->level + cost * window_of(limit) - room(limit) - delay_room(limit);

    return divide_up(over, limit->quota * rl_limiter_ticks(limit));
}

/* A bucket whose quota became 0 while it was in use keeps its level for ever. */
static int never_drains(const rl_limit *limit, const rl_state *state, int64_t cost)
{
    return rl_limiter_is_bucket(limit) && limit->quota == 0 && state->level + cost > 0;
}

/* How long the algorithm denies cost units, without regard to pending units and blocks. */
static int64_t wait_for(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost)
{
    if (fits(limit, state, now, cost))
        return 0;
    if (rl_limiter_is_bucket(limit))
        return wait_for_bucket(limit, state, cost);
    if (rl_limiter_is_log(limit))
        return cost == state->asked ? state->wait_ms : state->next_ms;
    return wait_for_window(limit, state, now, cost);
}

/* How long a block lasts. */
static int64_t blocked_for(const rl_limit *limit, const rl_state *state, int64_t now)
{
    if (now >= state->blocked_until)
        return 0;
    return divide_up(state->blocked_until - now, rl_limiter_ticks(limit));
}

int64_t rl_limiter_retry_after(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost)
{
    if (cost > rl_limiter_capacity(limit) || never_drains(limit, state, cost))
        return RL_NEVER;
    if (rl_limiter_is_soft(limit, state, now, cost))
        return RL_SOFT_RETRY_MS;
    return most(wait_for(limit, state, now, cost), blocked_for(limit, state, now));
}

int64_t rl_limiter_reset(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t to_end;

    if (rl_limiter_is_log(limit))
        return state->used > 0 ? state->reset_ms : 0;
    if (rl_limiter_is_bucket(limit))
        return state->level == 0 || limit->quota == 0
            ? 0 : divide_up(state->level, limit->quota * rl_limiter_ticks(limit));
    to_end = limit->window_ms - elapsed(limit, state, now);
    if (!fades(limit))
        return state->cur > 0 ? to_end : 0;
    if (state->cur > 0)
        return to_end + limit->window_ms;
    return state->prev > 0 ? to_end : 0;
}

int64_t rl_limiter_next_unit(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t remaining = rl_limiter_remaining(limit, state, now);

    if (remaining >= rl_limiter_capacity(limit))
        return RL_NEVER;
    if (rl_limiter_is_log(limit) && now >= state->blocked_until)
        return pending_units(state) ? RL_SOFT_RETRY_MS : state->next_ms;
    if (limit->delay_ms > 0) /* until more is left that needs no delay */
        return most(rl_limiter_delay(limit, state, remaining + 1), blocked_for(limit, state, now));
    return rl_limiter_retry_after(limit, state, now, remaining + 1);
}

/* --- Leases ------------------------------------------------------------------------------- */

/* The ms that a lease that begins now may be spent in, at the most. */
static int64_t lease_rest(const rl_limit *limit, int64_t now)
{
    if (rl_limiter_is_bucket(limit))
        return limit->lease_ms;
    return limit->window_ms - now % limit->window_ms;
}

int64_t rl_limiter_lease_ms(const rl_limit *limit, int64_t now)
{
    return least(lease_rest(limit, now) * 7 / 8, limit->lease_ms);
}

/* The ms in which as much as the capacity becomes free again, if it is used evenly. */
static int64_t refill_ms(const rl_limit *limit)
{
    return limit->quota ? rl_limiter_capacity(limit) * limit->window_ms / limit->quota : 0;
}

/* Of units that are wanted for RL_LEASE_DEMAND_MS, those for so many ms, if they are fewer. */
static int64_t needed_in(int64_t wanted, int64_t ms)
{
    return ms < RL_LEASE_DEMAND_MS ? wanted * ms / RL_LEASE_DEMAND_MS : wanted;
}

int64_t rl_limiter_lease(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost,
                         int64_t wanted)
{
    int64_t left = rl_limiter_remaining(limit, state, now) - cost;
    int64_t rest = least(left, rl_limiter_capacity(limit) / RL_LEASE_REST);
    int64_t lasts = needed_in(wanted, rl_limiter_lease_ms(limit, now) / 2);
    int64_t scarce = most(needed_in(wanted, refill_ms(limit) / RL_LEASE_REST),
                          left / RL_LEASE_REST);

    return most(0, least(least(lasts, scarce), most(left / RL_LEASE_SHARE, rest)));
}

int64_t rl_limiter_bucket_lease_ms(const rl_limit *limit)
{
    int64_t quarter = limit->window_ms / 4;

    if (limit->quota > 0)
        quarter = least(quarter, limit->burst * limit->window_ms / (4 * limit->quota));
    return least(quarter, RL_LEASE_MAX_MS);
}

int64_t rl_limiter_leased_burst(int64_t quota, int64_t burst, int64_t window_ms, int64_t lease_ms)
{
    return burst < RL_LEASE_SHARE ? burst : burst - divide_up(quota * lease_ms, window_ms);
}

/* --- Charges ------------------------------------------------------------------------------ */

static void charge_log(const rl_limit *limit, rl_state *state, int64_t cost)
{
    if (state->used == 0)
        state->next_ms = limit->window_ms;
    if (cost > 0)
        state->reset_ms = limit->window_ms;
    state->used += cost;
}

void rl_limiter_charge(const rl_limit *limit, rl_state *state, int64_t cost)
{
    if (limit->on_response)
        state->pending.cur = least(state->pending.cur + cost, RL_COUNT_MAX);
    else if (rl_limiter_is_log(limit))
        charge_log(limit, state, cost);
    else
        charge(limit, state, cost);
}

int64_t rl_limiter_position(const rl_limit *limit, const rl_state *state, int64_t now)
{
    if (limit->on_response)
        return state->pending.period;
    if (rl_limiter_is_log(limit))
        return now;
    return rl_limiter_is_bucket(limit) ? state->at : state->index;
}

/*
 * Part of a bucket's charge may have drained since. How much is not known, because the bucket may
 * have been empty for a while, but it is at most what drains in the time since the charge. That
 * much is not given back.
 */
void rl_limiter_give_back(const rl_limit *limit, rl_state *state, int64_t position, int64_t cost)
{
    if (rl_limiter_is_bucket(limit)) {
        int64_t back = cost * window_of(limit), passed = state->at - position;

        if (passed > 0 && limit->quota > 0)
            back -= passed > back / limit->quota ? back : passed * limit->quota;
        state->level -= least(back, state->level);
    }
    else if (state->index == position) {
        state->cur -= least(cost, state->cur);
    }
    else if (state->index == position + 1) {
        state->prev -= least(cost, state->prev);
    }
}

/* Whether units that became pending in a period may still be pending. */
static int is_pending(const rl_state *state, int64_t period)
{
    return period == state->pending.period || period == state->pending.period - 1;
}

int64_t rl_limiter_prolong(rl_state *state, int64_t period, int64_t cost)
{
    rl_pending *pending = &state->pending;

    if (!is_pending(state, period))
        return RL_PERIOD_GONE;
    if (period < pending->period) {
        int64_t units = least(cost, pending->prev);

        pending->prev -= units;
        pending->cur += units;
    }
    return pending->period;
}

void rl_limiter_settle(const rl_limit *limit, rl_state *state, int64_t period, int64_t cost,
                       int charged)
{
    rl_pending *pending = &state->pending;
    int64_t *there = period == pending->period ? &pending->cur : &pending->prev;
    int64_t *other = period == pending->period ? &pending->prev : &pending->cur;
    int64_t units = least(cost, *there);

    if (!is_pending(state, period))
        return;
    *there -= units;
    *other -= least(cost - units, *other);
    if (charged)
        charge(limit, state, cost);
}
