/*
 * limiter: the arithmetic of the algorithms.
 *
 * Both windows are the same two counters; they differ in how much of the previous window still
 * counts: all of it fading in proportion to the time elapsed (sliding), or nothing (fixed). The
 * sliding estimate assumes that the previous window's units came evenly, which is the usual
 * two-counter approximation of a true sliding log. Seen as a function of time, with nothing
 * admitted, the estimate only falls, also across the window's edge: there prev takes over cur
 * with its full weight. The waits below rest on that.
 *
 * Nothing is divided before it is compared: both sides are kept multiplied by the window. With
 * quota x window <= 2^51 (checked when the configuration is read) and counts <= 10^9 no sum passes
 * 2^53, where doubles in Lua stop being exact, nor 2^63, where this file would.
 */
#include "limiter.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t elapsed(const rl_limit *limit, const rl_state *state, int64_t now)
{
    return now - state->index * limit->window_ms;
}

/* The units that count against the quota now, times the window. */
static int64_t used(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t sum = state->cur * limit->window_ms;

    if (limit->algorithm == RL_SLIDING_WINDOW)
        sum += state->prev * (limit->window_ms - elapsed(limit, state, now));
    return sum;
}

int64_t rl_limiter_roll(const rl_limit *limit, rl_state *state, int64_t now)
{
    int64_t index = now / limit->window_ms;

    if (state->index == index)
        return now;
    if (state->index == index + 1)
        return state->index * limit->window_ms;
    if (state->index < index) {
        state->prev = state->index == index - 1 ? state->cur : 0;
        state->cur = 0;
    }
    state->index = index;
    return now;
}

int rl_limiter_admits(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost)
{
    return used(limit, state, now) + cost * limit->window_ms <= limit->quota * limit->window_ms;
}

int64_t rl_limiter_remaining(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t room = limit->quota * limit->window_ms - used(limit, state, now);

    return room > 0 ? room / limit->window_ms : 0;
}

/*
 * The elapsed time at which a window's own count, now fading as prev, leaves room units free:
 * the least e with count x (window - e) <= room x window.
 */
static int64_t faded(const rl_limit *limit, int64_t count, int64_t room)
{
    if (count <= room)
        return 0;
    return limit->window_ms - room * limit->window_ms / count;
}

int64_t rl_limiter_retry_after(const rl_limit *limit, const rl_state *state, int64_t now,
                               int64_t cost)
{
    int64_t gone = elapsed(limit, state, now);
    int64_t to_end = limit->window_ms - gone;
    int64_t room = limit->quota - cost;

    if (room < 0)
        return RL_NEVER;
    if (rl_limiter_admits(limit, state, now, cost))
        return 0;
    if (limit->algorithm == RL_FIXED_WINDOW)
        return to_end;
    if (state->cur <= room)
        return faded(limit, state->prev, room - state->cur) - gone;
    return to_end + faded(limit, state->cur, room);
}

int64_t rl_limiter_reset(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t to_end = limit->window_ms - elapsed(limit, state, now);

    if (limit->algorithm == RL_FIXED_WINDOW)
        return state->cur > 0 ? to_end : 0;
    if (state->cur > 0)
        return to_end + limit->window_ms;
    return state->prev > 0 ? to_end : 0;
}

int64_t rl_limiter_next_unit(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t remaining = rl_limiter_remaining(limit, state, now);

    if (remaining >= limit->quota)
        return RL_NEVER;
    return rl_limiter_retry_after(limit, state, now, remaining + 1);
}

void rl_limiter_give_back(rl_state *state, int64_t index, int64_t cost)
{
    if (state->index == index)
        state->cur -= least(cost, state->cur);
    else if (state->index == index + 1)
        state->prev -= least(cost, state->prev);
}
