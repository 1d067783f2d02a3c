/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_html: the module's part of server-status for people.
 *
 * The summary comes first, then the tables, with the figures of the last minute beside those since
 * the start. The HTML is part of mod_status's page, which has no style sheet. On a narrow screen
 * the rows of a table become cards. Everything that is not a number is escaped.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <scoreboard.h>

#include "observe/status_html.h"
#include "observe/status_summary.h"

#define MOST_DENIED 20

static const char *const style =
    "<style>\n"
    ".rl { max-width: 76em; line-height: 1.4 }\n"
    ".rl p { margin: .4em 0; padding: .3em .6em; border-left: .3em solid #2a7d2a }\n"
    ".rl p.busy { border-color: #c77700 }\n"
    ".rl p.bad { border-color: #c00; background: #fdeeee }\n"
    ".rl p.note { border-color: #bbb }\n"
    ".rl table { border-collapse: collapse; margin: .6em 0 1em; font-size: .9em }\n"
    ".rl th, .rl td { border: 1px solid #bbb; padding: .15em .5em; text-align: right }\n"
    ".rl th { background: #eee; font-weight: normal }\n"
    ".rl th[colspan] { text-align: center }\n"
    ".rl td { white-space: nowrap }\n"
    ".rl th:first-child, .rl td:first-child, .rl .text { text-align: left; white-space: normal;"
    " overflow-wrap: anywhere }\n"
    ".rl td:first-child { font-weight: bold }\n"
    ".rl th.number { text-align: right }\n"
    ".rl tr.hot { background: #fff3dc }\n"
    ".rl code { overflow-wrap: anywhere }\n"
    "@media (max-width: 60em) {\n"
    " .rl thead { display: none }\n"
    " .rl table, .rl tbody { display: block }\n"
    " .rl tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5em, 1fr));"
    " border: 1px solid #bbb; margin-bottom: .5em }\n"
    " .rl td { border: 0; text-align: left; white-space: normal }\n"
    " .rl td:first-child { grid-column: 1 / -1 }\n"
    " .rl td.zero, .rl td:empty { display: none }\n"
    " .rl td::before { content: attr(title); display: block; color: #555; font-size: .8em }\n"
    "}\n"
    "</style>\n";

/* --- The most denied, gathered ------------------------------------------------------------ */

/* By denials in the last minute, then by all denials, the most first. */
static int by_denials(const void *one, const void *other)
{
    const rl_top_denied_entry *a = one, *b = other;

    if (a->last_minute != b->last_minute)
        return a->last_minute < b->last_minute ? 1 : -1;
    return a->denials < b->denials ? 1 : a->denials > b->denials ? -1 : 0;
}

/* Adds an entry; the entries of an identity for local and for fallback decisions are merged. */
static int add_entry(rl_top_denied_entry *entries, int count, const rl_top_denied_entry *entry)
{
    for (int i = 0; i < count; i++) {
        if (!strcmp(entries[i].details.identity, entry->details.identity)
            && !strcmp(entries[i].details.rule, entry->details.rule)) {
            entries[i].denials += entry->denials;
            entries[i].last_minute += entry->last_minute;
            if (entry->last_ms > entries[i].last_ms)
                entries[i].last_ms = entry->last_ms;
            return count;
        }
    }
    entries[count] = *entry;
    return count + 1;
}

/* Without ExtendedStatus the page does not show single clients, like mod_status itself. */
static void collect_denied(rl_status_page *p)
{
    rl_top_denied_entry entry;

    if (!ap_extended_status)
        return;
    p->denied = apr_palloc(p->r->pool, RL_DENIED_MAX * sizeof(*p->denied));
    for (int i = 0; i < RL_DENIED_MAX; i++) {
        if (rl_top_denied_read(p->start.context->top_denied, i, p->host_ms, &entry))
            p->denied_count = add_entry(p->denied, p->denied_count, &entry);
    }
    qsort(p->denied, (size_t)p->denied_count, sizeof(*p->denied), by_denials);
}

/* --- Cells -------------------------------------------------------------------------------- */

static const char *ago(const rl_status_page *p, int64_t at_ms)
{
    int s = (int)((p->host_ms - at_ms) / 1000);

    if (s < 1)
        return "now";
    return s < 120 ? apr_psprintf(p->r->pool, "%d s ago", s)
         : s < 7200 ? apr_psprintf(p->r->pool, "%d min ago", s / 60)
         : apr_psprintf(p->r->pool, "%d h ago", s / 3600);
}

static void print_cell(const rl_status_page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, strcmp(value, "0") ? "<td" : "<td class=\"zero\"", " title=\"", title, "\">",
              value, "</td>", NULL);
}

static void print_text(const rl_status_page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, "<td class=\"text\" title=\"", title, "\">", rl_page_escaped(p, value), "</td>",
              NULL);
}

/* --- Rules -------------------------------------------------------------------------------- */

static uint64_t recent_denials(const rl_status_page *p, int row)
{
    return rl_column_value(p->recent.counts, row, RL_COLUMN_DENIED)
        + rl_column_value(p->recent.counts, row, RL_COLUMN_SHADOWED);
}

static void print_rules_head(const rl_status_page *p)
{
    size_t recent = 0;

    for (int i = 0; i < RL_COLUMNS; i++)
        recent += rl_columns[i].recent != 0;
    ap_rprintf(p->r, "<table>\n<thead><tr><th rowspan=\"2\">Rule</th><th colspan=\"%d\">%s</th>"
               "<th colspan=\"%d\">Since the start</th></tr>\n<tr>", (int)recent,
               p->recent_ms ? "Last minute" : "Since the start", (int)RL_COLUMNS);
    for (int i = 0; i < RL_COLUMNS; i++) {
        if (rl_columns[i].recent)
            ap_rprintf(p->r, "<th class=\"number\">%s</th>", rl_columns[i].title);
    }
    for (int i = 0; i < RL_COLUMNS; i++)
        ap_rprintf(p->r, "<th>%s</th>", rl_columns[i].title);
    ap_rputs("</tr></thead>\n<tbody>\n", p->r);
}

static void print_rule(const rl_status_page *p, int row)
{
    ap_rvputs(p->r, recent_denials(p, row) ? "<tr class=\"hot\">" : "<tr>", "<td title=\"Rule\">",
              rl_page_escaped(p, rl_stats_name(p->start.context->stats, row)), "</td>", NULL);
    for (int i = 0; i < RL_COLUMNS; i++) {
        if (rl_columns[i].recent)
            print_cell(p, apr_pstrcat(p->r->pool, rl_columns[i].title, ", last minute", NULL),
                       rl_page_number(p, rl_column_value(p->recent.counts, row, (rl_column)i)));
    }
    for (int i = 0; i < RL_COLUMNS; i++)
        print_cell(p, rl_columns[i].title,
                   rl_page_number(p, rl_column_value(p->start.counts, row, (rl_column)i)));
    ap_rputs("</tr>\n", p->r);
}

/* Rules with the most recent denials come first, then the others in the order of their rows. */
static void print_rules(const rl_status_page *p)
{
    char printed[RL_STATS_ROWS] = {0};

    if (!rl_stats_name(p->start.context->stats, 0)) {
        ap_rputs("<p class=\"note\">There are no rules.</p>\n", p->r);
        return;
    }
    print_rules_head(p);
    for (;;) {
        int next = -1;

        for (int row = 0; rl_stats_name(p->start.context->stats, row); row++) {
            if (!printed[row] && (next < 0 || recent_denials(p, row) > recent_denials(p, next)))
                next = row;
        }
        if (next < 0)
            break;
        printed[next] = 1;
        print_rule(p, next);
    }
    ap_rputs("</tbody>\n</table>\n", p->r);
}

/* --- Redis -------------------------------------------------------------------------------- */

/* The head of the table of decisions, whose columns are the figures that have a title. */
static void print_redis_head(const rl_status_page *p)
{
    const rl_figure_row *row = NULL;
    rl_figure figure;

    ap_rputs("<table>\n<thead><tr><th>Decisions by Redis</th>", p->r);
    while ((row = rl_figure_next(&p->start, row))) {
        for (int i = 0; rl_figure_read(row, &p->start, i, &figure) && figure.title; i++)
            ap_rvputs(p->r, "<th>", figure.title, "</th>", NULL);
    }
    ap_rputs("</tr></thead>\n<tbody>\n", p->r);
}

static void print_redis_row(const rl_status_page *p, const char *name, const rl_figures *figures)
{
    const rl_figure_row *row = NULL;
    rl_figure figure;

    ap_rvputs(p->r, rl_page_failures(figures->counts) ? "<tr class=\"hot\">" : "<tr>", "<td>", name,
              "</td>", NULL);
    while ((row = rl_figure_next(figures, row))) {
        for (int i = 0; rl_figure_read(row, figures, i, &figure) && figure.title; i++)
            print_cell(p, figure.title, row->in_us ? rl_page_duration(p, (int64_t)figure.value)
                                                   : rl_page_number(p, figure.value));
    }
    ap_rputs("</tr>\n", p->r);
}

static void print_nodes(const rl_status_page *p)
{
    static const char *const states[] = {"closed", "open", "ramping"};
    char name[RL_BREAKER_NAME];
    rl_breaker *breaker;

    ap_rputs("<table>\n<thead><tr><th>Redis node</th><th>Breaker</th><th>Opened</th></tr></thead>\n"
             "<tbody>\n", p->r);
    for (int i = 0; (breaker = rl_breaker_at(p->start.context->breakers, i, name)); i++) {
        rl_breaker_state state = rl_breaker_read(breaker);

        ap_rvputs(p->r, state == RL_BREAKER_CLOSED ? "<tr>" : "<tr class=\"hot\">",
                  "<td title=\"Redis node\">", rl_page_escaped(p, name), "</td>", NULL);
        print_cell(p, "Breaker", states[state]);
        print_cell(p, "Opened",
                   apr_pstrcat(p->r->pool, rl_page_number(p, breaker->opened), " times", NULL));
        ap_rputs("</tr>\n", p->r);
    }
    ap_rputs("</tbody>\n</table>\n", p->r);
}

/* Error replies of Redis by kind, with what each means. */
static void print_errors(const rl_status_page *p)
{
    const rl_breakers *breakers = p->start.context->breakers;
    int count = 0;

    for (int i = 0; i < RL_ERROR_KINDS; i++) {
        if (!breakers->errors[i])
            continue;
        if (!count++)
            ap_rputs("<table>\n<thead><tr><th>Errors from Redis</th><th>Since the start</th>"
                     "<th class=\"text\">It &hellip;</th></tr></thead>\n<tbody>\n", p->r);
        ap_rvputs(p->r, "<tr><td title=\"Error\">", rl_errors[i].metric, "</td>", NULL);
        print_cell(p, "Since the start", rl_page_number(p, breakers->errors[i]));
        print_text(p, "It &hellip;", rl_errors[i].means);
        ap_rputs("</tr>\n", p->r);
    }
    if (count)
        ap_rputs("</tbody>\n</table>\n", p->r);
}

static void print_redis(const rl_status_page *p)
{
    if (!p->start.context->settings->redis)
        return;
    print_nodes(p);
    print_redis_head(p);
    if (p->recent_ms)
        print_redis_row(p, "Last minute", &p->recent);
    print_redis_row(p, "Since the start", &p->start);
    ap_rputs("</tbody>\n</table>\n", p->r);
    print_errors(p);
}

/* --- The most denied ---------------------------------------------------------------------- */

static void print_identity(const rl_status_page *p, const rl_top_denied_entry *entry)
{
    const rl_top_denied_details *denied = &entry->details;

    ap_rvputs(p->r, entry->last_minute ? "<tr class=\"hot\">" : "<tr>",
              "<td class=\"text\" title=\"Identity\">", rl_page_escaped(p, denied->identity),
              "</td>", NULL);
    print_text(p, "Rule", denied->rule);
    print_text(p, "Limit", denied->limit);
    print_cell(p, "Denied, last minute", rl_page_number(p, entry->last_minute));
    print_cell(p, "Denied since listed", rl_page_number(p, entry->denials));
    print_cell(p, "Listed", ago(p, entry->since_ms));
    print_cell(p, "Last denied", ago(p, entry->last_ms));
    print_text(p, "Decided by", rl_source_names[denied->source]);
    print_text(p, "Address", denied->address);
    print_text(p, "Shadow", denied->shadow ? "shadow" : "");
    ap_rputs("</tr>\n", p->r);
}

static void print_most_denied(const rl_status_page *p)
{
    if (!ap_extended_status)
        ap_rputs("<p class=\"note\">With <code>ExtendedStatus On</code>, the most denied "
                 "identities are listed here.</p>\n", p->r);
    if (!p->denied_count)
        return;
    ap_rputs("<table>\n<thead><tr><th>Most denied</th><th class=\"text\">Rule</th>"
             "<th class=\"text\">Limit</th><th>Last minute</th><th>Since listed</th><th>Listed</th>"
             "<th>Last denied</th><th class=\"text\">Decided by</th><th class=\"text\">Address</th>"
             "<th class=\"text\">Shadow</th></tr></thead>\n<tbody>\n", p->r);
    for (int i = 0; i < p->denied_count && i < MOST_DENIED; i++)
        print_identity(p, &p->denied[i]);
    ap_rputs("</tbody>\n</table>\n", p->r);
    if (p->start.context->settings->redis)
        ap_rvputs(p->r, "<p class=\"note\">To list the counters of an identity: <code>redis-cli "
                  "--scan --pattern '",
                  rl_page_escaped(p, p->start.context->settings->prefix), ":{",
                  rl_page_escaped(p, p->denied[0].details.identity), "}:*'</code>. Once they are "
                  "deleted with <code>DEL</code>, the identity is admitted again, within about a "
                  "second.</p>\n", NULL);
}

/* --- The section -------------------------------------------------------------------------- */

static void print_head(request_rec *r)
{
    ap_rvputs(r, "<hr />\n<div class=\"rl\">\n<h2 id=\"ratelimit\">Rate limits</h2>\n", style,
              NULL);
}

void rl_status_html_print_no_memory(request_rec *r)
{
    print_head(r);
    ap_rputs("<p class=\"bad\"><b>Nothing is limited:</b> there was no shared memory when the "
             "configuration was read. Free memory or lower <code>RateLimitSharedMemory</code>, and "
             "reload.</p>\n</div>\n", r);
}

void rl_status_html_print(rl_status_page *p)
{
    print_head(p->r);
    collect_denied(p);
    rl_status_summary_print(p);
    print_rules(p);
    print_most_denied(p);
    print_redis(p);
    ap_rputs("</div>\n", p->r);
}
