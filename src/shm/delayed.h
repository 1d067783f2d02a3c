/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delayed: who of the workers only waits.
 *
 * Held requests, those that delay= makes wait, are counted in shared memory, so that all children
 * together keep to their share of the workers.
 */
#ifndef RL_DELAYED_H
#define RL_DELAYED_H

#include <stddef.h>
#include <stdint.h>

typedef struct rl_delayed rl_delayed;

/* Bytes of shared memory it takes; zeroed memory is ready for use. */
size_t rl_delayed_size(void);

/*
 * Takes a place for for_ms (at most 10 s) from host_ms on, if no more than most are then taken. A
 * place ends by itself, whatever becomes of the process. Returns 0 if there was none. Lock-free;
 * any thread of any process.
 */
int rl_delayed_take(rl_delayed *delayed, int64_t host_ms, int64_t for_ms, int most);

/* Whether one of most places is free, as far as one look can tell. */
int rl_delayed_has_room(rl_delayed *delayed, int64_t host_ms, int most);

#endif
