/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model of the algorithms, written from their definitions, to test the limiter against. It keeps
 * every charge and adds them up for each verdict, where the limiter keeps two counters or a level.
 * It finds a wait by trying times. It is slow, and shares no arithmetic with the limiter.
 *
 * After the clock has stepped back it follows the rules in limiter.h: charges up to a window ahead
 * keep their time; charges further ahead are moved to now, if they still count at all.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdlib.h>
#include <string.h>

#include "core/limiter.h"

typedef __int128 wide;

typedef struct {
    int64_t at;     /* the tick; for windows, the number of the window */
    wide units;     /* for buckets, times the window */
    wide drain;     /* buckets only: units drained since the previous charge */
} charge;

typedef struct {
    int64_t period, units;
} waiting;

typedef struct {
    rl_algorithm algorithm;
    int64_t window_ms;
    charge *charges;
    int count, room;
    waiting *pending; /* by period */
    int pending_count, pending_room;
    int64_t period;     /* the latest */
    int64_t blocked_until;
    int exists;
} model;

static int64_t model_ticks(const model *m)
{
    return (m->algorithm == RL_TOKEN_BUCKET || m->algorithm == RL_LEAKY_BUCKET)
        && m->window_ms <= 60000 ? 1000 : 1;
}

static int model_is_bucket(const model *m)
{
    return m->algorithm == RL_TOKEN_BUCKET || m->algorithm == RL_LEAKY_BUCKET;
}

static int model_is_window(const model *m)
{
    return m->algorithm == RL_SLIDING_WINDOW || m->algorithm == RL_FIXED_WINDOW;
}

static model model_copy(const model *m)
{
    model copy = *m;

    copy.room = m->count + 8;
    copy.charges = malloc((size_t)copy.room * sizeof(charge));
    copy.pending_room = m->pending_count + 8;
    copy.pending = malloc((size_t)copy.pending_room * sizeof(waiting));
    if (m->count)
        memcpy(copy.charges, m->charges, (size_t)m->count * sizeof(charge));
    if (m->pending_count)
        memcpy(copy.pending, m->pending, (size_t)m->pending_count * sizeof(waiting));
    return copy;
}

static void model_free(model *m)
{
    free(m->charges);
    free(m->pending);
}

static void model_add(model *m, int64_t at, wide units, wide drain)
{
    if (m->count == m->room) {
        m->room = 2 * m->room + 8;
        m->charges = realloc(m->charges, (size_t)m->room * sizeof(charge));
    }
    m->charges[m->count++] = (charge){at, units, drain};
}

static int64_t model_latest(const model *m)
{
    return m->count ? m->charges[m->count - 1].at : 0;
}

static int64_t model_sum(const model *m, int64_t from, int64_t to)
{
    wide sum = 0;

    for (int i = 0; i < m->count; i++)
        sum += m->charges[i].at >= from && m->charges[i].at <= to ? m->charges[i].units : 0;
    return (int64_t)sum;
}

/*
 * The level of a bucket when `drain` has drained since the last charge. A bucket never drains below
 * zero, so the level is the largest sum, charges less drain, over all runs of charges that end now.
 */
static wide model_level(const model *m, wide drain)
{
    wide sum = 0, most = 0;

    for (int i = m->count; i-- > 0;) {
        sum += m->charges[i].units - drain;
        most = sum > most ? sum : most;
        drain = m->charges[i].drain;
    }
    return most;
}

/* --- Time --- */

static void model_charge(model *m, const rl_limit *limit, int64_t now, int64_t units)
{
    int64_t at = now, latest = model_latest(m);

    if (model_is_window(m))
        at /= m->window_ms;
    at = m->count && latest > at ? latest : at;
    if (model_is_bucket(m)) {
        wide drain = m->count ? (wide)(at - latest) * limit->quota : 0;
        wide level = model_level(m, drain), cost = (wide)units * m->window_ms * model_ticks(m);

        /* capped like the limiter's level */
        if (level + cost > RL_PRODUCT_MAX)
            cost = RL_PRODUCT_MAX - level;
        model_add(m, at, cost, drain);
    }
    else {
        model_add(m, at, units, 0);
    }
}

static void model_unblock(model *m, int64_t ticks)
{
    m->blocked_until = m->blocked_until > ticks ? m->blocked_until - ticks : 0;
}

/*
 * Moves charges that are more than a window ahead of the clock to now. Returns the time to count
 * at: now, or the time of the latest charge while that is at most a window ahead.
 */
static int64_t model_anchor(model *m, int64_t now)
{
    int64_t latest = model_latest(m), window = m->window_ms * model_ticks(m);

    if (m->count == 0)
        return now;
    if (model_is_window(m)) {
        int64_t index = now / m->window_ms;

        if (latest == index + 1)
            return latest * m->window_ms;
        if (latest <= index)
            return now;
        model_unblock(m, (latest - index) * m->window_ms);
        for (int i = 0; i < m->count; i++) {
            if (m->charges[i].at >= latest - (m->algorithm == RL_SLIDING_WINDOW))
                m->charges[i].at = index;
            else
                m->charges[i].units = 0;
        }
        return now;
    }
    if (latest > now && latest <= now + window)
        return latest;
    if (latest > now)
        model_unblock(m, latest - now);
    for (int i = 0; latest > now && i < m->count; i++)
        m->charges[i].at = m->algorithm == RL_SLIDING_LOG ? now : m->charges[i].at - latest + now;
    return now;
}

/* Charges pending units whose response is overdue, as of the moment at which it became so. */
static void model_overdue(model *m, const rl_limit *limit, int64_t clock)
{
    int64_t period = clock / (60000 * model_ticks(m));
    int kept = 0;

    if (m->pending_count == 0)
        m->period = period;
    if (m->period > period + 2) {
        for (int i = 0; i < m->pending_count; i++)
            m->pending[i].period -= m->period - period;
        m->period = period;
    }
    if (m->period < period)
        m->period = period;
    for (int64_t s = 0; s < 2; s++) {
        int64_t units = 0, first = INT64_MAX;

        for (int i = 0; i < m->pending_count; i++) {
            int64_t there = m->pending[i].period;

            if (there <= period - 2 && m->pending[i].units && there < first)
                first = there;
        }
        for (int i = 0; i < m->pending_count; i++) {
            if (m->pending[i].period == first) {
                units += m->pending[i].units;
                m->pending[i].units = 0;
            }
        }
        if (units)
            model_charge(m, limit, (first + 2) * 60000 * model_ticks(m), units);
    }
    for (int i = 0; i < m->pending_count; i++) {
        if (m->pending[i].units)
            m->pending[kept++] = m->pending[i];
    }
    m->pending_count = kept;
}

/* Drops charges that no longer count; sums up the many charges of a bucket in one. */
static void model_forget(model *m, const rl_limit *limit, int64_t now)
{
    int kept = 0;

    if (model_is_bucket(m)) {
        if (m->count > 40) {
            int64_t latest = model_latest(m);
            wide level = model_level(m, 0);

            m->count = 0;
            model_add(m, latest, level, 0);
        }
        return;
    }
    for (int i = 0; i < m->count; i++) {
        int64_t at = m->charges[i].at;

        if (model_is_window(m) ? at >= model_latest(m) - 1 : at > now - m->window_ms)
            m->charges[kept++] = m->charges[i];
    }
    m->count = kept;
    (void)limit;
}

/* Brings the model up to the clock. Returns the time to count at. */
static int64_t model_move(model *m, const rl_limit *limit, int64_t clock)
{
    int64_t now, ticks = model_ticks(m);

    model_overdue(m, limit, clock);
    now = model_anchor(m, clock);
    if (m->algorithm == RL_SLIDING_LOG)
        model_forget(m, limit, now);
    if (m->blocked_until > now + (limit->block_ms ? limit->block_ms : INT64_C(2678400000)) * ticks)
        m->blocked_until = now + (limit->block_ms ? limit->block_ms : INT64_C(2678400000)) * ticks;
    return now;
}

/* Notes that the state was stored at now: a clock that shows an earlier time has stepped back. */
static void model_visit(model *m, const rl_limit *limit, int64_t now)
{
    if (m->algorithm != RL_SLIDING_LOG)
        model_charge(m, limit, now, 0);
}

/* --- Verdicts --- */

/* The units that count at now, times the window. now is not before the last charge. */
static wide model_used(const model *m, const rl_limit *limit, int64_t now)
{
    wide window = (wide)m->window_ms * model_ticks(m);
    int64_t index = now / m->window_ms;

    switch (m->algorithm) {
    case RL_SLIDING_WINDOW:
        return model_sum(m, index, index) * window
            + model_sum(m, index - 1, index - 1) * ((wide)(index + 1) * m->window_ms - now);
    case RL_FIXED_WINDOW:
        return model_sum(m, index, index) * window;
    case RL_SLIDING_LOG:
        return model_sum(m, now - m->window_ms + 1, now) * window;
    default:
        return m->count ? model_level(m, (wide)(now - model_latest(m)) * limit->quota) : 0;
    }
}

static int64_t model_pending(const model *m)
{
    int64_t sum = 0;

    for (int i = 0; i < m->pending_count; i++)
        sum += m->pending[i].units;
    return sum;
}

static int64_t model_capacity(const model *m, const rl_limit *limit)
{
    return model_is_bucket(m) && limit->quota ? limit->burst : limit->quota;
}

/* Whether units fit in addition to those charged, with the limit's delay or without it. */
static int model_fits(const model *m, const rl_limit *limit, int64_t now, int64_t units,
                      int delayed)
{
    wide window = (wide)m->window_ms * model_ticks(m), capacity = model_capacity(m, limit);
    wide room = capacity * window
        + (delayed ? (wide)limit->delay_ms * model_ticks(m) * limit->quota : 0);

    return units <= capacity && model_used(m, limit, now) + units * window <= room;
}

static int model_admits(const model *m, const rl_limit *limit, int64_t now, int64_t units)
{
    return now >= m->blocked_until && model_fits(m, limit, now, model_pending(m) + units, 1);
}

/* --- Waits, found by trying times --- */

typedef int (*model_question)(const model *m, const rl_limit *limit, int64_t now, int64_t units);

static int fits_at(const model *m, const rl_limit *limit, int64_t now, int64_t units)
{
    return now >= m->blocked_until && model_fits(m, limit, now, units, 1);
}

static int is_unused_at(const model *m, const rl_limit *limit, int64_t now, int64_t units)
{
    (void)units;
    return model_used(m, limit, now) == 0;
}

/* The least number of ms after which the answer is yes. It must stay yes from then on. */
static int64_t model_wait(const model *m, const rl_limit *limit, int64_t now, int64_t units,
                          model_question question)
{
    int64_t low = -1, high = 1, ticks = model_ticks(m);

    if (question(m, limit, now, units))
        return 0;
    for (low = 0; !question(m, limit, now + high * ticks, units); high *= 2) {
        low = high;
        if (high > (INT64_C(1) << 53) / ticks)
            return RL_NEVER;
    }
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;

        if (question(m, limit, now + middle * ticks, units))
            high = middle;
        else
            low = middle;
    }
    return high;
}

static int64_t model_retry(const model *m, const rl_limit *limit, int64_t now, int64_t units)
{
    if (units > model_capacity(m, limit))
        return RL_NEVER;
    if (fits_at(m, limit, now, units) && !model_admits(m, limit, now, units))
        return RL_SOFT_RETRY_MS;
    return model_wait(m, limit, now, units, fits_at);
}

static int64_t model_remaining(const model *m, const rl_limit *limit, int64_t now)
{
    int64_t low = 0, high = model_capacity(m, limit) + 1, pending = model_pending(m);

    if (now < m->blocked_until)
        return 0;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;

        if (model_fits(m, limit, now, middle + pending, 0))
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* --- Pending units, and units given back --- */

static void model_wait_for_response(model *m, int64_t units)
{
    if (m->pending_count == m->pending_room) {
        m->pending_room = 2 * m->pending_room + 8;
        m->pending = realloc(m->pending, (size_t)m->pending_room * sizeof(waiting));
    }
    m->pending[m->pending_count++] = (waiting){m->period, units};
}

/* Takes pending units from a period; returns how many were missing there. */
static int64_t model_take_pending(model *m, int64_t period, int64_t units)
{
    int kept = 0;

    for (int i = 0; i < m->pending_count; i++) {
        int64_t less = m->pending[i].units < units ? m->pending[i].units : units;

        if (m->pending[i].period == period) {
            m->pending[i].units -= less;
            units -= less;
        }
        if (m->pending[i].units)
            m->pending[kept++] = m->pending[i];
    }
    m->pending_count = kept;
    return units;
}

static int64_t model_pending_in(const model *m, int64_t period)
{
    int64_t sum = 0;

    for (int i = 0; i < m->pending_count; i++)
        sum += m->pending[i].period == period ? m->pending[i].units : 0;
    return sum;
}

static int model_may_be_pending(const model *m, int64_t period)
{
    return period == m->period || period == m->period - 1;
}

static void model_prolong(model *m, int64_t period, int64_t units)
{
    if (period == m->period - 1)
        model_wait_for_response(m, units - model_take_pending(m, period, units));
}

/* Takes units from their period and, if some are missing there, from the other period. */
static void model_settle(model *m, const rl_limit *limit, int64_t now, int64_t period,
                         int64_t units, int charged)
{
    if (!model_may_be_pending(m, period))
        return;
    model_take_pending(m, 2 * m->period - 1 - period, model_take_pending(m, period, units));
    if (charged)
        model_charge(m, limit, now, units);
}

static void model_give_back(model *m, const rl_limit *limit, int64_t now, int64_t position,
                            int64_t units)
{
    int64_t left = units;
    int kept = 0;

    if (model_is_bucket(m)) {
        wide back = (wide)units * m->window_ms * model_ticks(m);

        if (now > position)
            back -= (wide)(now - position) * limit->quota;
        model_add(m, now, 0, (wide)(now - model_latest(m)) * limit->quota);
        if (back > 0)
            model_add(m, now, 0, back);
        return;
    }
    for (int i = m->count; i-- > 0 && left > 0;) {
        wide less = m->charges[i].units < left ? m->charges[i].units : left;

        if (m->charges[i].at == position) {
            m->charges[i].units -= less;
            left -= (int64_t)less;
        }
    }
    if (m->algorithm != RL_SLIDING_LOG)
        return;
    for (int i = 0; i < m->count; i++) {
        if (m->charges[i].units)
            m->charges[kept++] = m->charges[i];
    }
    m->count = kept;
}

#endif
