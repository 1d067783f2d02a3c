/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_state: a node as its two C files see it.
 *
 * Private to node.c, which makes connections and keeps them, and to node_failures.c, which counts
 * what becomes of calls and decides what failures lead to.
 */
#ifndef RL_NODE_STATE_H
#define RL_NODE_STATE_H

#include <stdatomic.h>

#include "redis/node.h"
#include "redis/dialer.h"

#define RL_NODE_WHY 240 /* bytes of a reason in the log */

struct rl_node {
    rl_node_options options;
    const char *name;
    rl_breaker *_Atomic breaker;

    atomic_int accepting; /* calls may be made: the link is up, or coming up for the first time */
    atomic_int failures;  /* in a row */
    atomic_int proven;    /* a call was answered since the link was last connected */
    atomic_int opened;    /* failed calls opened the breaker, and the owner has yet to log it */
    _Atomic int64_t refusal; /* the last one: when, in ms, << 8 | rl_error_kind + 1; 0: none */
    atomic_int suspended; /* nothing needs the server */

    /* the owner's */
    rl_link *link;
    rl_logger_pace said_lost, said_refused;
    rl_link_state state; /* at the last tick */
    rl_dialer *dialer;
    rl_prober prober;
    int checking;        /* the link, after it was idle, waits for a sign of life */
    rl_error_kind wrong_role; /* why Redis is not the server looked for; RL_ERROR_OTHER: it is */
    int may_wait;        /* requests may wait for the connection that is being made */
    unsigned losses;     /* see rl_node_losses() */
    int trying;          /* the request under way was let through an open breaker */
    char unlogged[RL_NODE_WHY]; /* why the breaker opened, too soon for the log; "": nothing */
    uint64_t unlogged_opening;  /* its number: the breaker's count of openings */
};

/* Logs that the breaker has opened, and why; later if it is too soon for the log. */
void rl_node_say_opened(rl_node *node, const char *why);

/* Logs what came too soon for that, once it may be logged, if the breaker is still open. */
void rl_node_say_opened_late(rl_node *node);

/* Why calls fail: a recent refusal, or the error of a link that is down, then what was seen. */
const char *rl_node_explain(const rl_node *node, const char *seen, char text[RL_NODE_WHY]);

/* Whether a request may pass the open breaker: see node_failures.c. */
int rl_node_may_try(const rl_node *node);

#endif
