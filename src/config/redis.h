/* SPDX-License-Identifier: Apache-2.0 */
/*
 * redis: the directives for the address of Redis and access to it.
 *
 * RateLimitRedis, RateLimitRedisAuth and RateLimitRedisTLS fill in rl_settings. No message repeats
 * what may be a password.
 */
#ifndef RL_CONFIG_REDIS_H
#define RL_CONFIG_REDIS_H

#include <httpd.h>
#include <http_config.h>

#include "config/config.h"

const char *rl_cmd_redis(cmd_parms *cmd, void *config, const char *url);
const char *rl_cmd_redis_auth(cmd_parms *cmd, void *config, const char *first, const char *second);
const char *rl_cmd_redis_tls(cmd_parms *cmd, void *config, int count, char *const words[]);

/*
 * Checks whether the three agree with each other and completes the settings. Called when the whole
 * configuration is read. Logs errors and warnings; returns 0 if there is an error.
 */
int rl_config_redis_check(apr_pool_t *pool, server_rec *main_server);

/* Lets changed passwords reach running children. Called in post_config. */
void rl_config_redis_share(const rl_settings *settings, apr_pool_t *pconf);

/* Reads password files again that have changed. Called by the parent, now and then. */
void rl_config_redis_refresh(const rl_settings *settings, server_rec *s, apr_pool_t *pool);

#endif
