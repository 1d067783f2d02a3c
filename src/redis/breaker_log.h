/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: log lines for a breaker that opens and closes.
 *
 * An opening is logged once, by the process that opened the breaker, and so is its closing if the
 * opening was. While a breaker opens again and again, lines come at a pace (logger.h).
 *
 * For any thread of any process. name is the server's; now_ms as in breaker.h.
 */
#ifndef RL_BREAKER_LOG_H
#define RL_BREAKER_LOG_H

#include "redis/breaker.h"

/*
 * Logs that the breaker has opened, and why. Returns 0 if it is too soon after the line before: the
 * caller tries again later or, if the breaker has closed by then, calls rl_breaker_log_left_out().
 */
int rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                          const char *why, int64_t now_ms);

/* Counts an opening that was not logged: the next line has their number. */
void rl_breaker_log_left_out(rl_breaker *b);

/* Logs that the breaker is closed, if its opening was logged. */
void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name);

/* Nothing uses the server any more: its closing is not logged. */
void rl_breaker_log_reset(rl_breaker *b);

#endif
