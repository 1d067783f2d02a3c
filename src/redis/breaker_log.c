/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: what the log says of a breaker that opens and closes.
 */
#include <stdatomic.h>

#include "redis/breaker_log.h"

void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name)
{
    if (atomic_exchange(&b->logged, 0))
        rl_logger_say(logger, RL_LOG_NOTICE, "Redis at %s answers again: breaker closed", name);
}

void rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                           const char *why, int64_t now_ms)
{
    if (!rl_logger_say_at_pace(logger, &b->pace, now_ms, RL_LOG_ERROR,
                               "Redis at %s: breaker open, on-failure decides until it answers "
                               "again: %s", name, why))
        return;
    atomic_store(&b->logged, 1);
    if (rl_breaker_read(b) != RL_BREAKER_OPEN) /* it was closed before this was stored */
        rl_breaker_log_closed(b, logger, name);
}
