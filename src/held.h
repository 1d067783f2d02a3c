/*
 * held: who of the workers only waits.
 *
 * Held requests, those that delay= makes wait, are counted in shared memory, so that all children
 * together keep to their share of the workers.
 */
#ifndef RL_HELD_H
#define RL_HELD_H

#include <stddef.h>
#include <stdint.h>

typedef struct rl_held rl_held;

/* A place among the held; end below 0: none. */
typedef struct {
    int64_t end; /* tenth of a second in which it is given up */
} rl_hold;

/* Bytes of shared memory it takes; zeroed memory is ready for use. */
size_t rl_held_size(void);

/*
 * Takes a place for for_ms (at most 10 s) from host_ms on, if no more than most are then taken. A
 * place ends by itself: a process that dies with one keeps it no longer than it had asked for.
 * Returns 0 if there was none. Lock-free; any thread of any process.
 */
int rl_held_take(rl_held *held, int64_t host_ms, int64_t for_ms, int most, rl_hold *hold);

/* Shortens a place to for_ms from host_ms on; 0 gives it up. */
void rl_held_shorten(rl_held *held, int64_t host_ms, int64_t for_ms, rl_hold *hold);

#endif
