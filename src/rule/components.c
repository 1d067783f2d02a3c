/* SPDX-License-Identifier: Apache-2.0 */
#include "rule/components.h"

const rl_key_row rl_key_rows[RL_KEY_COMPONENTS] = {
    [RL_KEY_IP] = {.name = "ip", .argument = RL_KEY_MAY_HAVE_NUMBER, .separator = '/',
                   .example = "64", .number_max = 128, .tells_clients = 1,
                   .is_always_there = 1, .is_anchor = 1},
    [RL_KEY_USER] = {.name = "user", .is_user = 1, .is_set_by_auth = 1, .tells_clients = 1},
    [RL_KEY_HEADER] = {.name = "header", .argument = RL_KEY_HAS_NAME, .separator = ':',
                       .example = "X-Api-Key", .is_token = 1, .any_case = 1, .tells_clients = 1,
                       .is_inventable = 1, .may_be_secret = 1},
    [RL_KEY_COOKIE] = {.name = "cookie", .argument = RL_KEY_HAS_NAME, .separator = ':',
                       .example = "session", .is_token = 1, .tells_clients = 1,
                       .is_inventable = 1, .may_be_secret = 1},
    [RL_KEY_ENV] = {.name = "env", .argument = RL_KEY_HAS_NAME, .separator = ':',
                    .example = "TENANT", .is_set_by_auth = 1, .tells_clients = 1,
                    .may_be_secret = 1},
    [RL_KEY_METHOD] = {.name = "method", .is_always_there = 1},
    [RL_KEY_HOST] = {.name = "host", .is_always_there = 1},
    [RL_KEY_PATH] = {.name = "path", .argument = RL_KEY_MAY_HAVE_NUMBER, .separator = ':',
                     .example = "2", .number_max = 1000, .is_path = 1, .is_always_there = 1},
    [RL_KEY_SERVER] = {.name = "server", .is_always_there = 1, .is_anchor = 1},
    [RL_KEY_EXPR] = {.tells_clients = 1, .may_be_secret = 1},
};
