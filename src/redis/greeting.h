/* SPDX-License-Identifier: Apache-2.0 */
/*
 * greeting: the commands of a handshake.
 *
 * A new connection first sends all its greetings at once: they authenticate, select the database
 * and load the scripts. Greetings are made once, and used for each connection.
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
    const rl_credentials *credentials; /* not NULL: it is AUTH, formatted for each connection */
    int secret;        /* an error reply may repeat it, and is not logged */
    int optional;      /* not needed if Redis does not know it or the user may not run it */
    rl_reply_kind reply; /* how large it may be */
    /* What is wrong with a reply, for logs; NULL if nothing. Not called if an error ends it. */
    const char *(*check)(void *context, const redisReply *reply);
    void *context;
} rl_greeting;

/* A command of these words. Its bytes live as long as the pool; name must, too. */
rl_greeting rl_greeting_make(apr_pool_t *pool, const char *name, int words, const char **word);

/* AUTH with the credentials, which are not NULL, as they are when a connection is made. */
rl_greeting rl_greeting_auth(const rl_credentials *credentials);

/*
 * CLIENT SETNAME ratelimit:HOST:PID, so that CLIENT LIST and the logs of Redis show where a
 * connection comes from. Optional, because a user may lack the right.
 */
rl_greeting rl_greeting_set_name(apr_pool_t *pool);

/*
 * HELLO, to detect a Redis before 6.0: it knows neither HELLO nor SET with KEEPTTL, which the
 * scripts need, and would decide some calls and refuse others. A user may lack the right to run
 * HELLO.
 */
rl_greeting rl_greeting_hello(void);

#endif
