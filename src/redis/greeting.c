/*
 * greeting: the commands of a handshake.
 */
#include <string.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_network_io.h>
#include <apr_strings.h>

#include "greeting.h"

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
    for (char *c = host; *c; c++) { /* Redis refuses blanks and what is no ASCII */
        if (*c <= ' ' || *c > '~')
            *c = '?';
    }
    words[2] = apr_psprintf(pool, "ratelimit:%s:%d", host, (int)getpid());
    greeting = rl_greeting_make(pool, "CLIENT SETNAME", 3, words);
    greeting.optional = 1;
    return greeting;
}
