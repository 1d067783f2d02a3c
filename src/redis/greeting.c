/* SPDX-License-Identifier: Apache-2.0 */
/*
 * greeting: the commands of a handshake.
 */
#include <string.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_network_io.h>
#include <apr_strings.h>

#include "redis/greeting.h"
#include "redis/errors.h"

rl_greeting rl_greeting_make(apr_pool_t *pool, const char *name, int words, const char **word)
{
    rl_greeting greeting = {.name = name};
    char *bytes;

    greeting.length = (int)redisFormatCommandArgv(&bytes, words, word, NULL);
    greeting.bytes = apr_pmemdup(pool, bytes, (apr_size_t)greeting.length);
    redisFreeCommand(bytes);
    return greeting;
}

rl_greeting rl_greeting_auth(const rl_credentials *credentials)
{
    return (rl_greeting){.name = "AUTH", .credentials = credentials, .secret = 1};
}

rl_greeting rl_greeting_set_name(apr_pool_t *pool)
{
    char host[APRMAXHOSTLEN + 1];
    const char *words[] = {"CLIENT", "SETNAME", NULL};
    rl_greeting greeting;

    if (apr_gethostname(host, sizeof(host), pool) != APR_SUCCESS)
        apr_cpystrn(host, "?", sizeof(host));
    for (char *c = host; *c; c++) { /* Redis refuses blanks and non-ASCII bytes */
        if (*c <= ' ' || *c > '~')
            *c = '?';
    }
    words[2] = apr_psprintf(pool, "ratelimit:%s:%d", host, (int)getpid());
    greeting = rl_greeting_make(pool, "CLIENT SETNAME", 3, words);
    greeting.optional = 1;
    return greeting;
}

static const char *check_hello(void *context, const redisReply *reply)
{
    (void)context;
    return reply->type == REDIS_REPLY_ERROR && rl_error_of(reply->str) == RL_ERROR_NOCOMMAND
        ? "it does not know HELLO: Redis 6.0 or later is needed" : NULL;
}

rl_greeting rl_greeting_hello(void)
{
    static const char bytes[] = "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n";

    return (rl_greeting){.name = "HELLO", .bytes = bytes, .length = sizeof(bytes) - 1,
                         .optional = 1, .reply = RL_REPLY_LIST, .check = check_hello};
}
