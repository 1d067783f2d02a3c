/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logger: the lines that the link to Redis writes to the server's log.
 *
 * Every room that talks to Redis logs through here. Parts of a line may come from the network:
 * a line is one line of printable text and bounded, whatever its parts hold.
 */
#ifndef RL_LOGGER_H
#define RL_LOGGER_H

#include <stdint.h>

#define RL_LOGGER_LINE 320 /* bytes of a line, with its NUL: longer ones are cut */

typedef enum { RL_LOG_INFO, RL_LOG_NOTICE, RL_LOG_WARNING, RL_LOG_ERROR } rl_log_level;

/* Where the lines go. write may be called from any thread. */
typedef struct {
    void (*write)(void *context, rl_log_level level, const char *line);
    void *context;
} rl_logger;

void rl_logger_say(const rl_logger *logger, rl_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * How often one kind of line is written: once, and while it goes on coming at intervals that double
 * from a second to ten minutes. Zeroed at first. For any thread.
 */
typedef struct {
    _Atomic int64_t next_ms, interval_ms;
    _Atomic unsigned unsaid;
} rl_logger_pace;

/* Writes the line if it is due, with how many like it were left out before. Returns 1 if it was. */
int rl_logger_say_at_pace(const rl_logger *logger, rl_logger_pace *pace, int64_t now_ms,
                          rl_log_level level, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
