/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evaluate: what a rule means for one request.
 *
 * Cheap conditions come first: a method or a path excludes most rules that do not apply. The path
 * is normalised once for all rules of a request.
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include <ap_expr.h>
#include <httpd.h>

#include "decide/evaluate.h"
#include "httpd/log_once.h"
#include "httpd/worker_load.h"

/* --- Expressions -------------------------------------------------------------------------- */

static void log_failed(rl_evaluation *e, const rl_expr *expr, const char *error)
{
    request_rec *r = e->r;

    rl_log_once(r, e->local, apr_pstrcat(r->pool, "expression \"", expr->text, "\" failed: ", error,
                                         NULL));
}

const char *rl_evaluation_string(rl_evaluation *e, const rl_expr *expr)
{
    const char *error = NULL;
    const char *value = ap_expr_str_exec(e->r, expr->compiled, &error);

    if (!error)
        return value;
    log_failed(e, expr, error);
    return NULL;
}

/* Whether a condition is met. Returns `otherwise` if there is no condition, or it fails. */
static int is_met(rl_evaluation *e, const rl_expr *expr, int otherwise)
{
    const char *error = NULL;
    int met;

    if (!expr->text)
        return otherwise;
    met = ap_expr_exec(e->r, expr->compiled, &error);
    if (met >= 0 && !error)
        return met;
    log_failed(e, expr, error ? error : "no result");
    return otherwise;
}

/* --- Whether it applies ------------------------------------------------------------------- */

const char *rl_evaluation_path(rl_evaluation *e)
{
    apr_size_t length = strlen(e->r->uri);
    char *path;

    if (!e->path) {
        path = apr_palloc(e->r->pool, length + 2);
        path[rl_path_normalise(path, e->r->uri, length, e->normalize)] = '\0';
        e->path = path;
    }
    return e->path;
}

/* HEAD counts as GET and post as POST: a client could send one in place of the other. */
static int is_method(const request_rec *r, const char *const *methods)
{
    int is_head = r->header_only && r->method_number == M_GET;

    for (; *methods; methods++) {
        if (!strcasecmp(r->method, *methods) || (is_head && !strcasecmp("GET", *methods)))
            return 1;
    }
    return 0;
}

/* The pattern is normalised as the path is. */
static int is_path(rl_evaluation *e, const rl_rule *rule)
{
    const char *path = rl_evaluation_path(e), *pattern = rule->path_normal;
    size_t length = strlen(rule->path);
    char *other;

    if (e->normalize != RL_PATH_ALL) {
        pattern = other = apr_palloc(e->r->pool, length + 2);
        other[rl_path_normalise(other, rule->path, length, e->normalize)] = '\0';
    }
    return rl_path_match(pattern, path, strlen(path));
}

int rl_evaluation_applies(rl_evaluation *e, const rl_rule *rule)
{
    return (!rule->methods || is_method(e->r, rule->methods))
        && (!rule->path || is_path(e, rule))
        && is_met(e, &rule->when, 1) && !is_met(e, &rule->unless, 0);
}

/* --- What it costs ------------------------------------------------------------------------ */

int64_t rl_evaluation_cost(rl_evaluation *e, const rl_rule *rule)
{
    const char *text, *s;
    int64_t cost = 0;

    if (!rule->cost_expr.text)
        return rule->cost;
    text = rl_evaluation_string(e, &rule->cost_expr);
    if (!text)
        return 1;
    for (s = text; apr_isdigit(*s); s++) {
        if (cost < RL_COUNT_MAX)
            cost = cost * 10 + (*s - '0');
    }
    if (*s || s == text) {
        rl_log_once(e->r, e->local,
                    apr_pstrcat(e->r->pool, "rule=", rule->name, ": cost=",
                                rule->cost_expr.text, " is not a whole number; charging 1", NULL));
        return 1;
    }
    return cost < RL_COUNT_MAX ? cost : RL_COUNT_MAX;
}

/* --- Which quota counts ------------------------------------------------------------------- */

static const rl_tier *tier_of(rl_evaluation *e, const rl_rule *rule)
{
    const char *name = rule->tier.text ? rl_evaluation_string(e, &rule->tier) : NULL;

    return name ? rl_rule_tier(rule, name) : NULL;
}

static int64_t scale(int64_t n, int per_mille)
{
    int64_t scaled = n * per_mille / 1000;

    return n > 0 && scaled < 1 ? 1 : scaled;
}

/* The factor of the highest load that is exceeded. */
static void adapt(const rl_settings *settings, rl_limit *limit)
{
    int busy = rl_worker_load_percent(), per_mille = 1000;

    for (int i = 0; i < settings->adaptive_count; i++) {
        if (busy > settings->adaptive[i].above_percent)
            per_mille = settings->adaptive[i].per_mille;
    }
    limit->quota = scale(limit->quota, per_mille);
    limit->burst = scale(limit->burst, per_mille);
}

int rl_evaluation_limit(rl_evaluation *e, const rl_rule *rule, rl_limit *limit)
{
    const rl_tier *tier = tier_of(e, rule);

    *limit = rule->limit;
    if (tier && tier->unlimited)
        return 0;
    if (tier) {
        limit->quota = tier->quota;
        limit->burst = tier->burst;
    }
    if (rule->adaptive && e->settings->adaptive_count)
        adapt(e->settings, limit);
    return 1;
}
