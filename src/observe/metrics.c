/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics: the module's metrics, for Prometheus.
 *
 * The figures and their families are those of status_columns. The two formats differ in the lines
 * that describe a family, and in the last line.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>
#include <http_request.h>

#include "httpd/accept.h"
#include "observe/metrics.h"
#include "observe/status_columns.h"

typedef struct {
    request_rec *r;
    rl_figures figures;
    int open; /* OpenMetrics */
} scrape;

/* labels: the text between the braces, or "". */
static void print_sample(const scrape *s, const char *name, const char *labels, uint64_t value)
{
    ap_rprintf(s->r, *labels ? "%s{%s} %" APR_UINT64_T_FMT "\n" : "%s%s %" APR_UINT64_T_FMT "\n",
               name, labels, value);
}

/* µs in seconds, with at least one digit after the point: 0.00005, 1.0 */
static const char *seconds(apr_pool_t *pool, uint64_t us)
{
    char *text = apr_psprintf(pool, "%" APR_UINT64_T_FMT ".%06d", us / 1000000,
                              (int)(us % 1000000));
    char *end = text + strlen(text) - 1;

    while (*end == '0' && end[-1] != '.')
        *end-- = '\0';
    return text;
}

/* The time that requests waited for Redis: the only histogram. */
static void print_histogram(const scrape *s, const char *name)
{
    const char *bucket = apr_pstrcat(s->r->pool, name, "_bucket", NULL);
    const rl_stats_counts *counts = s->figures.counts;
    uint64_t seen = 0;

    for (int i = 0; i < RL_STATS_BOUNDS; i++) {
        const char *bound = seconds(s->r->pool, (uint64_t)rl_stats_bounds_us[i]);

        seen += counts->bounded[i];
        print_sample(s, bucket, rl_figure_label(s->r->pool, "le", bound), seen);
    }
    seen += counts->bounded[RL_STATS_BOUNDS];
    print_sample(s, bucket, "le=\"+Inf\"", seen);
    ap_rvputs(s->r, name, "_sum ", seconds(s->r->pool, counts->waited_us), "\n", NULL);
    print_sample(s, apr_pstrcat(s->r->pool, name, "_count", NULL), "", seen);
}

/* The name of the samples of a row; in 0.0.4 also that of the family. */
static const char *sample_name(const scrape *s, const rl_figure_row *row)
{
    return apr_pstrcat(s->r->pool, RL_METRIC_PREFIX, row->metric,
                       strcmp(row->type, "counter") ? "" : "_total", NULL);
}

static void print_family(const scrape *s, const rl_figure_row *row)
{
    const char *name = s->open ? apr_pstrcat(s->r->pool, RL_METRIC_PREFIX, row->metric, NULL)
                               : sample_name(s, row);

    ap_rvputs(s->r, "# HELP ", name, " ", row->help, "\n# TYPE ", name, " ", row->type, "\n", NULL);
    if (s->open && row->unit)
        ap_rvputs(s->r, "# UNIT ", name, " ", row->unit, "\n", NULL);
}

static void print_metrics(const scrape *s)
{
    const rl_figure_row *row = NULL;
    const char *name = "";
    rl_figure figure;

    while ((row = rl_figure_next(&s->figures, row))) {
        if (!row->metric)
            continue;
        if (row->type) { /* the first row of its family */
            name = sample_name(s, row);
            print_family(s, row);
        }
        if (!row->read)
            print_histogram(s, name);
        for (int i = 0; rl_figure_read(row, &s->figures, i, &figure); i++)
            print_sample(s, name, figure.labels, figure.value);
    }
    if (s->open)
        ap_rputs("# EOF\n", s->r);
}

/* --- The handler -------------------------------------------------------------------------- */

/* Whether the client prefers OpenMetrics to plain text, or accepts both alike. */
static int prefers_open(request_rec *r)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");
    rl_accept_range range;
    int open = 0, plain = 0;

    while (rl_accept_next(r->pool, &accept, &range)) {
        if (rl_accept_is(&range, "application/openmetrics-text"))
            open = range.weight > open ? range.weight : open;
        else if (rl_accept_is(&range, "text/plain"))
            plain = range.weight > plain ? range.weight : plain;
    }
    return open > 0 && open >= plain;
}

int rl_metrics(request_rec *r, const rl_context *context)
{
    scrape s = {.r = r, .open = prefers_open(r)};

    if (r->method_number != M_GET) {
        ap_allow_methods(r, REPLACE_ALLOW, "GET", "HEAD", NULL);
        return HTTP_METHOD_NOT_ALLOWED;
    }
    s.figures = rl_figures_read(r->pool, context);
    ap_set_content_type(r, s.open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                  : "text/plain; version=0.0.4; charset=utf-8");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    apr_table_mergen(r->headers_out, "Vary", "Accept");
    print_metrics(&s);
    return OK;
}
