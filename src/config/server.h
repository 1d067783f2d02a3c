/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_server: the directives that hold for the whole server.
 *
 * What they read is part of rl_settings; where Redis is, config_redis reads. Functions of the
 * command table in config.c: NULL, or an error text for the administrator.
 */
#ifndef RL_CONFIG_SERVER_H
#define RL_CONFIG_SERVER_H

#include <httpd.h>
#include <http_config.h>

#include "config/config.h"

const char *rl_config_timeout(cmd_parms *cmd, void *config, const char *first, const char *second);
const char *rl_config_prefix(cmd_parms *cmd, void *config, const char *prefix);
const char *rl_config_on_failure(cmd_parms *cmd, void *config, const char *word,
                                 const char *second);
const char *rl_config_breaker(cmd_parms *cmd, void *config, const char *first, const char *second);
const char *rl_config_shared_memory(cmd_parms *cmd, void *config, const char *text);
const char *rl_config_ipv6_prefix(cmd_parms *cmd, void *config, const char *text);
const char *rl_config_scope(cmd_parms *cmd, void *config, const char *name);
const char *rl_config_overrides(cmd_parms *cmd, void *config, int on);
const char *rl_config_delay_workers(cmd_parms *cmd, void *config, const char *text);
const char *rl_config_adaptive(cmd_parms *cmd, void *config, int argc, char *const argv[]);

/* The error text of a directive that was given a word it does not know. */
const char *rl_not_a_choice(cmd_parms *cmd, const char *word, const char *expected);

#endif
