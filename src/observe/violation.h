/* SPDX-License-Identifier: Apache-2.0 */
/*
 * violation: who was denied, in the log.
 *
 * In a RateLimitLog, or where there is none in the error log. In either, an identity's first denial
 * under a rule is a line, and then there is one line in each every= with the count since.
 */
#ifndef RL_VIOLATION_H
#define RL_VIOLATION_H

#include "decide/chain.h"

/*
 * Reports each outcome of the request's chain that denies the request or, as a shadow rule's, would
 * deny it, once: to be called after each decision that has a denial or a shadow denial. Client bytes
 * in the log are escaped, secrets digested. Thread-safe.
 */
void rl_violation(request_rec *r, const rl_context *context, rl_chain *chain);

/*
 * Writes the counts of those that have been denied since their last line and then went away: a line
 * that is due, or with all set every one. In the parent process, now and then and at its end.
 */
void rl_violation_flush(server_rec *main_server, const rl_context *context, int all);

#endif
