/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logger: lines of this wing in the server's log.
 */
#include <stdarg.h>
#include <stdatomic.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "redis/logger.h"

#define INTERVAL_MS 1000
#define INTERVAL_MAX_MS 600000

static void write_line(const rl_logger *logger, rl_log_level level, char *line)
{
    for (char *s = line; *s; s++) {
        if (!apr_isascii(*s) || !apr_isprint(*s))
            *s = '?';
    }
    logger->write(logger->context, level, line);
}

void rl_logger_say(const rl_logger *logger, rl_log_level level, const char *format, ...)
{
    char line[RL_LOGGER_LINE];
    va_list args;

    va_start(args, format);
    apr_vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    write_line(logger, level, line);
}

/*
 * One of several threads gets 1. The intervals start again after a time without such lines that is
 * as long as the last one.
 */
static int is_due(rl_logger_pace *pace, int64_t now_ms)
{
    int64_t next_ms = atomic_load(&pace->next_ms), interval_ms = atomic_load(&pace->interval_ms);

    if (now_ms < next_ms)
        return 0;
    interval_ms = now_ms - next_ms > interval_ms ? INTERVAL_MS : 2 * interval_ms;
    if (interval_ms > INTERVAL_MAX_MS)
        interval_ms = INTERVAL_MAX_MS;
    if (!atomic_compare_exchange_strong(&pace->next_ms, &next_ms, now_ms + interval_ms))
        return 0;
    atomic_store(&pace->interval_ms, interval_ms);
    return 1;
}

int rl_logger_say_at_pace(const rl_logger *logger, rl_logger_pace *pace, int64_t now_ms,
                          rl_log_level level, const char *format, ...)
{
    char line[RL_LOGGER_LINE];
    unsigned unsaid;
    va_list args;
    int length;

    if (!is_due(pace, now_ms)) {
        atomic_fetch_add(&pace->unsaid, 1);
        return 0;
    }
    va_start(args, format);
    length = apr_vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    unsaid = atomic_exchange(&pace->unsaid, 0);
    if (unsaid && length >= 0 && length < (int)sizeof(line))
        apr_snprintf(line + length, sizeof(line) - (size_t)length, " (and %u times before)",
                     unsaid);
    write_line(logger, level, line);
    return 1;
}
