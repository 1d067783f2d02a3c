/* SPDX-License-Identifier: Apache-2.0 */
/*
 * violation: denials, in the log.
 *
 * A flood of denials must not become a flood of lines: an identity that is denied again and again
 * is logged once and then by count. The count is kept in the identity's entry of the local tier and
 * costs a few atomic additions per denial.
 *
 * The line with the count is written by the first denial after it is due. If no denial follows,
 * httpd's parent writes it. Every ten seconds, under every MPM, and once more when httpd ends, the
 * parent goes through the table of the most denied, which has the texts that a line needs.
 */
#include <apr_lib.h>
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "httpd/log_file.h"
#include "observe/log_line.h"
#include "observe/violation.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

static void write_line(const rl_log_file *log, const rl_context *context, const rl_log_line *line)
{
    char bytes[RL_LOG_FILE_LINE];
    size_t length = rl_log_line_print(line, log, bytes);

    rl_stats_count_log(context->stats, rl_log_file_write(log, bytes, length) ? RL_LOG_WRITTEN
                                                                             : RL_LOG_LOST);
}

/* --- Denials ------------------------------------------------------------------------------ */

static void fill_in_denied(rl_top_denied_details *denied, const request_rec *r, const rl_outcome *o,
                           const char *identity, const rl_log_file *log)
{
    memset(denied, 0, sizeof(*denied));
    apr_cpystrn(denied->identity, identity, sizeof(denied->identity));
    apr_cpystrn(denied->rule, o->rule->name, sizeof(denied->rule));
    apr_cpystrn(denied->address, r->useragent_ip, sizeof(denied->address));
    apr_cpystrn(denied->limit, o->rule->text, sizeof(denied->limit));
    denied->quota = o->limit.quota;
    denied->window_ms = o->limit.window_ms;
    denied->algorithm = o->limit.algorithm;
    denied->source = o->source;
    denied->shadow = o->shadow != 0;
    denied->log = log ? log->id : 0;
}

static const char *retry_text(apr_pool_t *pool, int64_t wait_ms)
{
    return wait_ms == RL_NEVER ? "never" : apr_psprintf(pool, "%" APR_INT64_T_FMT "ms", wait_ms);
}

static const char *verdict_text(const rl_top_denied_details *denied)
{
    return denied->shadow ? "would deny (shadow)" : "denied";
}

static void write_to_error_log(request_rec *r, const rl_log_line *line)
{
    const rl_top_denied_details *denied = line->denied;

    ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                  "ratelimit: %s rule=%s limit=%s algorithm=%s identity=%s source=%s "
                  "retry-after=%s denials=%u method=%s path=%s",
                  verdict_text(denied), denied->rule, denied->limit,
                  rl_algorithms[denied->algorithm].name, line->identity,
                  rl_source_names[denied->source], retry_text(r->pool, line->retry_after_ms),
                  line->denials, r->method, r->uri);
}

static void write_to_log(request_rec *r, const rl_log_file *log, const rl_context *context,
                         rl_log_line *line, rl_chain *chain)
{
    line->method = r->method;
    line->host = r->hostname ? r->hostname : r->server->server_hostname;
    line->path = rl_evaluation_path(&chain->evaluation);
    line->request_id = apr_table_get(r->subprocess_env, "UNIQUE_ID");
    write_line(log, context, line);
}

static void log_outcome(request_rec *r, const rl_context *context, rl_chain *chain, rl_outcome *o)
{
    int64_t now_ms = rl_local_clock();
    const rl_log_file *log = rl_config_log(r->server, context->settings);
    uint32_t denials = rl_local_report(context->local, o->key, now_ms,
                                       log ? log->every_ms : RL_LOG_FILE_EVERY_MS);
    rl_top_denied_details denied;
    rl_log_line line;

    rl_top_denied_count(context->top_denied, o->key, now_ms);
    if (!denials)
        return;
    line = (rl_log_line){.denied = &denied, .identity = rl_chain_identity_text(chain, o),
                         .denials = denials, .retry_after_ms = rl_outcome_retry_after(o)};
    fill_in_denied(&denied, r, o, line.identity, log);
    rl_top_denied_enter(context->top_denied, o->key, &denied, denials, now_ms);
    if (log && log->file)
        write_to_log(r, log, context, &line, chain);
    else
        write_to_error_log(r, &line);
}

void rl_violation_log(request_rec *r, const rl_context *context, rl_chain *chain)
{
    for (rl_outcome *o = chain->first; o; o = o->next) {
        if (!o->denies || o->reported)
            continue;
        o->reported = 1;
        log_outcome(r, context, chain, o);
    }
}

/* --- Counts without a further denial ------------------------------------------------------ */

static const rl_log_file *log_with(uint32_t id)
{
    apr_array_header_t *logs = rl_config_logs();

    for (int i = 0; i < logs->nelts; i++) {
        const rl_log_file *log = APR_ARRAY_IDX(logs, i, const rl_log_file *);

        if (log->id == id && log->file)
            return log;
    }
    return NULL;
}

static void log_count(server_rec *s, const rl_context *context, const rl_log_file *log,
                      const rl_log_line *line)
{
    const rl_top_denied_details *denied = line->denied;

    if (log) {
        write_line(log, context, line);
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s,
                 "ratelimit: %s rule=%s limit=%s algorithm=%s identity=%s source=%s "
                 "denials=%u address=%s, and none since",
                 verdict_text(denied), denied->rule, denied->limit,
                 rl_algorithms[denied->algorithm].name, denied->identity,
                 rl_source_names[denied->source], line->denials, denied->address);
}

void rl_violation_flush(server_rec *s, const rl_context *context, int all)
{
    int64_t now_ms = rl_local_clock();
    rl_top_denied_entry entry;

    for (int i = 0; i < RL_DENIED_MAX; i++) {
        rl_log_line line = {.denied = &entry.details, .retry_after_ms = RL_LOG_LINE_UNKNOWN};
        const rl_log_file *log;
        int64_t every_ms;

        if (!rl_top_denied_read(context->top_denied, i, now_ms, &entry))
            continue;
        line.identity = entry.details.identity;
        log = log_with(entry.details.log);
        every_ms = all ? -1 : log ? log->every_ms : RL_LOG_FILE_EVERY_MS;
        line.denials = rl_local_unreported(context->local, entry.key, now_ms, every_ms);
        if (line.denials)
            log_count(s, context, log, &line);
    }
}
