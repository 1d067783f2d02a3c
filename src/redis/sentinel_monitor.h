/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch: keeps an eye on the sentinels of a primary.
 *
 * Holds a connection to one sentinel after the other (sentinel_search.h says which), asks it for the
 * primary's address, and then listens there for news of a failover. Whoever owns the watch
 * connects to the address it names, and tells whether that was right. It searches anew when the
 * address was wrong or is in doubt, when a sentinel tells of a switch, and when the sentinel is
 * lost.
 *
 * Not thread-safe: one owner at a time, who steps it as a node is stepped. It never waits. Times
 * are µs on rl_link_clock().
 */
#ifndef RL_WATCH_H
#define RL_WATCH_H

#include "redis/node.h"
#include "redis/url.h"

typedef struct rl_watch rl_watch;

typedef struct {
    const rl_url *url; /* the sentinels, and the primary's name */
    const rl_tls *tls;           /* NULL: none */
    const rl_credentials *credentials; /* for sentinels; NULL: none */
    rl_resolver *resolver;       /* the owner's */
    int64_t connect_ms;          /* what a sentinel may take to answer */
    int64_t retry_min_ms;        /* pauses when none knew an answer */
    int64_t retry_max_ms;
    rl_logger logger;
} rl_watch_options;

/* Makes a watch that is about to search. options are copied, what they point to is not. */
rl_watch *rl_watch_create(apr_pool_t *pool, const rl_watch_options *options);

/*
 * The primary's address, NULL while it is searched for. The same address is at the same place as
 * long as no other was named; it stays as it is until the next but one.
 */
const rl_endpoint *rl_watch_primary(const rl_watch *watch);

/* How many searches have failed so far: all sentinels were asked in vain. */
unsigned rl_watch_failures(const rl_watch *watch);

/* Takes a reply to ROLE from there. Returns what is wrong with it, or NULL. */
const char *rl_watch_take_role(rl_watch *watch, const redisReply *reply);

/* The address is in doubt: nobody answers there, or not as a primary. */
void rl_watch_doubt(rl_watch *watch);

/* What went wrong with the sentinel that was asked last, for logs; "" for nothing. */
const char *rl_watch_error(const rl_watch *watch);

void rl_watch_look(rl_watch *watch, int64_t now_us);

/* As rl_node_wait(), rl_node_step() and rl_node_close(). */
int rl_watch_wait(const rl_watch *watch, short *events, int64_t *due_us);
void rl_watch_step(rl_watch *watch, short revents, int64_t now_us);
void rl_watch_close(rl_watch *watch);

/* Listening, with nothing to be done. */
int rl_watch_is_settled(const rl_watch *watch);

#endif
