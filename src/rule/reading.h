/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reading: what the parsers of a RateLimit line share.
 *
 * parse.c reads the whole line, options.c its options, key.c the value of key=. All of them fill in
 * the same rule and note what the rule reads of a request, which decides the phases in which it can
 * be evaluated. Each function returns NULL, or an error text for the administrator, in the pool.
 */
#ifndef RL_READING_H
#define RL_READING_H

#include <apr_pools.h>

#include "rule/rule.h"

typedef struct {
    apr_pool_t *pool;
    const rl_compiler *compiler; /* NULL: expressions are refused */
    rl_rule *rule;
    int reads_user;    /* the key or an expression: the user */
    int reads_auth;    /* the key or an expression: what authentication may set */
    int reads_file;    /* an expression: the file that httpd maps the path to */
    int reads_type;    /* an expression: the type of that file */
    int reads_path;    /* the key: the path */
    int tells_clients; /* the key: something that differs between clients */
} rl_reading;

/* The error text for the value of an option; the example is a value. */
const char *rl_reading_invalid(const rl_reading *r, const char *option, const char *value,
                               const char *expected, const char *example);

/* Compiles the expression that is the value of an option, and notes what it reads. */
const char *rl_reading_expr(rl_reading *r, const char *option, const char *text, int boolean,
                            rl_expr *expr);

/* Reads the value of key=. */
const char *rl_reading_key(rl_reading *r, const char *text);

/* Reads all options of a line, each at most once. */
const char *rl_reading_options(rl_reading *r, const char *line);

/* Refuses options that cannot be combined. Called when all are read, so their order is free. */
const char *rl_reading_check(rl_reading *r);

/* The names of the algorithms that take all of these options (RL_TAKES_...), as "a, b or c". */
const char *rl_reading_algorithms(apr_pool_t *pool, unsigned takes);

#endif
