/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe: a decision that costs nobody anything, to find out if others could be made.
 *
 * A probe that does less than decisions do closes a breaker that the next decision opens again. So
 * it is known in which ways calls have been asked for so far, and each probe does it in one of
 * them, in turn: with the same script, on keys that are written as theirs are. It is to be sent twice: a
 * key that is there is written with other commands than a new one. A user who may not run what no
 * call needs does no harm.
 *
 * Pure, for any thread.
 */
#ifndef RL_PROBE_H
#define RL_PROBE_H

#include "redis/script.h"

/* The ways of a call, as bits. */
enum {
    RL_WAY_PLAIN = 1, /* decide_plain.lua */
    RL_WAY_FULL = 2,  /* decide.lua, on a window or a bucket */
    RL_WAY_LOG = 4    /* decide.lua, on a log */
};

/* The way or ways of a decision. */
unsigned rl_probe_ways(const rl_ask *asks, int n, int look);

/*
 * Makes the probe of a turn, 0 and up: three turns in a row go through all of these ways (0: plain).
 * Its keys have this prefix, of 64 bytes at most, and this tag. Returns the bytes, to be freed with
 * redisFreeCommand(), and their number; NULL without memory.
 */
char *rl_probe_make(const rl_script_names *names, const char *prefix, const char *tag,
                    unsigned ways, unsigned turn, int *length);

#endif
