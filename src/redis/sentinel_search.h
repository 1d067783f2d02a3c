/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_search: the search for the primary of a Redis Sentinel deployment.
 *
 * Decides which sentinel to ask, and reads the replies; the caller does the I/O. A search asks one
 * sentinel after the other for the primary's address, beginning with the one that was right last.
 * The reply to ROLE from that address must be a primary's, because a sentinel may not have noticed
 * a failover yet. When all were asked in vain the search has failed, and the next one may begin
 * after a pause.
 *
 *     begin ─► ASK one sentinel ─► CHECK the address it names ─► FOUND
 *                  ▲      │                 │
 *                  └──────┴── no, nothing ──┘  all asked: FAILED
 *
 * Not thread-safe.
 */
#ifndef RL_SENTINEL_SEARCH_H
#define RL_SENTINEL_SEARCH_H

#include <hiredis.h>

#include "redis/replies.h"

typedef enum {
    RL_SEARCH_IDLE,
    RL_SEARCH_ASK,   /* ask sentinel number `at` for the address */
    RL_SEARCH_CHECK, /* send ROLE to host and port */
    RL_SEARCH_FOUND, /* host and port are the primary's */
    RL_SEARCH_FAILED
} rl_search_state;

typedef struct {
    rl_search_state state;
    int count;    /* of sentinels */
    int at;       /* the sentinel to ask, or that named the address */
    int asked;    /* sentinels, in this search */
    char host[RL_HOST_SIZE];
    int port;
} rl_sentinel_search;

/* count: at least one sentinel. first: where the first search begins; each child has its own. */
void rl_sentinel_search_init(rl_sentinel_search *search, int count, unsigned first);

/* Begins a search, in any state. */
void rl_sentinel_search_begin(rl_sentinel_search *search);

/*
 * Takes the reply that the state waits for, or NULL if none came in time. Returns the next state.
 * Any reply but the expected one leads to the next sentinel.
 */
rl_search_state rl_sentinel_search_take(rl_sentinel_search *search, const redisReply *reply);

/* Whether a reply to ROLE is that of a primary. */
int rl_sentinel_search_is_primary(const redisReply *reply);

/* Whether a message of the channel +switch-master announces another primary of this name. */
int rl_sentinel_search_is_switch(const redisReply *message, const char *name);

#endif
