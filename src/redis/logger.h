/*
 * logger: the lines that the link to Redis writes to the server's log.
 *
 * Every room that talks to Redis logs through here. Parts of a line may come from the network:
 * a line is one line of printable text and bounded, whatever its parts hold.
 */
#ifndef RL_LOGGER_H
#define RL_LOGGER_H

#include <stdarg.h>

#define RL_LOGGER_LINE 320 /* bytes of a line, with its NUL: longer ones are cut */

typedef enum { RL_LOG_INFO, RL_LOG_NOTICE, RL_LOG_WARNING, RL_LOG_ERROR } rl_log_level;

/* Where the lines go. write may be called from any thread. */
typedef struct {
    void (*write)(void *context, rl_log_level level, const char *line);
    void *context;
} rl_logger;

void rl_logger_say(const rl_logger *logger, rl_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
