/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: log lines for a breaker that opens and closes.
 */
#include <stdatomic.h>

#include "redis/breaker_log.h"

void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name)
{
    if (atomic_exchange(&b->logged, 0))
        rl_logger_say(logger, RL_LOG_NOTICE, "Redis at %s answers again: breaker closed", name);
}

int rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                          const char *why, int64_t now_ms)
{
    if (now_ms < atomic_load(&b->pace.next_ms)
        || !rl_logger_say_at_pace(logger, &b->pace, now_ms, RL_LOG_ERROR,
                                  "Redis at %s: breaker open, on-failure decides until it "
                                  "answers again: %s", name, why))
        return 0;
    atomic_store(&b->logged, 1);
    if (rl_breaker_read(b) != RL_BREAKER_OPEN) /* it was closed before this was stored */
        rl_breaker_log_closed(b, logger, name);
    return 1;
}

void rl_breaker_log_left_out(rl_breaker *b)
{
    atomic_fetch_add(&b->pace.unsaid, 1);
}

void rl_breaker_log_reset(rl_breaker *b)
{
    atomic_store(&b->logged, 0);
}
