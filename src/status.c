/*
 * status: what the module shows of itself in server-status.
 *
 * For somebody who was woken up: first a sentence on who is limited and by which rule, one on
 * Redis, one on memory, each with what to do if something is wrong; then the figures, of the last
 * minute beside those since the start; then who it is. Rules that deny now stand first.
 *
 * Numbers come from shared memory as they are at the moment; nothing here takes a lock or asks
 * Redis. What is shown is data, tables of columns and of named numbers. Programs get lines of ?auto:
 * a name without blanks, a colon, a number, all since the start.
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
#include <mod_status.h>
#include <scoreboard.h>

#include "status.h"

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

/* All that a page is made of. */
typedef struct {
    request_rec *r;
    const rl_tiers *tiers;
    int64_t host_ms;
    rl_denied_entry *denied; /* the most denied first; none without ExtendedStatus */
    int denied_count;
    rl_stats_counts *start;  /* counted since the start */
    rl_stats_counts *recent; /* in the last recent_ms */
    int64_t recent_ms;       /* 0: not known, and recent is since the start */
    const char *span;        /* "in the last minute" */
    rl_local_stats local;
} page;

/* --- Sums --------------------------------------------------------------------------------- */

typedef uint64_t column_of(const rl_stats_counts *counts, int row);

static uint64_t requests(const rl_stats_counts *counts, int row)
{
    uint64_t sum = 0;

    for (int i = 0; i < RL_VERDICTS; i++)
        sum += rl_stats_of_verdict(counts, row, (rl_verdict)i);
    return sum;
}

#define OF_VERDICT(name, verdict)                                 \
    static uint64_t name(const rl_stats_counts *counts, int row)  \
    {                                                             \
        return rl_stats_of_verdict(counts, row, verdict);         \
    }
#define OF_SOURCE(name, source)                                   \
    static uint64_t name(const rl_stats_counts *counts, int row)  \
    {                                                             \
        return rl_stats_of_source(counts, row, source);           \
    }

OF_VERDICT(passed, RL_PASSED)
OF_VERDICT(denied, RL_DENIED)
OF_VERDICT(shadowed, RL_SHADOWED)
OF_VERDICT(exempt, RL_EXEMPT)
OF_SOURCE(from_memory, RL_SOURCE_LOCAL)
OF_SOURCE(asked, RL_SOURCE_REDIS)
OF_SOURCE(fallback, RL_SOURCE_FALLBACK)

/* What is told of a rule. */
static const struct {
    const char *name;  /* in ?auto */
    const char *title; /* in HTML */
    column_of *value;
    int recent;        /* shown for the last minute, too */
} columns[] = {
    {"Requests", "Requests", requests, 1},
    {"Passed", "Passed", passed, 0},
    {"Denied", "Denied", denied, 1},
    {"Shadowed", "Shadowed", shadowed, 1},
    {"Exempt", "Exempt", exempt, 0},
    {"FromMemory", "From memory", from_memory, 0},
    {"Asked", "Asked Redis", asked, 0},
    {"Fallback", "Fallback", fallback, 1}
};

#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

static uint64_t total(const page *p, const rl_stats_counts *counts, column_of *value)
{
    uint64_t sum = 0;

    for (int row = 0; rl_stats_name(p->tiers->stats, row); row++)
        sum += value(counts, row);
    return sum;
}

/* Requests that Redis should have decided and did not. */
static uint64_t failures(const rl_stats_counts *counts)
{
    uint64_t sum = 0;

    for (int i = RL_ANSWERED + 1; i < RL_FAILURES; i++)
        sum += counts->redis[i];
    return sum;
}

/* --- Who is denied ------------------------------------------------------------------------ */

/* The more denied in the last minute, then in all, first. */
static int by_denials(const void *one, const void *other)
{
    const rl_denied_entry *a = one, *b = other;

    if (a->last_minute != b->last_minute)
        return a->last_minute < b->last_minute ? 1 : -1;
    return a->denials < b->denials ? 1 : a->denials > b->denials ? -1 : 0;
}

/* An identity has one entry for memory and one for fallback; here they are one. */
static int add_entry(rl_denied_entry *entries, int count, const rl_denied_entry *entry)
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
static void collect_denied(page *p)
{
    rl_denied_entry entry;

    if (!ap_extended_status)
        return;
    p->denied = apr_palloc(p->r->pool, RL_DENIED_MAX * sizeof(*p->denied));
    for (int i = 0; i < RL_DENIED_MAX; i++) {
        if (rl_denied_read(p->tiers->denied, i, p->host_ms, &entry))
            p->denied_count = add_entry(p->denied, p->denied_count, &entry);
    }
    qsort(p->denied, (size_t)p->denied_count, sizeof(*p->denied), by_denials);
}

/* --- Lines -------------------------------------------------------------------------------- */

static void print_line(const page *p, const char *name, uint64_t value)
{
    ap_rprintf(p->r, "RateLimit%s: %" APR_UINT64_T_FMT "\n", name, value);
}

static void print_redis_lines(const page *p)
{
    static const char *const names[RL_FAILURES] = {
        "RedisAnswered", "RedisFailedOpen", "RedisFailedDown", "RedisFailedBusy",
        "RedisFailedLate", "RedisFailedLost", "RedisFailedRefused", "RedisFailedGarbage"
    };
    static const struct {
        const char *name;
        int per_mille;
    } quantiles[] = {{"RedisWaitP50Us", 500}, {"RedisWaitP95Us", 950}, {"RedisWaitP99Us", 990},
                     {"RedisWaitP999Us", 999}};
    rl_breaker_state state = rl_breaker_read(p->tiers->breaker);

    print_line(p, "RedisBreakerOpen", state == RL_BREAKER_OPEN);
    print_line(p, "RedisBreakerRamping", state == RL_BREAKER_RAMPING);
    print_line(p, "RedisBreakerOpened", p->tiers->breaker->opened);
    for (int i = 0; i < RL_FAILURES; i++)
        print_line(p, names[i], p->start->redis[i]);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
        print_line(p, quantiles[i].name,
                   (uint64_t)rl_stats_quantile(p->start, quantiles[i].per_mille));
}

static void print_lines(const page *p)
{
    const char *name;

    for (size_t i = 0; i < COLUMNS; i++)
        print_line(p, columns[i].name, total(p, p->start, columns[i].value));
    for (int row = 0; (name = rl_stats_name(p->tiers->stats, row)); row++) {
        for (size_t i = 0; i < COLUMNS; i++)
            print_line(p, apr_pstrcat(p->r->pool, "[", name, "]", columns[i].name, NULL),
                       columns[i].value(p->start, row));
    }
    if (p->tiers->settings->redis)
        print_redis_lines(p);
    print_line(p, "LocalCapacity", p->local.capacity);
    print_line(p, "LocalEntries", p->local.entries);
    print_line(p, "LocalEvictions", p->local.evictions);
    print_line(p, "LogLines", p->start->log[RL_LOG_WRITTEN]);
    print_line(p, "LogLost", p->start->log[RL_LOG_LOST]);
}

/* --- HTML --------------------------------------------------------------------------------- */

/* 1,234,567 */
static const char *number(const page *p, uint64_t n)
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

static const char *duration(const page *p, int64_t us)
{
    if (us < 1000)
        return apr_psprintf(p->r->pool, "%d &micro;s", (int)us);
    if (us < 1000000)
        return apr_psprintf(p->r->pool, us < 100000 ? "%.1f ms" : "%.0f ms", (double)us / 1e3);
    return apr_psprintf(p->r->pool, "%.1f s", (double)us / 1e6);
}

static const char *ago(const page *p, int64_t at_ms)
{
    int s = (int)((p->host_ms - at_ms) / 1000);

    if (s < 1)
        return "now";
    return s < 120 ? apr_psprintf(p->r->pool, "%d s ago", s)
         : s < 7200 ? apr_psprintf(p->r->pool, "%d min ago", s / 60)
         : apr_psprintf(p->r->pool, "%d h ago", s / 3600);
}

static const char *escaped(const page *p, const char *text)
{
    return ap_escape_html2(p->r->pool, text, 1);
}

static void print_cell(const page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, strcmp(value, "0") ? "<td" : "<td class=\"zero\"", " title=\"", title, "\">",
              value, "</td>", NULL);
}

static void print_text(const page *p, const char *title, const char *value)
{
    ap_rvputs(p->r, "<td class=\"text\" title=\"", title, "\">", escaped(p, value), "</td>", NULL);
}

static int is_redis_down(const page *p)
{
    return p->tiers->settings->redis
        && rl_breaker_read(p->tiers->breaker) != RL_BREAKER_CLOSED;
}

/* --- What it comes to --------------------------------------------------------------------- */

/* The rule with the most in a column; NULL if all have none. */
static const char *foremost(const page *p, column_of *value)
{
    const char *name, *found = NULL;
    uint64_t most = 0;

    for (int row = 0; (name = rl_stats_name(p->tiers->stats, row)); row++) {
        if (value(p->recent, row) > most) {
            most = value(p->recent, row);
            found = name;
        }
    }
    return found;
}

/* The client who is denied most right now. */
static void print_foremost_client(const page *p)
{
    const rl_denied_entry *first = p->denied;

    if (p->denied_count && first->last_minute)
        ap_rvputs(p->r, " Most denied: <b>", escaped(p, first->who.identity), "</b>, about ",
                  number(p, first->last_minute), " times by ", escaped(p, first->who.rule), ".",
                  NULL);
}

static void print_denials(const page *p)
{
    const char *rule = foremost(p, denied), *trial = foremost(p, shadowed);

    if (!rule)
        ap_rvputs(p->r, "<p>Nobody was denied ", p->span, ".</p>\n", NULL);
    else {
        ap_rvputs(p->r, "<p class=\"busy\"><b>", number(p, total(p, p->recent, denied)),
                  " denials</b> ", p->span, ", most by the rule <b>", escaped(p, rule), "</b>.",
                  NULL);
        print_foremost_client(p);
        ap_rputs(" If these are good clients: raise the quota, or let all pass for now with "
                 "<code>RateLimitEngine shadow</code>, and reload.</p>\n", p->r);
    }
    if (trial)
        ap_rvputs(p->r, "<p class=\"note\">", number(p, total(p, p->recent, shadowed)),
                  " would have been denied ", p->span, " by shadow rules, most by <b>",
                  escaped(p, trial), "</b>.</p>\n", NULL);
}

static const char *on_failure(const page *p)
{
    const rl_settings *settings = p->tiers->settings;

    return settings->on_failure == RL_FAIL_OPEN ? "requests pass uncounted"
         : settings->on_failure == RL_FAIL_CLOSED ? "requests are refused with 503"
         : settings->nodes == 1 ? "this host counts alone, with the whole of each quota"
         : apr_psprintf(p->r->pool, "this host counts alone, with 1/%" APR_INT64_T_FMT
                        " of each quota", settings->nodes);
}

static void print_redis_summary(const page *p)
{
    const rl_topology *node = p->tiers->settings->redis;
    uint64_t failed = failures(p->recent);

    if (!node) {
        ap_rputs("<p class=\"note\">No Redis: this host counts alone.</p>\n", p->r);
        return;
    }
    if (is_redis_down(p))
        ap_rvputs(p->r, "<p class=\"bad\"><b>Redis at ", escaped(p, node->name),
                  rl_breaker_read(p->tiers->breaker) == RL_BREAKER_OPEN
                      ? " is not asked: the breaker is open." : " is coming back.",
                  "</b> Until it answers in time, ", on_failure(p), " unless a rule says otherwise. "
                  "The error log says why; <code>redis-cli ping</code> from this host says whether "
                  "it lives. It is tried again by itself.</p>\n", NULL);
    else if (failed)
        ap_rvputs(p->r, "<p class=\"", failed * 100 > p->recent->redis[RL_ANSWERED] ? "bad" : "busy",
                  "\"><b>Redis at ", escaped(p, node->name), " answers, but not always:</b> ",
                  number(p, failed), " of ", number(p, failed + p->recent->redis[RL_ANSWERED]),
                  " decisions fell back ", p->span, ", for which ", on_failure(p),
                  " unless a rule says otherwise. Late: Redis or the network is slow, or "
                  "<code>RateLimitRedisTimeout</code> too short.</p>\n", NULL);
    else
        ap_rvputs(p->r, "<p>Redis at ", escaped(p, node->name), " is well: ",
                  number(p, p->recent->redis[RL_ANSWERED]), " answers ", p->span,
                  p->recent->redis[RL_ANSWERED] ? ", 99 % of them within " : "",
                  p->recent->redis[RL_ANSWERED] ? duration(p, rl_stats_quantile(p->recent, 990))
                                                : "", ".</p>\n", NULL);
}

static void print_local_summary(const page *p)
{
    const rl_local_stats *local = &p->local;
    int pressed = local->evictions > 0;

    ap_rvputs(p->r, pressed ? "<p class=\"busy\">" : "<p>", "Memory holds ",
              number(p, local->entries), " of at most ", number(p, local->capacity), " counts; ",
              number(p, local->evictions), " live ones had to make room since the start", NULL);
    ap_rputs(pressed ? ": if that goes on, raise <code>RateLimitSharedMemory</code> and restart."
                       "</p>\n" : ".</p>\n", p->r);
    if (p->start->log[RL_LOG_LOST])
        ap_rvputs(p->r, "<p class=\"bad\">", number(p, p->start->log[RL_LOG_LOST]),
                  " lines of the violation log were lost since the start: its disk is full, or its "
                  "program does not read.</p>\n", NULL);
}

/* --- Rules -------------------------------------------------------------------------------- */

static uint64_t heat(const page *p, int row)
{
    return denied(p->recent, row) + shadowed(p->recent, row);
}

static void print_rules_head(const page *p)
{
    size_t recent = 0;

    for (size_t i = 0; i < COLUMNS; i++)
        recent += columns[i].recent != 0;
    ap_rprintf(p->r, "<table>\n<thead><tr><th rowspan=\"2\">Rule</th><th colspan=\"%d\">%s</th>"
               "<th colspan=\"%d\">Since the start</th></tr>\n<tr>", (int)recent,
               p->recent_ms ? "Last minute" : "Now", (int)COLUMNS);
    for (size_t i = 0; i < COLUMNS; i++) {
        if (columns[i].recent)
            ap_rprintf(p->r, "<th class=\"number\">%s</th>", columns[i].title);
    }
    for (size_t i = 0; i < COLUMNS; i++)
        ap_rprintf(p->r, "<th>%s</th>", columns[i].title);
    ap_rputs("</tr></thead>\n<tbody>\n", p->r);
}

static void print_rule(const page *p, int row)
{
    ap_rvputs(p->r, heat(p, row) ? "<tr class=\"hot\">" : "<tr>", "<td title=\"Rule\">",
              escaped(p, rl_stats_name(p->tiers->stats, row)), "</td>", NULL);
    for (size_t i = 0; i < COLUMNS; i++) {
        if (columns[i].recent)
            print_cell(p, apr_pstrcat(p->r->pool, columns[i].title, ", last minute", NULL),
                       number(p, columns[i].value(p->recent, row)));
    }
    for (size_t i = 0; i < COLUMNS; i++)
        print_cell(p, columns[i].title, number(p, columns[i].value(p->start, row)));
    ap_rputs("</tr>\n", p->r);
}

/* Those that deny now first, the most first; the others as the configuration has them. */
static void print_rules(const page *p)
{
    char printed[RL_STATS_ROWS] = {0};

    if (!rl_stats_name(p->tiers->stats, 0)) {
        ap_rputs("<p class=\"note\">There is no rule.</p>\n", p->r);
        return;
    }
    print_rules_head(p);
    for (;;) {
        int next = -1;

        for (int row = 0; rl_stats_name(p->tiers->stats, row); row++) {
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

static const char *const failure_titles[RL_FAILURES] = {
    "Answered", "Breaker open", "No connection", "Too many", "Late", "Lost", "Refused", "Nonsense"
};

static void print_redis_row(const page *p, const char *name, const rl_stats_counts *counts)
{
    static const int per_mille[] = {500, 950, 990};

    ap_rvputs(p->r, failures(counts) ? "<tr class=\"hot\">" : "<tr>", "<td>", name, "</td>", NULL);
    for (int i = 0; i < RL_FAILURES; i++)
        print_cell(p, failure_titles[i], number(p, counts->redis[i]));
    for (size_t i = 0; i < 3; i++)
        print_cell(p, apr_psprintf(p->r->pool, "p%d", per_mille[i] / 10),
                   duration(p, rl_stats_quantile(counts, per_mille[i])));
    ap_rputs("</tr>\n", p->r);
}

static void print_redis(const page *p)
{
    static const char *const states[] = {"closed", "open", "ramping"};
    const rl_breaker *breaker = p->tiers->breaker;

    if (!p->tiers->settings->redis)
        return;
    ap_rputs("<table>\n<thead><tr><th>Redis node</th><th>Breaker</th><th>Opened</th></tr></thead>\n"
             "<tbody>\n", p->r);
    ap_rvputs(p->r, is_redis_down(p) ? "<tr class=\"hot\">" : "<tr>", "<td title=\"Redis node\">",
              escaped(p, p->tiers->settings->redis->name), "</td>", NULL);
    print_cell(p, "Breaker", states[rl_breaker_read(breaker)]);
    print_cell(p, "Opened", apr_pstrcat(p->r->pool, number(p, breaker->opened), " times", NULL));
    ap_rputs("</tr>\n</tbody>\n</table>\n<table>\n<thead><tr><th>Decisions by Redis</th>", p->r);
    for (int i = 0; i < RL_FAILURES; i++)
        ap_rprintf(p->r, "<th>%s</th>", failure_titles[i]);
    ap_rputs("<th>Wait p50</th><th>p95</th><th>p99</th></tr></thead>\n<tbody>\n", p->r);
    if (p->recent_ms)
        print_redis_row(p, "Last minute", p->recent);
    print_redis_row(p, "Since the start", p->start);
    ap_rputs("</tbody>\n</table>\n", p->r);
}

/* --- Who ---------------------------------------------------------------------------------- */

static void print_identity(const page *p, const rl_denied_entry *entry)
{
    const rl_denied_who *who = &entry->who;

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

static void print_most_denied(const page *p)
{
    if (!ap_extended_status)
        ap_rputs("<p class=\"note\">Who it is stands here with <code>ExtendedStatus On</code>.</p>\n",
                 p->r);
    if (!p->denied_count)
        return;
    ap_rputs("<table>\n<thead><tr><th>Most denied</th><th class=\"text\">Rule</th>"
             "<th class=\"text\">Limit</th><th>Last minute</th><th>Since listed</th><th>Listed</th>"
             "<th>Last denied</th><th class=\"text\">Decided by</th><th class=\"text\">Address</th>"
             "<th class=\"text\">Shadow</th></tr></thead>\n<tbody>\n", p->r);
    for (int i = 0; i < p->denied_count && i < MOST_DENIED; i++)
        print_identity(p, &p->denied[i]);
    ap_rputs("</tbody>\n</table>\n", p->r);
    if (p->tiers->settings->redis)
        ap_rvputs(p->r, "<p class=\"note\">All counters of one: <code>redis-cli --scan --pattern '",
                  escaped(p, p->tiers->settings->prefix), ":{",
                  escaped(p, p->denied[0].who.identity), "}:*'</code>; <code>DEL</code> lets it in "
                  "again within a second or so.</p>\n", NULL);
}

/* --- The page ----------------------------------------------------------------------------- */

int rl_status(request_rec *r, int flags, const rl_tiers *tiers)
{
    page p = {.r = r, .tiers = tiers, .host_ms = rl_local_clock()};

    p.start = apr_palloc(r->pool, sizeof(*p.start));
    rl_stats_read(tiers->stats, p.start);
    rl_local_read_stats(tiers->local, &p.local);
    if (flags & AP_STATUS_SHORT) {
        print_lines(&p);
        return OK;
    }
    p.recent = apr_pmemdup(r->pool, p.start, sizeof(*p.start));
    p.recent_ms = rl_stats_recent(tiers->stats, p.host_ms, p.recent);
    p.span = p.recent_ms ? "in the last minute" : "since the start";
    ap_rvputs(r, "<hr />\n<div class=\"rl\">\n<h2 id=\"ratelimit\">Rate limits</h2>\n", style, NULL);
    collect_denied(&p);
    print_denials(&p);
    print_redis_summary(&p);
    print_local_summary(&p);
    print_rules(&p);
    print_most_denied(&p);
    print_redis(&p);
    ap_rputs("</div>\n", r);
    return OK;
}
