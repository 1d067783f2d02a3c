/* SPDX-License-Identifier: Apache-2.0 */
/*
 * violation: denials, in the log.
 *
 * They go to the server's RateLimitLog or, where there is none, to the error log. In either, the
 * first denial of an identity by a rule is a line; after it there is one line in each every=, with
 * the count.
 */
#ifndef RL_VIOLATION_H
#define RL_VIOLATION_H

#include "decide/chain.h"

/*
 * Logs each outcome of the request's chain that denies the request or, for a shadow rule, would
 * deny it, unless it is logged already. Called after a decision with a denial or a shadow denial.
 * What clients send is escaped, secrets are digests. Thread-safe.
 */
void rl_violation_log(request_rec *r, const rl_context *context, rl_chain *chain);

/*
 * Logs the denials that no line has counted yet: those whose line is due or, with all set, every
 * one. Called by the parent process alone, every ten seconds and at its end.
 */
void rl_violation_flush(server_rec *main_server, const rl_context *context, int all);

#endif
