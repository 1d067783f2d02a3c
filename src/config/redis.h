/* SPDX-License-Identifier: Apache-2.0 */
/*
 * redis: the directives that say where Redis is and how to be let in.
 *
 * RateLimitRedis, RateLimitRedisAuth and RateLimitRedisTLS. What they read is part of rl_settings.
 * No message repeats what may be a password.
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
 * Whether the three agree with each other, once all was read; completes the settings. Logs what is
 * wrong, or hardly meant, and returns 0 if it is wrong.
 */
int rl_config_redis_check(apr_pool_t *pool, server_rec *main_server);

/* post_config's: passwords that change reach children that are there already. */
void rl_config_redis_share(const rl_settings *settings, apr_pool_t *pconf);

/* The parent's, now and then: reads files with passwords again that have changed. */
void rl_config_redis_refresh(const rl_settings *settings, server_rec *s, apr_pool_t *pool);

#endif
