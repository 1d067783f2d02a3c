/* SPDX-License-Identifier: Apache-2.0 */
/*
 * section: the directives that are allowed in sections.
 *
 * RateLimit and RateLimitTier add rules; the others set how a section enforces them and responds.
 * The functions are those of the command table: each returns NULL, or an error text in the
 * command's pool.
 */
#ifndef RL_SECTION_H
#define RL_SECTION_H

#include <httpd.h>
#include <http_config.h>

const char *rl_cmd_rule(cmd_parms *cmd, void *config, const char *line);
const char *rl_cmd_tier(cmd_parms *cmd, void *config, const char *line);
const char *rl_cmd_engine(cmd_parms *cmd, void *config, const char *word);
const char *rl_cmd_response(cmd_parms *cmd, void *config, const char *word);
const char *rl_cmd_notes(cmd_parms *cmd, void *config, const char *word);
const char *rl_cmd_headers(cmd_parms *cmd, void *config, const char *word);
const char *rl_cmd_normalize(cmd_parms *cmd, void *config, const char *word);

#endif
