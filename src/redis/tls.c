/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: encrypted connections to Redis.
 *
 * hiredis's own functions to set up TLS neither check names nor report what an unfinished handshake
 * waits for. So sessions are made with OpenSSL here and passed to hiredis.
 */
#include "redis/tls.h"

#if RL_TLS_BUILT

#include <poll.h>
#include <string.h>

#include <apr_strings.h>
#include <arpa/inet.h>
#include <hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

struct rl_tls {
    SSL_CTX *context;
    const char *name;
};

const char *rl_tls_missing(void)
{
    return NULL;
}

static apr_status_t free_context(void *context)
{
    SSL_CTX_free(context);
    return APR_SUCCESS;
}

static const char *cannot(apr_pool_t *pool, const char *name, const char *file)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return apr_psprintf(pool, "%s=%s cannot be used: %s", name, file,
                        reason ? reason : "not a file in PEM format");
}

static const char *load_files(apr_pool_t *pool, const rl_tls_options *o, SSL_CTX *context)
{
    if (!o->ca)
        SSL_CTX_set_default_verify_paths(context);
    else if (SSL_CTX_load_verify_locations(context, o->ca, NULL) != 1)
        return cannot(pool, "ca", o->ca);
    if (o->cert && SSL_CTX_use_certificate_chain_file(context, o->cert) != 1)
        return cannot(pool, "cert", o->cert);
    if (o->key && SSL_CTX_use_PrivateKey_file(context, o->key, SSL_FILETYPE_PEM) != 1)
        return cannot(pool, "key", o->key);
    if (o->key && SSL_CTX_check_private_key(context) != 1) {
        ERR_clear_error();
        return apr_psprintf(pool, "key=%s is not the key of cert=%s", o->key, o->cert);
    }
    return NULL;
}

/* Otherwise a key with a pass phrase would make the server prompt for it. */
static int no_pass_phrase(char *phrase, int size, int writing, void *ignored)
{
    (void)phrase;
    (void)size;
    (void)writing;
    (void)ignored;
    return 0;
}

const char *rl_tls_create(apr_pool_t *pool, const rl_tls_options *options, rl_tls **tls)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (!context)
        return "OpenSSL cannot make a context";
    apr_pool_cleanup_register(pool, context, free_context, apr_pool_cleanup_null);
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_default_passwd_cb(context, no_pass_phrase);
    *tls = apr_pcalloc(pool, sizeof(**tls));
    (*tls)->context = context;
    (*tls)->name = options->name;
    return load_files(pool, options, context);
}

static int expect_name(SSL *ssl, const char *name)
{
    unsigned char bytes[16];

    if (inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name);
    return SSL_set_tlsext_host_name(ssl, name) && SSL_set1_host(ssl, name);
}

static void say_why(const SSL *ssl, char *error, size_t size)
{
    unsigned long code = ERR_peek_last_error();
    long verified = SSL_get_verify_result(ssl);
    const char *reason = code ? ERR_reason_error_string(code) : NULL;

    if (verified != X509_V_OK)
        apr_snprintf(error, size, "TLS: its certificate is not valid: %s",
                     X509_verify_cert_error_string(verified));
    else
        apr_snprintf(error, size, "TLS: %s", reason ? reason : "it closed the connection");
}

rl_tls_session *rl_tls_begin(const rl_tls *tls, redisContext *context, const char *host)
{
    SSL *ssl = SSL_new(tls->context);
    char why[sizeof(context->errstr)];

    ERR_clear_error();
    if (ssl && expect_name(ssl, tls->name ? tls->name : host)
        && redisInitiateSSL(context, ssl) == REDIS_OK)
        return ssl;
    if (ssl && SSL_get_verify_result(ssl) != X509_V_OK) {
        say_why(ssl, context->errstr, sizeof(context->errstr));
    }
    else {
        apr_cpystrn(why, context->err ? context->errstr : "no session", sizeof(why));
        apr_snprintf(context->errstr, sizeof(context->errstr), "TLS: %s", why);
    }
    SSL_free(ssl);
    ERR_clear_error();
    return NULL;
}

int rl_tls_shake(rl_tls_session *ssl, char *error, size_t size)
{
    int said;

    ERR_clear_error();
    said = SSL_do_handshake(ssl);
    if (said == 1)
        return 0;
    said = SSL_get_error(ssl, said);
    if (said == SSL_ERROR_WANT_READ)
        return POLLIN;
    if (said == SSL_ERROR_WANT_WRITE)
        return POLLOUT;
    say_why(ssl, error, size);
    ERR_clear_error();
    return -1;
}

int rl_tls_has_more(const rl_tls_session *ssl)
{
    return SSL_pending(ssl) > 0;
}

#else

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

const char *rl_tls_missing(void)
{
    return "TLS needs hiredis 1.0 or later with its TLS library, and this module was built with "
           "hiredis " NUMBER(HIREDIS_MAJOR) "." NUMBER(HIREDIS_MINOR) "." NUMBER(HIREDIS_PATCH)
           "; conf/examples/redis-over-stunnel.conf shows another way";
}

const char *rl_tls_create(apr_pool_t *pool, const rl_tls_options *options, rl_tls **tls)
{
    (void)pool;
    (void)options;
    *tls = NULL;
    return rl_tls_missing();
}

rl_tls_session *rl_tls_begin(const rl_tls *tls, redisContext *context, const char *host)
{
    (void)tls;
    (void)context;
    (void)host;
    return NULL;
}

int rl_tls_shake(rl_tls_session *session, char *error, size_t size)
{
    (void)session;
    (void)error;
    (void)size;
    return -1;
}

int rl_tls_has_more(const rl_tls_session *session)
{
    (void)session;
    return 0;
}

#endif
