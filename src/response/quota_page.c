/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota_page: the quotas of the client that asks, as JSON.
 *
 * For example for a dashboard that shows a customer how much is left. The page lists the rules of
 * its own section, so it belongs below the section whose rules it should list. Only rules with
 * phase=early, decided before the handler is known, charge or deny it, so a client whose quota is
 * used up can still see when it is back. Each request for it asks Redis once.
 *
 * Rules that never show in a response are not listed: those with headers=off, and shadow rules.
 */
#include <apr_strings.h>

#include <ap_expr.h>
#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

#include "response/quota_page.h"

/*
 * httpd sets the handler of a request only after it has checked access, so this looks at the
 * section. There SetHandler is an expression, even if it is a plain word.
 */
int rl_quota_is_page(request_rec *r)
{
    const core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    const char *handler = core->handler, *error = NULL;

    if (core->expr_handler)
        handler = ap_expr_str_exec(r, core->expr_handler, &error);
    return handler && !error && !strcmp(handler, RL_QUOTA_HANDLER);
}

/* A number as JSON; null if it is below zero, which means that there is none. */
static const char *number(apr_pool_t *pool, int64_t n)
{
    return n < 0 ? "null" : apr_psprintf(pool, "%" APR_INT64_T_FMT, n);
}

/* The names of rules, algorithms and sources have nothing to escape. */
static void print_quota(request_rec *r, const rl_outcome *o, const char *separator)
{
    int64_t wait_ms = 0, remaining = -1, reset_ms = -1, used = -1;
    int64_t capacity = rl_limiter_capacity(&o->limit);

    if (!o->exempt && !o->uncounted) {
        wait_ms = rl_outcome_retry_after(o);
        remaining = wait_ms ? 0 : rl_limiter_remaining(&o->limit, &o->view.state, o->view.now);
        reset_ms = rl_limiter_reset(&o->limit, &o->view.state, o->view.now);
        reset_ms = wait_ms > reset_ms ? wait_ms : reset_ms;
        used = capacity - remaining;
    }
    ap_rvputs(r, separator, "\n{\"rule\":\"", o->rule->name, "\",\"algorithm\":\"",
              rl_algorithms[o->limit.algorithm].name, "\",\"limit\":",
              number(r->pool, o->exempt ? -1 : o->limit.quota), ",\"window_ms\":",
              number(r->pool, o->limit.window_ms), ",\"capacity\":",
              number(r->pool, o->exempt ? -1 : capacity), ",\"used\":", number(r->pool, used),
              ",\"remaining\":", number(r->pool, remaining), ",\"reset_ms\":",
              number(r->pool, reset_ms), ",\"retry_after_ms\":", number(r->pool, wait_ms),
              ",\"unlimited\":", o->exempt ? "true" : "false", ",\"source\":\"",
              rl_source_names[o->source], "\"}", NULL);
}

int rl_quota(request_rec *r, const rl_context *context)
{
    const char *separator = "";
    rl_chain *chain;

    if (r->method_number != M_GET) {
        ap_allow_methods(r, REPLACE_ALLOW, "GET", "HEAD", NULL);
        return HTTP_METHOD_NOT_ALLOWED;
    }
    chain = rl_decide_peek(r, context);
    ap_set_content_type(r, "application/json");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    ap_rputs("{\"quotas\":[", r);
    for (const rl_outcome *o = chain ? chain->first : NULL; o; o = o->next) {
        if (!o->rule->headers || o->shadow)
            continue;
        print_quota(r, o, separator);
        separator = ",";
    }
    ap_rputs("]}\n", r);
    return OK;
}
