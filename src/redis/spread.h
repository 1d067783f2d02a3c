/*
 * spread: one decision over rules whose keys lie in several slots of a Redis Cluster.
 *
 * A script sees the keys of one slot only. So the rules are grouped by slot, in the order in which
 * the caller names them, and each group is a call of its own: the next begins when the one before
 * has been answered. When a group denies, what live rules of earlier groups were charged is given
 * back, and later groups are only looked at, so that all that deny are known. Shadow rules neither
 * veto nor are vetoed: they are charged wherever they admit.
 *
 * Pure: who drives it makes the calls. Thread-safe.
 */
#ifndef RL_SPREAD_H
#define RL_SPREAD_H

#include "breaker.h"
#include "script.h"

typedef struct {
    /*
     * Decides over n asks of one slot, live rules first, as rl_script_decide() does; with peek it
     * charges nothing. *split says that the slot is being moved and the keys are at both ends of
     * the move just now: nothing was decided, and each key alone can be.
     */
    rl_failure (*decide)(void *context, int slot, rl_ask *asks, int n, int peek, int *charged,
                         int *split);
    /* Gives back what n asks of one slot were charged. */
    void (*give_back)(void *context, int slot, const rl_ask *asks, int n);
    void *context;
} rl_spread_calls;

/*
 * Decides over n asks, 1 to RL_ASKS_MAX, live rules first. RL_ANSWERED: all asks say what Redis
 * reported, and *charged whether the live ones were charged. Anything else is what the first group
 * failed of that failed; what was charged before has been given back.
 */
rl_failure rl_spread_decide(const rl_spread_calls *calls, rl_ask *asks, int n, int *charged);

/* Gives back what n asks were charged. */
void rl_spread_give_back(const rl_spread_calls *calls, const rl_ask *asks, int n);

#endif
