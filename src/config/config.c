/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: what the directives have set: how it is merged, and looked up for a request.
 *
 * Merging appends the inner section's rules to the outer's, except those outer ones whose names the
 * inner section gives again. "RateLimit NAME off" stays in the list, as a rule that is off. httpd
 * merges sections with each other before it merges them with the server, so merging has to be
 * associative, and rules that are off make it so. If one side sets nothing, the other is returned
 * unchanged, which is what happens for most requests.
 *
 * httpd reads its configuration twice at start and once at each reload. The lists of all rules and
 * logs live as long as the configuration they were read from.
 */
#include <string.h>

#include <apr_strings.h>

#include "config/config.h"

static apr_array_header_t *all_rules; /* of rl_written_rule */
static apr_array_header_t *all_logs;  /* of rl_log_file * */

void rl_config_begin(apr_pool_t *pool)
{
    all_rules = apr_array_make(pool, 16, sizeof(rl_written_rule));
    all_logs = apr_array_make(pool, 2, sizeof(rl_log_file *));
}

apr_array_header_t *rl_config_rules(void)
{
    return all_rules;
}

apr_array_header_t *rl_config_logs(void)
{
    return all_logs;
}

/* --- Create and merge --------------------------------------------------------------------- */

void *rl_config_create_section(apr_pool_t *pool, char *where)
{
    rl_section *section = apr_pcalloc(pool, sizeof(*section));

    (void)where;
    section->engine = section->headers = section->response = section->notes = -1;
    return section;
}

static int is_empty(const rl_section *s)
{
    return s->rule_count == 0 && !s->drops_inherited && s->engine < 0 && s->headers < 0
        && s->response < 0 && s->notes < 0 && !s->normalize_given;
}

const rl_rule *rl_config_rule_named(const rl_section *section, const char *name)
{
    for (int i = 0; i < section->rule_count; i++) {
        if (!strcmp(section->rules[i]->name, name))
            return section->rules[i];
    }
    return NULL;
}

static void merge_rules(apr_pool_t *pool, rl_section *merged, const rl_section *outer,
                        const rl_section *inner)
{
    const rl_rule **rules;
    int n = 0;

    merged->drops_inherited = outer->drops_inherited || inner->drops_inherited;
    if (inner->drops_inherited || outer->rule_count == 0) {
        merged->rules = inner->rules;
        merged->rule_count = inner->rule_count;
        merged->phases = inner->phases;
        return;
    }
    if (inner->rule_count == 0)
        return;
    rules = apr_palloc(pool, sizeof(*rules) * (size_t)(outer->rule_count + inner->rule_count));
    for (int i = 0; i < outer->rule_count; i++) {
        if (!rl_config_rule_named(inner, outer->rules[i]->name))
            rules[n++] = outer->rules[i];
    }
    for (int i = 0; i < inner->rule_count; i++)
        rules[n++] = inner->rules[i];
    merged->rules = rules;
    merged->rule_count = n;
    merged->phases = outer->phases | inner->phases;
}

static int given(int inner, int outer)
{
    return inner >= 0 ? inner : outer;
}

void *rl_config_merge_section(apr_pool_t *pool, void *outer_section, void *inner_section)
{
    const rl_section *outer = outer_section, *inner = inner_section;
    rl_section *merged;

    if (is_empty(inner))
        return outer_section;
    if (is_empty(outer))
        return inner_section;
    merged = apr_pmemdup(pool, outer, sizeof(*merged));
    merge_rules(pool, merged, outer, inner);
    merged->engine = given(inner->engine, outer->engine);
    merged->headers = given(inner->headers, outer->headers);
    merged->response = given(inner->response, outer->response);
    merged->notes = given(inner->notes, outer->notes);
    merged->normalize = (outer->normalize & ~inner->normalize_given) | inner->normalize;
    merged->normalize_given = outer->normalize_given | inner->normalize_given;
    return merged;
}

void *rl_config_create_server(apr_pool_t *pool, server_rec *s)
{
    rl_settings *settings = apr_pcalloc(pool, sizeof(*settings));

    (void)s;
    settings->timeout_ms = 25;
    settings->connect_ms = 250;
    settings->prefix = "rl";
    settings->on_failure = RL_FAIL_LOCAL;
    settings->nodes = 1;
    settings->breaker_failures = 5;
    settings->retry_min_ms = 50;
    settings->retry_max_ms = 2000;
    settings->shared_memory = 16 << 20;
    settings->ipv6_prefix = 64;
    settings->delay_workers = 25;
    return settings;
}

/* A virtual host without a RateLimitScope has that of the main server. */
void *rl_config_merge_server(apr_pool_t *pool, void *outer_settings, void *inner_settings)
{
    const rl_settings *outer = outer_settings, *inner = inner_settings;
    rl_settings *merged;

    if (inner->scope || !outer->scope)
        return inner_settings;
    merged = apr_pmemdup(pool, inner, sizeof(*merged));
    merged->scope = outer->scope;
    merged->scope_hash = outer->scope_hash;
    return merged;
}

/* --- Look up ------------------------------------------------------------------------------- */

const rl_log_file *rl_config_log(const server_rec *server, const rl_settings *settings)
{
    const rl_settings *own = rl_config_settings(server);

    return own->log ? own->log : settings->log;
}

unsigned rl_config_normalize(const rl_section *section)
{
    return section->normalize | (RL_PATH_ALL & ~section->normalize_given);
}

int rl_config_headers(const rl_section *section)
{
    if (section->headers < 0)
        return RL_HEADERS_X_RATELIMIT;
    /* "yield" alone applies to the default headers. */
    return section->headers == RL_HEADERS_YIELD ? RL_HEADERS_YIELD | RL_HEADERS_X_RATELIMIT
                                                : section->headers;
}
