/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: directives, create and merge, checks at httpd -t.
 *
 * Two structures: rl_settings, what is said once for the whole server, and rl_section, what may
 * be said anywhere and is merged from the outside in. Both are made while the configuration is
 * read (or, merged, in a request's pool) and never change while requests are served.
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

/* Whatever is not set is -1; rl_config_of() fills in the defaults. */
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
    rl_log *log; /* NULL: the main server's; each virtual host has its own settings for it */
} rl_settings;

extern const command_rec rl_config_commands[];

void *rl_config_create_section(apr_pool_t *pool, char *where);
void *rl_config_merge_section(apr_pool_t *pool, void *outer, void *inner);
void *rl_config_create_server(apr_pool_t *pool, server_rec *s);
void *rl_config_merge_server(apr_pool_t *pool, void *outer, void *inner);

/* Forgets what an earlier reading of the configuration left; before each reading. */
void rl_config_begin(apr_pool_t *pool);

/*
 * Settles what only all rules together say, warns of what is valid but hardly meant, and returns 0,
 * with an error logged, if something cannot work. At httpd -t and at each start.
 */
int rl_config_check(apr_pool_t *pool, server_rec *main_server);

/* All rules that were read, each an rl_rule *, in the order of the files. */
apr_array_header_t *rl_config_rules(void);

/* All violation logs, each an rl_log *. */
apr_array_header_t *rl_config_logs(void);

/* The settings; the main server's, whichever server is asked about. */
const rl_settings *rl_config_settings(server_rec *main_server);

/* The violation log of a server, or NULL if it has none; settings are the main server's. */
const rl_log *rl_config_log(const server_rec *server, const rl_settings *settings);

/* The settings of a virtual host, of which only scope and log are its own. */
const rl_settings *rl_config_of_server(const server_rec *server);

/* The section that holds for a request, or NULL if nothing was said there. */
const rl_section *rl_config_of(const request_rec *r);

/* Effective values where a section may have said nothing. */
unsigned rl_config_normalize(const rl_section *section);
int rl_config_headers(const rl_section *section);

#endif
