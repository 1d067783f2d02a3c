/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text: the syntax of words, whole numbers, durations, names and choices in directives.
 *
 * Used by the parsers of this wing and by everything else that reads directives, so that 10s means
 * the same everywhere. Nothing here keeps state or writes to its input; every function may be
 * called from any thread. New texts are in the given pool.
 */
#ifndef RL_TEXT_H
#define RL_TEXT_H

#include <stdint.h>

#include <apr_pools.h>

#define RL_NAME_MAX 64 /* bytes of a name */
#define RL_NAME_FORM "1 to 64 letters, digits, -, _ and ."

/*
 * Returns the next word of a line and moves *line behind it; "" at the end. Blanks separate words.
 * Double or single quotes around a word, or around what follows its first '=', keep blanks; within
 * them a backslash keeps a quote or a backslash. NULL, with *line unchanged, if a quote is not
 * closed.
 */
const char *rl_text_word(apr_pool_t *pool, const char **line);

/* Whether only blanks are left of a line; rl_text_word() also returns "" for an empty word. */
int rl_text_is_end(const char *line);

/*
 * Reads the digits at the start of s as a number from 0 to max. Returns what follows them, or NULL
 * if there are none or the number is larger.
 */
const char *rl_text_number(const char *s, int64_t max, int64_t *number);

/* Whether the whole of text is a number from min to max; *number may be set even if not. */
int rl_text_whole_number(const char *text, int64_t min, int64_t max, int64_t *number);

/*
 * Reads a duration such as 500ms, 10s, 1m, 1h, 1d, 1w or a bare unit, which means one of it, as ms.
 * Returns 0 if text is not a duration or exceeds 10 years.
 */
int rl_text_duration(const char *text, int64_t *ms);

/* A duration in the largest unit that divides it: 60000 is 1m, 0 is 0s. */
const char *rl_text_print_duration(apr_pool_t *pool, int64_t ms);

/* Whether text may name a rule, a tier or a scope, as RL_NAME_FORM describes. */
int rl_text_is_name(const char *text);

/* The index of text among choices (NULL ends them), in any case of letters; -1 if not found. */
int rl_text_choice(const char *text, const char *const choices[]);

/* Choices, at least one (NULL ends them), as "a, b or c". */
const char *rl_text_list(apr_pool_t *pool, const char *const choices[]);

/*
 * The error text for a value: what was read, what was expected and an example, as in
 * invalid value "0": expected a prefix length from 1 to 128, for example 64
 */
const char *rl_text_invalid(apr_pool_t *pool, const char *value, const char *expected,
                            const char *example);

/* Whether text contains one of the parts (NULL ends them), in any case of letters. */
int rl_text_contains(const char *text, const char *const parts[]);

#endif
