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
#include "wire.h"

#define REDIS_PORT 6379
#define SENTINEL_PORT 26379
#define DB_MAX 1000000
#define PRIMARY_MAX 64
#define PLAIN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

static const struct {
    const char *scheme;
    int works; /* in this version */
} schemes[] = {
    {"redis", 1}, {"unix", 1}, {"rediss", 0}, {"sentinel", 1}, {"sentinel+tls", 0},
    {"cluster", 1}, {"cluster+tls", 0}
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

/* --- Several servers ---------------------------------------------------------------------- */

/* One of the servers of a list: host, host:port or [address]:port. */
static const char *parse_server(apr_pool_t *pool, char *text, int port, rl_endpoint *at)
{
    char *end = *text == '[' ? strchr(text, ']') : NULL;
    char *colon = strchr(end ? end : text, ':');

    if (*text == '[' && (!end || (end[1] && end[1] != ':')))
        return apr_psprintf(pool, "\"%s\" is no address, as in [2001:db8::1]:%d", text, port);
    if (colon && !is_port(colon + 1))
        return apr_psprintf(pool, "\"%s\" is no port", colon + 1);
    if (colon) {
        port = atoi(colon + 1);
        *colon = '\0';
    }
    if (end) {
        *end = '\0';
        text++;
    }
    if (!rl_wire_is_host(text) || (!end && strchr(text, ':')))
        return *text ? apr_psprintf(pool, "\"%s\" is no host", text)
                     : "a host is missing, as in 192.0.2.1:6379,192.0.2.2:6379";
    at->host = text;
    at->port = (apr_port_t)port;
    at->name = apr_psprintf(pool, strchr(text, ':') ? "[%s]:%d" : "%s:%d", text, port);
    return NULL;
}

/* Servers with commas between them. */
static const char *parse_servers(apr_pool_t *pool, char *list, int port, rl_topology *topology)
{
    apr_array_header_t *servers = apr_array_make(pool, 4, sizeof(rl_endpoint));
    const char *error = NULL;

    do {
        char *comma = strchr(list, ',');

        if (comma)
            *comma++ = '\0';
        error = parse_server(pool, list, port, apr_array_push(servers));
        list = comma;
    } while (list && !error);
    topology->endpoints = (const rl_endpoint *)servers->elts;
    topology->endpoint_count = servers->nelts;
    return error;
}

/* What stands behind the servers: the primary's name, and perhaps a database. */
static const char *parse_primary(apr_pool_t *pool, char *path, rl_topology *topology)
{
    char *slash = strchr(path, '/');

    if (slash)
        *slash++ = '\0';
    if (!*path)
        return "the name of the primary is missing, as in "
               "sentinel://192.0.2.1:26379,192.0.2.2:26379/mymaster";
    if (strspn(path, PLAIN) != strlen(path) || strlen(path) > PRIMARY_MAX)
        return apr_psprintf(pool, "\"%s\" is no name of a primary: letters, digits, '.', '-' and "
                            "'_', at most %d", path, PRIMARY_MAX);
    topology->primary = path;
    topology->name = apr_pstrcat(pool, path, " (by Sentinel)", NULL);
    return parse_db(pool, slash, &topology->db);
}

static const char *parse_sentinels(apr_pool_t *pool, char *rest, rl_topology *topology)
{
    char *slash = strchr(rest, '/');
    const char *error;

    if (slash)
        *slash++ = '\0';
    error = parse_servers(pool, rest, SENTINEL_PORT, topology);
    topology->kind = RL_SENTINELS;
    return error ? error : parse_primary(pool, slash ? slash : rest + strlen(rest), topology);
}

static const char *parse_cluster(apr_pool_t *pool, char *rest, rl_topology *topology)
{
    const char *error;

    if (strchr(rest, '/'))
        return "nothing may follow the servers of a cluster, which has database 0 alone, as in "
               "cluster://192.0.2.1:6379,192.0.2.2:6379";
    topology->name = apr_pstrcat(pool, "cluster ", rest, NULL);
    error = parse_servers(pool, rest, REDIS_PORT, topology);
    topology->kind = RL_CLUSTER;
    return error;
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
    found = *topology = apr_pcalloc(pool, sizeof(*found));
    if (!strncasecmp(url, "sentinel://", 11))
        return parse_sentinels(pool, apr_pstrdup(pool, url + 11), found);
    if (!strncasecmp(url, "cluster://", 10))
        return parse_cluster(pool, apr_pstrdup(pool, url + 10), found);
    if (apr_uri_parse(pool, url, &uri) != APR_SUCCESS)
        return apr_psprintf(pool, "\"%s\" is no URL, as in redis://127.0.0.1:6379", url);
    found->endpoints = at = apr_pcalloc(pool, sizeof(*at));
    found->endpoint_count = 1;
    error = strcasecmp(uri.scheme, "unix") ? parse_tcp(pool, &uri, at, &found->db)
                                           : parse_unix(pool, &uri, at, &found->db);
    found->name = at->name;
    return error;
}
