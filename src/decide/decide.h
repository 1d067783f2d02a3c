/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide: the flow of a decision.
 *
 * Takes a request and the rules of its section to a verdict: first by memory, then by one call to
 * Redis for all rules of the step, then by the counts of this host. The outcomes stay with the
 * request chain, so that redirects and error documents neither charge again nor lose them.
 *
 * The hooks and the quota page call it. Thread-safe.
 */
#ifndef RL_DECIDE_H
#define RL_DECIDE_H

#include <httpd.h>

#include "decide/chain.h"
#include "decide/context.h"
#include "rule/rule.h"

/* Whether there may be rules up to a phase that were not decided for r yet. Cheap; usually 0. */
int rl_decide_is_due(const request_rec *r, rl_phase phase);

/*
 * Decides the rules up to a phase that apply to r and that its chain has no outcome of. Returns
 * DECLINED if there is none, OK if the request may pass, else the status to deny it with. Unless it
 * is DECLINED, rl_chain_of() has the outcomes.
 */
int rl_decide(request_rec *r, const rl_context *context, rl_phase phase);

/*
 * Reads how much is left under the rules of all phases that apply to r, and charges nothing.
 * Returns a chain in the request's pool, which rl_chain_of() does not find, or NULL if no rule
 * applies.
 */
rl_chain *rl_decide_peek(request_rec *r, const rl_context *context);

/*
 * Settles what the chain of a request has pending, and refills leases: called once for the initial
 * request, after the response. Without an I/O thread it may wait for a connection to Redis, as long
 * as a request may.
 */
void rl_decide_settle(request_rec *r, const rl_context *context);

#endif
