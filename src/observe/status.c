/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status: what the module shows of itself in server-status.
 *
 * Numbers come from shared memory as they are at the moment; nothing here takes a lock or asks
 * Redis. What is shown is data, tables of columns and of named numbers. For people it is made a
 * page, see status_html.c. Programs get lines of ?auto: a name without blanks, a colon, a number, all
 * since the start.
 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>
#include <mod_status.h>

#include "observe/status.h"
#include "observe/status_html.h"

/* --- Columns ------------------------------------------------------------------------------ */

#define ANY (-1)
#define RECENT_MS 60000

const rl_page_column rl_page_columns[RL_COLUMNS] = {
    [RL_COLUMN_REQUESTS] = {"Requests", "Requests", ANY, ANY, 1},
    [RL_COLUMN_PASSED] = {"Passed", "Passed", RL_PASSED, ANY, 0},
    [RL_COLUMN_DENIED] = {"Denied", "Denied", RL_DENIED, ANY, 1},
    [RL_COLUMN_SHADOWED] = {"Shadowed", "Shadowed", RL_SHADOWED, ANY, 1},
    [RL_COLUMN_EXEMPT] = {"Exempt", "Exempt", RL_EXEMPT, ANY, 0},
    [RL_COLUMN_FROM_MEMORY] = {"FromMemory", "From memory", ANY, RL_SOURCE_LOCAL, 0},
    [RL_COLUMN_ASKED] = {"Asked", "Asked Redis", ANY, RL_SOURCE_REDIS, 0},
    [RL_COLUMN_FALLBACK] = {"Fallback", "Fallback", ANY, RL_SOURCE_FALLBACK, 1}
};

uint64_t rl_page_value(const rl_stats_counts *counts, int row, rl_column column)
{
    const rl_page_column *c = &rl_page_columns[column];
    uint64_t sum = 0;

    if (c->source != ANY)
        return rl_stats_of_source(counts, row, (rl_source)c->source);
    for (int i = 0; i < RL_VERDICTS; i++) {
        if (c->verdict == ANY || c->verdict == i)
            sum += rl_stats_of_verdict(counts, row, (rl_verdict)i);
    }
    return sum;
}

uint64_t rl_page_total(const rl_page *p, const rl_stats_counts *counts, rl_column column)
{
    uint64_t sum = 0;

    for (int row = 0; rl_stats_name(p->context->stats, row); row++)
        sum += rl_page_value(counts, row, column);
    return sum;
}

/* --- Lines -------------------------------------------------------------------------------- */

static void print_line(const rl_page *p, const char *name, uint64_t value)
{
    ap_rprintf(p->r, "RateLimit%s: %" APR_UINT64_T_FMT "\n", name, value);
}

static void print_redis_lines(const rl_page *p)
{
    static const struct {
        const char *name;
        int per_mille;
    } quantiles[] = {{"RedisWaitP50Us", 500}, {"RedisWaitP95Us", 950}, {"RedisWaitP99Us", 990},
                     {"RedisWaitP999Us", 999}};
    uint64_t open = 0, ramping = 0, opened = 0;
    char name[RL_BREAKER_NAME];
    rl_breaker *breaker;

    for (int i = 0; (breaker = rl_breaker_at(p->context->breakers, i, name)); i++) {
        open += rl_breaker_read(breaker) == RL_BREAKER_OPEN;
        ramping += rl_breaker_read(breaker) == RL_BREAKER_RAMPING;
        opened += breaker->opened;
    }
    print_line(p, "RedisBreakerOpen", open);
    print_line(p, "RedisBreakerRamping", ramping);
    print_line(p, "RedisBreakerOpened", opened);
    for (int i = 0; i < RL_FAILURES; i++)
        print_line(p, rl_failure_texts[i].line, p->start->redis[i]);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
        print_line(p, quantiles[i].name,
                   (uint64_t)rl_stats_quantile(p->start, quantiles[i].per_mille));
}

static void print_lines(const rl_page *p)
{
    const char *name;

    for (int i = 0; i < RL_COLUMNS; i++)
        print_line(p, rl_page_columns[i].name, rl_page_total(p, p->start, (rl_column)i));
    for (int row = 0; (name = rl_stats_name(p->context->stats, row)); row++) {
        for (int i = 0; i < RL_COLUMNS; i++)
            print_line(p, apr_pstrcat(p->r->pool, "[", name, "]", rl_page_columns[i].name, NULL),
                       rl_page_value(p->start, row, (rl_column)i));
    }
    if (p->context->settings->redis)
        print_redis_lines(p);
    print_line(p, "LocalCapacity", p->local.capacity);
    print_line(p, "LocalEntries", p->local.entries);
    print_line(p, "LocalEvictions", p->local.evictions);
    print_line(p, "LogLines", p->start->log[RL_LOG_WRITTEN]);
    print_line(p, "LogLost", p->start->log[RL_LOG_LOST]);
}

/* --- The page ----------------------------------------------------------------------------- */

int rl_status(request_rec *r, int flags, const rl_context *context)
{
    rl_page p = {.r = r, .context = context, .host_ms = rl_local_clock()};

    if (!context->local) {
        if (flags & AP_STATUS_SHORT)
            print_line(&p, "LocalCapacity", 0);
        else
            rl_page_print_no_memory(r);
        return OK;
    }
    p.start = apr_palloc(r->pool, sizeof(*p.start));
    rl_stats_read(context->stats, p.start);
    rl_local_read_stats(context->local, &p.local);
    if (flags & AP_STATUS_SHORT) {
        print_lines(&p);
        return OK;
    }
    p.recent = apr_pmemdup(r->pool, p.start, sizeof(*p.start));
    p.recent_ms = rl_stats_recent(context->stats, p.host_ms, p.recent);
    if (p.recent_ms > 2 * RECENT_MS) { /* nobody keeps the past: a server of one process */
        p.recent = p.start;
        p.recent_ms = 0;
    }
    p.span = p.recent_ms ? "in the last minute" : "since the start";
    rl_page_print(&p);
    return OK;
}
