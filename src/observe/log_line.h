/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_line: the format of a line in a RateLimitLog, as text or as JSON.
 *
 * Called by violation.c alone, which decides when a line is written. Thread-safe: nothing is kept.
 */
#ifndef RL_LOG_LINE_H
#define RL_LOG_LINE_H

#include "httpd/log_file.h"
#include "shm/stats.h"
#include "shm/top_denied.h"

/* The denials of an identity by a rule since its last line. Texts that are NULL are not known. */
typedef struct {
    const rl_top_denied_details *denied;
    const char *identity;
    uint32_t denials;
    int64_t retry_after_ms; /* RL_NEVER: waiting does not help; RL_LOG_LINE_UNKNOWN */
    const char *method;
    const char *host;
    const char *path;
    const char *request_id;
} rl_log_line;

#define RL_LOG_LINE_UNKNOWN (RL_NEVER - 1) /* a retry_after_ms that is not known */

/*
 * Prints a line with its newline in the log's format to bytes, which has room for RL_LOG_FILE_LINE.
 * Returns its length.
 */
size_t rl_log_line_print(const rl_log_line *line, const rl_log_file *log, char bytes[]);

#endif
