/* SPDX-License-Identifier: Apache-2.0 */
/*
 * complaint: what goes wrong while requests are served, said once.
 *
 * A request that meets something wrong is served all the same, and so may a million others be; the
 * error log has one line about it in ten seconds, with the number of times.
 */
#ifndef RL_LOG_ONCE_H
#define RL_LOG_ONCE_H

#include <httpd.h>

#include "shm/local.h"

/*
 * Logs what at level warn, unless the same was said within ten seconds. what must not hold anything
 * that a client sent. Thread-safe.
 */
void rl_log_once(request_rec *r, rl_local *local, const char *what);

#endif
