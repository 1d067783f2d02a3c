/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reply: headers, and the body of a denial.
 *
 * Thread-safe: everything is the request's own.
 */
#ifndef RL_REPLY_H
#define RL_REPLY_H

#include "decide/chain.h"

/* Registers the filter; once, when the module's hooks are. */
void rl_reply_register(apr_pool_t *pool);

/*
 * Puts the headers, notes and environment of what its chain decided on r: with status OK those of a
 * request that passes, else those of a denial with that status. Returns what the hook is to return:
 * DECLINED for one that passes, else status, or DONE where the response has been made here.
 */
int rl_reply(request_rec *r, rl_chain *chain, int status);

/*
 * The weight in thousandths that the parameters of a media range give it, as ap_get_list_item()
 * spells them: ";q=0.5" is 500 (RFC 9110 §12.4.2).
 */
int rl_reply_weight(const char *parameters);

/* Carries notes, environment and headers of a chain on to a request it was redirected to. */
void rl_reply_carry(request_rec *r);

#endif
