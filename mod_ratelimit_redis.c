/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod_ratelimit_redis: one exact rate limit across all httpd hosts.
 *
 * This file is the module's record and its hooks, nothing else: it says when something happens,
 * the rooms in src say what. A request passes here up to four times. quick_handler, before httpd
 * looks at the path, decides what needs neither path nor section; not post_read_request, for
 * httpd drops a connection on which that one refuses, and does not say so. check_access decides
 * what needs no authentication, before Require. fixups, after every other module, decides what
 * does, and what only a fast internal redirect such as DirectoryIndex has brought within reach.
 * Where Satisfy Any holds, under which an access hook's denial is not final, header_parser
 * decides in its place.
 *
 * Where shared memory or a log cannot be had, a server that starts stops and says so, and one that
 * reloads goes on with what there is.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include <httpd.h>
#include <apr_optional_hooks.h>

#include <ap_mpm.h>
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
#include "decide/context.h"
#include "decide/decide.h"
#include "decide/variable.h"
#include "observe/metrics.h"
#include "observe/status.h"
#include "observe/violation.h"
#include "response/quota_page.h"
#include "response/reply.h"

module AP_MODULE_DECLARE_DATA ratelimit_redis_module;

static rl_context context; /* filled in by post_config, and per child by child_init */

/* --- Life of the server ------------------------------------------------------------------- */

/*
 * Whether the configuration is read again by a server that runs. Whatever goes wrong then, the
 * server must go on.
 */
static int is_reload(void)
{
    return ap_state_query(AP_SQ_CONFIG_GEN) > 1;
}

/* httpd ends: what nobody has reported yet is reported. Not in a child, nor when it reloads. */
static apr_status_t last_words(void *s)
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
    apr_pool_pre_cleanup_register(pconf, s, last_words);
    return OK;
}

/*
 * Opens the violation logs, as httpd opens its own. A server that starts says at once that it
 * cannot; one that reloads goes on, with the error log in their place.
 */
static int open_logs(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    apr_array_header_t *logs = rl_config_logs();
    int opened = 1;

    (void)plog;
    (void)ptemp;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG)
        return OK;
    for (int i = 0; i < logs->nelts; i++)
        opened &= rl_log_open(APR_ARRAY_IDX(logs, i, rl_log *), pconf);
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

static void log_redis(void *datum, rl_log_level level, const char *text)
{
    static const int levels[] = {APLOG_INFO, APLOG_NOTICE, APLOG_WARNING, APLOG_ERR};

    ap_log_error(APLOG_MARK, levels[level], 0, (server_rec *)datum, "ratelimit: %s", text);
}

static apr_status_t stop_client(void *client)
{
    rl_client_stop(client);
    return APR_SUCCESS;
}

/*
 * Connections and threads do not outlive a fork in a form that the new process could use: the
 * socket would be shared by two, who would read each other's replies, and the I/O thread is not
 * there. mpm-itk forks for each connection. So a forked process only notes that it is one, which
 * costs requests nothing, and makes a client of its own when it first decides.
 */
static apr_pool_t *child_pool;
static volatile sig_atomic_t wants_client; /* this process has none that it may use */

static void note_fork(void)
{
    wants_client = 1;
}

static rl_client *make_client(server_rec *s, apr_pool_t *pool, int threaded)
{
    const rl_settings *settings = context.settings;
    rl_client_options options;

    memset(&options, 0, sizeof(options));
    options.url = settings->redis;
    options.credentials = settings->redis_auth.credentials;
    options.sentinel_credentials = settings->sentinel_auth.credentials;
    options.tls = settings->redis_tls;
    options.prefix = settings->prefix;
    options.threaded = threaded;
    options.timeout_ms = settings->timeout_ms;
    options.connect_ms = settings->connect_ms;
    options.failures = settings->breaker_failures;
    options.retry.retry_min_ms = settings->retry_min_ms;
    options.retry.retry_max_ms = settings->retry_max_ms;
    options.breakers = context.breakers;
    options.logger = (rl_logger){log_redis, s};
    return rl_client_create(pool, &options);
}

/* A forked process has one thread, which serves requests. */
static void ensure_client(server_rec *s)
{
    if (!wants_client)
        return;
    if (context.client)
        rl_client_abandon(context.client);
    context.client = make_client(s, child_pool, 0);
    wants_client = 0;
}

static void start_client(apr_pool_t *pchild, server_rec *s, int threaded)
{
    child_pool = pchild;
    pthread_atfork(NULL, NULL, note_fork);
    /* Under mpm-itk this process serves no request. Others start to connect right away. */
    wants_client = ap_find_linked_module("mpm_itk.c") != NULL;
    if (wants_client)
        return;
    context.client = make_client(s, pchild, threaded);
    if (!context.client)
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, s, "ratelimit: no thread for Redis: this child "
                     "counts alone");
    else if (threaded)
        apr_pool_pre_cleanup_register(pchild, context.client, stop_client);
}

static rl_client *make_keepers_client(void *s, apr_pool_t *pool)
{
    return make_client(s, pool, 0);
}

static int is_any_charged_by_response(void)
{
    apr_array_header_t *rules = rl_config_rules();

    for (int i = 0; i < rules->nelts; i++) {
        if (APR_ARRAY_IDX(rules, i, rl_written_rule).rule->limit.on_response)
            return 1;
    }
    return 0;
}

static void start_keeper(apr_pool_t *pchild, server_rec *s, int threaded)
{
    rl_keeper_options options = {.local = context.local, .prolong_ms = RL_PENDING_SLOT_MS / 3,
                                 .threaded = threaded, .client = threaded ? context.client : NULL,
                                 .context = s, .logger = {log_redis, s}};

    if (!threaded && context.settings->redis)
        options.make_client = make_keepers_client;
    if (is_any_charged_by_response())
        context.keeper = rl_keeper_create(pchild, &options);
}

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    int threaded = 0;

    if (!context.local)
        return;
    ap_mpm_query(AP_MPMQ_IS_THREADED, &threaded);
    threaded = threaded != AP_MPMQ_NOT_SUPPORTED;
    if (context.settings->redis)
        start_client(pchild, s, threaded);
    start_keeper(pchild, s, threaded);
}

/* --- Requests ----------------------------------------------------------------------------- */

static int decide(request_rec *r, rl_phase phase)
{
    int verdict;

    if (!context.local)
        return DECLINED;
    if (r->prev && !r->main)
        rl_reply_carry(r);
    if (!rl_decide_is_due(r, phase) || rl_quota_is_page(r))
        return DECLINED;
    ensure_client(r->server);
    verdict = rl_decide(r, &context, phase);
    if (verdict == DECLINED)
        return DECLINED;
    rl_violation(r, &context);
    return rl_reply(r, verdict);
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

/* The response is on its way: what must not make a client wait is done now. */
static int log_transaction(request_rec *r)
{
    if (context.local)
        rl_decide_settle(r, &context);
    if (context.client && !wants_client)
        rl_client_probe(context.client);
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
        ensure_client(r->server);
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

/* What httpd -t can find out of what a start would meet; a reload goes on all the same. */
static int check_places(apr_pool_t *scratch, server_rec *s)
{
    apr_array_header_t *logs = rl_config_logs();
    int good = 1;

    rl_context_check_names(s, rl_config_rules(), scratch);
    rl_context_check_size(s, rl_config_settings(s)->shared_memory, scratch);
    for (int i = 0; i < logs->nelts; i++) {
        const char *error = rl_log_check(APR_ARRAY_IDX(logs, i, rl_log *), scratch);

        if (error)
            ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, s, "ratelimit: %s", error);
        good &= !error;
    }
    return good;
}

static int check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int good = rl_config_check(pconf, s);

    (void)plog;
    if (ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST)
        good &= check_places(ptemp, s);
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
    rl_reply_register(pool);
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
