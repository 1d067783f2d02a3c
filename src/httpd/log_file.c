/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_file: the file or the program of a RateLimitLog.
 *
 * The pipe to a program does not block: otherwise a flood of requests could stop the server through
 * a slow log program. A line that does not fit into the pipe is lost, and counted as lost.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_config.h>
#include <http_log.h>

#include "httpd/log_file.h"
#include "rule/text.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

#define EXAMPLE "RateLimitLog logs/ratelimit.log json every=10s"

/* FNV-1a: enough to tell the few logs of a server apart. */
static uint32_t id_of(const char *target, int json)
{
    uint32_t hash = 2166136261u + (uint32_t)json;

    for (const char *s = target; *s; s++)
        hash = (hash ^ (unsigned char)*s) * 16777619u;
    return hash ? hash : 1;
}

static const char *read_option(apr_pool_t *pool, const char *word, int *format_given,
                               rl_log_file *log)
{
    static const char *const formats[] = {"text", "json", NULL};
    int format = rl_text_choice(word, formats);

    if (format >= 0 && !*format_given) {
        *format_given = 1;
        log->json = format;
        return NULL;
    }
    if (format < 0 && !strncasecmp(word, "every=", 6) && log->every_ms == 0) {
        if (rl_text_duration(word + 6, &log->every_ms) && log->every_ms >= 1000
            && log->every_ms <= RL_LOG_FILE_EVERY_MAX_MS)
            return NULL;
        return rl_text_invalid(pool, word, "a time from 1s to 1d", EXAMPLE);
    }
    return rl_text_invalid(pool, word, "json or text, and every=T, each once", EXAMPLE);
}

const char *rl_log_file_parse(apr_pool_t *pool, const char *target, const char *first,
                              const char *second, rl_log_file **out)
{
    rl_log_file *log = apr_pcalloc(pool, sizeof(*log));
    const char *error = NULL;
    int format_given = 0;

    log->target = target;
    log->json = 1;
    log->is_pipe = *target == '|';
    if (!*target || (log->is_pipe && !target[1 + strspn(target + 1, "|$ ")]))
        return rl_text_invalid(pool, target, "a file or \"|program\"", EXAMPLE);
    if (!log->is_pipe && !ap_server_root_relative(pool, target))
        return rl_text_invalid(pool, target, "the path of a file", EXAMPLE);
    if (first)
        error = read_option(pool, first, &format_given, log);
    if (!error && second)
        error = read_option(pool, second, &format_given, log);
    if (error)
        return error;
    if (log->every_ms == 0)
        log->every_ms = RL_LOG_FILE_EVERY_MS;
    log->id = id_of(target, log->json);
    *out = log;
    return NULL;
}

/* The program of a pipe if it is given by its path; NULL if a shell looks for it. */
static const char *program_of(const rl_log_file *log, apr_pool_t *pool)
{
    const char *command = log->target + strspn(log->target, "|");
    char **words;

    if (*command != '/' || apr_tokenize_to_argv(command, &words, pool) != APR_SUCCESS)
        return NULL;
    return words[0];
}

const char *rl_log_file_check(const rl_log_file *log, apr_pool_t *pool)
{
    const char *path = log->is_pipe ? program_of(log, pool)
                                    : ap_server_root_relative(pool, log->target);
    const char *place = !path || log->is_pipe ? path : ap_make_dirstr_parent(pool, path);
    apr_finfo_t info;

    if (!path)
        return NULL;
    if (apr_stat(&info, path, APR_FINFO_TYPE, pool) == APR_SUCCESS && info.filetype == APR_DIR)
        return apr_psprintf(pool, "RateLimitLog %s is a directory", path);
    if (!APR_STATUS_IS_ENOENT(apr_stat(&info, place, APR_FINFO_TYPE, pool)))
        return NULL;
    return apr_psprintf(pool, "RateLimitLog %s: %s does not exist", path, place);
}

int rl_log_file_open(rl_log_file *log, apr_pool_t *pool)
{
    const char *path;
    piped_log *program;
    apr_status_t status;

    log->file = NULL;
    if (log->is_pipe) {
        program = ap_open_piped_log(pool, log->target + 1);
        if (!program)
            return 0; /* httpd has logged why */
        log->file = ap_piped_log_write_fd(program);
        apr_file_pipe_timeout_set(log->file, 0);
        return 1;
    }
    path = ap_server_root_relative(pool, log->target);
    status = apr_file_open(&log->file, path, APR_WRITE | APR_APPEND | APR_CREATE | APR_LARGEFILE,
                           APR_OS_DEFAULT, pool);
    if (status == APR_SUCCESS)
        return 1;
    log->file = NULL;
    ap_log_perror(APLOG_MARK, APLOG_ERR, status, pool,
                  "ratelimit: RateLimitLog %s cannot be opened", path);
    return 0;
}

int rl_log_file_write(const rl_log_file *log, const char *line, apr_size_t length)
{
    apr_size_t written = length;

    return apr_file_write(log->file, line, &written) == APR_SUCCESS && written == length;
}
