/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: what the directives have set, how sections merge, and where a request finds it.
 *
 * Two structures: rl_settings, what is set once for the whole server, and rl_section, what may be
 * set anywhere and is merged from the outside in. Both are made while the configuration is read
 * (merged sections also in a request's pool) and never change while requests are served, so that
 * any thread may read them.
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

/* RateLimitHeaders: families, and what to do with a header that is already there. */
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

/* engine, headers, response, notes: -1 where no directive was given, which means the default. */
typedef struct {
    const rl_rule *const *rules; /* "off" among them; each name once */
    int rule_count;
    unsigned phases; /* of the rules: bit n is rl_phase n */
    int drops_inherited; /* RateLimit off */
    int engine;
    int headers;
    int response;
    int notes;
    unsigned normalize;      /* steps of rl_path_normalise() */
    unsigned normalize_said; /* which of them were said */
} rl_section;

/* A rule and where it was written, for checks and their messages. */
typedef struct {
    rl_rule *rule;
    const rl_section *section;
    const server_rec *server;
    const char *file;
    int line;
    int whole_server; /* not inside a section */
} rl_written_rule;

/* A step of RateLimitAdaptive: the factor of quotas, in thousandths, above a load. */
typedef struct {
    int above_percent;
    int per_mille;
} rl_adaptive;

/* A file with a password. */
typedef struct {
    rl_credentials *credentials; /* NULL: not said */
    const char *exposed;         /* its path if everybody can read or write it */
} rl_redis_auth;

typedef struct {
    const rl_url *redis; /* NULL: this host alone */
    rl_redis_auth redis_auth, sentinel_auth;
    rl_tls *redis_tls;
    int64_t timeout_ms;   /* what one request chain may spend on Redis */
    int64_t connect_ms;
    const char *prefix;
    rl_on_failure on_failure;
    int64_t nodes; /* hosts that share a quota when each counts for itself */
    int breaker_failures;
    int64_t retry_min_ms;
    int64_t retry_max_ms;
    apr_size_t shared_memory; /* bytes */
    int ipv6_prefix;
    int overrides;        /* limits held in Redis for single identities */
    int delay_workers;    /* percent of the workers that may be held by delay= at a time */
    const rl_adaptive *adaptive; /* by growing load */
    int adaptive_count;
    const char *scope;    /* of a virtual host whose counts are apart from others; or NULL */
    apr_uint64_t scope_hash; /* 0 without */
    rl_log_file *log; /* NULL: the main server's; each virtual host has its own settings for it */
} rl_settings;

void *rl_config_create_section(apr_pool_t *pool, char *where);
void *rl_config_merge_section(apr_pool_t *pool, void *outer, void *inner);
void *rl_config_create_server(apr_pool_t *pool, server_rec *s);
void *rl_config_merge_server(apr_pool_t *pool, void *outer, void *inner);

/* Forgets what an earlier reading of the configuration left; before each reading. */
void rl_config_begin(apr_pool_t *pool);

/* All rules that were read, each an rl_written_rule, in the order of the files. */
apr_array_header_t *rl_config_rules(void);

/* All violation logs, each an rl_log_file *. */
apr_array_header_t *rl_config_logs(void);

/* The settings of a server. Those of a virtual host hold its scope and log only. */
static inline const rl_settings *rl_config_settings(const server_rec *server)
{
    return ap_get_module_config(server->module_config, &ratelimit_redis_module);
}

/* The violation log of a server, or NULL if it has none; settings are the main server's. */
const rl_log_file *rl_config_log(const server_rec *server, const rl_settings *settings);

/* The section that applies to a request, or NULL if no directive was given there. */
static inline const rl_section *rl_config_section(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &ratelimit_redis_module);
}

/* A section's rule of this name, which may be off; NULL if it has none. */
const rl_rule *rl_config_rule_named(const rl_section *section, const char *name);

/* Effective values where a section may have said nothing. */
unsigned rl_config_normalize(const rl_section *section);
int rl_config_headers(const rl_section *section);

#endif
