/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_monitor: keeps an eye on the sentinels of a primary.
 *
 * Connects to one sentinel after another, in the order of sentinel_search.h, asks for the primary's
 * address, and stays subscribed there to hear of a failover. The owner connects to that address and
 * reports whether a primary answered. The monitor searches again when the address proved wrong or
 * uncertain, when a sentinel announces a switch, and when it loses the sentinel.
 *
 * Not thread-safe: one owner at a time drives it, as it drives a node. Nothing here waits. Times are
 * µs on rl_link_clock().
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
    int64_t connect_ms;          /* what a sentinel may take to answer */
    int64_t retry_min_ms;        /* pauses when none knew an answer */
    int64_t retry_max_ms;
    rl_logger logger;
} rl_sentinel_monitor_options;

/* Makes a monitor that is about to search. options are copied, what they point to is not. */
rl_sentinel_monitor *rl_sentinel_monitor_create(apr_pool_t *pool,
                                                const rl_sentinel_monitor_options *options);

/*
 * The primary's address, NULL while it is searched for. The same address is at the same place as
 * long as no other was named; it stays as it is until the next but one.
 */
const rl_endpoint *rl_sentinel_monitor_primary(const rl_sentinel_monitor *monitor);

/* How many searches have failed so far: all sentinels were asked in vain. */
unsigned rl_sentinel_monitor_failures(const rl_sentinel_monitor *monitor);

/* Takes a reply to ROLE from there. Returns what is wrong with it, or NULL. */
const char *rl_sentinel_monitor_take_role(rl_sentinel_monitor *monitor, const redisReply *reply);

/* Nothing answers at the address, or not as a primary: searches again. */
void rl_sentinel_monitor_invalidate(rl_sentinel_monitor *monitor);

/* What went wrong with the sentinel that was asked last, for logs; "" for nothing. */
const char *rl_sentinel_monitor_error(const rl_sentinel_monitor *monitor);

void rl_sentinel_monitor_tick(rl_sentinel_monitor *monitor, int64_t now_us);

/* As rl_node_wait(), rl_node_handle_io() and rl_node_close(). */
int rl_sentinel_monitor_wait(const rl_sentinel_monitor *monitor, short *events, int64_t *due_us);
void rl_sentinel_monitor_handle_io(rl_sentinel_monitor *monitor, short revents, int64_t now_us);
void rl_sentinel_monitor_close(rl_sentinel_monitor *monitor);

/* Listening, with nothing to be done. */
int rl_sentinel_monitor_is_quiet(const rl_sentinel_monitor *monitor);

#endif
