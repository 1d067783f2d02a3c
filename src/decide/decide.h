/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide: the flow of a decision.
 *
 * From a request and the rules of its section to a verdict: memory first, then one call to Redis
 * for all rules of the step, then the counts of this host. What was decided is kept with the
 * request chain, so that redirects and error documents neither charge again nor lose it.
 *
 * Thread-safe: all state is the request's own or in rooms that are.
 */
#ifndef RL_DECIDE_H
#define RL_DECIDE_H

#include <httpd.h>

#include "decide/chain.h"
#include "decide/context.h"
#include "rule/rule.h"

/*
 * Whether there may be rules up to a phase that r has not been decided over: cheap, and most
 * often no.
 */
int rl_decide_is_due(const request_rec *r, rl_phase phase);

/*
 * Decides over the rules up to a phase that hold for r and have not been charged in its chain.
 * Returns DECLINED if there is none, OK if the request may pass, else the status to deny it with.
 * Unless DECLINED, the chain says more.
 */
int rl_decide(request_rec *r, const rl_context *context, rl_phase phase);

/*
 * Looks how the rules that hold for r stand, all phases together, and charges nothing: a chain of
 * its own in the request's pool, with an outcome for each; not what rl_chain_of() finds. NULL
 * if there are none.
 */
rl_chain *rl_decide_peek(request_rec *r, const rl_context *context);

/*
 * Settles what the chain of a request has pending, now that the response is known: to be called
 * once for the initial request, when it has been answered. Never waits.
 */
void rl_decide_settle(request_rec *r, const rl_context *context);

#endif
