/* SPDX-License-Identifier: Apache-2.0 */
#include "core/algorithms.h"

const rl_algorithm_row rl_algorithms[RL_ALGORITHMS] = {
    [RL_SLIDING_WINDOW] = {.name = "sliding-window", .wire = 0, .local = RL_SLIDING_WINDOW,
                           .quota_max = RL_COUNT_MAX},
    [RL_FIXED_WINDOW] = {.name = "fixed-window", .wire = 1, .local = RL_FIXED_WINDOW,
                         .quota_max = RL_COUNT_MAX},
    [RL_SLIDING_LOG] = {.name = "sliding-log", .wire = 3, .local = RL_SLIDING_WINDOW,
                        .quota_max = RL_LOG_QUOTA_MAX},
    [RL_TOKEN_BUCKET] = {.name = "token-bucket", .wire = 2, .local = RL_TOKEN_BUCKET,
                         .quota_max = RL_COUNT_MAX, .takes = RL_TAKES_BURST},
    [RL_LEAKY_BUCKET] = {.name = "leaky-bucket", .wire = 2, .local = RL_LEAKY_BUCKET,
                         .quota_max = RL_COUNT_MAX, .takes = RL_TAKES_BURST | RL_TAKES_DELAY},
};
