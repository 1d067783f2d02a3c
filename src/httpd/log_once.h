/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_once: warnings about requests, at most one line in ten seconds for each text.
 *
 * A million requests may fail in the same way while they are served. The error log gets one line
 * about it in ten seconds, with the number of times.
 */
#ifndef RL_LOG_ONCE_H
#define RL_LOG_ONCE_H

#include <httpd.h>

#include "shm/local.h"

/*
 * Logs text at level warn, unless it was logged in the last ten seconds. It must not contain
 * anything that a client has sent. Thread-safe.
 */
void rl_log_once(request_rec *r, rl_local *local, const char *text);

/* The same where there is no request. */
void rl_log_once_for_server(server_rec *s, rl_local *local, const char *text);

#endif
