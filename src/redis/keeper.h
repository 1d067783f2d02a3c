/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper: keeps the pending units of requests under way pending.
 *
 * Pending units become a charge after one to two periods (limiter.h), so that a child or a host
 * that dies cannot leave them pending for ever. A request may last longer: a download, a WebSocket,
 * an event stream. Requests with pending units are added here, and a thread of the child prolongs
 * their units, in the local tier or in Redis, about three times in a period. The thread dies with
 * its child, and the units become a charge.
 *
 * mod_watchdog is not used, because its threads end as soon as a graceful stop begins, when the
 * longest requests have yet to finish.
 *
 * One for each child. rl_keeper_add() and rl_keeper_remove() may be called from any thread.
 */
#ifndef RL_KEEPER_H
#define RL_KEEPER_H

#include <apr_pools.h>

#include "core/limiter.h"
#include "redis/client.h"
#include "shm/local.h"

typedef struct rl_keeper rl_keeper;

/* Units that are kept. */
typedef struct rl_kept rl_kept;

typedef struct {
    rl_local *local;
    int64_t prolong_ms;  /* the age at which units are prolonged */
    int threaded;        /* the child has threads, which share a client */
    rl_client *client;   /* that one; NULL: without Redis, or not threaded */
    /* if not threaded: makes a client for the keeper's thread alone; NULL: without Redis */
    rl_client *(*make_client)(void *context, apr_pool_t *pool);
    void *context;
    rl_logger logger;
} rl_keeper_options;

/* What a request has pending under one rule. */
typedef struct {
    const char *redis_key; /* NULL: pending in the local tier, under key */
    uint64_t key;
    rl_clock clock;        /* that the local tier counts periods by */
    rl_limit limit;
    int64_t period;
    int64_t cost;
} rl_keeper_units;

/*
 * Makes a keeper that ends with the pool of its child; NULL if the system is out of resources. The
 * thread starts with the first units.
 */
rl_keeper *rl_keeper_create(apr_pool_t *pool, const rl_keeper_options *options);

/*
 * Keeps units that became pending at host_ms until they are removed. NULL without memory: they are
 * not kept then.
 */
rl_kept *rl_keeper_add(rl_keeper *keeper, const rl_keeper_units *units, int64_t host_ms);

/* Stops keeping units. Returns the period they are pending in now: see rl_limiter_prolong(). */
int64_t rl_keeper_remove(rl_kept *kept);

#endif
