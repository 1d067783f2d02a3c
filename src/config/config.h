/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: what the directives have set: how it is merged, and looked up for a request.
 *
 * rl_settings is set once for the whole server. rl_section may be set anywhere and is merged from
 * the outer section to the inner one. Both are made while the configuration is read (merged
 * sections also in a request's pool) and do not change while requests are served, so any thread may
 * read them.
 */
#ifndef RL_CONFIG_H
#define RL_CONFIG_H

#include <httpd.h>
#include <http_config.h>

#include "core/path.h"
#include "httpd/log_file.h"
#include "redis/credentials.h"
#include "redis/tls.h"
#include "redis/url.h"
#include "rule/rule.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;

/* RateLimitHeaders: families; RL_HEADERS_YIELD keeps a header that is already there. */
enum {
    RL_HEADERS_X_RATELIMIT = 1,
    RL_HEADERS_DRAFT_11 = 2,
    RL_HEADERS_DRAFT_03 = 4,
    RL_HEADERS_FAMILIES = 7,
    RL_HEADERS_YIELD = 8
};

typedef enum { RL_ENGINE_OFF, RL_ENGINE_ON, RL_ENGINE_SHADOW } rl_engine;
typedef enum { RL_RESPONSE_OFF, RL_RESPONSE_PROBLEM, RL_RESPONSE_TEXT } rl_response;
typedef enum { RL_NOTES_DENIED, RL_NOTES_ALL } rl_notes;

/* engine, headers, response, notes: -1 where no directive is given, which means the default. */
typedef struct {
    const rl_rule *const *rules; /* each name once; includes rules that are off */
    int rule_count;
    unsigned phases; /* of the rules: bit n is rl_phase n */
    int drops_inherited; /* RateLimit off */
    int engine;
    int headers;
    int response;
    int notes;
    unsigned normalize;       /* steps of rl_path_normalise() */
    unsigned normalize_given; /* the steps that RateLimitNormalize names */
} rl_section;

/* A rule and its place in the configuration, for checks and their messages. */
typedef struct {
    rl_rule *rule;
    const rl_section *section;
    const server_rec *server;
    const char *file;
    int line;
    int whole_server; /* not inside a section */
} rl_written_rule;

/* A step of RateLimitAdaptive: above a load, quotas are multiplied by per_mille thousandths. */
typedef struct {
    int above_percent;
    int per_mille;
} rl_adaptive;

/* A file of RateLimitRedisAuth. */
typedef struct {
    rl_credentials *credentials; /* NULL: not given */
    const char *exposed;         /* its path, if every user of the host can use it; or NULL */
} rl_redis_auth;

typedef struct {
    const rl_url *redis; /* NULL: none, each host counts for itself */
    rl_redis_auth redis_auth, sentinel_auth;
    rl_tls *redis_tls;
    int64_t timeout_ms;   /* what one request chain may spend on Redis */
    int64_t connect_ms;
    const char *prefix;
    rl_on_failure on_failure;
    int64_t nodes; /* hosts that share a quota in fallback */
    int breaker_failures;
    int64_t retry_min_ms;
    int64_t retry_max_ms;
    apr_size_t shared_memory; /* bytes */
    int ipv6_prefix;
    int overrides;        /* RateLimitOverrides on */
    int delay_workers;    /* percent of the workers that delay= may occupy at a time */
    const rl_adaptive *adaptive; /* in the order of their loads */
    int adaptive_count;
    const char *scope;    /* RateLimitScope, or NULL */
    apr_uint64_t scope_hash; /* 0 without */
    rl_log_file *log; /* of this server, or NULL: see rl_config_log() */
} rl_settings;

void *rl_config_create_section(apr_pool_t *pool, char *where);
void *rl_config_merge_section(apr_pool_t *pool, void *outer, void *inner);
void *rl_config_create_server(apr_pool_t *pool, server_rec *s);
void *rl_config_merge_server(apr_pool_t *pool, void *outer, void *inner);

/* Empties the lists of rules and logs. Called before the configuration is read. */
void rl_config_begin(apr_pool_t *pool);

/* All rules, each an rl_written_rule, in the order of the configuration. */
apr_array_header_t *rl_config_rules(void);

/* All logs of RateLimitLog, each an rl_log_file *. */
apr_array_header_t *rl_config_logs(void);

/* The settings of a server; in those of a virtual host only scope and log are set. */
static inline const rl_settings *rl_config_settings(const server_rec *server)
{
    return ap_get_module_config(server->module_config, &ratelimit_redis_module);
}

/* The log for a server's denials; NULL if there is none. settings are those of the main server. */
const rl_log_file *rl_config_log(const server_rec *server, const rl_settings *settings);

/* The merged section for a request; NULL if no directive was given there. */
static inline const rl_section *rl_config_section(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &ratelimit_redis_module);
}

/* The section's rule of this name, which may be off; NULL if there is none. */
const rl_rule *rl_config_rule_named(const rl_section *section, const char *name);

/* What is set or, where nothing is, the default. */
unsigned rl_config_normalize(const rl_section *section);
int rl_config_headers(const rl_section *section);

#endif
