/*
 * spread: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * Most steps have one slot, and then there is one call and nothing to copy. Where there are more,
 * the order does the work: rules that concern one client stand before those that all share, so a
 * client who is over his own limit is denied before he is charged, and given back, where everybody
 * would see it.
 */
#include <string.h>

#include "slots.h"
#include "spread.h"

/* The slots of the asks, and which of them belong to a call that was made. */
typedef struct {
    const rl_spread_calls *calls;
    rl_ask *asks;
    int n;
    int look;
    int slot[RL_ASKS_MAX];
    char done[RL_ASKS_MAX];
    char taken[RL_ASKS_MAX]; /* charged live rules */
    int denied;
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

static rl_failure call(spread *s, group *g, int *split)
{
    int admitted = 0, look = s->look || is_spared(s, g);
    rl_failure failure = s->calls->decide(s->calls->context, s->slot[g->from[0]], g->asks, g->n,
                                          look, &admitted, split);

    if (failure != RL_ANSWERED || *split)
        return failure;
    for (int i = 0; i < g->n; i++) {
        s->asks[g->from[i]] = g->asks[i];
        s->done[g->from[i]] = 1;
        s->taken[g->from[i]] = admitted && !look && !g->asks[i].shadow;
    }
    if (!admitted && !g->asks[0].shadow)
        s->denied = 1;
    return RL_ANSWERED;
}

/*
 * One rule alone. An identity's overrides are a second key, which may be at the other end: then the
 * rule's own quota has to do.
 */
static rl_failure call_one(spread *s, int from)
{
    group g = {.n = 0};
    rl_failure failure;
    int split = 0;

    add(&g, &s->asks[from], from);
    failure = call(s, &g, &split);
    if (split && g.asks[0].override_key) {
        split = 0;
        g.asks[0].override_key = g.asks[0].tiers = NULL;
        failure = call(s, &g, &split);
    }
    return split ? RL_FAILED_REFUSED : failure;
}

/* Each rule of a group alone. */
static rl_failure call_each(spread *s, const group *whole)
{
    rl_failure failure = RL_ANSWERED;

    for (int i = 0; i < whole->n && failure == RL_ANSWERED; i++)
        failure = call_one(s, whole->from[i]);
    return failure;
}

/*
 * The rules of a slot that are not done, from the first: all of them, but after a denial the live
 * ones, which are only looked at, apart from the shadow rules, which are charged.
 */
static rl_failure call_slot(spread *s, int first)
{
    int apart = s->denied && !s->look && !s->asks[first].shadow, split = 0;
    group g = {.n = 0};
    rl_failure failure;

    for (int i = first; i < s->n; i++) {
        if (!s->done[i] && s->slot[i] == s->slot[first] && (!apart || !s->asks[i].shadow))
            add(&g, &s->asks[i], i);
    }
    failure = call(s, &g, &split);
    return split ? call_each(s, &g) : failure;
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
    spread s = {.calls = calls, .asks = asks, .n = n, .look = look};
    rl_failure failure = RL_ANSWERED;
    int split = 0;

    if (find_slots(asks, n, s.slot)) {
        failure = calls->decide(calls->context, s.slot[0], asks, n, look, admitted, &split);
        if (!split)
            return failure;
        failure = RL_ANSWERED; /* the move may be over by now */
    }
    for (int i = 0; i < n && failure == RL_ANSWERED; i++) {
        if (!s.done[i])
            failure = call_slot(&s, i);
    }
    *admitted = !s.denied;
    if (s.denied || failure != RL_ANSWERED)
        give_back(&s);
    return failure;
}

void rl_spread_undo(const rl_spread_calls *calls, const rl_ask *asks, int n)
{
    int slot[RL_ASKS_MAX];
    char marked[RL_ASKS_MAX];

    find_slots(asks, n, slot);
    memset(marked, 1, sizeof(marked));
    undo(calls, asks, n, slot, marked);
}
