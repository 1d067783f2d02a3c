/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commands: the table of directives, for the module record.
 */
#ifndef RL_COMMANDS_H
#define RL_COMMANDS_H

#include <httpd.h>
#include <http_config.h>

extern const command_rec rl_config_commands[];

#endif
