/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: errors and warnings that need the whole configuration.
 */
#ifndef RL_CHECK_H
#define RL_CHECK_H

#include <httpd.h>

/*
 * Completes the rules and settings with what depends on all of them, and logs a warning for what is
 * valid but hardly intended. Returns 0, with an error logged, if something cannot work. Called when
 * the whole configuration is read, by httpd -t and at each start and reload.
 */
int rl_config_check(apr_pool_t *pool, server_rec *main_server);

#endif
