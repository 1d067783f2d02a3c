/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: connections to Redis that nobody reads along.
 *
 * The certificates of RateLimitRedisTLS, and the handshake of one connection, which never blocks:
 * whoever owns the connection steps it when its descriptor is ready. After it hiredis encrypts by
 * itself. Peers are verified, their names too.
 *
 * Needs hiredis 1.0 or newer, with its part for TLS. Built with an older one everything here is
 * there, and rl_tls_missing() says what is not.
 */
#ifndef RL_TLS_H
#define RL_TLS_H

#include <hiredis.h>

#if HIREDIS_MAJOR > 1 || (HIREDIS_MAJOR == 1 && HIREDIS_MINOR >= 0)
#if __has_include(<hiredis_ssl.h>) && __has_include(<openssl/ssl.h>)
#define RL_TLS_BUILT 1
#endif
#endif
#ifndef RL_TLS_BUILT
#define RL_TLS_BUILT 0
#endif

#include <apr_pools.h>

typedef struct rl_tls rl_tls;
typedef struct ssl_st rl_tls_session;

/* NULL: what was not said. */
typedef struct {
    const char *ca;   /* file of certificates to trust; the system's */
    const char *cert; /* file with this client's certificate, and those that lead to it */
    const char *key;  /* file with its key */
    const char *name; /* in the server's certificate; the host of the URL */
} rl_tls_options;

/* Why there is no TLS in this build, for the administrator; NULL if there is. */
const char *rl_tls_missing(void);

/*
 * Reads the files. Returns NULL and sets *tls, which lives as long as the pool, or an error text.
 * What is made may be used by any thread, and by children forked later.
 */
const char *rl_tls_create(apr_pool_t *pool, const rl_tls_options *options, rl_tls **tls);

/*
 * Begins the handshake on a connected socket; the session lives as long as the context. NULL if
 * that cannot be, and the context's errstr says why.
 */
rl_tls_session *rl_tls_begin(const rl_tls *tls, redisContext *context, const char *host);

/*
 * Moves a handshake on. Returns the poll events to wait for, 0 when it is complete, -1 if it has
 * failed: then error says why.
 */
int rl_tls_shake(rl_tls_session *session, char *error, size_t size);

/* Whether the session holds bytes that poll() does not see. */
int rl_tls_has_more(const rl_tls_session *session);

#endif
