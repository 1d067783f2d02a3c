/*
 * config_redis: the directives that say where Redis is and how to be let in.
 *
 * The password is read from its file while the configuration is, by root, and stays in memory
 * alone. Certificates are read then too, so that a mistake in them ends httpd -t and not a
 * connection.
 */
#include <string.h>

#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "config_redis.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

#define AUTH_EXAMPLE "RateLimitRedisAuth file:/etc/apache2/redis.secret"
#define AUTH_SIZE 1024 /* bytes of a file with a password, and one more */

static rl_settings *settings_of(const server_rec *s)
{
    return ap_get_module_config(s->module_config, &ratelimit_redis_module);
}

const char *rl_config_redis(cmd_parms *cmd, void *config, const char *url)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    rl_topology *topology;

    (void)config;
    if (error)
        return error;
    error = rl_topology_parse(cmd->pool, url, &topology);
    if (!error && topology->tls)
        error = rl_tls_missing();
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimitRedis: ", error, NULL);
    settings_of(cmd->server)->redis = topology;
    return NULL;
}

/* --- RateLimitRedisAuth ------------------------------------------------------------------- */

static const char *read_file(apr_pool_t *pool, const char *path, char text[AUTH_SIZE],
                             int *exposed)
{
    apr_size_t length = AUTH_SIZE - 1;
    apr_file_t *file;
    apr_finfo_t info;
    apr_status_t status = apr_file_open(&file, path, APR_FOPEN_READ, APR_OS_DEFAULT, pool);
    char why[120];

    if (status == APR_SUCCESS) {
        *exposed = apr_file_info_get(&info, APR_FINFO_PROT, file) == APR_SUCCESS
            && info.protection & (APR_FPROT_WREAD | APR_FPROT_WWRITE);
        status = apr_file_read_full(file, text, AUTH_SIZE - 1, &length);
        apr_file_close(file);
    }
    if (status != APR_SUCCESS && status != APR_EOF)
        return apr_psprintf(pool, "%s cannot be read: %s", path,
                            apr_strerror(status, why, sizeof(why)));
    if (status == APR_SUCCESS)
        return apr_psprintf(pool, "%s has more than %d bytes, and should have one line: password, "
                            "or user password", path, AUTH_SIZE - 2);
    text[length] = '\0';
    return strlen(text) == length ? NULL
                                  : apr_psprintf(pool, "%s holds bytes that are no text", path);
}

/* One line: password, or user password. */
static const char *parse_auth(apr_pool_t *pool, const char *path, char *text,
                              rl_settings *settings)
{
    char *end = text + strcspn(text, "\r\n"), *blank;

    if (end[strspn(end, " \t\r\n")])
        return apr_psprintf(pool, "%s has more than one line, and should have one: password, or "
                            "user password", path);
    while (end > text && strchr(" \t", end[-1]))
        end--;
    *end = '\0';
    text += strspn(text, " \t");
    if (!*text)
        return apr_psprintf(pool, "%s is empty, and should have one line: password, or user "
                            "password", path);
    blank = strpbrk(text, " \t");
    if (blank) {
        *blank++ = '\0';
        blank += strspn(blank, " \t");
    }
    if (blank && strpbrk(blank, " \t"))
        return apr_psprintf(pool, "%s has more than two words, and should have: password, or user "
                            "password", path);
    settings->redis_user = blank ? apr_pstrdup(pool, text) : NULL;
    settings->redis_password = apr_pstrdup(pool, blank ? blank : text);
    return NULL;
}

const char *rl_config_redis_auth(cmd_parms *cmd, void *config, const char *where)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY), *path;
    rl_settings *settings = settings_of(cmd->server);
    char text[AUTH_SIZE];
    int exposed = 0;

    (void)config;
    if (error)
        return error;
    if (strncasecmp(where, "file:", 5) || !where[5])
        return "RateLimitRedisAuth takes a file that holds the password, or user and password, as "
               "in " AUTH_EXAMPLE "; a password never stands in the configuration";
    path = ap_server_root_relative(cmd->pool, where + 5);
    error = path ? read_file(cmd->pool, path, text, &exposed) : "its path is invalid";
    if (!error)
        error = parse_auth(cmd->pool, path, text, settings);
    memset(text, 0, sizeof(text));
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimitRedisAuth: ", error, NULL);
    settings->redis_auth_exposed = exposed ? path : NULL;
    return NULL;
}

/* --- RateLimitRedisTLS -------------------------------------------------------------------- */

const char *rl_config_redis_tls(cmd_parms *cmd, void *config, int count, char *const words[])
{
    static const char example[] = "ca=FILE, cert=FILE, key=FILE and name=HOST, as in "
                                  "ca=/etc/ssl/redis-ca.pem name=redis.example.com";
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
            return apr_psprintf(cmd->pool, "RateLimitRedisTLS: \"%s\" was read, expected %s",
                                words[w], example);
        if (*known[i].value)
            return apr_psprintf(cmd->pool, "RateLimitRedisTLS: %s is there twice", known[i].name);
        *known[i].value = known[i].is_file ? ap_server_root_relative(cmd->pool, words[w] + length)
                                           : words[w] + length;
    }
    if (count == 0)
        return apr_psprintf(cmd->pool, "RateLimitRedisTLS takes %s", example);
    if (!options.cert != !options.key)
        return "RateLimitRedisTLS: cert= and key= belong together; both may name one file";
    error = rl_tls_create(cmd->pool, &options, &settings_of(cmd->server)->redis_tls);
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

    if (user && !settings->redis_password)
        return wrong(s, "RateLimitRedis names a user, whose password is missing, as in "
                        AUTH_EXAMPLE);
    if (user && settings->redis_user && strcmp(user, settings->redis_user))
        return wrong(s, "RateLimitRedis names a user, and the file of RateLimitRedisAuth another "
                        "one: say it once");
    if (user)
        settings->redis_user = user;
    return 1;
}

int rl_config_redis_check(apr_pool_t *pool, server_rec *s)
{
    static const rl_tls_options defaults = {NULL, NULL, NULL, NULL};
    rl_settings *settings = settings_of(s);
    const char *error = NULL;

    if (settings->redis_auth_exposed)
        ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s, "ratelimit: everybody on "
                     "this host can read or write %s, where the password of Redis is: chmod 600 it",
                     settings->redis_auth_exposed);
    if (!settings->redis)
        return 1;
    if (settings->redis->tls && !settings->redis_tls)
        error = rl_tls_create(pool, &defaults, &settings->redis_tls);
    else if (!settings->redis->tls && settings->redis_tls)
        ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s, "ratelimit: "
                     "RateLimitRedisTLS says nothing to a URL without TLS, which rediss:// has");
    if (error)
        return wrong(s, error);
    if (!settings->redis->tls)
        settings->redis_tls = NULL;
    return check_user(s, settings);
}
