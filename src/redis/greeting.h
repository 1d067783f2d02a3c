/* SPDX-License-Identifier: Apache-2.0 */
/*
 * greeting: the commands of a handshake.
 *
 * Whoever connects says who asks, in which database and with which scripts, all at once and before
 * anything else. Greetings are made once, and used at each connection.
 */
#ifndef RL_GREETING_H
#define RL_GREETING_H

#include <apr_pools.h>
#include <hiredis.h>

#include "redis/credentials.h"
#include "redis/reader.h"

/* A command of the handshake. */
typedef struct {
    const char *name;  /* for logs */
    const char *bytes; /* formatted */
    int length;
    const rl_credentials *credentials; /* not NULL: it is AUTH, formatted anew each time */
    int secret;        /* what Redis says of it may repeat it, and is not logged */
    int optional;      /* if Redis does not know it, or the user may not: goes on without it */
    rl_reply_kind reply; /* how large it may be */
    /* What is wrong with a reply, for logs; NULL if nothing. Sees no error that ends it anyway. */
    const char *(*check)(void *context, const redisReply *reply);
    void *context;
} rl_greeting;

/* A command of so many words; name and bytes live as long as the pool. */
rl_greeting rl_greeting_make(apr_pool_t *pool, const char *name, int words, const char **word);

/* AUTH with what the credentials are at that time. They are not NULL. */
rl_greeting rl_greeting_auth(const rl_credentials *credentials);

/*
 * CLIENT SETNAME ratelimit:HOST:PID, so that CLIENT LIST and the logs of Redis show whose connection
 * it is. Not every user may.
 */
rl_greeting rl_greeting_set_name(apr_pool_t *pool);

/*
 * HELLO, which is as old as SET with KEEPTTL, which scripts need: one that does not know it is too
 * old, and would decide some calls and refuse others. Not every user may.
 */
rl_greeting rl_greeting_hello(void);

#endif
