/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parse: from RateLimit and RateLimitTier lines to rules.
 *
 *     NAME QUOTA/WINDOW [option]...        NAME off        NAME TIER QUOTA|unlimited [burst=N]
 *
 * Called only while the configuration is read. A rule is complete when its line is parsed, except
 * for its tiers, and for has_block_or_pending and row, which need all rules. Errors are texts for the
 * administrator, in the pool given: they quote what was read and show an example of what is valid.
 */
#ifndef RL_PARSE_H
#define RL_PARSE_H

#include <apr_pools.h>

#include "rule/rule.h"

/*
 * Parses the arguments of RateLimit. Without a compiler (NULL) expressions are refused. Returns
 * NULL and sets *rule, which lives in the pool as its texts do; or returns an error text that
 * begins with the rule's name, if that could be read.
 */
const char *rl_parse_rule(apr_pool_t *pool, const char *line, const rl_compiler *compiler,
                          rl_rule **rule);

/*
 * Parses the arguments of RateLimitTier behind the rule's name, and adds the tier to the rule, in
 * the pool. Returns NULL, or an error text that begins with the rule's name; then the rule is
 * unchanged.
 */
const char *rl_parse_tier(apr_pool_t *pool, rl_rule *rule, const char *line);

#endif
