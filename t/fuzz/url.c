/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a URL of RateLimitRedis, and again with a password in the middle. Aborts where url.h
 * does not keep what it promises.
 */
#include "redis/url.h"

#include <apr_general.h>
#include <apr_strings.h>

#include <stdlib.h>
#include <string.h>

#define SECRET ":Zq7secretZq7@"

static void must(int holds)
{
    if (!holds)
        abort();
}

static void must_be_sound(const rl_url *url)
{
    must(url->name && *url->name);
    must(url->endpoint_count > 0);
    for (int i = 0; i < url->endpoint_count; i++) {
        const rl_endpoint *at = &url->endpoints[i];

        must(at->name && *at->name);
        must(!at->host != !at->path);
        must(!at->host || (*at->host && at->port > 0));
        must(!at->path || (at->path[0] == '/' && strlen(at->path) <= 107));
    }
    must(url->endpoint_count <= RL_ENDPOINTS_MAX);
    must(url->endpoint_count == 1 || url->kind != RL_URL_SINGLE);
    must(url->db >= 0 && url->db <= 1000000);
    must(!url->primary == (url->kind != RL_URL_SENTINEL));
    must(!url->primary || *url->primary);
    must(!url->user || *url->user);
}

/* Returns what logs and pages show of a URL: an error, or its names. */
static const char *parse(apr_pool_t *pool, const char *text)
{
    rl_url *url = NULL;
    const char *error = rl_url_parse(pool, text, &url), *shown;

    if (error) {
        must(*error != '\0');
        return error;
    }
    must_be_sound(url);
    shown = url->name;
    for (int i = 0; i < url->endpoint_count; i++)
        shown = apr_pstrcat(pool, shown, " ", url->endpoints[i].name, NULL);
    return shown;
}

/* In the path of a unix socket an '@' has no meaning. */
static int is_path(const char *url)
{
    return !strncasecmp(url, "unix:///", 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static apr_pool_t *pool;
    char *url = malloc(size + sizeof(SECRET));
    size_t middle = size ? data[0] % size : 0;
    const char *shown;
    int known;

    if (!pool) {
        apr_initialize();
        apr_pool_create(&pool, NULL);
    }
    memcpy(url, data, size);
    url[size] = '\0';
    parse(pool, url);
    if (strlen(url) < size)
        middle = strlen(url); /* behind a zero byte it would not be seen */
    known = strstr(url, "Zq7") != NULL;
    memcpy(url + middle, SECRET, sizeof(SECRET) - 1);
    memcpy(url + middle + sizeof(SECRET) - 1, data + middle, size - middle);
    url[size + sizeof(SECRET) - 1] = '\0';
    shown = parse(pool, url);
    must(known || !strstr(shown, "Zq7") || is_path(url));
    apr_pool_clear(pool);
    free(url);
    return 0;
}
