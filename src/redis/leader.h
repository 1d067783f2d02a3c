/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leader: which thread of a child does its I/O with Redis.
 *
 * Calls of all threads go into one queue. One thread at a time is the leader: it drives the servers
 * (servers.h), sends what is queued, and completes calls as their replies come. The others are
 * followers: they queue a call and sleep until it is done or its deadline has come.
 *
 * In a child with threads an I/O thread leads while there are many calls at a time: their commands
 * share each node's connection, full duplex. A caller that finds nothing in flight leads itself,
 * which spares the hand-over; it also sends what others queue meanwhile, and leaves to the I/O
 * thread what is still in flight when its own reply has come. In a child with one thread that
 * thread always leads, and does I/O only during requests.
 *
 * Created after fork, in the pool of the child. Times are µs on rl_link_clock().
 */
#ifndef RL_LEADER_H
#define RL_LEADER_H

#include "redis/call.h"
#include "redis/servers.h"

#define RL_LEADER_IN_FLIGHT 1024 /* calls, of all callers together */

typedef struct rl_leader rl_leader;

/* threaded: with an I/O thread, which starts. NULL if the system cannot. */
rl_leader *rl_leader_create(apr_pool_t *pool, rl_servers *servers, int threaded);

/* --- Any thread --------------------------------------------------------------------------- */

/*
 * Queues a command, which becomes the call's and is freed with it. node: where it goes now; NULL:
 * not known yet. leads is NULL if nobody waits for the reply. Else *leads says whether the caller is
 * the leader now, and rl_leader_wait() must follow. NULL, and the command is freed, if too many
 * calls are under way.
 */
rl_call *rl_leader_enqueue(rl_leader *leader, rl_node *node, int slot, char *command, int length,
                           int *leads);

/*
 * Waits for a call, leading meanwhile if leads is set. Returns 1 if it is done: then the caller
 * reads and releases it. 0 at the deadline: then the call is not the caller's any more.
 */
int rl_leader_wait(rl_leader *leader, rl_call *call, int leads, int64_t deadline_us);
void rl_leader_release(rl_leader *leader, rl_call *call);

/* Has the I/O thread, if there is one, look at the nodes at once. */
void rl_leader_wake(rl_leader *leader);

/* --- Where there is no I/O thread --------------------------------------------------------- */

/* Takes notice of what happened to the connections since the last request. */
void rl_leader_catch_up(rl_leader *leader);

/* Sends what is queued, if anything is. */
void rl_leader_send_queued(rl_leader *leader);

/*
 * Sends what is queued before the request ends, as the next one may be long in coming: waits for
 * connections, and for the sign of life of one that was idle, until the deadline.
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
