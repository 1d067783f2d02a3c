/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a Redis client like that of a child of httpd, for programs without httpd. Its breakers lie
 * in the memory of the process. RL_VERBOSE prints its log to stderr; otherwise it is discarded.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <apr_pools.h>

#include "redis/client.h"

static rl_breakers client_breakers;

__attribute__((unused)) static void client_log(void *context, rl_log_level level, const char *text)
{
    (void)context;
    if (getenv("RL_VERBOSE"))
        fprintf(stderr, "# %d: %s\n", (int)level, text);
}

/* The client of a URL; NULL, and an error on stderr, if the URL is not valid. */
__attribute__((unused)) static rl_client *client_of(apr_pool_t *pool, const char *text,
                                                    int threaded, int64_t timeout_ms,
                                                    int64_t connect_ms, rl_breaker_options retry)
{
    rl_client_options options = {.url = NULL};
    rl_url *url;
    const char *error = rl_url_parse(pool, text, &url);

    if (error) {
        fprintf(stderr, "%s: %s\n", text, error);
        return NULL;
    }
    options.url = url;
    options.prefix = "rl";
    options.threaded = threaded;
    options.timeout_ms = timeout_ms;
    options.connect_ms = connect_ms;
    options.failures = 5;
    options.retry = retry;
    options.breakers = &client_breakers;
    options.logger.write = client_log;
    return rl_client_create(pool, &options);
}

#endif
