/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directive: what the functions behind the directives share.
 */
#include <apr_strings.h>

#include "config/directive.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;

rl_settings *rl_cmd_settings(cmd_parms *cmd)
{
    return ap_get_module_config(cmd->server->module_config, &ratelimit_redis_module);
}

const char *rl_cmd_expected(cmd_parms *cmd, const char *word, const char *expected)
{
    return apr_psprintf(cmd->pool, "%s: \"%s\" was read, expected %s", cmd->cmd->name, word,
                        expected);
}
