/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call: a command on its way to Redis, and who waits for the reply.
 *
 * Calls are places, made once: their number bounds what can be in flight. A call is its caller's
 * until it is queued and after it is done, and in between its carrier's: whoever sends commands and
 * reads replies. It is pending, its caller at work or asleep, until the reply or the caller's
 * deadline comes, whichever is first. A call whose deadline came first is abandoned: the carrier
 * still reads its reply, in order, drops it, and only then is the place free again.
 *
 * Functions may be called from any thread, as that order allows.
 */
#ifndef RL_CALL_H
#define RL_CALL_H

#include <stdint.h>

#include <apr_pools.h>
#include <hiredis.h>

#include "redis/node.h"

typedef enum { RL_CALL_PENDING, RL_CALL_ASLEEP, RL_CALL_DONE, RL_CALL_ABANDONED } rl_call_state;

typedef struct rl_call {
    _Atomic int state; /* rl_call_state; the caller sleeps on it */
    int awaited;       /* somebody waits; if he gives up, it must not be sent any more */
    int tries;         /* how often it was sent again */
    int unsent;        /* how often a connection ended before any of it was sent */
    int slot;          /* of its keys, in a cluster */
    int ask;           /* to be sent behind an ASKING */
    rl_node *node;
    rl_command command; /* its bytes are the call's; its callbacks get the call */
    redisReply *reply;  /* NULL with DONE: lost */
    struct rl_call *next; /* in a list; once it is done: whom its caller has to wake */
    void *owner;
} rl_call;

typedef struct {
    rl_call *first;
    rl_call **end;
} rl_call_list;

typedef struct rl_calls rl_calls;

/*
 * Makes count calls for later use. command is what theirs have in common: the kind of reply and the
 * callbacks. NULL if the system cannot.
 */
rl_calls *rl_calls_create(apr_pool_t *pool, int count, const rl_command *command, void *owner);

/*
 * A place for a command, which becomes its own, to be sent to node; NULL if all are in use, and the
 * command is freed.
 */
rl_call *rl_call_make(rl_calls *calls, rl_node *node, int awaited, char *command, int length);

/* The caller's end of a call that is done. */
void rl_call_release(rl_calls *calls, rl_call *call);

/*
 * The carrier's: the call has got its reply, or, with NULL, lost it. Callers wake when
 * rl_call_wake() has been called.
 */
void rl_call_complete(rl_calls *calls, rl_call *call, redisReply *reply);

/* The carrier's, before it does anything that takes time: wakes the callers of completed calls. */
void rl_call_wake(rl_calls *calls);

/*
 * Waits for the carrier to complete a call, until deadline_us on rl_link_clock(). Returns 0 if that
 * came first: then the call is the carrier's.
 */
int rl_call_wait(rl_call *call, int64_t deadline_us);

/* Whether a call whose caller is not asleep waits for its reply. */
int rl_call_is_pending(const rl_call *call);

/* Whether nobody waits for an awaited call any more. */
int rl_call_is_cancelled(const rl_call *call);

void rl_call_clear(rl_call_list *list);
void rl_call_append(rl_call_list *list, rl_call *call);

#endif
