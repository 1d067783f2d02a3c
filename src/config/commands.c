/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commands: the table of directives, with the contexts and the help text of each.
 *
 * RSRC_CONF allows a directive outside of sections, ACCESS_CONF inside. The functions refuse some
 * directives in virtual hosts, and all of them in <Limit>.
 */
#include "config/commands.h"
#include "config/redis.h"
#include "config/section.h"
#include "config/server.h"

#define ANYWHERE (RSRC_CONF | ACCESS_CONF)

const command_rec rl_config_commands[] = {
    AP_INIT_RAW_ARGS("RateLimit", rl_cmd_rule, NULL, ANYWHERE,
                     "NAME QUOTA/WINDOW [option]..., for example: login 10/1m; NAME off; or off"),
    AP_INIT_TAKE1("RateLimitEngine", rl_cmd_engine, NULL, ANYWHERE,
                  "off, on or shadow"),
    AP_INIT_ITERATE("RateLimitHeaders", rl_cmd_headers, NULL, ANYWHERE,
                    "x-ratelimit, draft-11, draft-03 or off; yield keeps a backend's header"),
    AP_INIT_TAKE1("RateLimitResponse", rl_cmd_response, NULL, ANYWHERE,
                  "off, problem or text"),
    AP_INIT_TAKE1("RateLimitNotes", rl_cmd_notes, NULL, ANYWHERE,
                  "denied or all"),
    AP_INIT_ITERATE("RateLimitNormalize", rl_cmd_normalize, NULL, ANYWHERE,
                    "[+-]case [+-]slashes [+-]dots [+-]trailing [+-]params [+-]encoding"),
    AP_INIT_TAKE1("RateLimitRedis", rl_cmd_redis, NULL, RSRC_CONF,
                  "URL with redis://, rediss://, unix://, sentinel:// or cluster://"),
    AP_INIT_TAKE12("RateLimitRedisAuth", rl_cmd_redis_auth, NULL, RSRC_CONF,
                   "file:PATH of a file with a password, or user and password; sentinel=file:PATH"),
    AP_INIT_TAKE_ARGV("RateLimitRedisTLS", rl_cmd_redis_tls, NULL, RSRC_CONF,
                      "ca=FILE cert=FILE key=FILE name=HOST"),
    AP_INIT_TAKE12("RateLimitRedisTimeout", rl_cmd_timeout, NULL, RSRC_CONF,
                   "DURATION connect=DURATION, for example 25ms connect=250ms"),
    AP_INIT_TAKE1("RateLimitRedisPrefix", rl_cmd_prefix, NULL, RSRC_CONF,
                  "prefix of all keys in Redis"),
    AP_INIT_TAKE12("RateLimitOnFailure", rl_cmd_on_failure, NULL, RSRC_CONF,
                   "local, open or closed; nodes=N if N hosts share a quota"),
    AP_INIT_TAKE12("RateLimitBreaker", rl_cmd_breaker, NULL, RSRC_CONF,
                   "failures=N retry=MIN..MAX, for example failures=5 retry=50ms..2s"),
    AP_INIT_TAKE1("RateLimitSharedMemory", rl_cmd_shared_memory, NULL, RSRC_CONF,
                  "size of the local tier, for example 16M"),
    AP_INIT_TAKE1("RateLimitIPv6Prefix", rl_cmd_ipv6_prefix, NULL, RSRC_CONF,
                  "length of the prefix that is one client, for example 64"),
    AP_INIT_TAKE123("RateLimitLog", rl_cmd_log, NULL, RSRC_CONF,
                    "FILE or \"|program\", json or text, every=T; once for each server"),
    AP_INIT_RAW_ARGS("RateLimitTier", rl_cmd_tier, NULL, ANYWHERE,
                     "RULE TIER QUOTA|unlimited [burst=N], for example: api gold 1000"),
    AP_INIT_TAKE1("RateLimitScope", rl_cmd_scope, NULL, RSRC_CONF,
                  "name of the scope that this virtual host counts in, for example shop"),
    AP_INIT_FLAG("RateLimitOverrides", rl_cmd_overrides, NULL, RSRC_CONF,
                 "on: use limits for single identities that are kept in Redis"),
    AP_INIT_TAKE1("RateLimitDelayWorkers", rl_cmd_delay_workers, NULL, RSRC_CONF,
                  "percent of the workers that delay= may occupy at a time"),
    AP_INIT_TAKE_ARGV("RateLimitAdaptive", rl_cmd_adaptive, NULL, RSRC_CONF,
                      "LOAD FACTOR ..., for example 70 0.5 90 0.2"),
    {.name = NULL}
};
