/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper: keeps pending what requests under way have pending.
 *
 * Units that are pending become a charge after one to two periods (limiter.h), so that a host or a
 * child that dies with them cannot leave them pending for ever. A request may live longer: a
 * download, a WebSocket, an event stream. Such requests are entered here, and as long as one is, a
 * thread of its child prolongs the time of its units, in the local tier or in Redis, about three
 * times in a period. With the child the thread dies, and the units become a charge.
 *
 * Not mod_watchdog: its threads end as soon as their child begins to stop gracefully, which is when
 * the longest requests are still to be finished.
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

/* The units of a request, as long as they are kept. */
typedef struct rl_kept rl_kept;

typedef struct {
    rl_local *local;
    int64_t prolong_ms;  /* since units were put into their period, until they are prolonged */
    int threaded;        /* the child has threads, and a client for all of them */
    rl_client *client;   /* where threaded; NULL: without Redis */
    /* where not threaded: makes a client for the keeper's thread alone; NULL: without Redis */
    rl_client *(*make_client)(void *context, apr_pool_t *pool);
    void *context;
    rl_logger logger;
} rl_keeper_options;

/* What a request has pending under one rule. */
typedef struct {
    const char *redis_key; /* NULL: it is pending in the local tier, under key */
    uint64_t key;
    rl_clock clock;        /* whose periods the local tier counts */
    rl_limit limit;
    int64_t period;
    int64_t cost;
} rl_keeper_units;

/*
 * Makes a keeper that ends with the pool of its child; NULL if the system has no descriptor left.
 * The thread starts with the first request.
 */
rl_keeper *rl_keeper_create(apr_pool_t *pool, const rl_keeper_options *options);

/*
 * Keeps units that became pending at host_ms, until they are removed. NULL without memory: then they
 * are not kept.
 */
rl_kept *rl_keeper_add(rl_keeper *keeper, const rl_keeper_units *units, int64_t host_ms);

/*
 * Keeps units no longer. Returns the period in which they are pending now: see
 * rl_limiter_prolong().
 */
int64_t rl_keeper_remove(rl_kept *kept);

#endif
