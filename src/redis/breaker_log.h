/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: what the log says of a breaker that opens and closes.
 *
 * An opening is logged once, by the process that opened the breaker, and its closing once too. While
 * a breaker opens again and again, only some openings are logged, at a pace (logger.h), and a closing
 * is logged only if its opening was.
 *
 * For any thread of any process. name is the server's; now_ms as in breaker.h.
 */
#ifndef RL_BREAKER_LOG_H
#define RL_BREAKER_LOG_H

#include "redis/breaker.h"

/* Logs that the breaker has opened, and why. */
void rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                           const char *why, int64_t now_ms);

/* Logs that the breaker is closed, if its opening was logged. */
void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name);

#endif
