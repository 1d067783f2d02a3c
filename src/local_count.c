/*
 * local_count: the counts of this host.
 *
 * A count is a pair of words, and what is pending another; limiter.c does the arithmetic on a state
 * made of both. How they are swapped, and why that is enough, is told in local.c.
 */
#include <string.h>

#include "local_table.h"

#define LATE_MS 60000 /* a process may have been stopped for so long */

/* A count as it was read. */
typedef struct {
    pair count, pending;
    uint64_t blocked;
} reading;

/* The word that follows a first word, with its number one up. */
static uint64_t next_write(pair was, int64_t position)
{
    uint64_t number = ((uint64_t)was >> WRITE_SHIFT) + 1;

    return number << WRITE_SHIFT | (uint64_t)position;
}

static int64_t position_of(pair p)
{
    return (int64_t)((uint64_t)p & POSITION_MASK);
}

static int64_t upper(pair p)
{
    return (int64_t)((uint64_t)(p >> 64) >> 32);
}

static int64_t lower(pair p)
{
    return (int64_t)((uint64_t)(p >> 64) & 0xffffffff);
}

static void unpack_count(const rl_limit *limit, pair p, rl_state *state)
{
    if (rl_limiter_is_bucket(limit->algorithm)) {
        state->at = position_of(p);
        state->level = (int64_t)(uint64_t)(p >> 64);
    }
    else {
        state->index = position_of(p);
        state->prev = upper(p);
        state->cur = lower(p);
    }
}

static pair pack_count(const rl_limit *limit, pair was, const rl_state *state)
{
    if (rl_limiter_is_bucket(limit->algorithm))
        return pair_of(next_write(was, state->at), (uint64_t)state->level);
    return pair_of(next_write(was, state->index), (uint64_t)state->prev << 32
                                                      | (uint64_t)state->cur);
}

static pair pack_pending(pair was, const rl_pending *pending)
{
    return pair_of(next_write(was, pending->slot), (uint64_t)pending->prev << 32
                                                       | (uint64_t)pending->cur);
}

/*
 * Another process, whose clock was read later than ours, may have moved the count on already; how
 * much later, if we were stopped in between, has a bound. What is further ahead, a clock has left
 * there.
 */
static int64_t not_before(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t ticks = rl_limiter_ticks(limit);
    int64_t moved = rl_limiter_is_bucket(limit->algorithm) ? state->at
                                                           : state->index * limit->window_ms;

    return moved > now && moved - now <= (LATE_MS + limit->window_ms) * ticks ? moved : now;
}

static void at_least(const rl_limit *limit, rl_state *state, const rl_state *seed, int64_t now)
{
    rl_state known = *seed;

    rl_limiter_roll(limit, &known, now);
    if (rl_limiter_is_bucket(limit->algorithm)) {
        state->level = max64(state->level, known.level);
    }
    else if (known.index == state->index) {
        state->prev = max64(state->prev, known.prev);
        state->cur = max64(state->cur, known.cur);
    }
}

/* Makes a state at *now of what was read. */
static void state_of(const rl_limit *limit, uint64_t key, const reading *was,
                     const rl_state *seed, int64_t *now, rl_state *state)
{
    memset(state, 0, sizeof(*state));
    unpack_count(limit, was->count, state);
    state->pending = (rl_pending){position_of(was->pending), upper(was->pending),
                                  lower(was->pending)};
    if ((was->blocked ^ tag_of(key)) >> WRITE_SHIFT == 0)
        state->blocked_until = (int64_t)(was->blocked & POSITION_MASK);
    *now = not_before(limit, state, *now);
    *now = rl_limiter_roll(limit, state, *now);
    if (seed)
        at_least(limit, state, seed, *now);
}

/* What is pending is read before the count: it is charged before it ceases to be pending. */
static void read_count(const entry *e, reading *was)
{
    was->pending = read_pair(&e->words[PENDING]);
    was->count = read_pair(&e->words[COUNT]);
    was->blocked = load_first(&e->words[BLOCKED]);
}

static int is_overdue(const rl_limit *limit, const reading *was, int64_t now)
{
    int64_t slot = now / (RL_PENDING_SLOT_MS * rl_limiter_ticks(limit));
    int64_t behind = slot - position_of(was->pending);

    return (behind >= 1 && upper(was->pending)) || (behind >= 2 && lower(was->pending));
}

/*
 * Charges what was pending too long, then takes it out of the pair. Two who do so at once, or one
 * who dies in between, may charge it twice; but at no moment is it neither pending nor charged.
 */
static void charge_overdue(entry *e, uint64_t key, const rl_limit *limit, const reading *was,
                           int64_t now)
{
    rl_state state;

    state_of(limit, key, was, NULL, &now, &state);
    if (load(&e->key) == key && read_pair(&e->words[PENDING]) == was->pending
        && swap_pair(&e->words[COUNT], was->count, pack_count(limit, was->count, &state)))
        swap_pair(&e->words[PENDING], was->pending, pack_pending(was->pending, &state.pending));
}

/* Reads a count in which nothing is overdue, or which is not ours any more. */
static void read_due(entry *e, uint64_t key, const rl_limit *limit, int64_t now, reading *was)
{
    read_count(e, was);
    while (is_overdue(limit, was, now) && load(&e->key) == key) {
        charge_overdue(e, key, limit, was, now);
        read_count(e, was);
    }
}

void rl_local_peek(rl_local *table, uint64_t key, const rl_limit *limit, const rl_state *seed,
                   int64_t *now, rl_state *state)
{
    entry *e = rl_local_find(table, key);
    reading was = {0, 0, tag_of(key)};

    if (e)
        read_count(e, &was);
    state_of(limit, key, &was, seed, now, state);
}

/* One attempt to charge; 0 if somebody else was quicker. */
static int try_charge(entry *e, const rl_limit *limit, int64_t cost, const reading *was,
                      const rl_state *state, rl_state *after)
{
    *after = *state;
    rl_limiter_charge(limit, after, cost);
    if (limit->on_response)
        return swap_pair(&e->words[PENDING], was->pending,
                         pack_pending(was->pending, &after->pending));
    return swap_pair(&e->words[COUNT], was->count, pack_count(limit, was->count, after));
}

/*
 * Of rules that share a counter one may charge the count while another makes units pending: two
 * swaps of two pairs, neither of which sees the other. Each has swapped before it looks here, so
 * the later one at the least sees both, and takes its own back if they are too many.
 */
static int still_fits(entry *e, uint64_t key, const rl_limit *limit, const reading *was,
                      const rl_state *seed, int64_t now)
{
    reading is;
    rl_state state;

    if (limit->on_response ? read_pair(&e->words[COUNT]) == was->count
                           : read_pair(&e->words[PENDING]) == was->pending)
        return 1;
    read_count(e, &is);
    state_of(limit, key, &is, seed, &now, &state);
    return rl_limiter_admits(limit, &state, now, 0);
}

static void take_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                      const rl_state *state, int64_t host_ms, int64_t now)
{
    int64_t position = rl_limiter_position(limit, state, now);

    if (limit->on_response)
        rl_local_settle(table, key, limit, position, cost, 0, host_ms, now);
    else
        rl_local_give_back(table, key, limit, position, cost);
}

int rl_local_charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    const rl_state *seed, int64_t host_ms, int64_t *now, rl_state *state)
{
    entry *e = rl_local_claim(table, key, host_ms);
    rl_state after;
    reading was;
    int admitted;

    for (;;) {
        if (!e) {
            rl_local_peek(table, key, limit, seed, now, state);
            return rl_limiter_admits(limit, state, *now, cost);
        }
        read_due(e, key, limit, *now, &was);
        state_of(limit, key, &was, seed, now, state);
        if (load(&e->key) != key) {
            e = rl_local_claim(table, key, host_ms);
            continue;
        }
        admitted = rl_limiter_admits(limit, state, *now, cost);
        if (!admitted)
            break;
        if (try_charge(e, limit, cost, &was, state, &after)) {
            if (still_fits(e, key, limit, &was, seed, *now))
                break;
            take_back(table, key, limit, cost, state, host_ms, *now);
        }
    }
    if (!admitted)
        rl_local_block(table, key, limit, cost, host_ms, *now, state);
    rl_local_touch(e, limit, admitted ? &after : state, *now, host_ms);
    return admitted;
}

void rl_local_block(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                    int64_t host_ms, int64_t now, rl_state *state)
{
    uint64_t was, until;
    entry *e;

    if (!rl_limiter_blocks(limit, state, now, cost))
        return;
    state->blocked_until = now + limit->block_ms * rl_limiter_ticks(limit);
    until = tag_of(key) | (uint64_t)state->blocked_until;
    e = rl_local_claim(table, key, host_ms);
    if (!e)
        return;
    was = load_first(&e->words[BLOCKED]);
    if (load(&e->key) == key && swap(&e->words[BLOCKED], &was, until))
        rl_local_touch(e, limit, state, now, host_ms);
}

void rl_local_give_back(rl_local *table, uint64_t key, const rl_limit *limit, int64_t position,
                        int64_t cost)
{
    entry *e = rl_local_find(table, key);
    rl_state state;
    pair was;

    do {
        if (!e)
            return;
        was = read_pair(&e->words[COUNT]);
        unpack_count(limit, was, &state);
        rl_limiter_give_back(limit, &state, position, cost);
    } while (load(&e->key) == key
             && !swap_pair(&e->words[COUNT], was, pack_count(limit, was, &state)));
}

/* Charged first, then no longer pending: never is a unit neither. */
void rl_local_settle(rl_local *table, uint64_t key, const rl_limit *limit, int64_t slot,
                     int64_t cost, int charged, int64_t host_ms, int64_t now)
{
    entry *e = rl_local_claim(table, key, host_ms);
    rl_state state, after;
    reading was;

    for (;;) {
        if (!e)
            return;
        read_due(e, key, limit, now, &was);
        state_of(limit, key, &was, NULL, &now, &state);
        after = state;
        rl_limiter_settle(limit, &after, slot, cost, charged);
        if (load(&e->key) != key)
            return;
        if (slot != state.pending.slot && slot != state.pending.slot - 1)
            return;
        if (charged && !swap_pair(&e->words[COUNT], was.count,
                                  pack_count(limit, was.count, &after)))
            continue;
        charged = 0;
        if (swap_pair(&e->words[PENDING], was.pending, pack_pending(was.pending, &after.pending)))
            break;
    }
    rl_local_touch(e, limit, &after, now, host_ms);
}
