/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evaluate: what a rule means for one request.
 *
 * Whether it applies, what the request costs and which quota counts. Expressions are httpd's. If
 * one fails while a request is served, an error is logged and the rule is evaluated as without it:
 * it applies, costs 1, and has its own quota.
 *
 * Thread-safe: all state is the request's own.
 */
#ifndef RL_EVALUATE_H
#define RL_EVALUATE_H

#include <httpd.h>

#include "config/config.h"
#include "shm/local.h"

/* What all rules of a request share. */
typedef struct {
    request_rec *r;
    const rl_settings *settings;
    rl_local *local;      /* bounds how often an error is logged */
    unsigned normalize;   /* steps of rl_path_normalise() */
    const char *path;     /* the normalised path; NULL until it is needed */
} rl_evaluation;

/* The normalised path of the request, in its pool. */
const char *rl_evaluation_path(rl_evaluation *e);

/* The value of a string expression; NULL if it fails. */
const char *rl_evaluation_string(rl_evaluation *e, const rl_expr *expr);

/* Whether path=, methods=, when= and unless= let the rule apply. */
int rl_evaluation_applies(rl_evaluation *e, const rl_rule *rule);

/*
 * The units that the request costs, at most RL_COUNT_MAX; 0 if it is not counted. A value of cost=
 * that is not a whole number, or is negative, costs 1.
 */
int64_t rl_evaluation_cost(rl_evaluation *e, const rl_rule *rule);

/*
 * Sets *limit to the rule's, with the quota of the request's tier, scaled by the load. Returns 0 if
 * the tier is unlimited.
 */
int rl_evaluation_limit(rl_evaluation *e, const rl_rule *rule, rl_limit *limit);

#endif
