/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reading: what the parsers of a RateLimit line share while they read it.
 *
 * parse.c reads a whole line, options.c its options, key.c the value of key=. All of them fill the
 * same rule and note what it reads of a request, since this decides the phases in which it can be
 * evaluated. Each function returns NULL, or an error text for the administrator, in the pool.
 */
#ifndef RL_READING_H
#define RL_READING_H

#include <apr_pools.h>

#include "rule/rule.h"

typedef struct {
    apr_pool_t *pool;
    const rl_compiler *compiler; /* NULL: expressions are refused */
    rl_rule *rule;
    int reads_user;    /* known only after authentication; in its key or an expression */
    int reads_auth;    /* set by authentication, perhaps; likewise */
    int reads_file;    /* known only when httpd has mapped the path to a file; in an expression */
    int reads_type;    /* known only when httpd knows the type of that file; in an expression */
    int reads_path;    /* in its key */
    int tells_clients; /* its key has a part that differs between clients */
} rl_reading;

/* The error text for the value of an option; the example is a value. */
const char *rl_reading_invalid(const rl_reading *r, const char *option, const char *value,
                               const char *expected, const char *example);

/* Compiles the expression that an option has as its value, and notes what it reads. */
const char *rl_reading_expr(rl_reading *r, const char *option, const char *text, int boolean,
                            rl_expr *expr);

/* Reads the value of key=. */
const char *rl_reading_key(rl_reading *r, const char *text);

/* Reads all options of a line, each at most once. */
const char *rl_reading_options(rl_reading *r, const char *line);

/* Refuses options that exclude each other; called when all are read, so their order is free. */
const char *rl_reading_check(rl_reading *r);

/* The algorithms that take all of these options (RL_TAKES_...), as in "a, b or c". */
const char *rl_reading_algorithms(apr_pool_t *pool, unsigned takes);

#endif
