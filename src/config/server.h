/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server: the directives for the whole server, and the logs that they name.
 *
 * The directives fill in rl_settings; those about the connection to Redis are in config/redis.h.
 * The functions rl_cmd_* are those of the command table: each returns NULL, or an error text in the
 * command's pool.
 */
#ifndef RL_SERVER_H
#define RL_SERVER_H

#include <httpd.h>
#include <http_config.h>

const char *rl_cmd_timeout(cmd_parms *cmd, void *config, const char *first, const char *second);
const char *rl_cmd_prefix(cmd_parms *cmd, void *config, const char *prefix);
const char *rl_cmd_on_failure(cmd_parms *cmd, void *config, const char *word, const char *second);
const char *rl_cmd_breaker(cmd_parms *cmd, void *config, const char *first, const char *second);
const char *rl_cmd_shared_memory(cmd_parms *cmd, void *config, const char *text);
const char *rl_cmd_ipv6_prefix(cmd_parms *cmd, void *config, const char *text);
const char *rl_cmd_scope(cmd_parms *cmd, void *config, const char *name);
const char *rl_cmd_overrides(cmd_parms *cmd, void *config, int on);
const char *rl_cmd_delay_workers(cmd_parms *cmd, void *config, const char *text);
const char *rl_cmd_adaptive(cmd_parms *cmd, void *config, int argc, char *const argv[]);
const char *rl_cmd_log(cmd_parms *cmd, void *config, const char *target, const char *first,
                       const char *second);

/*
 * Opens each RateLimitLog for as long as the pool lives. Returns 0 if one of them cannot be opened:
 * the denials of its servers then go to the error log.
 */
int rl_config_open_logs(apr_pool_t *pconf);

/*
 * Logs an error for each RateLimitLog that would certainly fail to open. Returns 0 if there is one.
 * Called by httpd -t.
 */
int rl_config_check_logs(server_rec *s, apr_pool_t *scratch);

#endif
