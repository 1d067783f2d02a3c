/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>

#include "observe/status_summary.h"

/* --- Denials ------------------------------------------------------------------------------ */

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

/* The identity that is denied most in the last minute, not by a shadow rule. */
static void print_most_denied(const rl_status_page *p)
{
    const rl_top_denied_entry *first = p->denied, *end = p->denied + p->denied_count;

    while (first < end && first->details.shadow)
        first++;
    if (first < end && first->last_minute)
        ap_rvputs(p->r, " Most denied: <b>", rl_page_escaped(p, first->details.identity),
                  "</b>, about ", rl_page_number(p, first->last_minute), " times by ",
                  rl_page_escaped(p, first->details.rule), ".", NULL);
}

static void print_denials(const rl_status_page *p)
{
    const char *rule = foremost(p, RL_COLUMN_DENIED), *trial = foremost(p, RL_COLUMN_SHADOWED);

    if (!rule)
        ap_rvputs(p->r, "<p>No request was denied ", p->span, ".</p>\n", NULL);
    else {
        ap_rvputs(p->r, "<p class=\"busy\"><b>",
                  rl_page_number(p, rl_column_total(&p->recent, RL_COLUMN_DENIED)),
                  " denials</b> ", p->span, ", most by the rule <b>", rl_page_escaped(p, rule),
                  "</b>.", NULL);
        print_most_denied(p);
        ap_rputs(" If these clients should not be denied: raise the quota, or set "
                 "<code>RateLimitEngine shadow</code> for now, and reload.</p>\n", p->r);
    }
    if (trial)
        ap_rvputs(p->r, "<p class=\"note\">",
                  rl_page_number(p, rl_column_total(&p->recent, RL_COLUMN_SHADOWED)),
                  " requests would have been denied ", p->span, " by shadow rules, most by <b>",
                  rl_page_escaped(p, trial), "</b>.</p>\n", NULL);
}

/* --- Redis -------------------------------------------------------------------------------- */

/* What happens to requests that Redis does not decide. */
static const char *on_failure(const rl_status_page *p)
{
    const rl_settings *settings = p->start.context->settings;

    return settings->on_failure == RL_FAIL_OPEN ? "requests pass uncounted"
         : settings->on_failure == RL_FAIL_CLOSED ? "requests are refused with 503"
         : settings->nodes == 1 ? "this host counts alone, with the whole of each quota"
         : apr_psprintf(p->r->pool, "this host counts alone, with 1/%" APR_INT64_T_FMT
                        " of each quota", settings->nodes);
}

/* A sentence for each node whose breaker is not closed; returns the number of these nodes. */
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
        if (state == RL_BREAKER_RAMPING)
            ap_rvputs(p->r, "<p class=\"bad\"><b>Redis at ", rl_page_escaped(p, name),
                      " answers again.</b> A growing share of requests asks it; for the others ",
                      on_failure(p), " unless a rule has <code>on-failure=</code>.</p>\n", NULL);
        else
            ap_rvputs(p->r, "<p class=\"bad\"><b>Redis at ", rl_page_escaped(p, name),
                      " is not asked: its breaker is open.</b> Until it answers in time, ",
                      on_failure(p), " unless a rule has <code>on-failure=</code>. The error log "
                      "has the reason; <code>redis-cli ping</code> on this host shows whether "
                      "Redis runs. The module retries without a reload.</p>\n", NULL);
    }
    return down;
}

static void print_redis_summary(const rl_status_page *p)
{
    uint64_t failed = rl_page_failures(p->recent.counts);
    uint64_t answered = p->recent.counts->redis[RL_ANSWERED];

    if (!p->start.context->settings->redis) {
        ap_rputs("<p class=\"note\">No Redis: this host counts alone.</p>\n", p->r);
        return;
    }
    if (print_nodes_down(p))
        return;
    if (failed)
        ap_rvputs(p->r, failed * 100 > answered ? "<p class=\"bad\">" : "<p class=\"busy\">",
                  "<b>Redis at ", rl_page_escaped(p, p->start.context->settings->redis->name),
                  " does not always answer:</b> ", rl_page_number(p, failed), " of ",
                  rl_page_number(p, failed + answered), " decisions were left to fallback ",
                  p->span, ": then ", on_failure(p), " unless a rule has <code>on-failure=</code>. "
                  "If answers are late, Redis or the network is slow, or "
                  "<code>RateLimitRedisTimeout</code> is too short.</p>\n", NULL);
    else
        ap_rvputs(p->r, "<p>Redis at ", rl_page_escaped(p, p->start.context->settings->redis->name),
                  " is well: ", rl_page_number(p, answered), " answers ", p->span,
                  answered ? ", 99 % of them within " : "",
                  answered ? rl_page_duration(p, rl_stats_quantile(p->recent.counts, 990)) : "",
                  ".</p>\n", NULL);
}

/* --- Memory and logs ---------------------------------------------------------------------- */

static void print_local_summary(const rl_status_page *p)
{
    const rl_local_stats *local = &p->start.local;
    apr_size_t wanted = p->start.context->settings->shared_memory;
    int pressed = local->evictions > 0;

    if (p->start.context->local_size != wanted)
        ap_rvputs(p->r, "<p class=\"bad\">The system did not give the ", rl_page_number(p, wanted),
                  " bytes of <code>RateLimitSharedMemory</code>: ",
                  rl_page_number(p, p->start.context->local_size),
                  " are in use. Free memory, or lower the size, and reload.</p>\n", NULL);

    ap_rvputs(p->r, pressed ? "<p class=\"busy\">" : "<p>", "The local tier has ",
              rl_page_number(p, local->entries), " entries and room for ",
              rl_page_number(p, local->capacity), "; ", rl_page_number(p, local->evictions),
              " live entries were removed since the start to make room", NULL);
    ap_rputs(pressed ? ". If the number grows, raise <code>RateLimitSharedMemory</code> and reload."
                       "</p>\n" : ".</p>\n", p->r);
    if (p->start.counts->log[RL_LOG_LOST])
        ap_rvputs(p->r, "<p class=\"bad\">", rl_page_number(p, p->start.counts->log[RL_LOG_LOST]),
                  " lines of the violation log were lost since the start: the disk is full, or the "
                  "program does not read fast enough.</p>\n", NULL);
}

void rl_status_summary_print(const rl_status_page *p)
{
    print_denials(p);
    print_redis_summary(p);
    print_local_summary(p);
}
