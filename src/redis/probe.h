/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe: the command of a probe, a decision that counts against no client.
 *
 * A probe that did less than decisions do would close a breaker that the next decision opens again.
 * So the ways in which calls were made so far are remembered, and probes take these in turn: each
 * uses the same script as such calls do, on keys that are written in the same way. So probes
 * need no rights in Redis beyond those that calls need.
 *
 * Pure, for any thread.
 */
#ifndef RL_PROBE_H
#define RL_PROBE_H

#include "redis/script.h"

/* Ways of a call, as bits. */
enum {
    RL_WAY_PLAIN = 1, /* decide_plain.lua */
    RL_WAY_FULL = 2,  /* decide.lua, on a window or a bucket */
    RL_WAY_LOG = 4    /* decide.lua, on a log */
};

/* The way or ways of a decision. */
unsigned rl_probe_ways(const rl_ask *asks, int n, int peek);

/*
 * Formats the probe of a turn: 0, 1, and so on. Any three turns in a row go through all of these
 * ways (0: plain). Its keys have this prefix, of 64 bytes at most, and this tag. Returns the bytes,
 * which the caller frees with redisFreeCommand(), and sets *length; NULL without memory.
 */
char *rl_probe_make(const rl_script_names *names, const char *prefix, const char *tag,
                    unsigned ways, unsigned turn, int *length);

#endif
