/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_columns: the figures of server-status and of the metrics, a row each.
 *
 * There are two tables: the columns of a rule, and the figures of the host. server-status, its
 * ?auto lines and the metrics are printed from them, so a new figure is one row here.
 */
#ifndef RL_STATUS_COLUMNS_H
#define RL_STATUS_COLUMNS_H

#include "decide/context.h"

/* A copy of the counters, and what else figures are read from. */
typedef struct {
    apr_pool_t *pool; /* of the counts and of labels */
    const rl_context *context;
    const rl_stats_counts *counts;
    rl_local_stats local;
} rl_figures;

/* Copies the counters, which count since the start. Takes no lock. context->local is not NULL. */
rl_figures rl_figures_read(apr_pool_t *pool, const rl_context *context);

/* --- Of a rule ---------------------------------------------------------------------------- */

typedef enum {
    RL_COLUMN_REQUESTS,
    RL_COLUMN_PASSED,
    RL_COLUMN_DENIED,
    RL_COLUMN_SHADOWED,
    RL_COLUMN_EXEMPT,
    RL_COLUMN_FROM_MEMORY,
    RL_COLUMN_LEASED,
    RL_COLUMN_ASKED,
    RL_COLUMN_FALLBACK,
    RL_COLUMNS
} rl_column;

typedef struct {
    const char *line;  /* in ?auto, after "RateLimit" or "RateLimit[rule]" */
    const char *title; /* on the page */
    int verdict;       /* the rl_verdict that is counted, or RL_ANY */
    int source;        /* the rl_source, or RL_ANY */
    int recent;        /* the page also shows it for the last minute */
} rl_column_row;

#define RL_ANY (-1)

extern const rl_column_row rl_columns[RL_COLUMNS];

/* The value of a column for one rule, by its row in counts, and for all rules together. */
uint64_t rl_column_value(const rl_stats_counts *counts, int row, rl_column column);
uint64_t rl_column_total(const rl_figures *figures, rl_column column);

/* --- Of the host -------------------------------------------------------------------------- */

typedef struct {
    const char *line;   /* in ?auto, after "RateLimit"; NULL: none */
    const char *title;  /* heading in the page's table of decisions by Redis; NULL: none */
    const char *labels; /* of the sample in the metrics, as in kind="late"; "" */
    uint64_t value;
} rl_figure;

typedef struct rl_figure_row rl_figure_row;
struct rl_figure_row {
    /* As in rl_figure. For a row of several figures, read() fills them in. */
    const char *line;
    const char *title;
    const char *labels;

    /* The family of the metric. Rows of one family follow each other; the first describes it. */
    const char *metric; /* without RL_METRIC_PREFIX and "_total"; NULL: none */
    const char *type;
    const char *unit;   /* the end of the name; NULL: none, for the number of a state */
    const char *help;

    int of_redis; /* shown only where there is a RateLimitRedis */
    int in_us;    /* a time in µs */

    /*
     * Fills in figure i of the row, counted from 0, which has the row's texts already; returns 0 if
     * there are not so many. NULL for the histogram, which metrics.c prints.
     */
    int (*read)(const rl_figure_row *row, const rl_figures *figures, int i, rl_figure *figure);
    int which; /* for read() */
};

#define RL_METRIC_PREFIX "apache_ratelimit_"

/* In the order of printing. A row without read() and metric is the end. */
extern const rl_figure_row rl_figure_rows[];

/* The next row to show after row, or the first if row is NULL; NULL at the end. */
const rl_figure_row *rl_figure_next(const rl_figures *figures, const rl_figure_row *row);

/* Reads figure i of a row, counted from 0; returns 0 if there are not so many. */
int rl_figure_read(const rl_figure_row *row, const rl_figures *figures, int i, rl_figure *figure);

/* name="value", escaped as both formats of metrics require. */
const char *rl_figure_label(apr_pool_t *pool, const char *name, const char *value);

#endif
