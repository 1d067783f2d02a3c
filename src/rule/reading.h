/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_reading: what the parts of the grammar share while a rule is read.
 *
 * Private to rule.c, which reads a whole rule, key.c, which reads its key=, and
 * options.c, which reads all other options. Errors are texts in the pool, NULL is success.
 */
#ifndef RL_RULE_READING_H
#define RL_RULE_READING_H

#include "rule/rule.h"

/* What is read while a rule is parsed. */
typedef struct {
    apr_pool_t *pool;
    rl_compile compile;
    void *context;
    rl_rule *rule;
    int reads_user;   /* in its key or an expression: known only after authentication */
    int reads_auth;   /* things that authentication may set */
    int reads_file;   /* in an expression: known only when httpd has mapped the path to a file */
    int reads_type;   /* likewise: known only when httpd knows the type of that file */
    int reads_path;   /* in its key */
    int reads_client; /* in its key: something that tells one client from another */
} rl_reading;

/* Whether nothing but blanks is left: "" may be a word, too. */
int rl_rule_is_end(const char *line);

/* Reads a whole number of at most max; returns what follows it, or NULL if there is none. */
const char *rl_rule_number(const char *s, int64_t max, int64_t *number);

/* Whether text is a count of 1 to RL_COUNT_MAX, and nothing else. */
int rl_rule_units(const char *text, int64_t *n);

/* Whether text has one of names (NULL at their end) in it, in any case. */
int rl_rule_mentions(const char *text, const char *const names[]);

/* Compiles an expression and notes what it reads. */
const char *rl_rule_read_expr(rl_reading *r, const char *text, int boolean, const void **compiled);

/* The names of the algorithms that take all of these options: RL_TAKES_... */
const char *rl_rule_algorithms(apr_pool_t *pool, unsigned takes);

/* Reads the value of key=. */
const char *rl_rule_read_key(rl_reading *r, const char *text);

/* Reads all options of a line, each once. */
const char *rl_rule_read_options(rl_reading *r, const char *line);

/* Whether options go together. */
const char *rl_rule_check_options(rl_reading *r);

#endif
