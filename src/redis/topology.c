/*
 * topology: where Redis is, as the administrator says it.
 *
 * One table holds the schemes. Schemes of later versions are known by name, so that a URL with
 * one of them is told apart from a typing error. apr_uri does the splitting.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_uri.h>

#include "topology.h"

#define REDIS_PORT 6379
#define DB_MAX 1000000

static const struct {
    const char *scheme;
    int works; /* in this version */
} schemes[] = {
    {"redis", 1}, {"unix", 1}, {"rediss", 0}, {"sentinel", 0}, {"sentinel+tls", 0},
    {"cluster", 0}, {"cluster+tls", 0}
};

static const char *check_scheme(apr_pool_t *pool, const char *url)
{
    const char *end = strstr(url, "://");

    for (size_t i = 0; end && i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strlen(schemes[i].scheme) != (size_t)(end - url)
            || strncasecmp(url, schemes[i].scheme, (size_t)(end - url)))
            continue;
        return schemes[i].works ? NULL
                                : apr_psprintf(pool, "%s:// is not supported in this version",
                                               schemes[i].scheme);
    }
    return "the URL begins with none of redis://, rediss://, unix://, sentinel:// and cluster://, "
           "as in redis://127.0.0.1:6379";
}

static const char *parse_db(apr_pool_t *pool, const char *text, int *db)
{
    apr_int64_t n;
    char *end;

    if (!text || !*text)
        return NULL;
    n = apr_strtoi64(text, &end, 10);
    if (!apr_isdigit(*text) || *end || n > DB_MAX)
        return apr_psprintf(pool, "\"%s\" is no number of a database, as in redis://127.0.0.1/2",
                            text);
    *db = (int)n;
    return NULL;
}

/* 1 to 65535; apr_uri takes any other number modulo 65536. */
static int is_port(const char *text)
{
    size_t length = strspn(text, "0123456789");

    return length > 0 && length < 6 && !text[length] && atoi(text) > 0 && atoi(text) < 65536;
}

static const char *parse_unix(apr_pool_t *pool, const apr_uri_t *uri, rl_endpoint *at, int *db)
{
    if (uri->hostname && *uri->hostname)
        return "a unix socket's path begins with a third slash, as in unix:///run/redis/redis.sock";
    if (!uri->path || !uri->path[1])
        return "the path of the unix socket is missing, as in unix:///run/redis/redis.sock";
    if (strlen(uri->path) > 107)
        return apr_psprintf(pool, "the path \"%s\" is longer than the 107 bytes a unix socket's "
                            "path can have", uri->path);
    if (uri->query && strncmp(uri->query, "db=", 3))
        return apr_psprintf(pool, "\"?%s\" is not ?db=N", uri->query);
    at->path = at->name = uri->path;
    return parse_db(pool, uri->query ? uri->query + 3 : NULL, db);
}

static const char *parse_tcp(apr_pool_t *pool, const apr_uri_t *uri, rl_endpoint *at, int *db)
{
    if (!uri->hostname || !*uri->hostname)
        return "the host is missing, as in redis://127.0.0.1:6379";
    if (strpbrk(uri->hostname, " \t\\\"'<>{}"))
        return apr_psprintf(pool, "\"%s\" is no host, as in redis://127.0.0.1:6379", uri->hostname);
    if (uri->query || uri->fragment)
        return "nothing may follow the database, as in redis://127.0.0.1:6379/2";
    if (uri->port_str && *uri->port_str && !is_port(uri->port_str))
        return apr_psprintf(pool, "\"%s\" is no port", uri->port_str);
    at->host = uri->hostname;
    at->port = uri->port ? uri->port : REDIS_PORT;
    at->name = apr_psprintf(pool, strchr(at->host, ':') ? "[%s]:%d" : "%s:%d", at->host, at->port);
    return parse_db(pool, uri->path && *uri->path ? uri->path + 1 : NULL, db);
}

const char *rl_topology_parse(apr_pool_t *pool, const char *url, rl_topology **topology)
{
    const char *error = check_scheme(pool, url);
    rl_topology *found;
    rl_endpoint *at;
    apr_uri_t uri;

    if (error)
        return error;
    if (strchr(url, '@'))
        return "users and passwords are not supported in this version, and a password never "
               "belongs into a URL";
    if (apr_uri_parse(pool, url, &uri) != APR_SUCCESS)
        return apr_psprintf(pool, "\"%s\" is no URL, as in redis://127.0.0.1:6379", url);
    found = *topology = apr_pcalloc(pool, sizeof(*found));
    found->endpoints = at = apr_pcalloc(pool, sizeof(*at));
    found->endpoint_count = 1;
    error = strcasecmp(uri.scheme, "unix") ? parse_tcp(pool, &uri, at, &found->db)
                                           : parse_unix(pool, &uri, at, &found->db);
    found->name = at->name;
    return error;
}
