/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logger: lines of this wing in the server's log.
 *
 * Parts of a line may come from the network. So a line is cut at a bounded length, and bytes other
 * than printable ASCII are replaced.
 */
#ifndef RL_LOGGER_H
#define RL_LOGGER_H

#include <stdint.h>

#define RL_LOGGER_LINE 320 /* bytes of a line, with its NUL: longer ones are cut */

typedef enum { RL_LOG_INFO, RL_LOG_NOTICE, RL_LOG_WARNING, RL_LOG_ERROR } rl_log_level;

/* Where the lines go. write is called from any thread. */
typedef struct {
    void (*write)(void *context, rl_log_level level, const char *line);
    void *context;
} rl_logger;

/* Writes a line. */
void rl_logger_say(const rl_logger *logger, rl_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Limits how often one kind of line is written: at once, then, while such lines keep coming, at
 * intervals that double from a second to ten minutes. Zeroed at first. For any thread.
 */
typedef struct {
    _Atomic int64_t next_ms, interval_ms;
    _Atomic unsigned unsaid; /* lines left out since the last one */
} rl_logger_pace;

/* Writes a line if it is due, with the number of those left out before. Returns 1 if it did. */
int rl_logger_say_at_pace(const rl_logger *logger, rl_logger_pace *pace, int64_t now_ms,
                          rl_log_level level, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
