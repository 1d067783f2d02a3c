/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics: what the module shows of itself to Prometheus.
 *
 * One table says what there is: a name, a type, a unit, a help text, and a function that prints the
 * samples. Both formats are made from it; they differ in the headers of a family and in the end.
 * Labels are names of rules, of nodes and of what went wrong: never anything of a client's, of
 * which there is no end.
 *
 * Counters are those of the shared memory and grow until httpd is stopped.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>
#include <http_request.h>

#include "observe/metrics.h"
#include "response/reply.h"

#define PREFIX "apache_ratelimit_"

typedef struct {
    request_rec *r;
    const rl_context *context;
    rl_stats_counts *counts;
    rl_local_stats local;
    int open; /* OpenMetrics */
} scrape;

/* --- Samples ------------------------------------------------------------------------------ */

/* name is the whole one, labels the text between braces, or "". */
static void sample(const scrape *s, const char *name, const char *labels, uint64_t value)
{
    ap_rprintf(s->r, *labels ? "%s{%s} %" APR_UINT64_T_FMT "\n" : "%s%s %" APR_UINT64_T_FMT "\n",
               name, labels, value);
}

/* name="value", with what the formats want escaped in a value. */
static const char *label(apr_pool_t *pool, const char *name, const char *value)
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

static void requests(const scrape *s, const char *name)
{
    const char *rule;

    for (int row = 0; (rule = rl_stats_name(s->context->stats, row)); row++) {
        const char *of_rule = label(s->r->pool, "rule", rule);

        for (int verdict = 0; verdict < RL_VERDICTS; verdict++) {
            for (int source = 0; source < RL_SOURCES; source++) {
                if (source != RL_SOURCE_LEASE)
                    sample(s, name,
                           apr_pstrcat(s->r->pool, of_rule, ",verdict=\"",
                                       rl_verdict_names[verdict], "\",source=\"",
                                       rl_source_names[source], "\"", NULL),
                           s->counts->rows[row][verdict][source]);
            }
        }
    }
}

/* µs in seconds, at least one digit behind the point: 0.00005, 1.0 */
static const char *seconds(apr_pool_t *pool, uint64_t us)
{
    char *text = apr_psprintf(pool, "%" APR_UINT64_T_FMT ".%06d", us / 1000000,
                              (int)(us % 1000000));
    char *end = text + strlen(text) - 1;

    while (*end == '0' && end[-1] != '.')
        *end-- = '\0';
    return text;
}

static void redis_duration(const scrape *s, const char *name)
{
    const char *bucket = apr_pstrcat(s->r->pool, name, "_bucket", NULL);
    uint64_t seen = 0;

    for (int i = 0; i < RL_STATS_BOUNDS; i++) {
        const char *bound = seconds(s->r->pool, (uint64_t)rl_stats_bounds_us[i]);

        seen += s->counts->bounded[i];
        sample(s, bucket, label(s->r->pool, "le", bound), seen);
    }
    seen += s->counts->bounded[RL_STATS_BOUNDS];
    sample(s, bucket, "le=\"+Inf\"", seen);
    ap_rvputs(s->r, name, "_sum ", seconds(s->r->pool, s->counts->waited_us), "\n", NULL);
    sample(s, apr_pstrcat(s->r->pool, name, "_count", NULL), "", seen);
}

static void redis_answers(const scrape *s, const char *name)
{
    sample(s, name, "", s->counts->redis[RL_ANSWERED]);
}

static void redis_errors(const scrape *s, const char *name)
{
    for (int i = RL_ANSWERED + 1; i < RL_FAILURES; i++)
        sample(s, name, label(s->r->pool, "kind", rl_failure_texts[i].metric),
               s->counts->redis[i]);
}

/* By the first word of what it said, as in "OOM command not allowed". */
static void redis_replies(const scrape *s, const char *name)
{
    for (int i = 0; i < RL_ERROR_KINDS; i++)
        sample(s, name, label(s->r->pool, "error", rl_errors[i].metric),
               s->context->breakers->errors[i]);
}

static void breaker_state(const scrape *s, const char *name)
{
    char node[RL_BREAKER_NAME];
    rl_breaker *breaker;

    for (int i = 0; (breaker = rl_breaker_at(s->context->breakers, i, node)); i++)
        sample(s, name, label(s->r->pool, "node", node), (uint64_t)rl_breaker_read(breaker));
}

static void breaker_opens(const scrape *s, const char *name)
{
    char node[RL_BREAKER_NAME];
    rl_breaker *breaker;

    for (int i = 0; (breaker = rl_breaker_at(s->context->breakers, i, node)); i++)
        sample(s, name, label(s->r->pool, "node", node), breaker->opened);
}

static void local_entries(const scrape *s, const char *name)
{
    sample(s, name, "", s->local.entries);
}

static void local_capacity(const scrape *s, const char *name)
{
    sample(s, name, "", s->local.capacity);
}

static void local_evictions(const scrape *s, const char *name)
{
    sample(s, name, "", s->local.evictions);
}

static void log_lines(const scrape *s, const char *name)
{
    sample(s, name, "fate=\"written\"", s->counts->log[RL_LOG_WRITTEN]);
    sample(s, name, "fate=\"lost\"", s->counts->log[RL_LOG_LOST]);
}

/* --- The table ---------------------------------------------------------------------------- */

static const struct {
    const char *name; /* of the family, without "_total" */
    const char *type;
    const char *unit; /* what the name ends with; "" for a number of a state */
    int of_redis;     /* there only where there is Redis */
    const char *help;
    void (*print)(const scrape *s, const char *name);
} families[] = {
    {PREFIX "requests", "counter", "requests", 0,
     "Requests under a rule, by what became of them and who decided.", requests},
    {PREFIX "redis_duration_seconds", "histogram", "seconds", 1,
     "What requests waited for Redis to decide; those that did not ask are not in it.",
     redis_duration},
    {PREFIX "redis_answers", "counter", "answers", 1,
     "Requests that Redis decided in time.", redis_answers},
    {PREFIX "redis_errors", "counter", "errors", 1,
     "Requests that Redis should have decided and did not, by the reason.", redis_errors},
    {PREFIX "redis_error_replies", "counter", "replies", 1,
     "Errors that Redis answered, by kind.", redis_replies},
    {PREFIX "breaker_state", "gauge", "", 1,
     "Whether the node of Redis is asked: 0 yes, 1 no, 2 by a growing share of requests.",
     breaker_state},
    {PREFIX "breaker_opens", "counter", "opens", 1,
     "How often the breaker of a node of Redis opened.", breaker_opens},
    {PREFIX "local_entries", "gauge", "entries", 0,
     "Counts held in the shared memory of this host, live or expired.", local_entries},
    {PREFIX "local_capacity_entries", "gauge", "entries", 0,
     "Counts that fit in the shared memory of this host.", local_capacity},
    {PREFIX "local_evictions", "counter", "evictions", 0,
     "Live counts that had to make room for others.", local_evictions},
    {PREFIX "log_lines", "counter", "lines", 0,
     "Lines of violation logs, written and lost.", log_lines}
};

static void print_families(const scrape *s)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        const char *name = families[i].name, *total = name;

        if (families[i].of_redis && !s->context->settings->redis)
            continue;
        if (!strcmp(families[i].type, "counter"))
            total = apr_pstrcat(s->r->pool, name, "_total", NULL);
        if (!s->open)
            name = total; /* there a family has the name of its samples */
        ap_rvputs(s->r, "# HELP ", name, " ", families[i].help, "\n# TYPE ", name, " ",
                  families[i].type, "\n", NULL);
        if (s->open && *families[i].unit)
            ap_rvputs(s->r, "# UNIT ", name, " ", families[i].unit, "\n", NULL);
        families[i].print(s, total);
    }
    if (s->open)
        ap_rputs("# EOF\n", s->r);
}

/* --- The handler -------------------------------------------------------------------------- */

/* Whether the client likes OpenMetrics at least as well as plain text (RFC 9110 §12.5.1). */
static int prefers_open(request_rec *r)
{
    const char *accept = apr_table_get(r->headers_in, "Accept"), *item;
    int open = 0, plain = 0;

    while (accept && (item = ap_get_list_item(r->pool, &accept))) {
        size_t length = strcspn(item, ";");
        int weight = rl_reply_weight(item + length);

        if (length == 28 && !strncmp(item, "application/openmetrics-text", 28))
            open = weight > open ? weight : open;
        else if (length == 10 && !strncmp(item, "text/plain", 10))
            plain = weight > plain ? weight : plain;
    }
    return open > 0 && open >= plain;
}

int rl_metrics(request_rec *r, const rl_context *context)
{
    scrape s = {.r = r, .context = context, .open = prefers_open(r)};

    if (r->method_number != M_GET) {
        ap_allow_methods(r, REPLACE_ALLOW, "GET", "HEAD", NULL);
        return HTTP_METHOD_NOT_ALLOWED;
    }
    s.counts = apr_palloc(r->pool, sizeof(*s.counts));
    rl_stats_read(context->stats, s.counts);
    rl_local_read_stats(context->local, &s.local);
    ap_set_content_type(r, s.open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                  : "text/plain; version=0.0.4; charset=utf-8");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    apr_table_mergen(r->headers_out, "Vary", "Accept");
    print_families(&s);
    return OK;
}
