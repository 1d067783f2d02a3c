/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_count: the counts of this host.
 *
 * A count is one pair of words, its pending units are another; limiter.c calculates on a state made
 * from both. Each pair is swapped from what was read. The sum that is judged is never less than
 * what was really charged and pending:
 *
 * - A unit is charged before it is removed from the pending pair, and the pending pair is read
 *   before the count. So a unit that is being settled is seen at least once, at worst twice.
 * - Of rules that share a counter, one may charge the count while another makes units pending:
 *   these are swaps of different pairs. Each thread reads both pairs again after its swap. At least
 *   the later one sees both changes, and takes its own back if they exceed the limit.
 * - Units that are pending too long are charged once, by three swaps. Any thread may make them, and
 *   each takes effect once. 1: the pending pair is marked with the number of overdue periods; from
 *   then on no other change to it succeeds. 2: the units are charged to the count, and its side bit
 *   is turned. 3: the units are removed from the pending pair, the mark with them, and its side bit
 *   is turned. Between 2 and 3 the side bits differ: the marked units are charged already. A thread
 *   that finds a mark goes on from there, so it does not matter whether the thread that set it
 *   lives.
 */
#include <string.h>

#include "shm/local_table.h"

#define LATE_MS 60000 /* a thread may have been stopped for so long after it read its clock */

/* In the second word of a count, and in the first one of the pending pair. */
#define COUNT_SIDE (UINT64_C(1) << 63)
#define PENDING_SIDE (UINT64_C(1) << 51)

/* The mark of a pending pair: 1 if the period before is overdue, 2 if both are. */
#define OVERDUE_SHIFT 49
#define OVERDUE (UINT64_C(3) << OVERDUE_SHIFT)
#define PERIOD (~(GENERATION | PENDING_SIDE | OVERDUE))

/* A count as it was read, which is what a swap expects. */
typedef struct {
    rl_pair count, pending;
    uint64_t blocked;
} reading;

/* A pair as it reads in a tenure: one of another generation is zero. */
static rl_pair pair_in(const tenure *t, rl_pair p)
{
    return is_of(first_of(p), t->owner) ? p : pair_of(t->owner & GENERATION, 0);
}

static int64_t position_of(rl_pair count)
{
    return (int64_t)(first_of(count) & VALUE);
}

static int64_t position_in(const rl_limit *limit, const rl_state *state)
{
    return rl_limiter_is_bucket(limit) ? state->at : state->index;
}

static int64_t period_of(rl_pair pending)
{
    return (int64_t)(first_of(pending) & PERIOD);
}

static int marked(rl_pair pending)
{
    return (int)((first_of(pending) & OVERDUE) >> OVERDUE_SHIFT);
}

static int64_t upper(rl_pair p)
{
    return (int64_t)((second_of(p) & ~COUNT_SIDE) >> 32);
}

static int64_t lower(rl_pair p)
{
    return (int64_t)(second_of(p) & 0xffffffff);
}

/* Whether the marked units are in the count already. */
static int is_charged(rl_pair count, rl_pair pending)
{
    return marked(pending)
        && !(second_of(count) & COUNT_SIDE) != !(first_of(pending) & PENDING_SIDE);
}

static void unpack_count(const rl_limit *limit, rl_pair p, rl_state *state)
{
    if (rl_limiter_is_bucket(limit)) {
        state->at = position_of(p);
        state->level = (int64_t)(second_of(p) & ~COUNT_SIDE);
    }
    else {
        state->index = position_of(p);
        state->prev = upper(p);
        state->cur = lower(p);
    }
}

/* pack_count() and pack_pending() keep the generation and the side of the pair that was read. */
static rl_pair pack_count(const rl_limit *limit, rl_pair was, const rl_state *state)
{
    uint64_t generation = first_of(was) & GENERATION, side = second_of(was) & COUNT_SIDE;

    if (rl_limiter_is_bucket(limit))
        return pair_of(generation | (uint64_t)state->at, side | (uint64_t)state->level);
    return pair_of(generation | (uint64_t)state->index,
                   side | (uint64_t)state->prev << 32 | (uint64_t)state->cur);
}

static rl_pair pack_pending(rl_pair was, const rl_pending *pending)
{
    return pair_of((first_of(was) & (GENERATION | PENDING_SIDE)) | (uint64_t)pending->period,
                   (uint64_t)pending->prev << 32 | (uint64_t)pending->cur);
}

/* What is pending without the marked units. */
static rl_pending without_overdue(rl_pair pending)
{
    int periods = marked(pending);

    return (rl_pending){period_of(pending) + periods, periods == 1 ? lower(pending) : 0,
                        periods == 0 ? lower(pending) : 0};
}

/*
 * The time that counts: now, or later if a thread that read its clock later has moved the count on
 * already. If the count is further ahead than a stopped thread explains, a clock has stepped back,
 * and now counts.
 */
static int64_t not_before(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t ticks = rl_limiter_ticks(limit);
    int64_t moved = rl_limiter_is_bucket(limit) ? state->at
                                                           : state->index * limit->window_ms;

    return moved > now && moved - now <= (LATE_MS + limit->window_ms) * ticks ? moved : now;
}

static void at_least(const rl_limit *limit, rl_state *state, const rl_state *seed, int64_t now)
{
    rl_state known = *seed;

    rl_limiter_roll(limit, &known, now);
    if (rl_limiter_is_bucket(limit)) {
        state->level = max64(state->level, known.level);
    }
    else if (known.index == state->index) {
        state->prev = max64(state->prev, known.prev);
        state->cur = max64(state->cur, known.cur);
    }
}

/* The view of what was read in a tenure, at view->now. */
static void state_of(const rl_limit *limit, const tenure *t, const reading *was, rl_view *view)
{
    rl_pair count = pair_in(t, was->count), pending = pair_in(t, was->pending);
    rl_state *state = &view->state;

    memset(state, 0, sizeof(*state));
    unpack_count(limit, count, state);
    state->pending = is_charged(count, pending)
        ? without_overdue(pending)
        : (rl_pending){period_of(pending), upper(pending), lower(pending)};
    if (is_of(was->blocked, t->owner))
        state->blocked_until = (int64_t)(was->blocked & VALUE);
    view->now = not_before(limit, state, view->now);
    view->now = rl_limiter_roll(limit, state, view->now);
    if (view->seed)
        at_least(limit, state, view->seed, view->now);
}

/*
 * The pending pair first: see above. If units are pending, repeats until that pair is the same
 * before and after the count is read. So no unit is seen in both, and the side bits of the two fit.
 */
static void read_count(const tenure *t, reading *was)
{
    const word *words = t->entry->words;

    do {
        was->pending = read_pair(&words[PENDING]);
        was->count = read_pair(&words[COUNT]);
    } while (second_of(pair_in(t, was->pending)) && read_pair(&words[PENDING]) != was->pending);
    was->blocked = load_acquire(&words[BLOCKED]);
}

/* How many periods of a pending pair are overdue, the earlier one first. */
static int overdue(const rl_limit *limit, rl_pair pending, int64_t now)
{
    int64_t behind = now / (RL_PENDING_PERIOD_MS * rl_limiter_ticks(limit)) - period_of(pending);

    if (behind >= 2 && lower(pending))
        return 2;
    return behind >= 1 && upper(pending) ? 1 : 0;
}

/* The count with the marked units charged to it, at the end of their last period or now. */
static rl_pair charge_marked(const rl_limit *limit, const tenure *t, const reading *was,
                             int64_t now)
{
    rl_pair count = pair_in(t, was->count);
    int periods = marked(was->pending);
    rl_state state = {.pending = {period_of(was->pending), upper(was->pending),
                                  periods == 2 ? lower(was->pending) : 0}};

    unpack_count(limit, count, &state);
    now = max64(now, (state.pending.period + periods) * RL_PENDING_PERIOD_MS
                         * rl_limiter_ticks(limit));
    rl_limiter_roll(limit, &state, not_before(limit, &state, now));
    count = pack_count(limit, count, &state);
    return pair_of(first_of(count), second_of(count) ^ COUNT_SIDE);
}

/* Makes the next of the three swaps that charge overdue units. */
static void charge_overdue(const tenure *t, const rl_limit *limit, const reading *was, int64_t now)
{
    word *words = t->entry->words;
    rl_pair pending = was->pending;
    rl_pending left = without_overdue(pending);

    if (!marked(pending))
        swap_pair(&words[PENDING], pending,
                  pending | (uint64_t)overdue(limit, pending, now) << OVERDUE_SHIFT);
    else if (!is_charged(pair_in(t, was->count), pending))
        swap_pair(&words[COUNT], was->count, charge_marked(limit, t, was, now));
    else
        swap_pair(&words[PENDING], pending, pack_pending(pending, &left) ^ PENDING_SIDE);
}

/*
 * Reads a count, after charging what is overdue in it. Returns 0 if the tenure is over. Otherwise a
 * swap from what was read happens in this tenure or fails: see is_current().
 */
static int read_due(const tenure *t, const rl_limit *limit, int64_t now, reading *was)
{
    rl_pair pending;

    for (;;) {
        read_count(t, was);
        if (!is_current(t))
            return 0;
        pending = pair_in(t, was->pending);
        if (!second_of(pending) || (!marked(pending) && !overdue(limit, pending, now)))
            return 1;
        charge_overdue(t, limit, was, now);
    }
}

/*
 * If a count or its pending pair was read ahead of now, stores them as rl_limiter_roll() anchors
 * them. If another thread's swap comes first, the next denial does it.
 */
static void store_anchored(const tenure *t, const rl_limit *limit, const reading *was, int64_t now)
{
    rl_pair count = pair_in(t, was->count), pending = pair_in(t, was->pending);
    word *words = t->entry->words;
    uint64_t blocked = was->blocked;
    rl_view view;
    const rl_state *state = &view.state;

    view.now = now;
    view.seed = NULL;
    state_of(limit, t, was, &view);
    if (position_in(limit, state) < position_of(count)) {
        if (is_of(blocked, t->owner))
            swap(&words[BLOCKED], &blocked,
                 (t->owner & GENERATION) | (uint64_t)state->blocked_until);
        swap_pair(&words[COUNT], was->count, pack_count(limit, count, state));
    }
    if (second_of(pending) && !marked(pending) && state->pending.period < period_of(pending))
        swap_pair(&words[PENDING], was->pending, pack_pending(pending, &state->pending));
}

void rl_local_anchor(rl_local *table, uint64_t key, const rl_limit *limit, int64_t now)
{
    tenure t = rl_local_find(table, key);
    reading was;

    if (t.entry && read_due(&t, limit, now, &was))
        store_anchored(&t, limit, &was, now);
}

void rl_local_peek(rl_local *table, uint64_t key, const rl_limit *limit, rl_view *view)
{
    tenure t = rl_local_find(table, key);
    reading was = {0, 0, 0};

    if (t.entry)
        read_count(&t, &was);
    state_of(limit, &t, &was, view);
}

/* Tries to charge once. Returns 0 if the pair has changed; otherwise *was is what is there now. */
static int try_charge(const tenure *t, const rl_limit *limit, int64_t cost, reading *was,
                      const rl_state *state, rl_state *after)
{
    rl_pair *p = limit->on_response ? &was->pending : &was->count;
    rl_pair next;

    *after = *state;
    rl_limiter_charge(limit, after, cost);
    next = limit->on_response ? pack_pending(pair_in(t, *p), &after->pending)
                              : pack_count(limit, pair_in(t, *p), after);
    if (!swap_pair(&t->entry->words[limit->on_response ? PENDING : COUNT], *p, next))
        return 0;
    *p = next;
    return 1;
}

/*
 * Whether the counter is within its limit after a charge. It is if both pairs are still those that
 * the charge was decided on. If nothing was ever pending in this tenure, nothing needs comparing: a
 * thread that makes a unit pending later will see the charge. This needs a full barrier between
 * each thread's swap and its reads; swap_pair() is one.
 */
static int still_fits(const tenure *t, const rl_limit *limit, const reading *was,
                      const rl_view *before)
{
    rl_view view;
    reading is;

    if (!is_of(load_acquire(&t->entry->words[PENDING]), t->owner))
        return 1;
    read_count(t, &is);
    if (is.count == was->count && is.pending == was->pending)
        return 1;
    view.now = before->now;
    view.seed = before->seed;
    state_of(limit, t, &is, &view);
    return rl_limiter_admits(limit, &view.state, view.now, 0);
}

static void take_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                      int64_t host_ms, const rl_view *before)
{
    int64_t position = rl_limiter_position(limit, &before->state, before->now);
    rl_local_units units = {position, cost, host_ms, before->now};

    if (limit->on_response)
        rl_local_settle(table, key, limit, &units, 0);
    else
        rl_local_give_back(table, key, limit, position, cost);
}

int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, rl_view *view)
{
    tenure t;
    rl_state after;
    reading was;
    int admitted;

    for (;;) {
        t = rl_local_claim(table, key, host_ms);
        if (!read_due(&t, limit, view->now, &was))
            continue;
        state_of(limit, &t, &was, view);
        admitted = rl_limiter_admits(limit, &view->state, view->now, cost);
        if (!admitted)
            break;
        if (try_charge(&t, limit, cost, &was, &view->state, &after)) {
            if (still_fits(&t, limit, &was, view))
                break;
            take_back(table, key, limit, cost, host_ms, view);
        }
    }
    if (!admitted) {
        store_anchored(&t, limit, &was, view->now);
        rl_local_block(table, key, limit, cost, host_ms, view);
    }
    rl_local_touch(t.entry, limit, admitted ? &after : &view->state, view->now, host_ms);
    return admitted;
}

void rl_local_block(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, rl_view *view)
{
    uint64_t was;
    tenure t;

    if (!rl_limiter_blocks(limit, &view->state, view->now, cost))
        return;
    view->state.blocked_until = view->now + limit->block_ms * rl_limiter_ticks(limit);
    t = rl_local_claim(table, key, host_ms);
    was = load_acquire(&t.entry->words[BLOCKED]);
    if (is_current(&t) && swap(&t.entry->words[BLOCKED], &was,
                               (t.owner & GENERATION) | (uint64_t)view->state.blocked_until))
        rl_local_touch(t.entry, limit, &view->state, view->now, host_ms);
}

void rl_local_give_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t position,
                        int64_t cost)
{
    tenure t = rl_local_find(table, key);
    rl_pair was, count;
    rl_state state;

    do {
        if (!t.entry)
            return;
        was = read_pair(&t.entry->words[COUNT]);
        count = pair_in(&t, was);
        unpack_count(limit, count, &state);
        rl_limiter_give_back(limit, &state, position, cost);
    } while (is_current(&t)
             && !swap_pair(&t.entry->words[COUNT], was, pack_count(limit, count, &state)));
}

/*
 * Whether the units of a period are no longer pending. If another thread, whose clock is ahead, has
 * moved the pair on by one period, it is the next one that counts.
 */
static int is_over(int64_t period, const rl_state *state, rl_pair pending)
{
    int64_t latest = state->pending.period + (period_of(pending) == state->pending.period + 1);

    return period > latest || period < latest - 1;
}

int64_t rl_local_prolong(rl_local *table, uint64_t key, const rl_limit *limit,
                         const rl_local_units *units)
{
    tenure t = rl_local_find(table, key);
    reading was = {0, 0, 0};
    rl_view view = {.now = units->now};
    rl_state after;
    int64_t prolonged;

    for (;;) {
        if (t.entry && !read_due(&t, limit, view.now, &was)) {
            t = rl_local_find(table, key);
            was = (reading){0, 0, 0};
            continue;
        }
        state_of(limit, &t, &was, &view);
        if (t.entry && is_over(units->period, &view.state, pair_in(&t, was.pending)))
            return RL_PERIOD_GONE;
        after = view.state;
        prolonged = rl_limiter_prolong(&after, units->period, units->cost);
        if (!t.entry || !memcmp(&after.pending, &view.state.pending, sizeof(after.pending)))
            return prolonged;
        if (swap_pair(&t.entry->words[PENDING], was.pending,
                      pack_pending(pair_in(&t, was.pending), &after.pending)))
            break;
    }
    rl_local_touch(t.entry, limit, &after, view.now, units->host_ms);
    return prolonged;
}

/*
 * Units are first charged, then removed from the pending pair. So a unit is always counted at least
 * once, and twice if the process dies in between. If the units become overdue in between, another
 * thread charges them, and this charge is given back.
 */
void rl_local_settle(rl_local *table, uint64_t key, const rl_limit *limit,
                     const rl_local_units *units, int charged)
{
    tenure t = rl_local_claim(table, key, units->host_ms);
    rl_view view = {.now = units->now};
    int64_t charged_at = -1;
    rl_state after;
    reading was;

    for (;;) {
        if (!read_due(&t, limit, view.now, &was))
            return;
        state_of(limit, &t, &was, &view);
        after = view.state;
        rl_limiter_settle(limit, &after, units->period, units->cost, charged);
        if (is_over(units->period, &view.state, pair_in(&t, was.pending))) {
            if (charged_at >= 0)
                rl_local_give_back(table, key, limit, charged_at, units->cost);
            return;
        }
        if (charged) {
            if (!swap_pair(&t.entry->words[COUNT], was.count,
                           pack_count(limit, pair_in(&t, was.count), &after)))
                continue;
            charged_at = position_in(limit, &after);
            charged = 0;
        }
        if (swap_pair(&t.entry->words[PENDING], was.pending,
                      pack_pending(pair_in(&t, was.pending), &after.pending)))
            break;
    }
    rl_local_touch(t.entry, limit, &after, view.now, units->host_ms);
}
