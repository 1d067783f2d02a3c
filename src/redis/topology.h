/*
 * topology: where Redis is, as the administrator says it.
 *
 * Reads RateLimitRedis URLs. What is read is made with the configuration and never changes.
 */
#ifndef RL_TOPOLOGY_H
#define RL_TOPOLOGY_H

#include <apr_network_io.h>
#include <apr_pools.h>

/* A server: one that listens on a port of a host, or on a unix socket. */
typedef struct {
    const char *name; /* for people: host:port or the socket's path; holds no secret */
    const char *host; /* a name or an address in numbers; NULL: a unix socket */
    apr_port_t port;
    const char *path; /* of the unix socket */
} rl_endpoint;

typedef enum { RL_ONE_SERVER, RL_SENTINELS, RL_CLUSTER } rl_topology_kind;

typedef struct {
    rl_topology_kind kind;        /* what the endpoints are: the server, sentinels, or seeds */
    const char *name;             /* for people; holds no secret */
    const rl_endpoint *endpoints; /* in the order of the URL */
    int endpoint_count;
    const char *primary;          /* its name, where there are sentinels */
    int db;
} rl_topology;

/*
 * Parses redis://host[:port][/db], unix:///path[?db=N], sentinel://host[:port],.../primary[/db]
 * or cluster://host[:port],... Returns NULL and sets *topology, or an
 * error text. The text never repeats what stands before an '@', which may be a password.
 */
const char *rl_topology_parse(apr_pool_t *pool, const char *url, rl_topology **topology);

#endif
