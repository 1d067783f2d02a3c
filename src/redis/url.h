/* SPDX-License-Identifier: Apache-2.0 */
/*
 * url: the URLs of RateLimitRedis.
 *
 * Parsed when the configuration is read, and never changed afterwards.
 */
#ifndef RL_URL_H
#define RL_URL_H

#include <apr_network_io.h>
#include <apr_pools.h>

#define RL_ENDPOINTS_MAX 32 /* in one URL */

typedef enum { RL_URL_SINGLE, RL_URL_SENTINEL, RL_URL_CLUSTER } rl_url_kind;

/* A server: one that listens on a port of a host, or on a unix socket. */
typedef struct {
    const char *name; /* for logs and pages: host:port or the socket's path; holds no secret */
    const char *host; /* a name or a numeric address; NULL: a unix socket */
    apr_port_t port;
    const char *path; /* of the unix socket */
} rl_endpoint;

typedef struct {
    const char *name;             /* for logs and pages; holds no secret */
    rl_url_kind kind;
    const rl_endpoint *endpoints; /* Redis, the sentinels, or some nodes of the cluster */
    int endpoint_count;
    const char *primary;          /* with sentinels: its name there */
    const char *user;             /* NULL: not given */
    int tls;
    int db;
} rl_url;

/*
 * Parses one of
 *
 *     redis://[user@]host[:port][/db]
 *     rediss://[user@]host[:port][/db]
 *     unix:///path[?db=N]
 *     sentinel[+tls]://[user@]host[:port],.../primary[/db]
 *     cluster[+tls]://[user@]host[:port],...
 *
 * Returns NULL and sets *url, or returns an error text. The text never repeats anything before an
 * '@', which may be a password.
 */
const char *rl_url_parse(apr_pool_t *pool, const char *text, rl_url **url);

#endif
