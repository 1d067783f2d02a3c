/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_snapshot: what Redis last reported of a counter.
 *
 * The state of a reply, aged from the moment of asking and judged by limiter.c, denies only what
 * Redis would deny now. local_table.h shows the words of a snapshot, local.c their invariants.
 */
#include <string.h>

#include "shm/local_table.h"

#define LAG_SHIFT 40
#define LAG_MAX_MS INT64_C(0xfff)
#define HOST_MS ((UINT64_C(1) << LAG_SHIFT) - 1)
#define REDIS_MS ((UINT64_C(1) << LOW_SUM_SHIFT) - 1)

/* The checksum has 30 bits: 10 in REDIS_NOW and 20 in CHECK. */
#define LOW_SUM_SHIFT 42
#define LOW_SUM (UINT64_C(0x3ff) << LOW_SUM_SHIFT)
#define HIGH_SUM_SHIFT 32
#define HIGH_SUM (UINT64_C(0xfffff) << HIGH_SUM_SHIFT)

#define CLOCK_SLACK_MS 1000

/*
 * The quota and the cost that a log was asked about. The wait in its reply is for these alone. If
 * there is a wait, both are at most RL_LOG_QUOTA_MAX.
 */
static uint32_t question(const rl_limit *limit, int64_t cost)
{
    return (uint32_t)limit->quota << 16 | ((uint32_t)cost & 0xffff);
}

/* The contents of a snapshot. */
typedef struct {
    int64_t asked_ms;
    int64_t redis_now_ms;
    int64_t lag_ms;      /* from asking to the reply, and what whole ms may hide */
    uint64_t units;      /* as in UNITS */
    uint32_t terms;      /* as in TERMS */
    uint32_t blocked_ms; /* from redis_now_ms on */
    int64_t serves_ms;   /* from asking until it is stale; only when it is stored */
    uint64_t check;      /* CHECK as it was read */
} snapshot;

/* In the terms of a log. The quota of an override is the one in its question. */
#define OVERRIDDEN (UINT32_C(1) << 31)
#define USED_MAX (OVERRIDDEN - 1)

static uint64_t checksum(uint64_t key, const uint64_t w[ENTRY_WORDS])
{
    const uint64_t covered[] = {w[ASKED_MS], w[REDIS_NOW] & ~LOW_SUM, w[UNITS], w[TERMS],
                                w[CHECK] & GENERATION};
    uint64_t sum = key;

    for (int i = 0; i < 5; i++) {
        sum = (sum ^ covered[i]) * UINT64_C(0x9e3779b97f4a7c15);
        sum ^= sum >> 29;
    }
    return sum;
}

/* Reads a snapshot. Returns 0 if its words are not all of this tenure and of one writer. */
static int read_snapshot(const tenure *t, uint64_t key, snapshot *said)
{
    uint64_t w[ENTRY_WORDS], sum;

    for (int i = 0; i < ENTRY_WORDS; i++)
        w[i] = load(&t->entry->words[i]);
    sum = checksum(key, w);
    if (!is_of(w[CHECK], t->owner) || (w[REDIS_NOW] ^ sum) & LOW_SUM || (w[CHECK] ^ sum) & HIGH_SUM)
        return 0;
    said->asked_ms = (int64_t)(w[ASKED_MS] & HOST_MS);
    said->redis_now_ms = (int64_t)(w[REDIS_NOW] & REDIS_MS);
    said->lag_ms = (int64_t)((w[ASKED_MS] & VALUE) >> LAG_SHIFT);
    said->units = w[UNITS];
    said->terms = (uint32_t)(w[TERMS] >> 32);
    said->blocked_ms = (uint32_t)w[TERMS];
    said->check = w[CHECK];
    return 1;
}

static void pack_snapshot(const tenure *t, uint64_t key, const snapshot *said,
                        uint64_t w[ENTRY_WORDS])
{
    int64_t lag_ms = said->lag_ms < LAG_MAX_MS ? said->lag_ms : LAG_MAX_MS;
    uint64_t generation = t->owner & GENERATION, sum;

    w[ASKED_MS] = generation | (uint64_t)lag_ms << LAG_SHIFT | (uint64_t)said->asked_ms;
    w[REDIS_NOW] = generation | (uint64_t)said->redis_now_ms;
    w[UNITS] = said->units;
    w[TERMS] = (uint64_t)said->terms << 32 | said->blocked_ms;
    w[CHECK] = generation | (uint32_t)(said->asked_ms + said->serves_ms);
    sum = checksum(key, w);
    w[REDIS_NOW] |= sum & LOW_SUM;
    w[CHECK] |= sum & HIGH_SUM;
}

/* The burst under an override with this quota: the only one that a snapshot can have. */
static int64_t overriding_burst(const rl_limit *limit)
{
    if (!limit->lease_ms || !rl_limiter_is_bucket(limit))
        return limit->quota;
    return rl_limiter_leased_burst(limit->quota, limit->quota, limit->window_ms, limit->lease_ms);
}

static void unpack_log(const snapshot *said, rl_limit *limit, rl_state *state)
{
    uint32_t asked = (uint32_t)said->units;

    if (said->terms & OVERRIDDEN)
        limit->quota = limit->burst = asked >> 16;
    state->used = said->terms & USED_MAX;
    state->asked = asked & 0xffff;
    if (asked == question(limit, state->asked))
        state->wait_ms = (int64_t)(said->units >> 32);
}

/* The limit and the state that Redis reported, at the time when it did. */
static void unpack_snapshot(const snapshot *said, rl_limit *limit, rl_state *state)
{
    int64_t ticks = rl_limiter_ticks(limit), now = said->redis_now_ms * ticks;

    memset(state, 0, sizeof(*state));
    if (said->blocked_ms)
        state->blocked_until = now + said->blocked_ms * ticks;
    if (rl_limiter_is_log(limit)) {
        unpack_log(said, limit, state);
        return;
    }
    if (said->terms) {
        limit->quota = (int64_t)said->terms - 1;
        limit->burst = overriding_burst(limit);
    }
    if (rl_limiter_is_bucket(limit)) {
        state->at = now;
        state->level = (int64_t)said->units;
    }
    else {
        state->index = now / limit->window_ms;
        state->prev = (int64_t)(said->units >> 32);
        state->cur = (int64_t)(said->units & UINT32_MAX);
    }
}

static void describe(const rl_limit *limit, const rl_local_reply *reply, snapshot *said)
{
    const rl_state *state = reply->state;
    int64_t ticks = rl_limiter_ticks(limit);

    said->blocked_ms = (uint32_t)max64(0, (state->blocked_until - reply->redis_now) / ticks);
    said->terms = reply->overridden ? (uint32_t)limit->quota + 1 : 0;
    if (rl_limiter_is_bucket(limit)) {
        said->units = (uint64_t)state->level;
    }
    else if (rl_limiter_is_log(limit)) {
        said->units = (uint64_t)state->wait_ms << 32 | question(limit, state->asked);
        said->terms = (reply->overridden ? OVERRIDDEN : 0) | ((uint32_t)state->used & USED_MAX);
    }
    else {
        said->units = (uint64_t)state->prev << 32 | (uint64_t)state->cur;
    }
}

/* Whether a counter with leases has no unit left. */
static int is_dry(const rl_limit *limit, const rl_state *state, int64_t now)
{
    return limit->lease_ms && !rl_limiter_admits(limit, state, now, 1);
}

/*
 * If a counter with leases is dry, one of the hosts could ask for each unit that becomes free. The
 * snapshot serves instead until a whole lease of RL_LEASE_REST is free, or RL_LEASE_PAUSE_MS after
 * the first unit.
 */
static int64_t serves_ms(const rl_limit *limit, const rl_state *state, int64_t now)
{
    int64_t lease = max64(1, rl_limiter_capacity(limit) / RL_LEASE_REST), first, all;

    if (!is_dry(limit, state, now))
        return RL_SNAPSHOT_SERVES_MS;
    first = rl_limiter_retry_after(limit, state, now, 1);
    all = rl_limiter_retry_after(limit, state, now, lease);
    if (first == RL_NEVER || all == RL_NEVER || all > first + RL_LEASE_PAUSE_MS)
        all = first + RL_LEASE_PAUSE_MS;
    return first >= 0 && all < RL_SNAPSHOT_SERVES_MS ? all : RL_SNAPSHOT_SERVES_MS;
}

int rl_local_is_redis_time(const rl_local *table, int64_t redis_ms, int64_t sent_ms,
                           int64_t received_ms)
{
    int64_t offset_ms = (int64_t)load(&table->redis_offset_ms);

    return offset_ms == 0 || (redis_ms >= sent_ms + offset_ms - CLOCK_SLACK_MS
                              && redis_ms <= received_ms + offset_ms + CLOCK_SLACK_MS);
}

/* Follows Redis's clock; ignores jitter up to 50 ms, since fallback windows need no better. */
static void hear_clock(rl_local *table, int64_t offset_ms)
{
    int64_t off_by = (int64_t)load(&table->redis_offset_ms) - offset_ms;

    if (off_by > 50 || off_by < -50)
        store(&table->redis_offset_ms, (uint64_t)offset_ms);
}

void rl_local_snapshot_store(rl_local *table, uint64_t key, const rl_limit *limit,
                             const rl_local_reply *reply)
{
    tenure t = rl_local_claim(table, key, reply->sent_ms);
    word *words = t.entry->words;
    uint64_t w[ENTRY_WORDS], asked_ms;
    rl_pair redis, check;
    snapshot said, old;

    said.redis_now_ms = reply->redis_now / rl_limiter_ticks(limit);
    hear_clock(table, said.redis_now_ms - reply->sent_ms);
    /* Of an override only the quota is stored, so one with another burst cannot be. */
    if (reply->overridden && limit->burst != overriding_burst(limit) && limit->quota) {
        rl_local_snapshot_drop(table, key);
        return;
    }
    if (read_snapshot(&t, key, &old) && old.asked_ms > reply->sent_ms)
        return;
    said.asked_ms = reply->sent_ms;
    /* Each clock is cut to whole ms, so an age may be 1 too low: a new snapshot is 1 ms old. */
    said.lag_ms = reply->received_ms - reply->sent_ms + 2;
    said.serves_ms = serves_ms(limit, reply->state, reply->redis_now);
    describe(limit, reply, &said);
    pack_snapshot(&t, key, &said, w);
    asked_ms = load_acquire(&words[ASKED_MS]);
    redis = read_pair(&words[REDIS_NOW]);
    check = read_pair(&words[CHECK]);
    if (is_current(&t) && swap(&words[ASKED_MS], &asked_ms, w[ASKED_MS])
        && swap_pair(&words[REDIS_NOW], redis, pair_of(w[REDIS_NOW], w[UNITS]))
        && swap_pair(&words[CHECK], check, pair_of(w[CHECK], w[TERMS])))
        rl_local_touch(t.entry, limit, reply->state, reply->redis_now, reply->sent_ms);
}

void rl_local_snapshot_drop(rl_local *table, uint64_t key)
{
    tenure t = rl_local_find(table, key);
    uint64_t check;

    if (!t.entry)
        return;
    check = load_acquire(&t.entry->words[CHECK]);
    if (is_of(check, t.owner))
        swap(&t.entry->words[CHECK], &check, t.owner & GENERATION);
}

/* CHECK has the low 32 bits of the time, which is enough for 49 days from the time of asking. */
static int64_t serves_until(const snapshot *said)
{
    return said->asked_ms + (uint32_t)((uint32_t)said->check - (uint32_t)said->asked_ms);
}

static int is_stale(const snapshot *said, int64_t host_ms)
{
    return host_ms >= serves_until(said);
}

/* Counts a revalidation in this second; 0 if there have been enough. */
static int may_revalidate(rl_local *table, int64_t host_ms)
{
    uint64_t second = (uint64_t)(host_ms / 1000) << 32;
    uint64_t spent = load(&table->revalidations), next;

    do {
        next = spent >= second ? spent + 1 : second + 1; /* another clock may be a second ahead */
        if ((next & 0xffffffff) > RL_REVALIDATIONS_PER_SECOND)
            return 0;
    } while (!swap(&table->revalidations, &spent, next));
    return 1;
}

/* Whether a snapshot denies cost. A log is known to deny only the cost that it was asked about. */
static int still_denies(const rl_limit *limit, const rl_state *state, int64_t now, int64_t cost,
                        int64_t age_ms)
{
    if (now < state->blocked_until)
        return 1;
    if (rl_limiter_is_log(limit))
        return cost == state->asked && age_ms < state->wait_ms;
    return !rl_limiter_admits(limit, state, now, cost);
}

/*
 * Whether a counter with leases denies although its state admits by now: it was dry. The view is
 * then as Redis reported it, with nothing left, and the wait lasts until the snapshot is stale.
 */
static rl_snapshot_verdict check_dry(const snapshot *said, const rl_limit *limit, int64_t host_ms,
                                     rl_view *view)
{
    int64_t now = said->redis_now_ms * rl_limiter_ticks(limit);
    rl_limit same = *limit;
    rl_state reported;

    unpack_snapshot(said, &same, &reported);
    if (!is_dry(limit, &reported, now))
        return RL_SNAPSHOT_UNKNOWN;
    view->state = reported;
    view->now = now;
    view->lag_ms = max64(said->lag_ms, serves_until(said) - host_ms);
    return is_stale(said, host_ms) ? RL_SNAPSHOT_DRY : RL_SNAPSHOT_DENIES;
}

rl_snapshot_verdict rl_local_snapshot_check(rl_local *table, uint64_t key, rl_limit *limit,
                                            int64_t cost, int64_t host_ms, rl_view *view)
{
    tenure t = rl_local_find(table, key);
    rl_state *state = &view->state;
    int64_t age_ms;
    snapshot said;

    view->now = 0;
    if (!t.entry || !read_snapshot(&t, key, &said))
        return RL_SNAPSHOT_UNKNOWN;
    unpack_snapshot(&said, limit, state);
    age_ms = max64(0, host_ms - said.asked_ms) + 1;
    view->lag_ms = said.lag_ms;
    view->now = (said.redis_now_ms + age_ms) * rl_limiter_ticks(limit);
    view->now = rl_limiter_roll(limit, state, view->now);
    if (rl_limiter_is_log(limit) && age_ms >= limit->window_ms)
        state->used = 0; /* all of it has left the window */
    if (!still_denies(limit, state, view->now, cost, age_ms))
        return cost > 0 && limit->lease_ms && age_ms <= RL_SNAPSHOT_SERVES_MS
            ? check_dry(&said, limit, host_ms, view) : RL_SNAPSHOT_UNKNOWN;
    if (rl_limiter_is_log(limit)) {
        state->wait_ms = max64(0, state->wait_ms - age_ms);
        state->next_ms = state->reset_ms = state->wait_ms;
    }
    return is_stale(&said, host_ms) ? RL_SNAPSHOT_STALE : RL_SNAPSHOT_DENIES;
}

int64_t rl_local_snapshot_asked_ms(rl_local *table, uint64_t key)
{
    tenure t = rl_local_find(table, key);
    snapshot said;

    return t.entry && read_snapshot(&t, key, &said) ? said.asked_ms : 0;
}

int rl_local_snapshot_revalidate(rl_local *table, uint64_t key, int64_t host_ms, int bounded)
{
    tenure t = rl_local_find(table, key);
    uint32_t next = (uint32_t)(host_ms + (bounded ? RL_SNAPSHOT_SERVES_MS : RL_LEASE_PAUSE_MS));
    snapshot said;

    return t.entry && read_snapshot(&t, key, &said) && is_stale(&said, host_ms)
        && swap(&t.entry->words[CHECK], &said.check,
                (said.check & ~(uint64_t)UINT32_MAX) | next)
        && (!bounded || may_revalidate(table, host_ms));
}
