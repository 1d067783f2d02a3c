/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_file: the file or the program of a RateLimitLog.
 *
 * httpd's parent opens it, with its rights, each time the configuration is read, so a graceful
 * restart rotates a file. A line is a single write of at most PIPE_BUF bytes, so lines of different
 * children never mix.
 *
 * An rl_log_file is made while the configuration is read. rl_log_file_write() may be called from
 * any thread of any process after rl_log_file_open().
 */
#ifndef RL_LOG_FILE_H
#define RL_LOG_FILE_H

#include <apr_file_io.h>
#include <apr_pools.h>

#define RL_LOG_FILE_LINE 4096      /* bytes of a line with its newline: PIPE_BUF */
#define RL_LOG_FILE_EVERY_MS 10000 /* default of every=, and its value for the error log */
#define RL_LOG_FILE_EVERY_MAX_MS 86400000

typedef struct {
    const char *target; /* as written: a path, or | and a program */
    int json;
    int64_t every_ms;   /* between two lines for an identity */
    uint32_t id;        /* of the target, the same after a restart; not 0 */
    apr_file_t *file;   /* NULL: not open */
    int is_pipe;
} rl_log_file;

/*
 * Reads the words of a RateLimitLog line; those not given are NULL. Returns NULL and sets *log, or
 * an error text.
 */
const char *rl_log_file_parse(apr_pool_t *pool, const char *target, const char *first,
                              const char *second, rl_log_file **log);

/*
 * Checks for what would certainly make rl_log_file_open() fail: a directory or a program that does
 * not exist. Returns NULL, or an error text in the pool.
 */
const char *rl_log_file_check(const rl_log_file *log, apr_pool_t *pool);

/* Opens the file, or starts the program, for as long as the pool lives. Returns 0 if it cannot. */
int rl_log_file_open(rl_log_file *log, apr_pool_t *pool);

/*
 * Writes a line, with its newline. Never waits for a program that does not read; returns 0 if the
 * line is lost.
 */
int rl_log_file_write(const rl_log_file *log, const char *line, apr_size_t length);

#endif
