/* SPDX-License-Identifier: Apache-2.0 */
/*
 * terms: what a rule means for one request.
 *
 * Whether it applies, what the request costs and which quota holds. Expressions are httpd's; one
 * that fails while a request is served is a complaint in the error log, and the rule holds as if
 * it were not there: it applies, costs 1, gives the rule's own quota.
 *
 * Thread-safe: all state is the request's own.
 */
#ifndef RL_TERMS_H
#define RL_TERMS_H

#include <httpd.h>

#include "config/config.h"
#include "shm/local.h"

/* What is asked about a request again and again. */
typedef struct {
    request_rec *r;
    const rl_settings *settings;
    rl_local *local;      /* for complaints */
    unsigned normalize;   /* steps of rl_path_normalise() */
    const char *path;     /* the normalised path, once it was needed; NULL before */
} rl_terms;

/* The normalised path of the request, in its pool. */
const char *rl_terms_path(rl_terms *terms);

/* The value of a string expression; NULL if it fails. */
const char *rl_terms_string(rl_terms *terms, const rl_expr *expr);

/* Whether path=, methods=, when= and unless= let the rule apply. */
int rl_terms_apply(rl_terms *terms, const rl_rule *rule);

/*
 * The units the request costs: 0 if it is not to be counted. What is no whole number, or is
 * negative, is 1; RL_COUNT_MAX at the most.
 */
int64_t rl_terms_cost(rl_terms *terms, const rl_rule *rule);

/*
 * The limit that holds: the rule's, with the quota of the request's tier, scaled by the load.
 * Returns 0 if the tier is unlimited.
 */
int rl_terms_limit(rl_terms *terms, const rl_rule *rule, rl_limit *limit);

#endif
