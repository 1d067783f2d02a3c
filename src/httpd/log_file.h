/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log: where the lines of a violation log go, and how one is written.
 *
 * RateLimitLog names a file or a program, as CustomLog does. Both are opened by httpd's parent,
 * with its rights, each time the configuration is read: so a graceful restart is what rotates a
 * file. A line is one write of less than a pipe takes at once, so that lines of children never mix.
 *
 * A log is made while the configuration is read; rl_log_file_write() may be called from any thread
 * of any process after rl_log_file_open().
 */
#ifndef RL_LOG_FILE_H
#define RL_LOG_FILE_H

#include <apr_file_io.h>
#include <apr_pools.h>

#define RL_LOG_FILE_LINE 4096           /* bytes, the newline among them: PIPE_BUF */
#define RL_LOG_FILE_EVERY_MS 10000      /* every= if it is not said, and in the error log */
#define RL_LOG_FILE_EVERY_MAX_MS 86400000

typedef struct {
    const char *target; /* as written: a path, or | and a program */
    int json;
    int64_t every_ms;   /* one line for each identity in so long */
    uint32_t id;        /* not 0: stands for the target, over restarts */
    apr_file_t *file;   /* NULL: could not be opened */
    int is_pipe;
} rl_log_file;

/*
 * Reads the words of a RateLimitLog line; those not given are NULL. Returns NULL and sets *log, or
 * an error text.
 */
const char *rl_log_file_parse(apr_pool_t *pool, const char *target, const char *first,
                         const char *second, rl_log_file **log);

/*
 * What is certain to keep the log from being opened: a directory or a program that is not there.
 * NULL, or an error text in the pool.
 */
const char *rl_log_file_check(const rl_log_file *log, apr_pool_t *pool);

/* Opens the file, or starts the program, for as long as the pool lives. Returns 0 if it cannot. */
int rl_log_file_open(rl_log_file *log, apr_pool_t *pool);

/*
 * Writes a line, with its newline. Never waits for a program that does not read: returns 0 if the
 * line was lost.
 */
int rl_log_file_write(const rl_log_file *log, const char *line, apr_size_t length);

#endif
