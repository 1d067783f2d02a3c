/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client: how the requests of one child ask Redis.
 *
 * The one door to this wing for decisions. The client owns its servers (servers.h), which have a
 * node (node.h) for each server of Redis, and its leader (leader.h), which carries calls to them.
 * Whatever goes wrong comes back as an rl_failure; the client never decides by itself.
 *
 * Created after fork, in the pool of the child; a process that a child forks needs a new one.
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
 * Asks for one decision over n asks, 1 to RL_ASKS_MAX, live rules before shadow rules, and waits
 * for it until deadline_us on rl_link_clock() at the longest; with peek set nothing is charged.
 * Asks that were answered say what Redis reported, and *admitted whether all live ones of them admit,
 * and so were charged: all of them with RL_ANSWERED, in a cluster perhaps some if it failed. Of the
 * others nothing is known, and something may have been charged.
 */
rl_failure rl_client_decide(rl_client *client, rl_ask *asks, int n, int peek, int64_t deadline_us,
                            int *admitted);

/*
 * Gives back or settles n asks, as their kinds say; may be lost. Never waits for a reply. Where there
 * is no I/O thread it waits for a connection, until deadline_us on rl_link_clock() at the longest.
 */
void rl_client_undo(rl_client *client, const rl_ask *asks, int n, int64_t deadline_us);

/*
 * Where there is no I/O thread: probes an open breaker's Redis if a probe is due and nobody else is
 * at it, and waits for the answer, timeout_ms at the longest. To be called when a response has been
 * sent. Does nothing where there is an I/O thread.
 */
void rl_client_probe(rl_client *client);

/* Ends the thread and the connections. Who still waits for a decision is told that it is lost. */
void rl_client_stop(rl_client *client);

/*
 * In a process that was forked and has inherited the client: closes the descriptors it has in
 * common with its parent, and sends nothing over them. The client must not be used after. Where
 * there is an I/O thread, which the fork may have met at any instruction, nothing is touched.
 */
void rl_client_abandon(rl_client *client);

#endif
