/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every rule option except key=, which key.c reads.
 *
 * An option is a row of the table below: its name and the function that reads its value into the
 * rule or, if it takes no value, the member that it sets. Whether options can be combined is
 * checked when all of them are read, so their order does not matter.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_tables.h>

#include "core/path.h"
#include "rule/reading.h"
#include "rule/text.h"

/* --- Choices ------------------------------------------------------------------------------ */

static const char *read_choice(rl_reading *r, const char *option, const char *text,
                               const char *const choices[], const char *example,
                               int *choice)
{
    *choice = rl_text_choice(text, choices);
    if (*choice >= 0)
        return NULL;
    return rl_reading_invalid(r, option, text, rl_text_list(r->pool, choices), example);
}

static const char *read_algorithm(rl_reading *r, const char *text)
{
    for (int i = 0; i < RL_ALGORITHMS; i++) {
        if (!strcasecmp(text, rl_algorithms[i].name)) {
            r->rule->limit.algorithm = (rl_algorithm)i;
            return NULL;
        }
    }
    return rl_reading_invalid(r, "algorithm", text, rl_reading_algorithms(r->pool, 0),
                              rl_algorithms[0].name);
}

static const char *read_on_failure(rl_reading *r, const char *text)
{
    static const char *const choices[] = {"local", "open", "closed", NULL};
    int i;
    const char *error = read_choice(r, "on-failure", text, choices, "open", &i);

    r->rule->on_failure = (rl_on_failure)(RL_FAIL_LOCAL + i);
    return error;
}

static const char *read_sync(rl_reading *r, const char *text)
{
    static const char *const choices[] = {"request", "lease", "local", NULL};
    int i;
    const char *error = read_choice(r, "sync", text, choices, "local", &i);

    r->rule->sync = (rl_sync)i;
    return error;
}

static const char *read_phase(rl_reading *r, const char *text)
{
    static const char *const choices[] = {"early", "access", "auth", NULL};
    int i;
    const char *error = read_choice(r, "phase", text, choices, "access", &i);

    r->rule->phase = (rl_phase)(RL_PHASE_EARLY + i);
    return error;
}

static const char *read_headers(rl_reading *r, const char *text)
{
    static const char *const choices[] = {"off", "on", NULL};

    return read_choice(r, "headers", text, choices, "off", &r->rule->headers);
}

/* --- Numbers and durations ---------------------------------------------------------------- */

static const char *read_status(rl_reading *r, const char *text)
{
    int64_t status;

    if (!rl_text_whole_number(text, 400, RL_STATUS_MAX, &status))
        return rl_reading_invalid(r, "status", text, "a status from 400 to 599", "503");
    r->rule->status = (int)status;
    return NULL;
}

static const char *read_burst(rl_reading *r, const char *text)
{
    if (rl_text_whole_number(text, 1, RL_COUNT_MAX, &r->rule->limit.burst))
        return NULL;
    return rl_reading_invalid(r, "burst", text, "a whole number from 1 to 1000000000", "100");
}

#define DELAY_MAX_MS 10000

static const char *read_delay(rl_reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.delay_ms;

    if (!strcmp(text, "0") || (rl_text_duration(text, ms) && *ms <= DELAY_MAX_MS))
        return NULL;
    return rl_reading_invalid(r, "delay", text, "a duration of at most 10s", "500ms");
}

static const char *read_block(rl_reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.block_ms;

    if (rl_text_duration(text, ms) && *ms > 0 && *ms <= RL_WINDOW_MAX_MS)
        return NULL;
    return rl_reading_invalid(r, "block", text, "a duration from 1ms to 31d", "10m");
}

static const char *read_cost(rl_reading *r, const char *text)
{
    int64_t cost;

    if (rl_text_whole_number(text, 1, RL_COUNT_MAX, &cost)) {
        r->rule->cost = cost;
        return NULL;
    }
    if (!strstr(text, "%{") && !strchr(text, '('))
        return rl_reading_invalid(r, "cost", text, "a whole number from 1 to 1000000000 or an "
                                  "expression", "5 or cost=%{HTTP:X-Cost}");
    return rl_reading_expr(r, "cost", text, 0, &r->rule->cost_expr);
}

/* --- Requests and responses --------------------------------------------------------------- */

static const char *read_path(rl_reading *r, const char *text)
{
    const char *any_byte = strchr(text, '?');
    char *normal;

    if (*text != '/')
        return rl_reading_invalid(r, "path", text, "a glob that begins with a slash", "/api/**");
    if (any_byte && strchr(any_byte, '='))
        return apr_psprintf(r->pool, "invalid value \"%s\" for path=: a query is not part of a "
                            "path, and ? matches any one byte; to test the query use when=, for "
                            "example when=\"%%{QUERY_STRING} =~ /page=/\"", text);
    normal = apr_palloc(r->pool, strlen(text) + 2);
    normal[rl_path_normalise(normal, text, strlen(text), RL_PATH_ALL)] = '\0';
    r->rule->path = text;
    r->rule->path_normal = normal;
    return NULL;
}

static const char *read_methods(rl_reading *r, const char *text)
{
    apr_array_header_t *methods = apr_array_make(r->pool, 4, sizeof(const char *));
    const char *s = text;

    for (;;) {
        size_t n = strcspn(s, ",");

        for (size_t i = 0; i < n; i++) {
            if (!apr_isalpha(s[i]) && s[i] != '-')
                n = 0;
        }
        if (n == 0)
            return rl_reading_invalid(r, "methods", text, "methods separated by commas",
                                      "POST,PUT");
        APR_ARRAY_PUSH(methods, const char *) = apr_pstrmemdup(r->pool, s, n);
        if (!s[n])
            break;
        s += n + 1;
    }
    APR_ARRAY_PUSH(methods, const char *) = NULL;
    r->rule->methods = (const char *const *)methods->elts;
    return NULL;
}

static const char *read_when(rl_reading *r, const char *text)
{
    return rl_reading_expr(r, "when", text, 1, &r->rule->when);
}

static const char *read_unless(rl_reading *r, const char *text)
{
    return rl_reading_expr(r, "unless", text, 1, &r->rule->unless);
}

static const char *read_tier(rl_reading *r, const char *text)
{
    return rl_reading_expr(r, "tier", text, 0, &r->rule->tier);
}

static const char *read_charge_on(rl_reading *r, const char *text)
{
    uint64_t *statuses = apr_pcalloc(r->pool, (RL_STATUS_MAX / 64 + 1) * sizeof(*statuses));
    const char *s = text;

    for (;;) {
        size_t n = strcspn(s, ",");
        int whole_class = n == 3 && !strncasecmp(s + 1, "xx", 2), first, last;

        if (n != 3 || *s < '1' || *s > '5'
            || !(whole_class || (apr_isdigit(s[1]) && apr_isdigit(s[2]))))
            return rl_reading_invalid(r, "charge-on", text, "statuses separated by commas",
                                      "401,403,5xx");
        first = whole_class ? (*s - '0') * 100 : atoi(s);
        last = whole_class ? first + 99 : first;
        for (int status = first; status <= last; status++)
            statuses[status / 64] |= UINT64_C(1) << status % 64;
        if (!s[n])
            break;
        s += n + 1;
    }
    r->rule->statuses = statuses;
    r->rule->limit.on_response = 1;
    return NULL;
}

/* --- The table ---------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *(*read)(rl_reading *r, const char *value); /* NULL: it takes no value */
    size_t flag; /* without a value: the offset of the int of rl_rule that it sets */
} options[] = {
    {"key", rl_reading_key, 0},
    {"algorithm", read_algorithm, 0},
    {"burst", read_burst, 0},
    {"delay", read_delay, 0},
    {"cost", read_cost, 0},
    {"path", read_path, 0},
    {"methods", read_methods, 0},
    {"when", read_when, 0},
    {"unless", read_unless, 0},
    {"tier", read_tier, 0},
    {"charge-on", read_charge_on, 0},
    {"block", read_block, 0},
    {"status", read_status, 0},
    {"on-failure", read_on_failure, 0},
    {"sync", read_sync, 0},
    {"phase", read_phase, 0},
    {"headers", read_headers, 0},
    {"shadow", NULL, offsetof(rl_rule, shadow)},
    {"adaptive", NULL, offsetof(rl_rule, adaptive)},
};

#define OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *known_options(apr_pool_t *pool)
{
    const char *list = "";

    for (size_t i = 0; i < OPTIONS; i++)
        list = apr_pstrcat(pool, list, i ? ", " : "", options[i].name,
                           options[i].read ? "=" : "", NULL);
    return list;
}

static const char *read_one_option(rl_reading *r, const char *word, unsigned *seen)
{
    size_t length = strcspn(word, "=");
    const char *value = word[length] ? word + length + 1 : NULL;

    for (size_t i = 0; i < OPTIONS; i++) {
        const char *name = options[i].name;

        if (strlen(name) != length || strncasecmp(word, name, length))
            continue;
        if (options[i].read && (!value || !*value))
            return apr_psprintf(r->pool, "option %s= needs a value", name);
        if (!options[i].read && value)
            return apr_psprintf(r->pool, "option %s takes no value; \"%s\" was given", name, value);
        if (*seen & 1u << i)
            return apr_psprintf(r->pool, "option %s is given twice", name);
        *seen |= 1u << i;
        if (options[i].read)
            return options[i].read(r, value);
        *(int *)((char *)r->rule + options[i].flag) = 1;
        return NULL;
    }
    return apr_psprintf(r->pool, "unknown option \"%s\"; expected one of: %s", word,
                        known_options(r->pool));
}

const char *rl_reading_options(rl_reading *r, const char *line)
{
    unsigned seen = 0;

    while (!rl_text_is_end(line)) {
        const char *word = rl_text_word(r->pool, &line);
        const char *error;

        if (!word)
            return apr_psprintf(r->pool, "missing closing quote in: %s", line);
        error = read_one_option(r, word, &seen);
        if (error)
            return error;
    }
    return NULL;
}

/* --- Options together --------------------------------------------------------------------- */

static const char *check_algorithm(rl_reading *r)
{
    const rl_rule *rule = r->rule;
    const rl_limit *limit = &rule->limit;
    const rl_algorithm_row *algorithm = &rl_algorithms[limit->algorithm];

    if (limit->burst && !(algorithm->takes & RL_TAKES_BURST))
        return apr_psprintf(r->pool, "burst= needs algorithm=%s",
                            rl_reading_algorithms(r->pool, RL_TAKES_BURST));
    if (limit->delay_ms && !(algorithm->takes & RL_TAKES_DELAY))
        return apr_psprintf(r->pool, "delay= needs algorithm=%s",
                            rl_reading_algorithms(r->pool, RL_TAKES_DELAY));
    if (limit->delay_ms && limit->on_response)
        return "delay= and charge-on= cannot be combined: a delayed request is charged before its "
               "response";
    if (algorithm->local != limit->algorithm && rule->sync == RL_SYNC_LOCAL)
        return apr_psprintf(r->pool, "algorithm=%s needs Redis and cannot be combined with "
                            "sync=local; algorithm=%s can", algorithm->name,
                            rl_algorithms[algorithm->local].name);
    return NULL;
}

/* What cannot be leased. A bucket may also be too small: see config/check.c. */
static const char *check_lease(const rl_reading *r)
{
    const rl_limit *limit = &r->rule->limit;

    if (r->rule->sync != RL_SYNC_LEASE)
        return NULL;
    if (rl_limiter_is_log(limit))
        return apr_psprintf(r->pool, "algorithm=%s cannot be combined with sync=lease, because it "
                            "stores the time of each request; algorithm=%s can",
                            rl_algorithms[limit->algorithm].name,
                            rl_algorithms[RL_SLIDING_WINDOW].name);
    if (limit->delay_ms)
        return "delay= cannot be combined with sync=lease: only Redis knows how long a request is "
               "to be delayed";
    if (limit->on_response)
        return "charge-on= cannot be combined with sync=lease: units of a lease are charged before "
               "the response";
    if (limit->block_ms)
        return "block= cannot be combined with sync=lease: other hosts would spend leases during "
               "the block";
    return NULL;
}

static const char *check_phase(const rl_reading *r)
{
    const rl_rule *rule = r->rule;

    if (r->reads_user && rule->phase != RL_PHASE_AUTH && rule->phase != RL_PHASE_UNSET)
        return "key=user needs phase=auth, and so does any key, tier or expression that reads the "
               "user, who is not known before authentication";
    if (r->reads_type && rule->phase != RL_PHASE_AUTH && rule->phase != RL_PHASE_UNSET)
        return "%{CONTENT_TYPE} and %{HANDLER} need phase=auth: httpd determines the type of a "
               "file after phase=access";
    if (r->reads_file && !r->reads_path && rule->phase == RL_PHASE_EARLY)
        return "phase=early cannot be combined with %{REQUEST_FILENAME}, %{PATH_INFO} and anything "
               "else that is known only when httpd has mapped the path to a file; use phase=access";
    if (r->reads_path && rule->phase == RL_PHASE_EARLY)
        return "key=path cannot be combined with phase=early: httpd has not processed the path by "
               "then; use the option path= instead";
    if (rule->statuses && rl_rule_charges_on(rule, 401)
        && (rule->phase == RL_PHASE_AUTH || (rule->phase == RL_PHASE_UNSET && r->reads_auth)))
        return "charge-on=401 needs phase=access: a failed login never reaches phase=auth";
    return NULL;
}

const char *rl_reading_check(rl_reading *r)
{
    const char *error = check_algorithm(r);

    error = error ? error : check_lease(r);
    return error ? error : check_phase(r);
}
