/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: log lines for a breaker that opens and closes.
 *
 * An opening is logged once, by the process that opened the breaker. Its closing is logged once
 * too, if the opening was. While a breaker opens again and again, lines come at a pace (logger.h):
 * an opening that comes too early for it is logged later, if the breaker is still open then.
 *
 * For any thread of any process. name is the server's; now_ms as in breaker.h.
 */
#ifndef RL_BREAKER_LOG_H
#define RL_BREAKER_LOG_H

#include "redis/breaker.h"

/* Logs that the breaker has opened, and why, now or later. */
void rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                           const char *why, int64_t now_ms);

/*
 * To be called now and then. Returns 1 if an opening was left for later, is not over yet, and may
 * be logged now: the caller then does so by rl_breaker_log_opened().
 */
int rl_breaker_log_is_owed(rl_breaker *b, int64_t now_ms);

/* Logs that the breaker is closed, if its opening was logged. */
void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name);

#endif
