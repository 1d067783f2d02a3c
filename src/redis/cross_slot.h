/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cross_slot: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * A script sees the keys of one slot only. So the rules are grouped by slot, in the order in which
 * the caller names them, and each group is a call of its own: the next begins when the one before
 * has been answered. When a group denies, what live rules of earlier groups were charged is given
 * back, and later groups are only looked at, so that all that deny are known; but where a rule
 * blocks whom it denies, its group is asked as ever, and given back. Shadow rules neither veto nor
 * are vetoed: they are charged wherever they admit. A group that fails, as where the primary of its
 * slot is down, leaves the others to Redis; one that is late leaves no time for those after it.
 *
 * Pure: who drives it makes the calls. Thread-safe.
 */
#ifndef RL_CROSS_SLOT_H
#define RL_CROSS_SLOT_H

#include "core/failure.h"
#include "redis/script.h"

/* A decision over rules of one slot: one call to one server. */
typedef struct {
    rl_ask *asks; /* live rules first */
    int n;        /* 1 to RL_ASKS_MAX */
    int slot;
    int peek;     /* nothing is charged */
    int admitted; /* out: all live rules admit */
    int split;    /* out: the slot is being moved and has keys at both ends: nothing was decided, but
                     each key alone can be */
} rl_slot_decision;

typedef struct {
    /* Makes a decision as rl_script_decide() does. Sets split only with a failure. */
    rl_failure (*decide)(void *context, rl_slot_decision *decision);
    /* Gives back or settles n asks of one slot. */
    void (*undo)(void *context, int slot, const rl_ask *asks, int n);
    void *context;
} rl_cross_slot_calls;

/*
 * Decides over n asks, 1 to RL_ASKS_MAX, live rules first; with peek set nothing is charged.
 * Asks that were answered say so and what Redis reported, and *admitted whether all live ones of them
 * admit, and so were charged. Returns RL_ANSWERED if all were, else why the first group that failed
 * did; what it asked may have been charged.
 */
rl_failure rl_cross_slot_decide(const rl_cross_slot_calls *calls, rl_ask *asks, int n, int peek,
                                int *admitted);

/* Gives back or settles n asks, as their kinds say. */
void rl_cross_slot_undo(const rl_cross_slot_calls *calls, const rl_ask *asks, int n);

#endif
