/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics: the module's metrics, for Prometheus.
 */
#ifndef RL_METRICS_H
#define RL_METRICS_H

#include "decide/context.h"

#define RL_METRICS_HANDLER "ratelimit-metrics"

/*
 * Responds with all metrics: in the text format 0.0.4 or, if the client's Accept prefers it, in
 * OpenMetrics 1.0. Returns what the handler has to return.
 */
int rl_metrics(request_rec *r, const rl_context *context);

#endif
