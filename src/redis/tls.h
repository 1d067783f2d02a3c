/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: encrypted connections to Redis.
 *
 * Loads the certificates of RateLimitRedisTLS, and does the handshake of a connection without
 * blocking: its owner calls rl_tls_shake() when the descriptor is ready. Afterwards hiredis
 * encrypts by itself. Certificates and names of servers are verified.
 *
 * Needs hiredis 1.0 or later with its TLS library. With an older one these functions exist, but
 * fail, and rl_tls_missing() returns the reason.
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

/* NULL: not given. */
typedef struct {
    const char *ca;   /* file of certificates to trust; default: the system's */
    const char *cert; /* file with this client's certificate and its chain */
    const char *key;  /* file with its key */
    const char *name; /* in the server's certificate; default: the host of the URL */
} rl_tls_options;

/* Why there is no TLS in this build, for the administrator; NULL if there is. */
const char *rl_tls_missing(void);

/*
 * Reads the files. Returns NULL and sets *tls, which lives as long as the pool, or returns an error
 * text. *tls may be used by any thread, and by children forked later.
 */
const char *rl_tls_create(apr_pool_t *pool, const rl_tls_options *options, rl_tls **tls);

/*
 * Begins the handshake on a connected socket. The session lives as long as the context. NULL if it
 * fails; the reason is then in the context's errstr.
 */
rl_tls_session *rl_tls_begin(const rl_tls *tls, redisContext *context, const char *host);

/*
 * Continues a handshake. Returns the poll events to wait for, 0 when it is complete, or -1 if it
 * has failed, with the reason in error.
 */
int rl_tls_shake(rl_tls_session *session, char *error, size_t size);

/* Whether the session holds bytes that poll() does not see. */
int rl_tls_has_more(const rl_tls_session *session);

#endif
