/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod_ratelimit_redis: one exact rate limit across all httpd hosts.
 *
 * This file holds the module's record and its hooks. A hook decides when something happens and
 * whether httpd goes on; the rooms in src do the work.
 *
 * A request can be decided in four hooks, by the phase of the rules:
 *
 *     quick_handler   phase=early: before httpd looks at the path. Not post_read_request: after a
 *                     refusal there httpd ends the connection, and the requests behind it are lost
 *     header_parser   phase=access where Satisfy Any holds, under which a denial by an access hook
 *                     is not final
 *     check_access    phase=access elsewhere, before Require
 *     fixups          phase=auth, after every other module. Also rules that only a fast internal
 *                     redirect, such as DirectoryIndex, brought within reach.
 *
 * A server that starts without the shared memory or the log that it needs logs an error and stops.
 * One that reloads goes on with what it has.
 */
#include <string.h>

#include <httpd.h>
#include <apr_optional_hooks.h>

#include <http_config.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mpm_common.h>
#include <mod_status.h>

#include "core/version.h"
#include "config/check.h"
#include "config/commands.h"
#include "config/config.h"
#include "config/redis.h"
#include "config/server.h"
#include "decide/child.h"
#include "decide/context.h"
#include "decide/decide.h"
#include "decide/variable.h"
#include "observe/metrics.h"
#include "observe/status.h"
#include "observe/violation.h"
#include "response/body.h"
#include "response/headers.h"
#include "response/quota_page.h"

module AP_MODULE_DECLARE_DATA ratelimit_redis_module;

static rl_context context; /* filled in by post_config, and per child by child_init */

/* --- Life of the server ------------------------------------------------------------------- */

/* Whether a running server reads its configuration again: then no error may stop it. */
static int is_reload(void)
{
    return ap_state_query(AP_SQ_CONFIG_GEN) > 1;
}

/* When httpd ends, logs the denials that no line has counted yet. Not in a child or at a reload. */
static apr_status_t flush_at_exit(void *s)
{
    if (context.local && ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_EXITING)
        rl_violation_flush(s, &context, 1);
    return APR_SUCCESS;
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    (void)plog;
    memset(&context, 0, sizeof(context));
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG)
        return OK;
    ap_add_version_component(pconf, "mod_ratelimit_redis/" RL_VERSION);
    context.settings = rl_config_settings(s);
    if (!rl_context_share(s, &context))
        return is_reload() ? OK : HTTP_INTERNAL_SERVER_ERROR;
    rl_context_give_rows(s, &context, rl_config_rules(), ptemp);
    rl_stats_keep(context.stats, rl_local_clock());
    rl_config_redis_share(context.settings, pconf);
    apr_pool_pre_cleanup_register(pconf, s, flush_at_exit);
    return OK;
}

static int open_logs(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int opened;

    (void)plog;
    (void)ptemp;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG)
        return OK;
    opened = rl_config_open_logs(pconf);
    if (!opened && is_reload())
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, "ratelimit: denials go to the error log where a "
                     "RateLimitLog could not be opened");
    return opened || is_reload() ? OK : HTTP_INTERNAL_SERVER_ERROR;
}

/* In the parent, every ten seconds or so. */
static int monitor(apr_pool_t *pool, server_rec *s)
{
    if (!context.local)
        return DECLINED;
    rl_stats_keep(context.stats, rl_local_clock());
    rl_violation_flush(s, &context, 0);
    rl_config_redis_refresh(context.settings, s, pool);
    return DECLINED;
}

/* --- Life of a child ---------------------------------------------------------------------- */

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    if (context.local)
        rl_child_init(pchild, s, &context);
}

/* --- Requests ----------------------------------------------------------------------------- */

static int decide(request_rec *r, rl_phase phase)
{
    rl_chain *chain;
    int verdict;

    if (!context.local)
        return DECLINED;
    if (r->prev && !r->main)
        rl_headers_carry(r);
    if (!rl_decide_is_due(r, phase) || rl_quota_is_page(r))
        return DECLINED;
    rl_child_ready(r->server, &context);
    verdict = rl_decide(r, &context, phase);
    if (verdict == DECLINED)
        return DECLINED;
    chain = rl_chain_of(r);
    if (chain->denial || chain->shadow)
        rl_violation_log(r, &context, chain);
    rl_headers_set(r, chain);
    return verdict == OK ? DECLINED : rl_body_deny(r, chain, verdict);
}

static int quick_handler(request_rec *r, int is_lookup)
{
    return is_lookup ? DECLINED : decide(r, RL_PHASE_EARLY);
}

static int header_parser(request_rec *r)
{
    return ap_satisfies(r) == SATISFY_ANY ? decide(r, RL_PHASE_ACCESS) : DECLINED;
}

static int check_access(request_rec *r)
{
    return ap_satisfies(r) == SATISFY_ANY ? DECLINED : decide(r, RL_PHASE_ACCESS);
}

static int fixups(request_rec *r)
{
    return decide(r, RL_PHASE_AUTH);
}

/* The response has been sent, so nothing done here delays it. */
static int log_transaction(request_rec *r)
{
    if (context.local)
        rl_decide_settle(r, &context);
    rl_child_probe(&context);
    return DECLINED;
}

static int handler(request_rec *r)
{
    int (*answer)(request_rec *, const rl_context *) = NULL;

    if (r->handler && !strcmp(r->handler, RL_METRICS_HANDLER))
        answer = rl_metrics;
    else if (r->handler && !strcmp(r->handler, RL_QUOTA_HANDLER))
        answer = rl_quota;
    if (!answer)
        return DECLINED;
    if (answer == rl_quota)
        rl_child_ready(r->server, &context);
    return context.local ? answer(r, &context) : HTTP_SERVICE_UNAVAILABLE;
}

static int status(request_rec *r, int flags)
{
    return rl_status(r, flags, &context);
}

/* --- The record --------------------------------------------------------------------------- */

static int pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    (void)plog;
    (void)ptemp;
    rl_config_begin(pconf);
    return OK;
}

static int check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int good = rl_config_check(pconf, s);

    (void)plog;
    if (ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST) {
        rl_context_check_names(s, rl_config_rules(), ptemp);
        rl_context_check_size(s, rl_config_settings(s)->shared_memory, ptemp);
        good &= rl_config_check_logs(s, ptemp);
    }
    return good ? OK : HTTP_INTERNAL_SERVER_ERROR;
}

static void register_hooks(apr_pool_t *pool)
{
    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_config(check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_open_logs(open_logs, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_monitor(monitor, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_quick_handler(quick_handler, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_header_parser(header_parser, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_check_access(check_access, NULL, NULL, APR_HOOK_REALLY_FIRST,
                         AP_AUTH_INTERNAL_PER_CONF);
    ap_hook_fixups(fixups, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_log_transaction(log_transaction, NULL, NULL, APR_HOOK_LAST);
    APR_OPTIONAL_HOOK(ap, status_hook, status, NULL, NULL, APR_HOOK_MIDDLE);
    rl_headers_register(pool);
    rl_variable_register(pool);
}

AP_DECLARE_MODULE(ratelimit_redis) = {
    STANDARD20_MODULE_STUFF,
    rl_config_create_section,
    rl_config_merge_section,
    rl_config_create_server,
    rl_config_merge_server,
    rl_config_commands,
    register_hooks,
    AP_MODULE_FLAG_NONE
};
