/*
 * violation: who was denied, in the log.
 */
#ifndef RL_VIOLATION_H
#define RL_VIOLATION_H

#include "decide.h"

#define RL_VIOLATION_EVERY_MS 10000

/*
 * Logs that a rule denied, or as a shadow rule would have: the first time for an identity, and then
 * at most once in RL_VIOLATION_EVERY_MS with the number of denials since. At level warning, in the
 * error log of the request's server. Client bytes in it are escaped, secrets digested.
 */
void rl_violation_log(request_rec *r, rl_local *local, const rl_outcome *outcome);

#endif
