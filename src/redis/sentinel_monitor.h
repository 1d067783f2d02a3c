/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_monitor: finds a primary by its sentinels, and follows it.
 *
 * Connects to one sentinel after another, in the order of sentinel_search.h, asks for the primary's
 * address, and stays subscribed there to learn of a failover. The owner connects to that address
 * and reports whether a primary answered. The monitor searches again when the address proves wrong
 * or may be, when a sentinel announces a switch, and when it loses the sentinel.
 *
 * Not thread-safe: one owner at a time drives it, as it drives a node. Nothing here waits. Times
 * are µs on rl_link_clock().
 */
#ifndef RL_SENTINEL_MONITOR_H
#define RL_SENTINEL_MONITOR_H

#include "redis/node.h"
#include "redis/url.h"

typedef struct rl_sentinel_monitor rl_sentinel_monitor;

typedef struct {
    const rl_url *url; /* the sentinels, and the primary's name */
    const rl_tls *tls;           /* NULL: none */
    const rl_credentials *credentials; /* for sentinels; NULL: none */
    rl_resolver *resolver;       /* the owner's */
    int64_t connect_ms;          /* how long a sentinel may take to answer */
    int64_t retry_min_ms;        /* pauses after all sentinels were asked in vain */
    int64_t retry_max_ms;
    rl_logger logger;
} rl_sentinel_monitor_options;

/* Makes a monitor, which begins to search. options are copied, what they point to is not. */
rl_sentinel_monitor *rl_sentinel_monitor_create(apr_pool_t *pool,
                                                const rl_sentinel_monitor_options *options);

/*
 * The primary's address; NULL while it is searched for. The pointer changes only with the address.
 * It stays valid until the address has changed twice.
 */
const rl_endpoint *rl_sentinel_monitor_primary(const rl_sentinel_monitor *monitor);

/* How many searches have failed so far, because all sentinels were asked in vain. */
unsigned rl_sentinel_monitor_failures(const rl_sentinel_monitor *monitor);

/* Takes a reply to ROLE from that address. Returns what is wrong with it, or NULL. */
const char *rl_sentinel_monitor_take_role(rl_sentinel_monitor *monitor, const redisReply *reply);

/* Nothing answers at the address, or not as a primary: searches again. */
void rl_sentinel_monitor_invalidate(rl_sentinel_monitor *monitor);

/* Why the last connection to a sentinel ended, for logs; "" for nothing. */
const char *rl_sentinel_monitor_error(const rl_sentinel_monitor *monitor);

/* As rl_node_tick(). */
void rl_sentinel_monitor_tick(rl_sentinel_monitor *monitor, int64_t now_us);

/* As rl_node_wait(), rl_node_handle_io() and rl_node_close(). */
int rl_sentinel_monitor_wait(const rl_sentinel_monitor *monitor, short *events, int64_t *due_us);
void rl_sentinel_monitor_handle_io(rl_sentinel_monitor *monitor, short revents, int64_t now_us);
void rl_sentinel_monitor_close(rl_sentinel_monitor *monitor);

/* Whether it is subscribed at a sentinel and nothing is to be done. */
int rl_sentinel_monitor_is_quiet(const rl_sentinel_monitor *monitor);

#endif
