/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_search: where the primary of a Redis Sentinel deployment is.
 *
 * Says what to ask of whom, and makes sense of the answers; whoever drives it does the I/O. A
 * search asks one sentinel after the other, beginning with the one that was right last, for the
 * primary's address; there ROLE must say that it is one, since a sentinel may not have noticed
 * yet. When all have been asked in vain the search has failed, and the next one may begin after a
 * pause.
 *
 *     begin ─► ASK one sentinel ─► CHECK the address it names ─► FOUND
 *                  ▲      │                 │
 *                  └──────┴── no, nothing ──┘  all asked: FAILED
 *
 * Not thread-safe. A sentinel's list is made when the configuration is read and never changes.
 */
#ifndef RL_SENTINEL_SEARCH_H
#define RL_SENTINEL_SEARCH_H

#include <hiredis.h>

#include "redis/replies.h"

typedef enum {
    RL_SEARCH_IDLE,
    RL_SEARCH_ASK,   /* sentinel number `at` is to be asked */
    RL_SEARCH_CHECK, /* ROLE is to be asked at host and port */
    RL_SEARCH_FOUND, /* host and port are the primary's */
    RL_SEARCH_FAILED
} rl_search_state;

typedef struct {
    rl_search_state state;
    int count;    /* sentinels there are */
    int at;       /* the one to ask, or that named the address */
    int asked;    /* in this search */
    char host[RL_HOST_SIZE];
    int port;
} rl_sentinel_search;

/* count sentinels, at least one. first is where the first search begins: children differ in it. */
void rl_sentinel_search_init(rl_sentinel_search *search, int count, unsigned first);

/* Begins a search, whatever was known before. */
void rl_sentinel_search_begin(rl_sentinel_search *search);

/*
 * Takes the reply to the step's command, or NULL if there was none in time. Returns the next step.
 * Anything but what was hoped for leads to the next sentinel.
 */
rl_search_state rl_sentinel_search_take(rl_sentinel_search *search, const redisReply *reply);

/* Whether a reply to ROLE is that of a primary. */
int rl_sentinel_search_is_primary(const redisReply *reply);

/*
 * Whether a message of the channel +switch-master tells that the primary of this name is now
 * another.
 */
int rl_sentinel_search_is_switch(const redisReply *message, const char *name);

#endif
