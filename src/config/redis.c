/* SPDX-License-Identifier: Apache-2.0 */
/*
 * redis: the directives for the address of Redis and access to it.
 *
 * The parent reads password files with the configuration, as root, and again when they change: see
 * redis/credentials.h. Certificates are read with the configuration too, so that httpd -t finds a
 * mistake in them.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "config/directive.h"
#include "config/redis.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

#define AUTH_EXAMPLE "RateLimitRedisAuth file:/etc/apache2/redis.secret"

const char *rl_cmd_redis(cmd_parms *cmd, void *config, const char *text)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    rl_url *url;

    (void)config;
    if (error)
        return error;
    error = rl_url_parse(cmd->pool, text, &url);
    if (!error && url->tls)
        error = rl_tls_missing();
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimitRedis: ", error, NULL);
    rl_cmd_settings(cmd)->redis = url;
    return NULL;
}

/* --- RateLimitRedisAuth ------------------------------------------------------------------- */

static const char *read_auth(cmd_parms *cmd, const char *where, rl_redis_auth *auth)
{
    const char *path, *error;
    int exposed = 0;

    if (strncasecmp(where, "file:", 5) || !where[5])
        return "expected a file with the password, or user and password, for example " AUTH_EXAMPLE
               "; the configuration itself never contains a password";
    path = ap_server_root_relative(cmd->pool, where + 5);
    error = path ? rl_credentials_read(cmd->pool, path, &auth->credentials, &exposed)
                 : "the path of the file is invalid";
    auth->exposed = exposed ? path : NULL;
    return error;
}

const char *rl_cmd_redis_auth(cmd_parms *cmd, void *config, const char *first,
                                 const char *second)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY), *words[] = {first, second};
    rl_settings *settings = rl_cmd_settings(cmd);

    (void)config;
    for (int i = 0; i < 2 && words[i] && !error; i++) {
        int of_sentinels = !strncasecmp(words[i], "sentinel=", 9);

        error = read_auth(cmd, words[i] + (of_sentinels ? 9 : 0),
                          of_sentinels ? &settings->sentinel_auth : &settings->redis_auth);
        if (error)
            error = apr_pstrcat(cmd->pool, "RateLimitRedisAuth: ", error, NULL);
    }
    return error;
}

/* --- RateLimitRedisTLS -------------------------------------------------------------------- */

const char *rl_cmd_redis_tls(cmd_parms *cmd, void *config, int count, char *const words[])
{
    static const char expected[] = "ca=FILE, cert=FILE, key=FILE and name=HOST, each at most once";
    static const char example[] = "ca=/etc/ssl/redis-ca.pem name=redis.example.com";
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    rl_tls_options options = {NULL, NULL, NULL, NULL};
    const struct {
        const char *name;
        const char **value;
        int is_file;
    } known[] = {{"ca=", &options.ca, 1}, {"cert=", &options.cert, 1}, {"key=", &options.key, 1},
                 {"name=", &options.name, 0}};

    (void)config;
    if (error)
        return error;
    for (int w = 0; w < count; w++) {
        size_t i = 0, length = strcspn(words[w], "=") + 1;

        while (i < 4 && strncasecmp(words[w], known[i].name, length))
            i++;
        if (i == 4 || !words[w][length - 1] || !words[w][length])
            return rl_cmd_invalid(cmd, words[w], expected, example);
        if (*known[i].value)
            return apr_psprintf(cmd->pool, "RateLimitRedisTLS: %s is given twice", known[i].name);
        *known[i].value = known[i].is_file ? ap_server_root_relative(cmd->pool, words[w] + length)
                                           : words[w] + length;
    }
    if (count == 0)
        return apr_psprintf(cmd->pool, "RateLimitRedisTLS: expected %s, for example %s", expected,
                            example);
    if (!options.cert != !options.key)
        return "RateLimitRedisTLS: cert= and key= belong together; both may name one file";
    error = rl_tls_create(cmd->pool, &options, &rl_cmd_settings(cmd)->redis_tls);
    return error ? apr_pstrcat(cmd->pool, "RateLimitRedisTLS: ", error, NULL) : NULL;
}

/* --- Checks ------------------------------------------------------------------------------- */

static int wrong(server_rec *s, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, s, "ratelimit: %s", what);
    return 0;
}

static int check_user(server_rec *s, rl_settings *settings)
{
    const char *user = settings->redis->user;
    rl_credentials *credentials = settings->redis_auth.credentials;

    if (user && !credentials)
        return wrong(s, "RateLimitRedis names a user, whose password is missing: add its file, for "
                        "example " AUTH_EXAMPLE);
    if (user && rl_credentials_set_user(credentials, user))
        return wrong(s, "RateLimitRedis names a user, and the file of RateLimitRedisAuth another "
                        "one: name it in one of them");
    if (settings->sentinel_auth.credentials && settings->redis->kind != RL_URL_SENTINEL)
        return wrong(s, "RateLimitRedisAuth sentinel= needs a RateLimitRedis URL with sentinel://");
    return 1;
}

static void warn_if_exposed(server_rec *s, const rl_redis_auth *auth)
{
    if (auth->exposed)
        ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s, "ratelimit: %s, which "
                     "contains the password of Redis, can be read or written by every user of this "
                     "host: chmod 600 it",
                     auth->exposed);
}

int rl_config_redis_check(apr_pool_t *pool, server_rec *s)
{
    static const rl_tls_options defaults = {NULL, NULL, NULL, NULL};
    rl_settings *settings = ap_get_module_config(s->module_config, &ratelimit_redis_module);
    const char *error = NULL;

    warn_if_exposed(s, &settings->redis_auth);
    warn_if_exposed(s, &settings->sentinel_auth);
    if (!settings->redis)
        return 1;
    if (settings->redis->tls && !settings->redis_tls)
        error = rl_tls_create(pool, &defaults, &settings->redis_tls);
    else if (!settings->redis->tls && settings->redis_tls)
        ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s, "ratelimit: "
                     "RateLimitRedisTLS has no effect on a URL without TLS: use rediss:// or +tls");
    if (error)
        return wrong(s, error);
    if (!settings->redis->tls)
        settings->redis_tls = NULL;
    return check_user(s, settings);
}

/* --- While the server runs ---------------------------------------------------------------- */

void rl_config_redis_share(const rl_settings *settings, apr_pool_t *pconf)
{
    if (settings->redis_auth.credentials)
        rl_credentials_share(settings->redis_auth.credentials, pconf);
    if (settings->sentinel_auth.credentials)
        rl_credentials_share(settings->sentinel_auth.credentials, pconf);
}

static void refresh(rl_credentials *credentials, server_rec *s, apr_pool_t *pool)
{
    const char *error, *path = rl_credentials_path(credentials);

    if (rl_credentials_refresh(credentials, pool, &error))
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s, "ratelimit: %s has changed: its new "
                     "contents are used from the next connection to Redis on", path);
    else if (error)
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, "ratelimit: %s %s; its earlier contents "
                     "stay in use", path, error);
}

void rl_config_redis_refresh(const rl_settings *settings, server_rec *s, apr_pool_t *pool)
{
    apr_pool_t *own;

    if (!settings->redis || apr_pool_create(&own, pool) != APR_SUCCESS)
        return;
    if (settings->redis_auth.credentials)
        refresh(settings->redis_auth.credentials, s, own);
    if (settings->sentinel_auth.credentials)
        refresh(settings->sentinel_auth.credentials, s, own);
    apr_pool_destroy(own);
}
