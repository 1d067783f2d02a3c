/*
 * logger: the lines that the link to Redis writes to the server's log.
 */
#include <apr_lib.h>
#include <apr_strings.h>

#include "logger.h"

void rl_logger_say(const rl_logger *logger, rl_log_level level, const char *format, ...)
{
    char line[RL_LOGGER_LINE];
    va_list args;

    va_start(args, format);
    apr_vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    for (char *s = line; *s; s++) {
        if (!apr_isascii(*s) || !apr_isprint(*s))
            *s = '?';
    }
    logger->write(logger->context, level, line);
}
