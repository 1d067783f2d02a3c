/* SPDX-License-Identifier: Apache-2.0 */
/*
 * algorithms: one row for each algorithm of algorithm=.
 *
 * A row has all that code outside limiter.c needs to know of an algorithm. The arithmetic is in
 * limiter.c and, in Lua, in redis/decide.lua. An algorithm belongs to one of three families, which
 * differ in what a counter stores: windows two counts, logs each charge, buckets a level. Code
 * outside limiter.c depends on the family or on a member of the row, never on a single algorithm.
 *
 * The table is constant.
 */
#ifndef RL_ALGORITHMS_H
#define RL_ALGORITHMS_H

#include <stdint.h>

#define RL_COUNT_MAX INT64_C(1000000000) /* the largest quota, burst and cost */
#define RL_LOG_QUOTA_MAX 10000           /* of a sliding log, which stores each charge */

/* Grouped by family: rl_limiter_is_bucket() relies on that. */
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
    int wire;           /* 0 to 3: its code in a record for redis/decide.lua */
    unsigned takes;     /* RL_TAKES_...: the options that only some algorithms accept */
    rl_algorithm local; /* the algorithm that replaces it without Redis; itself if it needs none */
    int64_t quota_max;  /* units */
} rl_algorithm_row;

extern const rl_algorithm_row rl_algorithms[RL_ALGORITHMS];

#endif
