/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cross_slot: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * A script sees the keys of one slot only. So the rules are grouped by slot, in the caller's order,
 * and each group is one call, made when the one before has been answered. When a group denies, the
 * charges of live rules in earlier groups are given back, and later groups are only peeked at, to
 * learn which rules deny. A later group with a rule that blocks is charged all the same, so that
 * the block can start, and its charges are given back. Shadow rules neither veto nor are vetoed:
 * they are charged wherever they admit. If a group fails, as when the primary of its slot is down,
 * the others are still decided; if one is late, there is no time for those after it.
 *
 * Pure: the caller's functions make the calls. Thread-safe.
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
    int split;    /* out: the slot is being moved and has keys at both ends. Nothing was decided,
                     but each key alone can be */
} rl_slot_decision;

typedef struct {
    /* Makes a decision as rl_script_decide() does. Sets split only with a failure. */
    rl_failure (*decide)(void *context, rl_slot_decision *decision);
    /* Gives back or settles n asks of one slot. Does not report failures. */
    void (*undo)(void *context, int slot, const rl_ask *asks, int n);
    void *context;
} rl_cross_slot_calls;

/*
 * Decides over n asks, 1 to RL_ASKS_MAX, live rules first. With peek set nothing is charged. Sets
 * the out members of the asks that were answered. *admitted: all live rules among them admit, and
 * were charged. Returns RL_ANSWERED if all asks were answered, else the failure of the first group
 * that failed; its asks may have been charged.
 */
rl_failure rl_cross_slot_decide(const rl_cross_slot_calls *calls, rl_ask *asks, int n, int peek,
                                int *admitted);

/* Gives back or settles n asks, by their kinds. */
void rl_cross_slot_undo(const rl_cross_slot_calls *calls, const rl_ask *asks, int n);

#endif
