/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_options: the options of a rule but key=.
 *
 * Each is a row of the table below: its name, whether it takes a value, and the function that reads
 * it. What one option alone cannot know, whether it goes with the others, is checked when all are
 * read, so that their order does not matter.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "core/path.h"
#include "rule/reading.h"

static const char *const syncs[] = {"request", "lease", "local", NULL};
static const char *const failures[] = {"local", "open", "closed", NULL};
static const char *const phases[] = {"early", "access", "auth", NULL};
static const char *const switches[] = {"off", "on", NULL};

const char *rl_rule_algorithms(apr_pool_t *pool, unsigned takes)
{
    const char *names[RL_ALGORITHMS + 1];
    int n = 0;

    for (int i = 0; i < RL_ALGORITHMS; i++) {
        if ((rl_algorithms[i].takes & takes) == takes)
            names[n++] = rl_algorithms[i].name;
    }
    names[n] = NULL;
    return rl_rule_list(pool, names);
}

static const char *read_algorithm(rl_reading *r, const char *text)
{
    for (int i = 0; i < RL_ALGORITHMS; i++) {
        if (!strcasecmp(text, rl_algorithms[i].name)) {
            r->rule->limit.algorithm = (rl_algorithm)i;
            return NULL;
        }
    }
    return apr_psprintf(r->pool, "algorithm=%s is not valid; expected one of: %s", text,
                        rl_rule_algorithms(r->pool, 0));
}

static const char *read_status(rl_reading *r, const char *text)
{
    int64_t status;
    const char *end = rl_rule_number(text, 599, &status);

    if (!end || *end || status < 400)
        return apr_psprintf(r->pool, "status=%s is not a status of 400 to 599, as in status=503",
                            text);
    r->rule->status = (int)status;
    return NULL;
}

static const char *read_on_failure(rl_reading *r, const char *text)
{
    int i = rl_rule_choice(text, failures);

    if (i < 0)
        return apr_psprintf(r->pool, "on-failure=%s is none of local, open and closed", text);
    r->rule->on_failure = (rl_on_failure)(RL_FAIL_LOCAL + i);
    return NULL;
}

static const char *read_sync(rl_reading *r, const char *text)
{
    int i = rl_rule_choice(text, syncs);

    if (i < 0)
        return apr_psprintf(r->pool, "sync=%s is none of request, lease and local", text);
    if (i == RL_SYNC_LEASE)
        return "sync=lease is not supported in this version";
    r->rule->sync = (rl_sync)i;
    return NULL;
}

static const char *read_phase(rl_reading *r, const char *text)
{
    int i = rl_rule_choice(text, phases);

    if (i < 0)
        return apr_psprintf(r->pool, "phase=%s is none of early, access and auth", text);
    r->rule->phase = (rl_phase)(RL_PHASE_EARLY + i);
    return NULL;
}

static const char *read_headers(rl_reading *r, const char *text)
{
    int i = rl_rule_choice(text, switches);

    if (i < 0)
        return apr_psprintf(r->pool, "headers=%s is neither on nor off", text);
    r->rule->headers = i;
    return NULL;
}

static const char *read_shadow(rl_reading *r, const char *text)
{
    (void)text;
    r->rule->shadow = 1;
    return NULL;
}

static const char *read_adaptive(rl_reading *r, const char *text)
{
    (void)text;
    r->rule->adaptive = 1;
    return NULL;
}

static const char *read_burst(rl_reading *r, const char *text)
{
    if (rl_rule_units(text, &r->rule->limit.burst))
        return NULL;
    return apr_psprintf(r->pool, "burst=%s is not a whole number of 1 to 1000000000, as in "
                        "burst=100", text);
}

#define DELAY_MAX_MS 10000

static const char *read_delay(rl_reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.delay_ms;

    if (!strcmp(text, "0")
        || (rl_rule_duration(text, ms) && *ms <= DELAY_MAX_MS))
        return NULL;
    return apr_psprintf(r->pool, "delay=%s is not a duration of at most 10s, as in delay=500ms",
                        text);
}

static const char *read_block(rl_reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.block_ms;

    if (rl_rule_duration(text, ms) && *ms > 0 && *ms <= RL_WINDOW_MAX_MS)
        return NULL;
    return apr_psprintf(r->pool, "block=%s is not a duration of at most 31d, as in block=10m",
                        text);
}

static const char *read_cost(rl_reading *r, const char *text)
{
    const char *error;
    int64_t cost;

    if (rl_rule_units(text, &cost)) {
        r->rule->cost = cost;
        return NULL;
    }
    if (!strstr(text, "%{") && !strchr(text, '('))
        return apr_psprintf(r->pool, "cost=%s is neither a whole number of 1 to 1000000000 nor an "
                            "expression, as in cost=5 or cost=%%{HTTP:X-Cost}", text);
    r->rule->cost_expr.text = text;
    error = rl_rule_read_expr(r, text, 0, &r->rule->cost_expr.compiled);
    return error ? apr_pstrcat(r->pool, "cost=: ", error, NULL) : NULL;
}

static const char *read_path(rl_reading *r, const char *text)
{
    const char *any_byte = strchr(text, '?');
    char *normal;

    if (*text != '/')
        return apr_psprintf(r->pool, "path=%s does not begin with a slash, as in path=/api/**",
                            text);
    if (any_byte && strchr(any_byte, '='))
        return apr_psprintf(r->pool, "path=%s has a query, which is no part of a path: here ? stands "
                            "for any one byte; a query is for when=, as in when=\"%%{QUERY_STRING} "
                            "=~ /page=/\"", text);
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
            return apr_psprintf(r->pool, "methods=%s is not a list of methods, as in "
                                "methods=POST,PUT", text);
        APR_ARRAY_PUSH(methods, const char *) = apr_pstrmemdup(r->pool, s, n);
        if (!s[n])
            break;
        s += n + 1;
    }
    APR_ARRAY_PUSH(methods, const char *) = NULL;
    r->rule->methods = (const char *const *)methods->elts;
    return NULL;
}

static const char *read_condition(rl_reading *r, const char *option, const char *text,
                                  rl_expr *expr)
{
    const char *error = rl_rule_read_expr(r, text, 1, &expr->compiled);

    expr->text = text;
    return error ? apr_pstrcat(r->pool, option, "=: ", error, NULL) : NULL;
}

static const char *read_when(rl_reading *r, const char *text)
{
    return read_condition(r, "when", text, &r->rule->when);
}

static const char *read_unless(rl_reading *r, const char *text)
{
    return read_condition(r, "unless", text, &r->rule->unless);
}

static const char *read_tier(rl_reading *r, const char *text)
{
    const char *error = rl_rule_read_expr(r, text, 0, &r->rule->tier.compiled);

    r->rule->tier.text = text;
    return error ? apr_pstrcat(r->pool, "tier=: ", error, NULL) : NULL;
}

#define STATUSES 600

static const char *read_charge_on(rl_reading *r, const char *text)
{
    uint64_t *statuses = apr_pcalloc(r->pool, (STATUSES / 64 + 1) * sizeof(*statuses));
    const char *s = text;

    for (;;) {
        size_t n = strcspn(s, ",");
        int whole_class = n == 3 && !strncasecmp(s + 1, "xx", 2), first, last;

        if (n != 3 || *s < '1' || *s > '5'
            || !(whole_class || (apr_isdigit(s[1]) && apr_isdigit(s[2]))))
            return apr_psprintf(r->pool, "charge-on=%s is not a list of statuses, as in "
                                "charge-on=401,403,5xx", text);
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

int rl_rule_charges_on(const rl_rule *rule, int status)
{
    return !rule->statuses
        || (status >= 0 && status < STATUSES && rule->statuses[status / 64] >> status % 64 & 1);
}

typedef const char *(*read_option)(rl_reading *r, const char *value);

static const struct {
    const char *name;
    int takes_value;
    read_option read;
} options[] = {
    {"key", 1, rl_rule_read_key},
    {"algorithm", 1, read_algorithm},
    {"burst", 1, read_burst},
    {"delay", 1, read_delay},
    {"cost", 1, read_cost},
    {"path", 1, read_path},
    {"methods", 1, read_methods},
    {"when", 1, read_when},
    {"unless", 1, read_unless},
    {"tier", 1, read_tier},
    {"charge-on", 1, read_charge_on},
    {"block", 1, read_block},
    {"status", 1, read_status},
    {"on-failure", 1, read_on_failure},
    {"sync", 1, read_sync},
    {"phase", 1, read_phase},
    {"headers", 1, read_headers},
    {"shadow", 0, read_shadow},
    {"adaptive", 0, read_adaptive},
};

#define OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *known_options(apr_pool_t *pool)
{
    const char *list = "";

    for (size_t i = 0; i < OPTIONS; i++)
        list = apr_pstrcat(pool, list, i ? ", " : "", options[i].name,
                           options[i].takes_value ? "=" : "", NULL);
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
        if (options[i].takes_value && (!value || !*value))
            return apr_psprintf(r->pool, "option %s= needs a value", name);
        if (!options[i].takes_value && value)
            return apr_psprintf(r->pool, "option %s takes no value, \"%s\" was read", name, word);
        if (*seen & 1u << i)
            return apr_psprintf(r->pool, "option %s is given twice", name);
        *seen |= 1u << i;
        return options[i].read(r, value);
    }
    return apr_psprintf(r->pool, "\"%s\" is no option; known are %s", word, known_options(r->pool));
}

const char *rl_rule_read_options(rl_reading *r, const char *line)
{
    unsigned seen = 0;

    while (!rl_rule_is_end(line)) {
        const char *word = rl_rule_word(r->pool, &line);
        const char *error;

        if (!word)
            return apr_psprintf(r->pool, "a quote is not closed in %s", line);
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
                            rl_rule_algorithms(r->pool, RL_TAKES_BURST));
    if (limit->delay_ms && !(algorithm->takes & RL_TAKES_DELAY))
        return apr_psprintf(r->pool, "delay= needs algorithm=%s",
                            rl_rule_algorithms(r->pool, RL_TAKES_DELAY));
    if (limit->delay_ms && limit->on_response)
        return "delay= and charge-on= exclude each other: what is held has to be charged before";
    if (limit->quota > algorithm->quota_max)
        return apr_psprintf(r->pool, "algorithm=%s takes a quota of at most %" APR_INT64_T_FMT
                            ", \"%s\" was read", algorithm->name, algorithm->quota_max, rule->text);
    if (algorithm->local != limit->algorithm && rule->sync == RL_SYNC_LOCAL)
        return apr_psprintf(r->pool, "algorithm=%s needs Redis and excludes sync=local; "
                            "algorithm=%s does not", algorithm->name,
                            rl_algorithms[algorithm->local].name);
    return NULL;
}

static const char *check_phase(const rl_reading *r)
{
    const rl_rule *rule = r->rule;

    if (r->reads_user && rule->phase != RL_PHASE_AUTH && rule->phase != RL_PHASE_UNSET)
        return "key=user needs phase=auth, and so does any key, tier or expression that reads the "
               "user: before authentication there is none";
    if (r->reads_type && rule->phase != RL_PHASE_AUTH && rule->phase != RL_PHASE_UNSET)
        return "%{CONTENT_TYPE} and %{HANDLER} need phase=auth: httpd finds out the type of a file "
               "after phase=access";
    if (r->reads_file && !r->reads_path && rule->phase == RL_PHASE_EARLY)
        return "phase=early excludes %{REQUEST_FILENAME}, %{PATH_INFO} and all else that is known "
               "only when httpd has mapped the path to a file; phase=access does not";
    if (r->reads_path && rule->phase == RL_PHASE_EARLY)
        return "key=path excludes phase=early: httpd has not looked at the path by then; path= "
               "does not";
    if (rule->statuses && rl_rule_charges_on(rule, 401)
        && (rule->phase == RL_PHASE_AUTH || (rule->phase == RL_PHASE_UNSET && r->reads_auth)))
        return "charge-on=401 needs phase=access: a failed login never gets as far as phase=auth";
    return NULL;
}

const char *rl_rule_check_options(rl_reading *r)
{
    const char *error = check_algorithm(r);

    return error ? error : check_phase(r);
}
