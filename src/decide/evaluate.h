/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evaluate: what a rule means for one request.
 *
 * Whether it applies, what the request costs and which quota holds. Expressions are httpd's; one
 * that fails while a request is served is a complaint in the error log, and the rule holds as if
 * it were not there: it applies, costs 1, gives the rule's own quota.
 *
 * Thread-safe: all state is the request's own.
 */
#ifndef RL_EVALUATE_H
#define RL_EVALUATE_H

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
} rl_evaluation;

/* The normalised path of the request, in its pool. */
const char *rl_evaluation_path(rl_evaluation *e);

/* The value of a string expression; NULL if it fails. */
const char *rl_evaluation_string(rl_evaluation *e, const rl_expr *expr);

/* Whether path=, methods=, when= and unless= let the rule apply. */
int rl_evaluation_applies(rl_evaluation *e, const rl_rule *rule);

/*
 * The units the request costs: 0 if it is not to be counted. What is no whole number, or is
 * negative, is 1; RL_COUNT_MAX at the most.
 */
int64_t rl_evaluation_cost(rl_evaluation *e, const rl_rule *rule);

/*
 * The limit that holds: the rule's, with the quota of the request's tier, scaled by the load.
 * Returns 0 if the tier is unlimited.
 */
int rl_evaluation_limit(rl_evaluation *e, const rl_rule *rule, rl_limit *limit);

#endif
