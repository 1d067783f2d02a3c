/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolver: looks up the addresses of host names without blocking its caller.
 *
 * getaddrinfo() may take many seconds and cannot be given a deadline. So each lookup runs in a
 * short-lived thread, also in a server with one thread per process, and the caller reads the answer
 * when it has come. Lookups of the same name at the same time share one thread, and a resolver runs
 * at most RL_LOOKUPS_MAX threads: while DNS hangs, that bounds threads and descriptors however
 * often callers give up and try again. Further lookups wait for their turn.
 *
 * A resolver and its lookups have one owner at a time. The threads are internal.
 */
#ifndef RL_RESOLVER_H
#define RL_RESOLVER_H

#include <apr_pools.h>

#define RL_ADDRESSES_MAX 16
#define RL_ADDRESS_SIZE 64

/* A numeric address, with its scope if it has one. */
typedef struct {
    char text[RL_ADDRESS_SIZE];
} rl_address;

#define RL_LOOKUPS_MAX 8 /* that run at a time, for one resolver */

typedef struct rl_resolver rl_resolver;
typedef struct rl_lookup rl_lookup;

/* Whether host is a numeric address, which needs no lookup. */
int rl_resolver_is_address(const char *host);

rl_resolver *rl_resolver_create(apr_pool_t *pool);

/*
 * Begins to look up a name. Joins a lookup of the same name that is under way, or whose answer came
 * within the last seconds and has not been read. NULL without memory. End it by rl_lookup_end().
 */
rl_lookup *rl_resolver_look_up(rl_resolver *resolver, const char *host);

/* Releases all lookups, answered or not. Does not wait for their threads. */
void rl_resolver_close(rl_resolver *resolver);

/*
 * A descriptor that becomes readable with the answer; -1 while the lookup waits for its turn, which
 * rl_lookup_read() gives it when there is room.
 */
int rl_lookup_wait(const rl_lookup *lookup);

/*
 * The answer: how many addresses there are, at most RL_ADDRESSES_MAX, in the order to try them; 0
 * if the name has none; -1 if there is no answer yet.
 */
int rl_lookup_read(rl_lookup *lookup, rl_address addresses[RL_ADDRESSES_MAX]);

/* Ends the caller's use of a lookup. Does not wait for its thread. */
void rl_lookup_end(rl_lookup *lookup);

#endif
