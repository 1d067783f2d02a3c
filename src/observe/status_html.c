/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_html: how server-status looks to people.
 *
 * For somebody who was woken up: first a sentence on who is limited and by which rule, one on
 * Redis, one on memory, each with what to do if something is wrong; then the figures, of the last
 * minute beside those since the start; then who it is. Rules that deny now stand first.
 *
 * The HTML stands in mod_status's page, which has no style of its own. On a narrow screen the rows
 * of a table become cards. Everything that is not a number is escaped.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <scoreboard.h>

#include "observe/status_html.h"

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

/* --- Who is denied ------------------------------------------------------------------------ */

/* The more denied in the last minute, then in all, first. */
static int by_denials(const void *one, const void *other)
{
    const rl_top_denied_entry *a = one, *b = other;

    if (a->last_minute != b->last_minute)
        return a->last_minute < b->last_minute ? 1 : -1;
    return a->denials < b->denials ? 1 : a->denials > b->denials ? -1 : 0;
}

/* An identity has one entry for memory and one for fallback; here they are one. */
static int add_entry(rl_top_denied_entry *entries, int count, const rl_top_denied_entry *entry)
{
    for (int i = 0; i < count; i++) {
        if (!strcmp(entries[i].who.identity, entry->who.identity)
            && !strcmp(entries[i].who.rule, entry->who.rule)) {
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

/* Without ExtendedStatus the page says nothing of single clients, as mod_status itself. */
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

/* --- HTML --------------------------------------------------------------------------------- */

/* 1,234,567 */
static const char *number(const rl_status_page *p, uint64_t n)
{
    char *digits = apr_psprintf(p->r->pool, "%" APR_UINT64_T_FMT, n);
    size_t length = strlen(digits), at = 0;
    char *text = apr_palloc(p->r->pool, length + length / 3 + 1);

    for (size_t i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

static const char *duration(const rl_status_page *p, int64_t us)
{
    if (us < 1000)
        return apr_psprintf(p->r->pool, "%d &micro;s", (int)us);
    if (us < 1000000)
        return apr_psprintf(p->r->pool, us < 100000 ? "%.1f ms" : "%.0f ms", (double)us / 1e3);
    return apr_psprintf(p->r->pool, "%.1f s", (double)us / 1e6);
}

static const char *ago(const rl_status_page *p, int64_t at_ms)
{
    int s = (int)((p->host_ms - at_ms) / 1000);

    if (s < 1)
        return "now";
    return s < 120 ? apr_psprintf(p->r->pool, "%d s ago", s)
         : s < 7200 ? apr_psprintf(p->r->pool, "%d min ago", s / 60)
         : apr_psprintf(p->r->pool, "%d h ago", s / 3600);
}

static const char *escaped(const rl_status_page *p, const char *text)
{
    return ap_escape_html2(p->r->pool, text, 1);
}

static void print_cell(const rl_status_page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, strcmp(value, "0") ? "<td" : "<td class=\"zero\"", " title=\"", title, "\">",
              value, "</td>", NULL);
}

static void print_text(const rl_status_page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, "<td class=\"text\" title=\"", title, "\">", escaped(p, value), "</td>", NULL);
}

/* Requests that Redis should have decided and did not. */
static uint64_t failures(const rl_stats_counts *counts)
{
    uint64_t sum = 0;

    for (int i = RL_ANSWERED + 1; i < RL_FAILURES; i++)
        sum += counts->redis[i];
    return sum;
}

/* --- What it comes to --------------------------------------------------------------------- */

/* The rule with the most in a column; NULL if all have none. */
static const char *foremost(const rl_status_page *p, rl_column column)
{
    const char *name, *found = NULL;
    uint64_t most = 0;

    for (int row = 0; (name = rl_stats_name(p->start.context->stats, row)); row++) {
        if (rl_column_value(p->recent.counts, row, column) > most) {
            most = rl_column_value(p->recent.counts, row, column);
            found = name;
        }
    }
    return found;
}

/* The client who is denied most right now, and not by a shadow rule. */
static void print_foremost_client(const rl_status_page *p)
{
    const rl_top_denied_entry *first = p->denied, *end = p->denied + p->denied_count;

    while (first < end && first->who.shadow)
        first++;
    if (first < end && first->last_minute)
        ap_rvputs(p->r, " Most denied: <b>", escaped(p, first->who.identity), "</b>, about ",
                  number(p, first->last_minute), " times by ", escaped(p, first->who.rule), ".",
                  NULL);
}

static void print_denials(const rl_status_page *p)
{
    const char *rule = foremost(p, RL_COLUMN_DENIED), *trial = foremost(p, RL_COLUMN_SHADOWED);

    if (!rule)
        ap_rvputs(p->r, "<p>Nobody was denied ", p->span, ".</p>\n", NULL);
    else {
        ap_rvputs(p->r, "<p class=\"busy\"><b>",
                  number(p, rl_column_total(&p->recent, RL_COLUMN_DENIED)),
                  " denials</b> ", p->span, ", most by the rule <b>", escaped(p, rule), "</b>.",
                  NULL);
        print_foremost_client(p);
        ap_rputs(" If these are good clients: raise the quota, or let all pass for now with "
                 "<code>RateLimitEngine shadow</code>, and reload.</p>\n", p->r);
    }
    if (trial)
        ap_rvputs(p->r, "<p class=\"note\">",
                  number(p, rl_column_total(&p->recent, RL_COLUMN_SHADOWED)),
                  " would have been denied ", p->span, " by shadow rules, most by <b>",
                  escaped(p, trial), "</b>.</p>\n", NULL);
}

static const char *on_failure(const rl_status_page *p)
{
    const rl_settings *settings = p->start.context->settings;

    return settings->on_failure == RL_FAIL_OPEN ? "requests pass uncounted"
         : settings->on_failure == RL_FAIL_CLOSED ? "requests are refused with 503"
         : settings->nodes == 1 ? "this host counts alone, with the whole of each quota"
         : apr_psprintf(p->r->pool, "this host counts alone, with 1/%" APR_INT64_T_FMT
                        " of each quota", settings->nodes);
}

/* One sentence for each node that is not asked; returns how many there are. */
static int print_nodes_down(const rl_status_page *p)
{
    char name[RL_BREAKER_NAME];
    rl_breaker *breaker;
    int down = 0;

    for (int i = 0; (breaker = rl_breaker_at(p->start.context->breakers, i, name)); i++) {
        rl_breaker_state state = rl_breaker_read(breaker);

        if (state == RL_BREAKER_CLOSED)
            continue;
        down++;
        ap_rvputs(p->r, "<p class=\"bad\"><b>Redis at ", escaped(p, name),
                  state == RL_BREAKER_OPEN ? " is not asked: the breaker is open."
                                           : " is coming back.",
                  "</b> Until it answers in time, ", on_failure(p),
                  " unless a rule says otherwise. The error log says why; <code>redis-cli ping"
                  "</code> from this host says whether it lives. It is tried again by itself.</p>\n",
                  NULL);
    }
    return down;
}

static void print_redis_summary(const rl_status_page *p)
{
    uint64_t failed = failures(p->recent.counts), answered = p->recent.counts->redis[RL_ANSWERED];

    if (!p->start.context->settings->redis) {
        ap_rputs("<p class=\"note\">No Redis: this host counts alone.</p>\n", p->r);
        return;
    }
    if (print_nodes_down(p))
        return;
    if (failed)
        ap_rvputs(p->r, failed * 100 > answered ? "<p class=\"bad\">" : "<p class=\"busy\">",
                  "<b>Redis at ", escaped(p, p->start.context->settings->redis->name),
                  " answers, but not always:</b> ", number(p, failed), " of ",
                  number(p, failed + answered), " decisions fell back ", p->span, ", for which ",
                  on_failure(p), " unless a rule says otherwise. Late: Redis or the network is "
                  "slow, or <code>RateLimitRedisTimeout</code> too short.</p>\n", NULL);
    else
        ap_rvputs(p->r, "<p>Redis at ", escaped(p, p->start.context->settings->redis->name),
                  " is well: ", number(p, answered), " answers ", p->span,
                  answered ? ", 99 % of them within " : "",
                  answered ? duration(p, rl_stats_quantile(p->recent.counts, 990)) : "",
                  ".</p>\n", NULL);
}

static void print_local_summary(const rl_status_page *p)
{
    const rl_local_stats *local = &p->start.local;
    apr_size_t wanted = p->start.context->settings->shared_memory;
    int pressed = local->evictions > 0;

    if (p->start.context->local_size != wanted)
        ap_rvputs(p->r, "<p class=\"bad\">The system did not give the ", number(p, wanted), " bytes of "
                  "<code>RateLimitSharedMemory</code>: ", number(p, p->start.context->local_size),
                  " are in use. Free memory, or lower the size, and reload.</p>\n", NULL);

    ap_rvputs(p->r, pressed ? "<p class=\"busy\">" : "<p>", "Memory holds ",
              number(p, local->entries), " of at most ", number(p, local->capacity), " counts; ",
              number(p, local->evictions), " live ones had to make room since the start", NULL);
    ap_rputs(pressed ? ": if that goes on, raise <code>RateLimitSharedMemory</code> and reload."
                       "</p>\n" : ".</p>\n", p->r);
    if (p->start.counts->log[RL_LOG_LOST])
        ap_rvputs(p->r, "<p class=\"bad\">", number(p, p->start.counts->log[RL_LOG_LOST]),
                  " lines of the violation log were lost since the start: its disk is full, or its "
                  "program does not read.</p>\n", NULL);
}

/* --- Rules -------------------------------------------------------------------------------- */

static uint64_t heat(const rl_status_page *p, int row)
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
    ap_rvputs(p->r, heat(p, row) ? "<tr class=\"hot\">" : "<tr>", "<td title=\"Rule\">",
              escaped(p, rl_stats_name(p->start.context->stats, row)), "</td>", NULL);
    for (int i = 0; i < RL_COLUMNS; i++) {
        if (rl_columns[i].recent)
            print_cell(p, apr_pstrcat(p->r->pool, rl_columns[i].title, ", last minute", NULL),
                       number(p, rl_column_value(p->recent.counts, row, (rl_column)i)));
    }
    for (int i = 0; i < RL_COLUMNS; i++)
        print_cell(p, rl_columns[i].title,
                   number(p, rl_column_value(p->start.counts, row, (rl_column)i)));
    ap_rputs("</tr>\n", p->r);
}

/* Those that deny now first, the most first; the others as the configuration has them. */
static void print_rules(const rl_status_page *p)
{
    char printed[RL_STATS_ROWS] = {0};

    if (!rl_stats_name(p->start.context->stats, 0)) {
        ap_rputs("<p class=\"note\">There is no rule.</p>\n", p->r);
        return;
    }
    print_rules_head(p);
    for (;;) {
        int next = -1;

        for (int row = 0; rl_stats_name(p->start.context->stats, row); row++) {
            if (!printed[row] && (next < 0 || heat(p, row) > heat(p, next)))
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

    ap_rvputs(p->r, failures(figures->counts) ? "<tr class=\"hot\">" : "<tr>", "<td>", name,
              "</td>", NULL);
    while ((row = rl_figure_next(figures, row))) {
        for (int i = 0; rl_figure_read(row, figures, i, &figure) && figure.title; i++)
            print_cell(p, figure.title, row->in_us ? duration(p, (int64_t)figure.value)
                                                   : number(p, figure.value));
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
                  "<td title=\"Redis node\">", escaped(p, name), "</td>", NULL);
        print_cell(p, "Breaker", states[state]);
        print_cell(p, "Opened",
                   apr_pstrcat(p->r->pool, number(p, breaker->opened), " times", NULL));
        ap_rputs("</tr>\n", p->r);
    }
    ap_rputs("</tbody>\n</table>\n", p->r);
}

/* What Redis complained of, and what that means. */
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
        print_cell(p, "Since the start", number(p, breakers->errors[i]));
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

/* --- Who ---------------------------------------------------------------------------------- */

static void print_identity(const rl_status_page *p, const rl_top_denied_entry *entry)
{
    const rl_top_denied_key *who = &entry->who;

    ap_rvputs(p->r, entry->last_minute ? "<tr class=\"hot\">" : "<tr>",
              "<td class=\"text\" title=\"Identity\">", escaped(p, who->identity), "</td>", NULL);
    print_text(p, "Rule", who->rule);
    print_text(p, "Limit", who->limit);
    print_cell(p, "Denied, last minute", number(p, entry->last_minute));
    print_cell(p, "Denied since listed", number(p, entry->denials));
    print_cell(p, "Listed", ago(p, entry->since_ms));
    print_cell(p, "Last denied", ago(p, entry->last_ms));
    print_text(p, "Decided by", rl_source_names[who->source % RL_SOURCES]);
    print_text(p, "Address", who->address);
    print_text(p, "Shadow", who->shadow ? "shadow" : "");
    ap_rputs("</tr>\n", p->r);
}

static void print_most_denied(const rl_status_page *p)
{
    if (!ap_extended_status)
        ap_rputs("<p class=\"note\">Who it is stands here with <code>ExtendedStatus On</code>."
                 "</p>\n", p->r);
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
        ap_rvputs(p->r, "<p class=\"note\">All counters of one: <code>redis-cli --scan --pattern '",
                  escaped(p, p->start.context->settings->prefix), ":{",
                  escaped(p, p->denied[0].who.identity), "}:*'</code>; <code>DEL</code> lets it in "
                  "again within a second or so.</p>\n", NULL);
}

/* --- The section -------------------------------------------------------------------------- */

static void print_head(request_rec *r)
{
    ap_rvputs(r, "<hr />\n<div class=\"rl\">\n<h2 id=\"ratelimit\">Rate limits</h2>\n", style, NULL);
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
    print_denials(p);
    print_redis_summary(p);
    print_local_summary(p);
    print_rules(p);
    print_most_denied(p);
    print_redis(p);
    ap_rputs("</div>\n", p->r);
}
