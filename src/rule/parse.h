/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parse: RateLimit and RateLimitTier lines, compiled to rules.
 *
 *     NAME QUOTA/WINDOW [option]...        NAME off        NAME TIER QUOTA|unlimited [burst=N]
 *
 * Called only while the configuration is read. After its line, a rule lacks its tiers and what
 * depends on all rules: has_block_or_pending and row. Errors are texts for the administrator, in
 * the given pool: they quote what was read, say what was expected and show an example.
 */
#ifndef RL_PARSE_H
#define RL_PARSE_H

#include <apr_pools.h>

#include "rule/rule.h"

/*
 * Parses the arguments of RateLimit. Without a compiler (NULL) expressions are refused. Returns
 * NULL and sets *rule, allocated in the pool together with its texts; or returns an error text,
 * which begins with the rule's name if that could be read.
 */
const char *rl_parse_rule(apr_pool_t *pool, const char *line, const rl_compiler *compiler,
                          rl_rule **rule);

/*
 * Parses the arguments of RateLimitTier after the rule's name and adds the tier to the rule, in the
 * pool. Returns NULL; or an error text that begins with the rule's name, and leaves the rule as it
 * was.
 */
const char *rl_parse_tier(apr_pool_t *pool, rl_rule *rule, const char *line);

/*
 * How old a leased unit of the rule may become, in ms: of a bucket what its own burst and those of
 * its tiers allow, see rl_limiter_bucket_lease_ms().
 */
int64_t rl_parse_lease_ms(const rl_rule *rule);

/*
 * Makes the rule one whose counter has leases, with this lease_ms. Bursts of the rule and of its
 * tiers become smaller: see rl_limiter_leased_burst(). Call it once, when all tiers are known.
 * Returns NULL, or an error text without the rule's name.
 */
const char *rl_parse_lease(apr_pool_t *pool, rl_rule *rule, int64_t lease_ms);

#endif
