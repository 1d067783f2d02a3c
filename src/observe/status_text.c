/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>

#include "observe/status_text.h"

static void print_line(request_rec *r, const char *name, uint64_t value)
{
    ap_rprintf(r, "RateLimit%s: %" APR_UINT64_T_FMT "\n", name, value);
}

static void print_columns(request_rec *r, const rl_figures *figures)
{
    const char *name;

    for (int i = 0; i < RL_COLUMNS; i++)
        print_line(r, rl_columns[i].line, rl_column_total(figures, (rl_column)i));
    for (int row = 0; (name = rl_stats_name(figures->context->stats, row)); row++) {
        for (int i = 0; i < RL_COLUMNS; i++)
            print_line(r, apr_pstrcat(r->pool, "[", name, "]", rl_columns[i].line, NULL),
                       rl_column_value(figures->counts, row, (rl_column)i));
    }
}

void rl_status_text_print(request_rec *r, const rl_figures *figures)
{
    const rl_figure_row *row = NULL;
    rl_figure figure;

    print_columns(r, figures);
    while ((row = rl_figure_next(figures, row))) {
        for (int i = 0; rl_figure_read(row, figures, i, &figure) && figure.line; i++)
            print_line(r, figure.line, figure.value);
    }
}
