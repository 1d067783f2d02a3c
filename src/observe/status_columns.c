/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_columns: the figures of server-status and of the metrics, a row each.
 *
 * Labels of metrics are names of rules, of nodes and of kinds of errors. Nothing that a client
 * sends becomes a label, because the number of different values would have no bound.
 *
 * Counters are those of the shared memory and grow until httpd is stopped.
 */
#include <string.h>

#include <apr_strings.h>

#include "observe/status_columns.h"
#include "core/version.h"

rl_figures rl_figures_read(apr_pool_t *pool, const rl_context *context)
{
    rl_stats_counts *counts = apr_palloc(pool, sizeof(*counts));
    rl_figures figures = {.pool = pool, .context = context, .counts = counts};

    rl_stats_read(context->stats, counts);
    rl_local_read_stats(context->local, &figures.local);
    return figures;
}

/* --- Of a rule ---------------------------------------------------------------------------- */

const rl_column_row rl_columns[RL_COLUMNS] = {
    [RL_COLUMN_REQUESTS] = {"Requests", "Requests", RL_ANY, RL_ANY, 1},
    [RL_COLUMN_PASSED] = {"Passed", "Passed", RL_PASSED, RL_ANY, 0},
    [RL_COLUMN_DENIED] = {"Denied", "Denied", RL_DENIED, RL_ANY, 1},
    [RL_COLUMN_SHADOWED] = {"Shadowed", "Shadowed", RL_SHADOWED, RL_ANY, 1},
    [RL_COLUMN_EXEMPT] = {"Exempt", "Exempt", RL_EXEMPT, RL_ANY, 0},
    [RL_COLUMN_FROM_MEMORY] = {"FromMemory", "From memory", RL_ANY, RL_SOURCE_LOCAL, 0},
    [RL_COLUMN_LEASED] = {"Leased", "Leased", RL_ANY, RL_SOURCE_LEASE, 0},
    [RL_COLUMN_ASKED] = {"Asked", "Asked Redis", RL_ANY, RL_SOURCE_REDIS, 0},
    [RL_COLUMN_FALLBACK] = {"Fallback", "Fallback", RL_ANY, RL_SOURCE_FALLBACK, 1}
};

uint64_t rl_column_value(const rl_stats_counts *counts, int row, rl_column column)
{
    const rl_column_row *c = &rl_columns[column];
    uint64_t sum = 0;

    if (c->source != RL_ANY)
        return rl_stats_of_source(counts, row, (rl_source)c->source);
    for (int i = 0; i < RL_VERDICTS; i++) {
        if (c->verdict == RL_ANY || c->verdict == i)
            sum += rl_stats_of_verdict(counts, row, (rl_verdict)i);
    }
    return sum;
}

uint64_t rl_column_total(const rl_figures *figures, rl_column column)
{
    uint64_t sum = 0;

    for (int row = 0; rl_stats_name(figures->context->stats, row); row++)
        sum += rl_column_value(figures->counts, row, column);
    return sum;
}

/* --- How a figure is read ----------------------------------------------------------------- */

const char *rl_figure_label(apr_pool_t *pool, const char *name, const char *value)
{
    char *escaped = apr_palloc(pool, 2 * strlen(value) + 1), *out = escaped;

    for (; *value; value++) {
        if (*value == '\\' || *value == '"' || *value == '\n')
            *out++ = '\\';
        *out++ = *value == '\n' ? 'n' : *value;
    }
    *out = '\0';
    return apr_pstrcat(pool, name, "=\"", escaped, "\"", NULL);
}

/* By rule, verdict and source, the source changing fastest. */
static int requests(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    int source = i % RL_SOURCES, verdict = i / RL_SOURCES % RL_VERDICTS;
    int rule = i / RL_SOURCES / RL_VERDICTS;
    const char *name = rl_stats_name(f->context->stats, rule);

    (void)row;
    if (!name)
        return 0;
    figure->labels = apr_pstrcat(f->pool, rl_figure_label(f->pool, "rule", name), ",verdict=\"",
                                 rl_verdict_names[verdict], "\",source=\"",
                                 rl_source_names[source], "\"", NULL);
    figure->value = f->counts->rows[rule][verdict][source];
    return 1;
}

static void fill_in_failure(const rl_figures *f, int failure, rl_figure *figure)
{
    figure->line = rl_failure_texts[failure].line;
    figure->title = rl_failure_texts[failure].title;
    figure->value = f->counts->redis[failure];
}

static int answers(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    (void)row;
    fill_in_failure(f, RL_ANSWERED, figure);
    return i == 0;
}

static int failures(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    int failure = RL_ANSWERED + 1 + i;

    (void)row;
    if (failure >= RL_FAILURES)
        return 0;
    fill_in_failure(f, failure, figure);
    figure->labels = rl_figure_label(f->pool, "kind", rl_failure_texts[failure].metric);
    return 1;
}

/* which: per mille of the requests, which waited no longer than the value. */
static int quantile(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    figure->value = (uint64_t)rl_stats_quantile(f->counts, row->which);
    return i == 0;
}

/* By kind, which the first word of the reply decides: "OOM command not allowed ...". */
static int error_replies(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    (void)row;
    if (i >= RL_ERROR_KINDS)
        return 0;
    figure->labels = rl_figure_label(f->pool, "error", rl_errors[i].metric);
    figure->value = f->context->breakers->errors[i];
    return 1;
}

/* How many breakers are in the state `which`. */
static int breakers_in(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    char node[RL_BREAKER_NAME];
    rl_breaker *breaker;

    for (int n = 0; (breaker = rl_breaker_at(f->context->breakers, n, node)); n++)
        figure->value += rl_breaker_read(breaker) == (rl_breaker_state)row->which;
    return i == 0;
}

/* How often breakers opened, all nodes together. */
static int breakers_opened(const rl_figure_row *row, const rl_figures *f, int i,
                           rl_figure *figure)
{
    char node[RL_BREAKER_NAME];
    rl_breaker *breaker;

    (void)row;
    for (int n = 0; (breaker = rl_breaker_at(f->context->breakers, n, node)); n++)
        figure->value += breaker->opened;
    return i == 0;
}

/* The breaker of node i, NULL if there are not so many. Makes the node's name the label. */
static rl_breaker *breaker_of_node(const rl_figures *f, int i, rl_figure *figure)
{
    char node[RL_BREAKER_NAME];
    rl_breaker *breaker = rl_breaker_at(f->context->breakers, i, node);

    if (breaker)
        figure->labels = rl_figure_label(f->pool, "node", node);
    return breaker;
}

static int breaker_state(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    const rl_breaker *breaker = breaker_of_node(f, i, figure);

    (void)row;
    if (breaker)
        figure->value = (uint64_t)rl_breaker_read(breaker);
    return breaker != NULL;
}

static int breaker_opens(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    const rl_breaker *breaker = breaker_of_node(f, i, figure);

    (void)row;
    if (breaker)
        figure->value = breaker->opened;
    return breaker != NULL;
}

/* which: the offset of a member of rl_local_stats. */
static int local(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    memcpy(&figure->value, (const char *)&f->local + row->which, sizeof(figure->value));
    return i == 0;
}

/* which: an rl_log_fate. */
static int log_lines(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    figure->value = f->counts->log[row->which];
    return i == 0;
}

/* which: an rl_lease_count. */
static int lease(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    figure->value = f->counts->lease[row->which];
    return i == 0;
}

/* --- Of the host -------------------------------------------------------------------------- */

static int one(const rl_figure_row *row, const rl_figures *f, int i, rl_figure *figure)
{
    (void)row;
    (void)f;
    figure->value = 1;
    return i == 0;
}

const rl_figure_row rl_figure_rows[] = {
    {.metric = "build_info", .labels = "version=\"" RL_VERSION "\"", .type = "gauge",
     .help = "The version of the module; always 1.", .read = one},

    {.metric = "requests", .type = "counter", .unit = "requests",
     .help = "Requests under a rule, by verdict and source.", .read = requests},

    {.line = "RedisBreakerOpen", .of_redis = 1, .read = breakers_in, .which = RL_BREAKER_OPEN},
    {.line = "RedisBreakerRamping", .of_redis = 1, .read = breakers_in,
     .which = RL_BREAKER_RAMPING},
    {.line = "RedisBreakerOpened", .of_redis = 1, .read = breakers_opened},

    {.metric = "redis_duration_seconds", .type = "histogram", .unit = "seconds", .of_redis = 1,
     .help = "Time that requests waited for Redis, of those that asked it."},
    {.metric = "redis_answers", .type = "counter", .unit = "answers", .of_redis = 1,
     .help = "Requests that Redis decided.", .read = answers},
    {.metric = "redis_errors", .type = "counter", .unit = "errors", .of_redis = 1,
     .help = "Requests that Redis should have decided but did not, by reason.",
     .read = failures},
    {.line = "RedisWaitP50Us", .title = "Wait p50", .of_redis = 1, .in_us = 1, .read = quantile,
     .which = 500},
    {.line = "RedisWaitP95Us", .title = "Wait p95", .of_redis = 1, .in_us = 1, .read = quantile,
     .which = 950},
    {.line = "RedisWaitP99Us", .title = "Wait p99", .of_redis = 1, .in_us = 1, .read = quantile,
     .which = 990},
    {.line = "RedisWaitP999Us", .of_redis = 1, .in_us = 1, .read = quantile, .which = 999},

    {.metric = "redis_error_replies", .type = "counter", .unit = "replies", .of_redis = 1,
     .help = "Error replies of Redis, by kind.", .read = error_replies},
    {.metric = "breaker_state", .type = "gauge", .of_redis = 1,
     .help = "The breaker of a Redis node: 0 closed, 1 open, 2 about to close.",
     .read = breaker_state},
    {.metric = "breaker_opens", .type = "counter", .unit = "opens", .of_redis = 1,
     .help = "How often the breaker of a Redis node opened.", .read = breaker_opens},

    {.line = "LocalCapacity", .metric = "local_capacity_entries", .type = "gauge",
     .unit = "entries", .help = "Entries that the local tier has room for.",
     .read = local, .which = offsetof(rl_local_stats, capacity)},
    {.line = "LocalEntries", .metric = "local_entries", .type = "gauge", .unit = "entries",
     .help = "Entries of the local tier in use, live or expired.", .read = local,
     .which = offsetof(rl_local_stats, entries)},
    {.line = "LocalEvictions", .metric = "local_evictions", .type = "counter",
     .unit = "evictions", .help = "Live entries of the local tier that were removed to make room.",
     .read = local, .which = offsetof(rl_local_stats, evictions)},

    {.line = "LeaseRefills", .metric = "lease_refills", .type = "counter", .unit = "refills",
     .of_redis = 1, .help = "Leases that Redis granted to this host.", .read = lease,
     .which = RL_LEASE_REFILLS},
    {.line = "LeaseUnitsDebited", .metric = "lease_units", .labels = "event=\"debited\"",
     .type = "counter", .unit = "units", .of_redis = 1,
     .help = "Units of leases, debited in Redis, spent by requests, and lost.", .read = lease,
     .which = RL_LEASE_DEBITED},
    {.line = "LeaseUnitsSpent", .metric = "lease_units", .labels = "event=\"spent\"",
     .of_redis = 1, .read = lease, .which = RL_LEASE_SPENT},
    {.line = "LeaseUnitsLost", .metric = "lease_units", .labels = "event=\"lost\"",
     .of_redis = 1, .read = lease, .which = RL_LEASE_LOST},

    {.line = "LogLines", .metric = "log_lines", .labels = "fate=\"written\"", .type = "counter",
     .unit = "lines", .help = "Lines of violation logs, written and lost.", .read = log_lines,
     .which = RL_LOG_WRITTEN},
    {.line = "LogLost", .metric = "log_lines", .labels = "fate=\"lost\"", .read = log_lines,
     .which = RL_LOG_LOST},
    {0}
};

const rl_figure_row *rl_figure_next(const rl_figures *figures, const rl_figure_row *row)
{
    row = row ? row + 1 : rl_figure_rows;
    while (row->of_redis && !figures->context->settings->redis)
        row++;
    return row->read || row->metric ? row : NULL;
}

int rl_figure_read(const rl_figure_row *row, const rl_figures *figures, int i, rl_figure *figure)
{
    *figure = (rl_figure){row->line, row->title, row->labels ? row->labels : "", 0};
    return row->read && row->read(row, figures, i, figure);
}
