/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leader: which thread of a child does its I/O with Redis.
 *
 * Calls of all threads go into one queue. One thread at a time is the leader: it owns the servers
 * (servers.h), sends what is queued, and completes calls as their replies come. The others are
 * followers: they queue a call and sleep until it is done or its deadline has come.
 *
 * In a child with threads an I/O thread leads while there are many calls at a time: their commands
 * share each node's connection, full duplex. A caller that finds nothing in flight leads itself,
 * which saves the hand-over. It then also sends what others queue; once its own reply has come, it
 * leaves the calls still in flight to the I/O thread. In a child with one thread, that thread
 * always leads, and does I/O only during requests.
 *
 * Created after fork, in the pool of the child. Times are µs on rl_link_clock().
 */
#ifndef RL_LEADER_H
#define RL_LEADER_H

#include "redis/call.h"
#include "redis/servers.h"

#define RL_LEADER_IN_FLIGHT 1024 /* calls, of all callers together */

typedef struct rl_leader rl_leader;

/* threaded: starts an I/O thread. NULL if the system is out of resources. */
rl_leader *rl_leader_create(apr_pool_t *pool, rl_servers *servers, int threaded);

/* --- Any thread --------------------------------------------------------------------------- */

/*
 * Queues a command, takes it over and frees it. node would get it now; NULL: not known yet. leads
 * is NULL if the caller will not wait for the reply. Otherwise *leads is set if the caller is now
 * the leader, and it must call rl_leader_wait() with it. Returns NULL if too many calls are under
 * way.
 */
rl_call *rl_leader_enqueue(rl_leader *leader, rl_node *node, int slot, char *command, int length,
                           int *leads);

/* A command that no thread waits for, although its reply is of use. */
typedef struct {
    int slot;
    char *command;
    int length;
    rl_reply_handler *on_end;
    void *data;
} rl_post;

/*
 * Queues it, takes its command over and frees it. on_end is then called once, with data. Returns 0,
 * and never calls it, if too many calls are under way or the leader has stopped.
 */
int rl_leader_post(rl_leader *leader, rl_node *node, const rl_post *post);

/*
 * Waits for a call, and leads meanwhile if leads is set. Returns 1 if it is done: the caller reads
 * and releases it. Returns 0 at the deadline: the call is not the caller's any more.
 */
int rl_leader_wait(rl_leader *leader, rl_call *call, int leads, int64_t deadline_us);

/* Frees a call that is done. */
void rl_leader_release(rl_leader *leader, rl_call *call);

/* Wakes the I/O thread, if there is one, to tick the nodes at once. */
void rl_leader_wake(rl_leader *leader);

/* --- Without an I/O thread ---------------------------------------------------------------- */

/* Handles what happened to the connections since the last request, and sends what is queued. */
void rl_leader_catch_up(rl_leader *leader);

/* Sends what is queued, if anything is. */
void rl_leader_send_queued(rl_leader *leader);

/*
 * Sends what is queued before the request ends, because the next one may not come for long. Waits
 * until the deadline for connections, and for the sign of life of a connection that was idle.
 */
void rl_leader_flush(rl_leader *leader, int64_t deadline_us);

/* Probes nodes whose breakers are open and whose probes are due; waits timeout_us at most. */
void rl_leader_probe(rl_leader *leader, int64_t timeout_us);

/* --- The end ------------------------------------------------------------------------------ */

/* Ends the I/O thread and the connections. Calls still waited for are completed as lost. */
void rl_leader_stop(rl_leader *leader);

/* In a forked process: closes inherited descriptors, unless there is an I/O thread. */
void rl_leader_abandon(rl_leader *leader);

#endif
