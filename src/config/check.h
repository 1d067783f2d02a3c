/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: what only the whole configuration shows.
 */
#ifndef RL_CHECK_H
#define RL_CHECK_H

#include <httpd.h>

/*
 * Completes the rules and settings with what only all of them together say, and warns of what is
 * valid and hardly meant. Returns 0, with an error logged, if something cannot work. Called once
 * all is read, by httpd -t and at each start and reload.
 */
int rl_config_check(apr_pool_t *pool, server_rec *main_server);

#endif
