/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accept: the media ranges of a request's Accept header, with their weights (RFC 9110 §12.5.1).
 *
 * Called for each request whose response depends on Accept. Thread-safe: nothing is kept.
 */
#ifndef RL_ACCEPT_H
#define RL_ACCEPT_H

#include <httpd.h>

typedef struct {
    const char *text; /* in lower case; parameters follow the range */
    size_t length;    /* of the range alone */
    int weight;       /* in thousandths: q=0.5 is 500, without q= it is 1000 (RFC 9110 §12.4.2) */
} rl_accept_range;

/*
 * Reads the next range of *accept, the value of the header or NULL, and moves *accept behind it.
 * The text is in the pool. Returns 0 at the end.
 */
int rl_accept_next(apr_pool_t *pool, const char **accept, rl_accept_range *range);

/* Whether a range is this type, compared as text: a range with a wildcard equals only itself. */
int rl_accept_is(const rl_accept_range *range, const char *type);

#endif
