/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker_log: log lines for a breaker that opens and closes.
 */
#include <stdatomic.h>

#include "redis/breaker_log.h"

enum { NOTHING, OPENED, OWED }; /* b->logged, of the last opening */

void rl_breaker_log_closed(rl_breaker *b, const rl_logger *logger, const char *name)
{
    if (atomic_exchange(&b->logged, NOTHING) == OPENED)
        rl_logger_say(logger, RL_LOG_NOTICE, "Redis at %s answers again: breaker closed", name);
}

void rl_breaker_log_opened(rl_breaker *b, const rl_logger *logger, const char *name,
                           const char *why, int64_t now_ms)
{
    int logged = rl_logger_say_at_pace(logger, &b->pace, now_ms, RL_LOG_ERROR,
                                       "Redis at %s: breaker open, on-failure decides until it "
                                       "answers again: %s", name, why);

    atomic_store(&b->logged, logged ? OPENED : OWED);
    if (rl_breaker_read(b) != RL_BREAKER_OPEN) /* it was closed before this was stored */
        rl_breaker_log_closed(b, logger, name);
}

int rl_breaker_log_is_owed(rl_breaker *b, int64_t now_ms)
{
    int owed = OWED;

    if (atomic_load_explicit(&b->logged, memory_order_relaxed) != OWED
        || rl_breaker_read(b) != RL_BREAKER_OPEN || now_ms < atomic_load(&b->pace.next_ms)
        || !atomic_compare_exchange_strong(&b->logged, &owed, NOTHING))
        return 0;
    atomic_fetch_sub(&b->pace.unsaid, 1); /* which counts this opening as left out */
    return 1;
}
