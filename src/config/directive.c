/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_strings.h>

#include "config/directive.h"
#include "rule/text.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;

rl_settings *rl_cmd_settings(cmd_parms *cmd)
{
    return ap_get_module_config(cmd->server->module_config, &ratelimit_redis_module);
}

const char *rl_cmd_invalid(cmd_parms *cmd, const char *word, const char *expected,
                           const char *example)
{
    return apr_pstrcat(cmd->pool, cmd->cmd->name, ": ",
                       rl_text_invalid(cmd->pool, word, expected, example), NULL);
}
