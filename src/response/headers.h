/* SPDX-License-Identifier: Apache-2.0 */
/*
 * headers: the headers, notes and environment variables about limits.
 *
 * Called by the hooks after a decision, and by body.c for a denial. Thread-safe: everything belongs
 * to the request.
 */
#ifndef RL_HEADERS_H
#define RL_HEADERS_H

#include "decide/chain.h"

/* Registers the filter; called once, with the hooks. */
void rl_headers_register(apr_pool_t *pool);

/*
 * Sets the headers, notes and environment variables for what the chain has decided, in place of
 * those that an earlier step of it has set.
 */
void rl_headers_set(request_rec *r, rl_chain *chain);

/* Sets Retry-After of a denial and returns its value, in seconds; NULL if waiting does not help. */
const char *rl_headers_set_retry_after(request_rec *r, const rl_chain *chain);

/*
 * Repeats notes and environment variables for a request that the chain was redirected to, and adds
 * the filter to it. Headers need no repeating: httpd hands err_headers_out on.
 */
void rl_headers_carry(request_rec *r);

/* Whether an outcome may appear in headers and bodies. */
int rl_headers_show(const rl_outcome *o);

#endif
