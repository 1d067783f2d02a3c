/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failure: how an attempt to have Redis decide ended, as text. The rows are in failure.h.
 */
#include "core/failure.h"

#define TEXT(name, metric, line, title) [name] = {metric, line, title},

const rl_failure_text rl_failure_texts[RL_FAILURES] = {RL_FAILURE_TABLE(TEXT)};
