/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delayed: how many requests of the host are being delayed.
 *
 * A request that delay= makes wait occupies a worker. Such requests are counted in shared memory,
 * so that those of all children together take no more than their share of the workers.
 *
 * Any thread of any process may call the functions at any time; they neither block nor allocate.
 * host_ms is rl_local_clock().
 */
#ifndef RL_DELAYED_H
#define RL_DELAYED_H

#include <stddef.h>
#include <stdint.h>

typedef struct rl_delayed rl_delayed;

/* Bytes of shared memory that it needs; zeroed memory is ready for use. */
size_t rl_delayed_size(void);

/*
 * Takes a place for for_ms (at most 10 s) from host_ms on, if at most `most` are then taken.
 * Returns 0 if they are all taken. A place ends by itself, also if the process has died.
 */
int rl_delayed_take(rl_delayed *delayed, int64_t host_ms, int64_t for_ms, int most);

/* Whether a place is free at host_ms; another thread may take it before the caller does. */
int rl_delayed_has_room(rl_delayed *delayed, int64_t host_ms, int most);

#endif
