/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "config/directive.h"
#include "config/server.h"
#include "rule/text.h"
#include "shm/local.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* The value of a word NAME=VALUE; NULL if word is something else. */
static const char *value_of(const char *word, const char *name)
{
    size_t length = strlen(name);

    return strncasecmp(word, name, length) || word[length] != '=' ? NULL : word + length + 1;
}

/* --- Directives of one or two words ------------------------------------------------------- */

/* Words in any order, each name at most once. */
typedef struct {
    int (*read)(rl_settings *settings, const char *word, apr_pool_t *pool); /* 0: invalid */
    const char *expected;
    const char *example;
} word_reader;

/* Bytes of the NAME= of a word; 0 if it has no name. */
static size_t name_length(const char *word)
{
    size_t length = strcspn(word, "=");

    return word[length] ? length + 1 : 0;
}

static int have_same_name(const char *word, const char *other)
{
    size_t length = name_length(word);

    return length == name_length(other) && !strncasecmp(word, other, length);
}

static const char *read_words(cmd_parms *cmd, const char *first, const char *second,
                              const word_reader *reader)
{
    rl_settings *settings = rl_cmd_settings(cmd);
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);

    if (error)
        return error;
    if (!reader->read(settings, first, cmd->temp_pool))
        return rl_cmd_invalid(cmd, first, reader->expected, reader->example);
    if (second && (have_same_name(first, second)
                   || !reader->read(settings, second, cmd->temp_pool)))
        return rl_cmd_invalid(cmd, second, reader->expected, reader->example);
    return NULL;
}

#define TIMEOUT_MAX_MS 10000

static int read_timeout(rl_settings *settings, const char *word, apr_pool_t *pool)
{
    const char *connect = value_of(word, "connect");
    int64_t *ms = connect ? &settings->connect_ms : &settings->timeout_ms;

    (void)pool;
    return rl_text_duration(connect ? connect : word, ms) && *ms >= 1 && *ms <= TIMEOUT_MAX_MS;
}

const char *rl_cmd_timeout(cmd_parms *cmd, void *config, const char *first, const char *second)
{
    static const word_reader reader = {read_timeout, "a duration from 1ms to 10s, or connect= with "
                                       "one, each once", "25ms connect=250ms"};

    (void)config;
    return read_words(cmd, first, second, &reader);
}

/* Reads MIN..MAX. */
static int read_retry(rl_settings *settings, const char *text, apr_pool_t *pool)
{
    const char *dots = strstr(text, "..");

    return dots
        && rl_text_duration(apr_pstrmemdup(pool, text, (apr_size_t)(dots - text)),
                            &settings->retry_min_ms)
        && rl_text_duration(dots + 2, &settings->retry_max_ms) && settings->retry_min_ms > 0
        && settings->retry_min_ms <= settings->retry_max_ms;
}

static int read_breaker(rl_settings *settings, const char *word, apr_pool_t *pool)
{
    const char *failures = value_of(word, "failures"), *retry = value_of(word, "retry");
    apr_int64_t n;

    if (!failures)
        return retry && read_retry(settings, retry, pool);
    if (!rl_text_whole_number(failures, 1, 1000, &n))
        return 0;
    settings->breaker_failures = (int)n;
    return 1;
}

const char *rl_cmd_breaker(cmd_parms *cmd, void *config, const char *first, const char *second)
{
    static const word_reader reader = {read_breaker, "failures=N with N from 1 to 1000, or "
                                       "retry=MIN..MAX with two durations, each once",
                                       "failures=5 retry=50ms..2s"};

    (void)config;
    return read_words(cmd, first, second, &reader);
}

/* --- The others --------------------------------------------------------------------------- */

const char *rl_cmd_prefix(cmd_parms *cmd, void *config, const char *prefix)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);

    (void)config;
    if (error)
        return error;
    for (const char *s = prefix; *s; s++) {
        if (!apr_isgraph(*s) || strchr("{}\"\\*?[]", *s))
            return rl_cmd_invalid(cmd, prefix, "printable characters without blanks, quotes, "
                                  "braces, backslashes, *, ?, [ and ]", "rl");
    }
    if (!*prefix || strlen(prefix) > 64)
        return rl_cmd_invalid(cmd, prefix, "1 to 64 characters", "rl");
    rl_cmd_settings(cmd)->prefix = prefix;
    return NULL;
}

const char *rl_cmd_on_failure(cmd_parms *cmd, void *config, const char *word, const char *second)
{
    static const char *const names[] = {"local", "open", "closed", NULL};
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    const char *nodes = second ? value_of(second, "nodes") : NULL;
    rl_settings *settings = rl_cmd_settings(cmd);
    int i = rl_text_choice(word, names);

    (void)config;
    if (error)
        return error;
    if (i < 0)
        return rl_cmd_invalid(cmd, word, rl_text_list(cmd->pool, names), names[0]);
    if (second && (!nodes || !rl_text_whole_number(nodes, 1, 100000, &settings->nodes)))
        return rl_cmd_invalid(cmd, second, "nodes= with a number of hosts from 1 to 100000",
                              "nodes=4");
    settings->on_failure = (rl_on_failure)(RL_FAIL_LOCAL + i);
    return NULL;
}

const char *rl_cmd_shared_memory(cmd_parms *cmd, void *config, const char *text)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    apr_int64_t n;
    char *end;

    (void)config;
    if (error)
        return error;
    n = apr_isdigit(*text) ? apr_strtoi64(text, &end, 10) : -1;
    if (n >= 0 && *end) {
        static const char scale[] = "kmg";
        const char *unit = strchr(scale, apr_tolower(*end));

        n = unit && !end[1] && n < INT64_C(1) << 30 ? n << (10 * (unit - scale + 1)) : -1;
    }
    if (n < RL_LOCAL_MIN_SIZE || n > INT64_C(64) << 30)
        return rl_cmd_invalid(cmd, text, "a size from 64K to 64G", "16M");
    rl_cmd_settings(cmd)->shared_memory = (apr_size_t)n;
    return NULL;
}

const char *rl_cmd_scope(cmd_parms *cmd, void *config, const char *name)
{
    static const unsigned char any[APR_SIPHASH_KSIZE];
    const char *error = ap_check_cmd_context(cmd, NOT_IN_DIR_LOC_FILE);
    rl_settings *settings = rl_cmd_settings(cmd);

    (void)config;
    if (error)
        return error;
    if (!rl_text_is_name(name))
        return rl_cmd_invalid(cmd, name, RL_NAME_FORM, "shop");
    settings->scope = name;
    settings->scope_hash = apr_siphash24(name, strlen(name), any);
    return NULL;
}

const char *rl_cmd_overrides(cmd_parms *cmd, void *config, int on)
{
    (void)config;
    rl_cmd_settings(cmd)->overrides = on;
    return ap_check_cmd_context(cmd, GLOBAL_ONLY);
}

const char *rl_cmd_delay_workers(cmd_parms *cmd, void *config, const char *text)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    size_t length = strlen(text);
    apr_int64_t percent;

    (void)config;
    if (error)
        return error;
    if (length > 1 && text[length - 1] == '%')
        text = apr_pstrmemdup(cmd->pool, text, length - 1);
    if (!rl_text_whole_number(text, 0, 100, &percent))
        return rl_cmd_invalid(cmd, text, "a share of the workers from 0 to 100 percent", "25");
    rl_cmd_settings(cmd)->delay_workers = (int)percent;
    return NULL;
}

/* Reads a factor from 0.001 to 1, such as 0.5, in thousandths; 0 if text is not one. */
static int factor(const char *text)
{
    int per_mille = (*text == '1') * 1000, unit = 100;

    if ((*text != '0' && *text != '1') || (text[1] && text[1] != '.'))
        return 0;
    for (text += text[1] ? 2 : 1; apr_isdigit(*text) && unit; text++, unit /= 10)
        per_mille += (*text - '0') * unit;
    return *text || per_mille > 1000 ? 0 : per_mille;
}

const char *rl_cmd_adaptive(cmd_parms *cmd, void *config, int argc, char *const argv[])
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    rl_settings *settings = rl_cmd_settings(cmd);
    rl_adaptive *steps = apr_palloc(cmd->pool, sizeof(*steps) * (size_t)(argc + 1));

    (void)config;
    if (error)
        return error;
    if (argc == 0 || argc % 2)
        return "RateLimitAdaptive: expected pairs of LOAD and FACTOR, for example 70 0.5 90 0.2";
    for (int i = 0; i < argc / 2; i++) {
        apr_int64_t load;

        if (!rl_text_whole_number(argv[2 * i], 0, 99, &load)
            || (i && load <= steps[i - 1].above_percent))
            return rl_cmd_invalid(cmd, argv[2 * i], "a load from 0 to 99 percent of busy workers, "
                                  "larger than that of the pair before", "70 0.5 90 0.2");
        steps[i].above_percent = (int)load;
        steps[i].per_mille = factor(argv[2 * i + 1]);
        if (steps[i].per_mille == 0)
            return rl_cmd_invalid(cmd, argv[2 * i + 1], "a factor from 0.001 to 1", "70 0.5");
    }
    settings->adaptive = steps;
    settings->adaptive_count = argc / 2;
    return NULL;
}

const char *rl_cmd_ipv6_prefix(cmd_parms *cmd, void *config, const char *text)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    apr_int64_t n;

    (void)config;
    if (error)
        return error;
    if (!rl_text_whole_number(text, 1, 128, &n))
        return rl_cmd_invalid(cmd, text, "a prefix length from 1 to 128", "64");
    rl_cmd_settings(cmd)->ipv6_prefix = (int)n;
    return NULL;
}

const char *rl_cmd_log(cmd_parms *cmd, void *config, const char *target, const char *first,
                       const char *second)
{
    rl_settings *settings = rl_cmd_settings(cmd);
    const char *error = ap_check_cmd_context(cmd, NOT_IN_LIMIT);

    (void)config;
    if (error)
        return error;
    if (settings->log)
        return "RateLimitLog is given twice for one server; a virtual host may have its own";
    error = rl_log_file_parse(cmd->pool, target, first, second, &settings->log);
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimitLog: ", error, NULL);
    APR_ARRAY_PUSH(rl_config_logs(), rl_log_file *) = settings->log;
    return NULL;
}

int rl_config_open_logs(apr_pool_t *pconf)
{
    apr_array_header_t *logs = rl_config_logs();
    int opened = 1;

    for (int i = 0; i < logs->nelts; i++)
        opened &= rl_log_file_open(APR_ARRAY_IDX(logs, i, rl_log_file *), pconf);
    return opened;
}

int rl_config_check_logs(server_rec *s, apr_pool_t *scratch)
{
    apr_array_header_t *logs = rl_config_logs();
    int good = 1;

    for (int i = 0; i < logs->nelts; i++) {
        const char *error = rl_log_file_check(APR_ARRAY_IDX(logs, i, rl_log_file *), scratch);

        if (error)
            ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, s, "ratelimit: %s", error);
        good &= !error;
    }
    return good;
}
