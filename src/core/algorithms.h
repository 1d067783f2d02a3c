/* SPDX-License-Identifier: Apache-2.0 */
/*
 * algorithms: one row for each algorithm of algorithm=.
 *
 * A row holds what the rest of the module has to know of an algorithm. Its arithmetic is in
 * limiter.c and, in Lua, in redis/decide.lua. An algorithm belongs to one of three families, which
 * differ in what a counter holds: windows keep two counts, logs each charge, buckets a level. All
 * code outside limiter.c depends on the family or on a member of the row, never on a single
 * algorithm.
 */
#ifndef RL_ALGORITHMS_H
#define RL_ALGORITHMS_H

#include <stdint.h>

#define RL_COUNT_MAX INT64_C(1000000000) /* the largest quota, burst and cost */
#define RL_LOG_QUOTA_MAX 10000           /* of a sliding log, which stores each charge */

/* In the order of their families, which rl_limiter_is_log() and rl_limiter_is_bucket() rely on. */
typedef enum {
    RL_SLIDING_WINDOW, /* windows */
    RL_FIXED_WINDOW,
    RL_SLIDING_LOG, /* logs */
    RL_TOKEN_BUCKET, /* buckets */
    RL_LEAKY_BUCKET,
    RL_ALGORITHMS
} rl_algorithm;

enum {
    RL_TAKES_BURST = 1 << 0,
    RL_TAKES_DELAY = 1 << 1
};

typedef struct {
    const char *name;   /* as in algorithm=, Redis keys, logs and pages */
    int wire;           /* 0 to 3: its code in a record for the script, see redis/decide.lua */
    unsigned takes;     /* RL_TAKES_...: options that go with it only where it says so */
    rl_algorithm local; /* what counts in its place without Redis; itself unless it needs Redis */
    int64_t quota_max;  /* units */
} rl_algorithm_row;

extern const rl_algorithm_row rl_algorithms[RL_ALGORITHMS];

#endif
