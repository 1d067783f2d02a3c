/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cross_slot: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * Most steps have one slot: then there is one call, and nothing is copied. With several slots the
 * order matters: rules that count one client come before those that all clients share. So a client
 * over its own limit is denied before it is charged, and given back, in a shared counter.
 */
#include <string.h>

#include "redis/cross_slot.h"
#include "redis/slots.h"

/* A decision under way. */
typedef struct {
    const rl_cross_slot_calls *calls;
    rl_ask *asks;
    int n;
    int peek;
    int slot[RL_ASKS_MAX];
    char done[RL_ASKS_MAX];  /* answered, or failed */
    char taken[RL_ASKS_MAX]; /* live rules that were charged */
    int denied;
    rl_failure failure;      /* the first */
} decision;

/* The asks of a call: copies, and the indexes of the originals. */
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

/* Whether a group comes after a denial and is only peeked at. */
static int is_peeked_at(const decision *d, const group *g)
{
    if (!d->denied || g->asks[0].shadow)
        return 0;
    for (int i = 0; i < g->n; i++) {
        if (g->asks[i].limit->block_ms)
            return 0;
    }
    return 1;
}

/* Decides over a group. Returns 0, and has decided nothing, if the slot is split by a move. */
static int call(decision *d, group *g)
{
    rl_slot_decision one = {.asks = g->asks, .n = g->n, .slot = d->slot[g->from[0]],
                            .peek = d->peek || is_peeked_at(d, g)};
    rl_failure failure = d->calls->decide(d->calls->context, &one);

    if (one.split)
        return 0;
    for (int i = 0; i < g->n; i++)
        d->done[g->from[i]] = 1;
    if (failure != RL_ANSWERED) {
        d->failure = d->failure == RL_ANSWERED ? failure : d->failure;
        return 1;
    }
    for (int i = 0; i < g->n; i++) {
        d->asks[g->from[i]] = g->asks[i];
        d->asks[g->from[i]].answered = 1;
        d->taken[g->from[i]] = one.admitted && !one.peek && !g->asks[i].shadow;
    }
    if (!one.admitted && !g->asks[0].shadow)
        d->denied = 1;
    return 1;
}

/*
 * Decides over one rule alone. The hash of overrides is a second key, and may be at the other end
 * of the move: the rule's own quota is used then.
 */
static void call_one(decision *d, int from)
{
    group g = {.n = 0};

    add(&g, &d->asks[from], from);
    if (call(d, &g))
        return;
    g.asks[0].override_key = g.asks[0].tiers = NULL;
    if (call(d, &g))
        return;
    d->done[from] = 1;
    d->failure = d->failure == RL_ANSWERED ? RL_FAILED_REFUSED : d->failure;
}

/*
 * Decides over the rules of a slot that are not done, from the first one on. After a denial live
 * rules and shadow rules go in separate calls, because the live ones are peeked at and the shadow
 * rules charged. Rules that cannot be decided together are decided one by one.
 */
static void call_slot(decision *d, int first)
{
    int apart = d->denied && !d->peek && !d->asks[first].shadow;
    group g = {.n = 0};

    for (int i = first; i < d->n; i++) {
        if (!d->done[i] && d->slot[i] == d->slot[first] && (!apart || !d->asks[i].shadow))
            add(&g, &d->asks[i], i);
    }
    if (call(d, &g))
        return;
    for (int i = 0; i < g.n && d->failure != RL_FAILED_LATE; i++)
        call_one(d, g.from[i]);
}

/* Makes a call for each slot of the marked asks. */
static void undo(const rl_cross_slot_calls *calls, const rl_ask *asks, int n, const int *slot,
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

/* Gives back the charges of live rules. Only this call knows of them. */
static void give_back(decision *d)
{
    rl_ask backs[RL_ASKS_MAX];

    for (int i = 0; i < d->n; i++) {
        const rl_ask *ask = &d->asks[i];

        if (d->taken[i])
            backs[i] = (rl_ask){
                .key = ask->key, .limit = ask->limit, .cost = ask->cost + ask->leased,
                .has_block_or_pending = ask->has_block_or_pending,
                .kind = ask->limit->on_response ? RL_ASK_SETTLE : RL_ASK_GIVE_BACK,
                .position = rl_limiter_position(ask->limit, &ask->state, ask->now)};
    }
    undo(d->calls, backs, d->n, d->slot, d->taken);
}

rl_failure rl_cross_slot_decide(const rl_cross_slot_calls *calls, rl_ask *asks, int n, int peek,
                                int *admitted)
{
    decision d = {.calls = calls, .asks = asks, .n = n, .peek = peek, .failure = RL_ANSWERED};

    if (find_slots(asks, n, d.slot)) {
        rl_slot_decision one = {.asks = asks, .n = n, .slot = d.slot[0], .peek = peek};
        rl_failure failure = calls->decide(calls->context, &one);

        if (!one.split) {
            for (int i = 0; i < n; i++)
                asks[i].answered = failure == RL_ANSWERED;
            *admitted = one.admitted;
            return failure;
        }
    }
    for (int i = 0; i < n && d.failure != RL_FAILED_LATE; i++) { /* late: the time is up */
        if (!d.done[i])
            call_slot(&d, i);
    }
    *admitted = !d.denied;
    if (d.denied)
        give_back(&d);
    return d.failure;
}

void rl_cross_slot_undo(const rl_cross_slot_calls *calls, const rl_ask *asks, int n)
{
    int slot[RL_ASKS_MAX];
    char marked[RL_ASKS_MAX];

    find_slots(asks, n, slot);
    memset(marked, 1, sizeof(marked));
    undo(calls, asks, n, slot, marked);
}
