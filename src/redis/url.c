/* SPDX-License-Identifier: Apache-2.0 */
/*
 * url: the URLs of RateLimitRedis.
 *
 * A URL is parsed from the left: scheme, user, hosts, and what follows them. apr_uri does not parse
 * lists of hosts. Until the user, which may contain a password by mistake, has been cut off, no
 * message repeats anything of the URL.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "redis/url.h"

#define DB_MAX 1000000
#define SOCKET_PATH_MAX 107
#define NAME_CHARACTERS \
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

#define NO_PASSWORDS \
    "a password never stands in a URL, where logs and process lists show it: put it into a file " \
    "and use RateLimitRedisAuth file:PATH"

typedef struct {
    const char *name;
    rl_url_kind kind;
    int tls;
    apr_port_t port; /* 0: a unix socket */
    const char *example;
} scheme;

static const scheme schemes[] = {
    {"redis", RL_URL_SINGLE, 0, 6379, "redis://127.0.0.1:6379"},
    {"rediss", RL_URL_SINGLE, 1, 6379, "rediss://redis.example.com:6379"},
    {"unix", RL_URL_SINGLE, 0, 0, "unix:///run/redis/redis.sock"},
    {"sentinel", RL_URL_SENTINEL, 0, 26379,
     "sentinel://10.0.0.1:26379,10.0.0.2:26379/primary"},
    {"sentinel+tls", RL_URL_SENTINEL, 1, 26379,
     "sentinel+tls://s1.example.com:26379,s2.example.com:26379/primary"},
    {"cluster", RL_URL_CLUSTER, 0, 6379, "cluster://10.0.0.1:6379,10.0.0.2:6379"},
    {"cluster+tls", RL_URL_CLUSTER, 1, 6379,
     "cluster+tls://r1.example.com:6379,r2.example.com:6379"},
};

/* The scheme of a URL; NULL if it has none. *rest is what follows "://". */
static const scheme *find_scheme(const char *text, const char **rest)
{
    const char *end = strstr(text, "://");

    for (size_t i = 0; end && i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        size_t length = strlen(schemes[i].name);

        if (length == (size_t)(end - text) && !strncasecmp(text, schemes[i].name, length)) {
            *rest = end + 3;
            return &schemes[i];
        }
    }
    return NULL;
}

static const char *parse_db(apr_pool_t *pool, const char *text, int *db)
{
    apr_int64_t n;
    char *end;

    if (!*text)
        return NULL;
    n = apr_strtoi64(text, &end, 10);
    if (!apr_isdigit(*text) || *end || n > DB_MAX)
        return apr_psprintf(pool, "\"%s\" is not a valid database number, as in "
                            "redis://127.0.0.1/2", text);
    *db = (int)n;
    return NULL;
}

/* --- Unix sockets ------------------------------------------------------------------------- */

static const char *parse_unix(apr_pool_t *pool, const char *rest, rl_url *url,
                              rl_endpoint *at)
{
    char *path = apr_pstrdup(pool, rest), *query = strchr(path, '?');

    if (query)
        *query++ = '\0';
    if (*path != '/')
        return "a unix socket's path begins with a third slash, without a user before it, as in "
               "unix:///run/redis/redis.sock";
    if (!path[1])
        return "the path of the unix socket is missing, as in unix:///run/redis/redis.sock";
    if (strlen(path) > SOCKET_PATH_MAX)
        return apr_psprintf(pool, "its path has %d bytes, and a unix socket's path can have 107 "
                            "bytes at most", (int)strlen(path));
    if (query && strncmp(query, "db=", 3))
        return "what follows '?' is not ?db=N, as in unix:///run/redis/redis.sock?db=2";
    at->path = at->name = path;
    if (query && strchr(query, '@'))
        return "what follows ?db= is not a valid database number, as in "
               "unix:///run/redis/redis.sock?db=2";
    return parse_db(pool, query ? query + 3 : "", &url->db);
}

/* --- Hosts -------------------------------------------------------------------------------- */

/* 1 to 65535. */
static int is_port(const char *text)
{
    size_t length = strspn(text, "0123456789");

    return length > 0 && length < 6 && !text[length] && atoi(text) > 0 && atoi(text) < 65536;
}

/* Whether a text has only characters of names and numeric addresses. */
static int is_host(const char *text, int bracketed)
{
    size_t length = strspn(text, bracketed ? NAME_CHARACTERS ":%" : NAME_CHARACTERS);

    return length > 0 && length < 254 && !text[length];
}

/* One host[:port] or [address][:port]. */
static const char *parse_host(apr_pool_t *pool, const scheme *s, char *text, rl_endpoint *at)
{
    char *port = strchr(text, ':');
    int bracketed = *text == '[';

    if (bracketed) {
        char *end = strchr(text, ']');

        if (!end || (end[1] && end[1] != ':'))
            return apr_psprintf(pool, "\"%s\" is not a valid address in brackets, as in [::1]:6379",
                                text);
        port = end[1] ? end + 1 : NULL;
        *end = '\0';
        text++;
    }
    else if (port && strchr(port + 1, ':')) {
        return apr_psprintf(pool, "\"%s\" has more than one port; put an IPv6 address in "
                            "brackets, as in [::1]:6379", text);
    }
    if (port)
        *port++ = '\0';
    if (!*text)
        return apr_psprintf(pool, "a host is missing, as in %s", s->example);
    if (!is_host(text, bracketed))
        return apr_psprintf(pool, "\"%s\" is not a valid host, as in %s", text, s->example);
    if (port && *port && !is_port(port))
        return apr_psprintf(pool, "\"%s\" is not a valid port, as in %s", port, s->example);
    at->host = text;
    at->port = port && *port ? (apr_port_t)atoi(port) : s->port;
    at->name = apr_psprintf(pool, bracketed ? "[%s]:%d" : "%s:%d", at->host, at->port);
    return NULL;
}

static const char *parse_hosts(apr_pool_t *pool, const scheme *s, char *text,
                               rl_url *url, rl_endpoint *endpoints)
{
    for (char *next; text; text = next) {
        rl_endpoint *at = &endpoints[url->endpoint_count];
        const char *error;

        next = strchr(text, ',');
        if (next && s->kind == RL_URL_SINGLE)
            return apr_psprintf(pool, "%s:// takes one host; several are for sentinel:// or "
                                "cluster://", s->name);
        if (next)
            *next++ = '\0';
        if (url->endpoint_count == RL_ENDPOINTS_MAX)
            return apr_psprintf(pool, "there are more than %d hosts; a few of them are enough",
                                RL_ENDPOINTS_MAX);
        error = parse_host(pool, s, text, at);
        if (error)
            return error;
        for (int i = 0; i < url->endpoint_count; i++) {
            if (!strcasecmp(endpoints[i].name, at->name))
                return apr_psprintf(pool, "%s is given twice", at->name);
        }
        url->endpoint_count++;
    }
    return NULL;
}

/* --- What follows the hosts --------------------------------------------------------------- */

static const char *parse_primary(apr_pool_t *pool, const scheme *s, char *path,
                                 rl_url *url)
{
    char *db = strchr(path, '/');

    if (db)
        *db++ = '\0';
    if (!*path)
        return apr_psprintf(pool, "the name of the primary, as the sentinels know it, is missing, "
                            "as in %s", s->example);
    if (path[strspn(path, NAME_CHARACTERS)])
        return apr_psprintf(pool, "\"%s\" is not a valid name of a primary, which has letters, "
                            "digits, '.', '_' and '-', as in %s", path, s->example);
    url->primary = path;
    return parse_db(pool, db ? db : "", &url->db);
}

static const char *parse_path(apr_pool_t *pool, const scheme *s, char *path,
                              rl_url *url)
{
    if (strpbrk(path, "?#"))
        return apr_psprintf(pool, "'%c' has no meaning here, as in %s", *strpbrk(path, "?#"),
                            s->example);
    if (s->kind == RL_URL_SENTINEL)
        return parse_primary(pool, s, path, url);
    if (s->kind == RL_URL_CLUSTER)
        return !*path || !strcmp(path, "0") ? NULL : "a cluster has only database 0, and nothing "
                                                     "follows its hosts";
    return parse_db(pool, path, &url->db);
}

/* Cuts the user off: everything before the last '@'. */
static const char *parse_user(apr_pool_t *pool, const char **rest, rl_url *url)
{
    const char *at = strrchr(*rest, '@');

    if (!at)
        return NULL;
    if (memchr(*rest, ':', (size_t)(at - *rest)))
        return NO_PASSWORDS;
    url->user = apr_pstrmemdup(pool, *rest, (apr_size_t)(at - *rest));
    if (!*url->user)
        return "the user before '@' is missing, as in redis://limiter@127.0.0.1:6379";
    if (url->user[strspn(url->user, NAME_CHARACTERS)])
        return "the text before '@' is not a valid user for a URL, which has letters, digits, '.', "
               "'_' and '-'; put other users with their passwords into the file of "
               "RateLimitRedisAuth, as: user password";
    *rest = at + 1;
    return NULL;
}

static const char *name_of(apr_pool_t *pool, const scheme *s, const rl_url *url)
{
    const char *name = apr_pstrcat(pool, s->name, "://", NULL);

    if (s->kind == RL_URL_SINGLE)
        return url->endpoints[0].name;
    for (int i = 0; i < url->endpoint_count; i++)
        name = apr_pstrcat(pool, name, i ? "," : "", url->endpoints[i].name, NULL);
    return url->primary ? apr_pstrcat(pool, name, "/", url->primary, NULL) : name;
}

const char *rl_url_parse(apr_pool_t *pool, const char *text, rl_url **url)
{
    const char *rest = NULL, *error;
    const scheme *s = find_scheme(text, &rest);
    rl_endpoint *endpoints = apr_pcalloc(pool, sizeof(*endpoints) * RL_ENDPOINTS_MAX);
    rl_url *found = *url = apr_pcalloc(pool, sizeof(*found));
    char *hosts, *path;

    if (!s)
        return "the URL begins with none of redis://, rediss://, unix://, sentinel:// and "
               "cluster://, as in redis://127.0.0.1:6379";
    found->kind = s->kind;
    found->tls = s->tls;
    found->endpoints = endpoints;
    if (s->port == 0) {
        found->endpoint_count = 1;
        error = parse_unix(pool, rest, found, endpoints);
    }
    else if (!(error = parse_user(pool, &rest, found))) {
        hosts = apr_pstrdup(pool, rest);
        path = hosts + strcspn(hosts, "/?#");
        if (*path == '/')
            *path++ = '\0';
        else if (*path)
            return apr_psprintf(pool, "'%c' has no meaning here, as in %s", *path, s->example);
        error = parse_hosts(pool, s, hosts, found, endpoints);
        if (!error)
            error = parse_path(pool, s, path, found);
    }
    if (!error)
        found->name = name_of(pool, s, found);
    return error;
}
