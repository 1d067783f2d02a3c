/* SPDX-License-Identifier: Apache-2.0 */
/*
 * body: the response to a denied request.
 *
 * Called by the hooks, after rl_headers_set(). Thread-safe: everything belongs to the request.
 */
#ifndef RL_BODY_H
#define RL_BODY_H

#include "decide/chain.h"

/*
 * Denies a request with a status: sets Retry-After and Cache-Control, and sends the body if that is
 * the module's to make. Returns what the hook has to return: DONE if the response was made here,
 * else the status.
 */
int rl_body_deny(request_rec *r, const rl_chain *chain, int status);

#endif
