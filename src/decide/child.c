/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child: the Redis client and the keeper of one child process.
 */
#include <pthread.h>
#include <string.h>

#include <httpd.h>

#include <ap_mpm.h>
#include <http_config.h>
#include <http_log.h>

#include "decide/child.h"

APLOG_USE_MODULE(ratelimit_redis);

static apr_pool_t *child_pool; /* in which a forked process makes its client */
volatile sig_atomic_t rl_child_needs_client;

static void log_redis(void *datum, rl_log_level level, const char *text)
{
    static const int levels[] = {APLOG_INFO, APLOG_NOTICE, APLOG_WARNING, APLOG_ERR};

    ap_log_error(APLOG_MARK, levels[level], 0, (server_rec *)datum, "ratelimit: %s", text);
}

/* --- The client --------------------------------------------------------------------------- */

static rl_client *create_client(server_rec *s, apr_pool_t *pool, const rl_context *context,
                                int threaded)
{
    const rl_settings *settings = context->settings;
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
    options.breakers = context->breakers;
    options.logger = (rl_logger){log_redis, s};
    return rl_client_create(pool, &options);
}

/* A forked process has one thread, which serves requests. */
void rl_child_make_client(server_rec *s, rl_context *context)
{
    if (context->client)
        rl_client_abandon(context->client);
    context->client = create_client(s, child_pool, context, 0);
    rl_child_needs_client = 0;
}

static apr_status_t stop_client(void *client)
{
    rl_client_stop(client);
    return APR_SUCCESS;
}

static void note_fork(void)
{
    rl_child_needs_client = 1;
}

static void start_client(apr_pool_t *pchild, server_rec *s, rl_context *context, int threaded)
{
    child_pool = pchild;
    pthread_atfork(NULL, NULL, note_fork);
    /* Under mpm-itk this process serves no request. Others start to connect right away. */
    rl_child_needs_client = ap_find_linked_module("mpm_itk.c") != NULL;
    if (rl_child_needs_client)
        return;
    context->client = create_client(s, pchild, context, threaded);
    if (!context->client)
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, s, "ratelimit: no thread for Redis: this child "
                     "counts alone");
    else if (threaded)
        apr_pool_pre_cleanup_register(pchild, context->client, stop_client);
}

/* --- The keeper --------------------------------------------------------------------------- */

/* With what the keeper's thread makes a client for itself alone. */
typedef struct {
    server_rec *s;
    const rl_context *context;
} keeper_datum;

static rl_client *create_keepers_client(void *datum, apr_pool_t *pool)
{
    const keeper_datum *d = datum;

    return create_client(d->s, pool, d->context, 0);
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

static void start_keeper(apr_pool_t *pchild, server_rec *s, rl_context *context, int threaded)
{
    rl_keeper_options options = {.local = context->local, .prolong_ms = RL_PENDING_PERIOD_MS / 3,
                                 .threaded = threaded, .client = threaded ? context->client : NULL,
                                 .logger = {log_redis, s}};
    keeper_datum *datum;

    if (!is_any_charged_by_response())
        return;
    if (!threaded && context->settings->redis) {
        datum = apr_palloc(pchild, sizeof(*datum));
        *datum = (keeper_datum){s, context};
        options.make_client = create_keepers_client;
        options.context = datum;
    }
    context->keeper = rl_keeper_create(pchild, &options);
}

void rl_child_init(apr_pool_t *pchild, server_rec *main_server, rl_context *context)
{
    int threaded = 0;

    ap_mpm_query(AP_MPMQ_IS_THREADED, &threaded);
    threaded = threaded != AP_MPMQ_NOT_SUPPORTED;
    if (context->settings->redis)
        start_client(pchild, main_server, context, threaded);
    start_keeper(pchild, main_server, context, threaded);
}
