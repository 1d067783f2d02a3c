/*
 * topology: where Redis is.
 *
 * Reads RateLimitRedis URLs and finds the addresses of a node. In this version there is one node.
 * A node is made when the configuration is read and never changes; rl_topology_resolve() may block
 * in the resolver and so must not be called while a request waits.
 */
#ifndef RL_TOPOLOGY_H
#define RL_TOPOLOGY_H

#include <apr_network_io.h>
#include <apr_pools.h>

typedef struct {
    const char *name; /* for people: host:port or the socket's path; holds no secret */
    const char *host; /* NULL: a unix socket */
    apr_port_t port;
    const char *path; /* of the unix socket */
    int db;
} rl_node;

/*
 * Parses redis://host[:port][/db] or unix:///path[?db=N]. Returns NULL and sets *node, or an error
 * text. The text never repeats what stands before an '@', which may be a password.
 */
const char *rl_topology_parse(apr_pool_t *pool, const char *url, rl_node **node);

/*
 * The addresses of a node in numbers, in the order to try them, each a string in the pool; an empty
 * array if the name has none. For a unix socket, its path.
 */
apr_array_header_t *rl_topology_resolve(apr_pool_t *pool, const rl_node *node);

#endif
