/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spread: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * Most steps have one slot, and then there is one call and nothing to copy. Where there are more,
 * the order does the work: rules that concern one client stand before those that all share, so a
 * client who is over his own limit is denied before he is charged, and given back, where everybody
 * would see it.
 */
#include <string.h>

#include "redis/cross_slot.h"
#include "redis/slots.h"

/* The slots of the asks, and which of them belong to a call that was made. */
typedef struct {
    const rl_spread_calls *calls;
    rl_ask *asks;
    int n;
    int look;
    int slot[RL_ASKS_MAX];
    char done[RL_ASKS_MAX];  /* answered, or failed */
    char taken[RL_ASKS_MAX]; /* charged live rules */
    int denied;
    rl_failure failure;      /* the first */
} spread;

/* A call in the making: copies of asks, and where they come from. */
typedef struct {
    rl_ask asks[RL_ASKS_MAX];
    int from[RL_ASKS_MAX];
    int n;
} group;

static int find_slots(const rl_ask *asks, int n, int *slot)
{
    int one = 1;

    for (int i = 0; i < n; i++) {
        slot[i] = rl_slots_of_key(asks[i].key, strlen(asks[i].key));
        one &= slot[i] == slot[0];
    }
    return one;
}

static void add(group *g, const rl_ask *ask, int from)
{
    g->from[g->n] = from;
    g->asks[g->n++] = *ask;
}

/* Whether a group that comes after a denial is only looked at. */
static int is_spared(const spread *s, const group *g)
{
    if (!s->denied || g->asks[0].shadow)
        return 0;
    for (int i = 0; i < g->n; i++) {
        if (g->asks[i].limit->block_ms)
            return 0;
    }
    return 1;
}

/* Decides over a group. Returns 0 if its keys were at both ends of a move: then nothing is decided. */
static int call(spread *s, group *g)
{
    int admitted = 0, split = 0, look = s->look || is_spared(s, g);
    rl_failure failure = s->calls->decide(s->calls->context, s->slot[g->from[0]], g->asks, g->n,
                                          look, &admitted, &split);

    if (split)
        return 0;
    for (int i = 0; i < g->n; i++)
        s->done[g->from[i]] = 1;
    if (failure != RL_ANSWERED) {
        s->failure = s->failure == RL_ANSWERED ? failure : s->failure;
        return 1;
    }
    for (int i = 0; i < g->n; i++) {
        s->asks[g->from[i]] = g->asks[i];
        s->asks[g->from[i]].answered = 1;
        s->taken[g->from[i]] = admitted && !look && !g->asks[i].shadow;
    }
    if (!admitted && !g->asks[0].shadow)
        s->denied = 1;
    return 1;
}

/*
 * One rule alone. An identity's overrides are a second key, which may be at the other end: then the
 * rule's own quota has to do.
 */
static void call_one(spread *s, int from)
{
    group g = {.n = 0};

    add(&g, &s->asks[from], from);
    if (call(s, &g))
        return;
    g.asks[0].override_key = g.asks[0].tiers = NULL;
    if (call(s, &g))
        return;
    s->done[from] = 1;
    s->failure = s->failure == RL_ANSWERED ? RL_FAILED_REFUSED : s->failure;
}

/*
 * The rules of a slot that are not done, from the first: all of them, but after a denial the live
 * ones, which are only looked at, apart from the shadow rules, which are charged. If they cannot be
 * decided together, each alone.
 */
static void call_slot(spread *s, int first)
{
    int apart = s->denied && !s->look && !s->asks[first].shadow;
    group g = {.n = 0};

    for (int i = first; i < s->n; i++) {
        if (!s->done[i] && s->slot[i] == s->slot[first] && (!apart || !s->asks[i].shadow))
            add(&g, &s->asks[i], i);
    }
    if (call(s, &g))
        return;
    for (int i = 0; i < g.n && s->failure != RL_FAILED_LATE; i++)
        call_one(s, g.from[i]);
}

/* A call for each slot of the asks that are marked. */
static void undo(const rl_spread_calls *calls, const rl_ask *asks, int n, const int *slot,
                 char *marked)
{
    for (int first = 0; first < n; first++) {
        group g = {.n = 0};

        for (int i = first; i < n; i++) {
            if (marked[i] && slot[i] == slot[first]) {
                add(&g, &asks[i], i);
                marked[i] = 0;
            }
        }
        if (g.n)
            calls->undo(calls->context, slot[first], g.asks, g.n);
    }
}

/* Gives back what live rules were charged, as the charge is known to this call alone. */
static void give_back(spread *s)
{
    rl_ask backs[RL_ASKS_MAX];

    for (int i = 0; i < s->n; i++) {
        const rl_ask *ask = &s->asks[i];

        if (s->taken[i])
            backs[i] = (rl_ask){
                .key = ask->key, .limit = ask->limit, .cost = ask->cost, .has_tail = ask->has_tail,
                .kind = ask->limit->on_response ? RL_ASK_SETTLE : RL_ASK_GIVE_BACK,
                .position = rl_limiter_position(ask->limit, &ask->state, ask->now)};
    }
    undo(s->calls, backs, s->n, s->slot, s->taken);
}

rl_failure rl_spread_decide(const rl_spread_calls *calls, rl_ask *asks, int n, int look,
                            int *admitted)
{
    spread s = {.calls = calls, .asks = asks, .n = n, .look = look, .failure = RL_ANSWERED};
    int split = 0;

    if (find_slots(asks, n, s.slot)) {
        rl_failure failure = calls->decide(calls->context, s.slot[0], asks, n, look, admitted,
                                           &split);

        if (!split) {
            for (int i = 0; i < n; i++)
                asks[i].answered = failure == RL_ANSWERED;
            return failure;
        }
    }
    for (int i = 0; i < n && s.failure != RL_FAILED_LATE; i++) { /* late: the time is up */
        if (!s.done[i])
            call_slot(&s, i);
    }
    *admitted = !s.denied;
    if (s.denied)
        give_back(&s);
    return s.failure;
}

void rl_spread_undo(const rl_spread_calls *calls, const rl_ask *asks, int n)
{
    int slot[RL_ASKS_MAX];
    char marked[RL_ASKS_MAX];

    find_slots(asks, n, slot);
    memset(marked, 1, sizeof(marked));
    undo(calls, asks, n, slot, marked);
}
