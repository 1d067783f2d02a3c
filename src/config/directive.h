/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directive: what the functions of directives share.
 */
#ifndef RL_DIRECTIVE_H
#define RL_DIRECTIVE_H

#include <httpd.h>
#include <http_config.h>

#include "config/config.h"

/* The settings of the server that the directive is in, to be changed. */
rl_settings *rl_cmd_settings(cmd_parms *cmd);

/* The error text, in the command's pool, for a word that the directive does not take. */
const char *rl_cmd_invalid(cmd_parms *cmd, const char *word, const char *expected,
                           const char *example);

#endif
