/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule: a RateLimit line in its compiled form.
 *
 * parse.c makes a rule when the configuration is read. It does not change while requests are
 * served, so threads share it, and all functions here may be called from any thread. Nothing here
 * depends on httpd: an expression is its text and what the caller's compiler has made of it.
 */
#ifndef RL_RULE_H
#define RL_RULE_H

#include <stdint.h>

#include "core/limiter.h"
#include "rule/components.h"

#define RL_STATUS_MAX 599 /* the largest status that charge-on= can name */

/* One component of a key with its argument, such as header:X-Api-Key. */
typedef struct {
    rl_key_component component;
    int number;       /* of ip/N: bits of the prefix, which is of IPv6 if above 32;
                         of path:N: segments; 0: not given */
    const char *name; /* of header:, cookie:, env:; the text of an expression; else NULL */
    const void *expr; /* a compiled expression */
} rl_key_part;

/* An alternative of key=: it applies if all its parts have a value. */
typedef struct {
    const rl_key_part *parts;
    int count;
} rl_key;

typedef enum { RL_SYNC_REQUEST, RL_SYNC_LEASE, RL_SYNC_LOCAL } rl_sync;
typedef enum { RL_FAIL_UNSET, RL_FAIL_LOCAL, RL_FAIL_OPEN, RL_FAIL_CLOSED } rl_on_failure;
typedef enum { RL_PHASE_UNSET, RL_PHASE_EARLY, RL_PHASE_ACCESS, RL_PHASE_AUTH } rl_phase;

/* A RateLimitTier: the quota of requests for which tier= has this value. */
typedef struct {
    const char *name;
    int unlimited;
    int64_t quota; /* units */
    int64_t burst; /* of a bucket, in units */
} rl_tier;

/* An expression, as text and as httpd's ap_expr_info_t; text NULL: not given. */
typedef struct {
    const char *text;
    const void *compiled;
} rl_expr;

/*
 * Compiles an expression, to a boolean or a string, and sets *compiled; returns NULL or an error
 * text. Called with the data given, while the configuration is read.
 */
typedef struct {
    const char *(*compile)(void *data, const char *text, int boolean, const void **compiled);
    void *data;
} rl_compiler;

typedef struct {
    const char *name;
    const char *text; /* QUOTA/WINDOW as written, for messages */
    const char *quota_text;
    rl_limit limit;
    const rl_key *keys; /* alternatives, in order; at least one */
    int key_count;
    const char *path;           /* a glob, as written; NULL: all paths */
    const char *path_normal;    /* the glob, normalised by all steps */
    const char *const *methods; /* NULL at the end; NULL: all */
    rl_expr when;
    rl_expr unless;
    rl_expr cost_expr; /* text NULL: every request costs `cost` */
    int64_t cost;      /* units */
    rl_expr tier;
    const rl_tier *tiers;
    int tier_count;
    const char *tiers_text;   /* for the Lua script: see rl_ask */
    const uint64_t *statuses; /* charge-on=: bit n is status n; NULL: every request is charged */
    int adaptive;
    int is_shared; /* all clients share its count: no part of the key tells them apart */
    /* A rule of this counter has block= or charge-on=; set when all rules are read. */
    int has_block_or_pending;
    int status;    /* of a denial: 400 to 599 */
    rl_on_failure on_failure; /* RL_FAIL_UNSET: that of RateLimitOnFailure */
    rl_sync sync;
    rl_phase phase;
    int headers; /* responses may show it */
    int shadow;
    int off;                /* RateLimit NAME off: only the name is set */
    uint64_t counter;       /* hash of key_suffix: rules that agree share their counts */
    const char *key_suffix; /* of Redis keys: ":NAME:ALGORITHM:WINDOW" */
    int row;                /* in the statistics; set when the server starts */
} rl_rule;

/* The tier of this name, or NULL. */
const rl_tier *rl_rule_tier(const rl_rule *rule, const char *name);

/* Whether a response of this status is charged: charge-on= names it, or is not given. */
int rl_rule_charges_on(const rl_rule *rule, int status);

/* Whether clients can invent identities: the key reads a header, a cookie or anything they send. */
int rl_rule_key_is_inventable(const rl_rule *rule);

/* Whether clients can choose their tier: tier= reads what they send. */
int rl_rule_tier_is_inventable(const rl_rule *rule);

/* Whether an alternative of the key that always applies precedes another, which is never used. */
int rl_rule_key_has_dead_end(const rl_rule *rule);

/* Whether the key is ip or server alone, so that clients cannot evade the rule. */
int rl_rule_key_is_anchored(const rl_rule *rule);

#endif
