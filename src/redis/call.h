/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call: a command on its way to Redis, and the caller that waits for its reply.
 *
 * Calls are made once and used again: their number bounds what can be in flight. A call belongs to
 * its caller until it is queued and after it is done. In between it belongs to the leader
 * (leader.h), which sends commands and reads replies. It is pending until the reply or the caller's
 * deadline comes, whichever is first; the caller works or sleeps meanwhile. A call whose deadline
 * came first is abandoned: the leader still reads its reply, in order, drops it, and only then is
 * the call free.
 *
 * Functions may be called from any thread, as far as that order allows.
 */
#ifndef RL_CALL_H
#define RL_CALL_H

#include <stdint.h>

#include <apr_pools.h>
#include <hiredis.h>

#include "redis/node.h"

typedef enum { RL_CALL_PENDING, RL_CALL_ASLEEP, RL_CALL_DONE, RL_CALL_ABANDONED } rl_call_state;

/* Gets the reply to a command; NULL: it is lost. Called once, by the leader; must not block. */
typedef void rl_reply_handler(void *data, const redisReply *reply);

typedef struct rl_call {
    _Atomic int state; /* rl_call_state; the caller sleeps on it */
    int awaited;       /* a caller waits for it; once it gives up, the call is not sent any more */
    int tries;         /* how often it was sent again */
    int unsent;        /* how often a connection ended before any of it was sent */
    int slot;          /* of its keys, in a cluster */
    int ask;           /* to be sent after ASKING */
    rl_node *node;
    rl_command command; /* its bytes are the call's; its callbacks get the call */
    redisReply *reply;  /* NULL with DONE: lost */
    struct rl_call *next; /* in a list; once it is done: see rl_call_wake() */
    void *owner;
    rl_reply_handler *on_end; /* of a call that is not awaited: gets its reply; NULL: none does */
    void *data;               /* for it */
} rl_call;

typedef struct {
    rl_call *first;
    rl_call **end;
} rl_call_list;

typedef struct rl_calls rl_calls;

/*
 * Makes count calls. command has what they share: the kind of reply and the callbacks. NULL if the
 * system is out of resources.
 */
rl_calls *rl_calls_create(apr_pool_t *pool, int count, const rl_command *command, void *owner);

/*
 * A call for a command, which it takes over and frees, to be sent to node. NULL if all are in use;
 * the command is freed then, too.
 */
rl_call *rl_call_make(rl_calls *calls, rl_node *node, int awaited, char *command, int length);

/* The caller's, for a call that is done: frees the command and the reply. */
void rl_call_release(rl_calls *calls, rl_call *call);

/*
 * The leader's: the call has its reply, or, with NULL, has lost it. rl_call_wake() then wakes the
 * callers.
 */
void rl_call_complete(rl_calls *calls, rl_call *call, redisReply *reply);

/* The leader's, before anything that takes time: wakes the callers of completed calls. */
void rl_call_wake(rl_calls *calls);

/*
 * Waits for the leader to complete a call, until deadline_us on rl_link_clock(). Returns 0 if the
 * deadline came first: the call then stays the leader's.
 */
int rl_call_wait(rl_call *call, int64_t deadline_us);

/* Whether a call whose caller is not asleep waits for its reply. */
int rl_call_is_pending(const rl_call *call);

/* Whether the caller of an awaited call has given up. */
int rl_call_is_cancelled(const rl_call *call);

void rl_call_clear(rl_call_list *list);
void rl_call_append(rl_call_list *list, rl_call *call);

#endif
