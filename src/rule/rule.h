/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule: what one RateLimit line says, its grammar and its compiled form.
 *
 * Knows APR but no httpd, so that programs other than httpd read the same grammar. Expressions
 * are kept as text and compiled by whoever has a parser for them.
 *
 * A rule is made once, when the configuration is read, in the pool given, and never changes after
 * that: threads share it freely. Errors are texts for the administrator, in the same pool.
 */
#ifndef RL_RULE_H
#define RL_RULE_H

#include <apr_pools.h>
#include <apr_tables.h>

#include "core/limiter.h"

#define RL_NAME_MAX 64 /* bytes of a rule's name */

typedef enum {
    RL_KEY_IP, /* number: prefix length, up to 32 of IPv4, beyond of IPv6; 0: the default */
    RL_KEY_USER,
    RL_KEY_HEADER, /* name */
    RL_KEY_COOKIE, /* name */
    RL_KEY_ENV,    /* name */
    RL_KEY_METHOD,
    RL_KEY_HOST,
    RL_KEY_PATH, /* number: segments, 0 for all */
    RL_KEY_SERVER,
    RL_KEY_EXPR /* name: the text; expr: compiled */
} rl_key_kind;

typedef struct {
    rl_key_kind kind;
    int number;
    const char *name;
    const void *expr;
} rl_key_part;

/* The first alternative whose parts are all there is the identity. */
typedef struct {
    const rl_key_part *parts;
    int count;
} rl_key;

typedef enum { RL_SYNC_REQUEST, RL_SYNC_LEASE, RL_SYNC_LOCAL } rl_sync;
typedef enum { RL_FAIL_UNSET, RL_FAIL_LOCAL, RL_FAIL_OPEN, RL_FAIL_CLOSED } rl_on_failure;
typedef enum { RL_PHASE_UNSET, RL_PHASE_EARLY, RL_PHASE_ACCESS, RL_PHASE_AUTH } rl_phase;

/* A RateLimitTier of a rule: the quota of requests whose tier= has this value. */
typedef struct {
    const char *name;
    int unlimited;
    int64_t quota;
    int64_t burst; /* of a bucket */
} rl_tier;

/* An expression, as text and as httpd's ap_expr_info_t; text NULL: there is none. */
typedef struct {
    const char *text;
    const void *compiled;
} rl_expr;

typedef struct {
    const char *name;
    const char *text; /* QUOTA/WINDOW as written, for messages */
    const char *quota_text;
    rl_limit limit;
    const rl_key *keys; /* alternatives, in order; never none */
    int key_count;
    const char *path; /* glob on the normalised path, as written; NULL: all */
    const char *path_normal; /* with all steps of normalisation */
    const char *const *methods; /* NULL at the end; NULL: all */
    rl_expr when;
    rl_expr unless;
    rl_expr cost_expr; /* text NULL: cost holds */
    int64_t cost;
    rl_expr tier;
    const rl_tier *tiers;
    int tier_count;
    const char *tiers_text; /* for the script: see rl_ask */
    const uint64_t *statuses; /* charge-on: bit n is status n; NULL: every request */
    int adaptive;
    int is_shared; /* its key is of no single client: server, host, path and method alone */
    int has_tail; /* a rule of this counter blocks or charges on response; set when all are read */
    int status; /* of a denial: 400 to 599 */
    rl_on_failure on_failure; /* RL_FAIL_UNSET: the server's */
    rl_sync sync;
    rl_phase phase;
    int headers;    /* may it show in responses? */
    int shadow;
    int off;          /* RateLimit NAME off: only the name counts */
    uint64_t counter; /* stands for name, algorithm and window; see rl_local_key() */
    const char *key_suffix; /* :NAME:ALGORITHM:WINDOW, of Redis keys */
    int row;                /* of the statistics, given when the server starts */
} rl_rule;

/*
 * Compiles an expression, boolean or string. Returns NULL and sets *compiled, or an error text.
 * NULL in place of the function refuses expressions.
 */
typedef const char *(*rl_compile)(void *context, const char *text, int boolean,
                                  const void **compiled);

/*
 * Parses NAME QUOTA/WINDOW [option]... or NAME off. Returns NULL and sets *rule, or an error text
 * that begins with the rule's name where that was read.
 */
const char *rl_rule_parse(apr_pool_t *pool, const char *line, rl_compile compile, void *context,
                          rl_rule **rule);

/*
 * Adds TIER QUOTA|unlimited [burst=N] to a rule. Returns NULL, or an error text that begins with
 * the rule's name. Only while the configuration is read.
 */
const char *rl_rule_add_tier(apr_pool_t *pool, rl_rule *rule, const char *line);

/* The tier of this name, or NULL. */
const rl_tier *rl_rule_tier(const rl_rule *rule, const char *name);

/* Whether a response of this status is charged: by charge-on, or all. */
int rl_rule_charges_on(const rl_rule *rule, int status);

/*
 * The next word of a line, in the pool, with *line moved behind it; "" at the end. Blanks separate
 * words; double or single quotes around a word, or around what follows its first '=', keep
 * blanks, and a backslash keeps a quote or a backslash. NULL: a quote is not closed.
 */
const char *rl_rule_word(apr_pool_t *pool, const char **line);

/*
 * Parses a duration such as 500ms, 10s, 1m, 1h, 1d, 1w or a bare unit, in whole ms. Returns 1, or
 * 0 if text is none or is longer than 10 years.
 */
int rl_rule_duration(const char *text, int64_t *ms);

/* A duration in the largest unit that divides it: 60000 is 1m. */
const char *rl_rule_print_duration(apr_pool_t *pool, int64_t ms);

/* Whether a client can invent identities: by a header, a cookie, an expression on them. */
int rl_rule_key_is_inventable(const rl_rule *rule);

/* Whether a client can choose its tier. */
int rl_rule_tier_is_inventable(const rl_rule *rule);

/* Whether an alternative of its key always applies, so that those behind it never do. */
int rl_rule_key_has_dead_end(const rl_rule *rule);

/* Whether the rule counts by address or all requests together, and so cannot be dodged. */
int rl_rule_key_is_anchored(const rl_rule *rule);

/* Whether text may be a name: of a rule, a tier, a scope. */
int rl_rule_is_name(const char *text);

/* Where text stands among names (NULL at their end); -1 if it does not. */
int rl_rule_choice(const char *text, const char *const names[]);

/* Names, at least one, as in "a, b or c". */
const char *rl_rule_list(apr_pool_t *pool, const char *const names[]);

#endif
