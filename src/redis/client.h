/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client: decisions by Redis, for the requests of one child.
 *
 * The entry to this wing. A client owns its servers (servers.h), which have a node (node.h) for
 * each server of Redis, and its leader (leader.h), which sends calls to them. Every failure is
 * returned as an rl_failure; the client never decides by itself.
 *
 * Created after fork, in the pool of the child; a process that a child forks needs its own.
 * rl_client_decide() and rl_client_undo() may be called from any thread of the child.
 */
#ifndef RL_CLIENT_H
#define RL_CLIENT_H

#include <apr_pools.h>

#include "redis/breaker.h"
#include "redis/node.h"
#include "redis/script.h"
#include "redis/url.h"

typedef struct rl_client rl_client;

typedef struct {
    const rl_url *url;
    const rl_credentials *credentials, *sentinel_credentials; /* NULL: none */
    const rl_tls *tls;           /* NULL: in clear */
    const char *prefix;          /* of keys */
    int threaded;
    int64_t timeout_ms;      /* what a request may wait; a silent link is closed after four */
    int64_t connect_ms;
    int failures;            /* in a row that end a connection */
    rl_breaker_options retry;
    rl_breakers *breakers;   /* shared by all children */
    rl_logger logger;
} rl_client_options;

/* Makes a client and, if threaded, starts its thread. NULL if the thread cannot be made. */
rl_client *rl_client_create(apr_pool_t *pool, const rl_client_options *options);

/*
 * Has Redis decide over n asks, 1 to RL_ASKS_MAX, live rules before shadow rules. Waits until
 * deadline_us on rl_link_clock() at the longest. With peek set nothing is charged.
 *
 * Sets the out members of the asks that Redis answered: all of them with RL_ANSWERED; with a
 * failure none, or in a cluster perhaps some. *admitted: all live rules among them admit, and were
 * charged. An ask that was not answered may have been charged all the same.
 */
rl_failure rl_client_decide(rl_client *client, rl_ask *asks, int n, int peek, int64_t deadline_us,
                            int *admitted);

/*
 * Gives back or settles n asks, by their kinds. Does not wait for the reply, so a failure goes
 * unnoticed. Without an I/O thread it waits for a connection, until deadline_us on rl_link_clock()
 * at the longest.
 */
void rl_client_undo(rl_client *client, const rl_ask *asks, int n, int64_t deadline_us);

/* Whether there is an I/O thread. */
int rl_client_has_thread(const rl_client *client);

/* Gets an ask as Redis answered it, or why it did not. Must not block. */
typedef void rl_client_on_end(void *data, rl_ask *ask, rl_failure failure);

/*
 * With an I/O thread: has Redis decide about one ask, which this call copies, and returns at once.
 * on_end is called later, once, by the thread that reads the reply. Until then the ask's limit and
 * data must last. Returns 0, and never calls it, if the command cannot be sent, or if there is no
 * I/O thread: use rl_client_decide() then.
 */
int rl_client_post(rl_client *client, const rl_ask *ask, rl_client_on_end *on_end, void *data);

/*
 * Without an I/O thread: probes the servers of open breakers if their probes are due, and waits for
 * the replies, timeout_ms at the longest. Call it when a response has been sent. With an I/O thread
 * it does nothing.
 */
void rl_client_probe(rl_client *client);

/* Ends the thread and the connections. Decisions still waited for fail with RL_FAILED_LOST. */
void rl_client_stop(rl_client *client);

/*
 * In a forked process that has inherited the client: closes the descriptors shared with its parent,
 * without sending anything. The client must not be used afterwards. With an I/O thread, which the
 * fork may have interrupted at any instruction, nothing is touched.
 */
void rl_client_abandon(rl_client *client);

#endif
