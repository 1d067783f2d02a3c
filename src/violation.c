/*
 * violation: who was denied, in the log.
 *
 * A flood must not become a flood of lines, so who is denied again and again is reported once and
 * then by number; the count is kept in the identity's entry of the local tier. Under a flood this
 * costs an atomic add per denial.
 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "violation.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

static const char *retry_text(apr_pool_t *pool, const rl_outcome *o)
{
    int64_t wait_ms = rl_decide_retry_after(o);

    return wait_ms == RL_NEVER ? "never" : apr_psprintf(pool, "%" APR_INT64_T_FMT "ms", wait_ms);
}

void rl_violation_log(request_rec *r, rl_local *local, const rl_outcome *o)
{
    uint32_t denials = rl_local_report(local, o->key, rl_local_clock(), RL_VIOLATION_EVERY_MS);
    rl_chain *chain = rl_decide_chain(r);

    if (!denials)
        return;
    ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                  "ratelimit: %s rule=%s limit=%s algorithm=%s identity=%s source=%s "
                  "retry-after=%s denials=%u method=%s path=%s",
                  o->shadow ? "would deny (shadow)" : "denied", o->rule->name, o->rule->text,
                  rl_rule_algorithm_name(o->limit.algorithm),
                  rl_identity_text(r, &chain->options, &o->identity), rl_source_names[o->source],
                  retry_text(r->pool, o), denials, r->method, r->uri);
}
