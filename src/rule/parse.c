/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules share a counter if their name, algorithm and window agree. The counter's key is made here,
 * once, so that nothing is compared or printed while requests are served.
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include "rule/parse.h"
#include "rule/reading.h"
#include "rule/text.h"

/* --- QUOTA/WINDOW ------------------------------------------------------------------------- */

static const char *read_limit(rl_reading *r, const char *text)
{
    rl_limit *limit = &r->rule->limit;
    const char *slash = rl_text_number(text, RL_COUNT_MAX, &limit->quota);

    r->rule->text = text;
    r->rule->quota_text = apr_psprintf(r->pool, "%" APR_INT64_T_FMT, limit->quota);
    if (!slash && apr_isdigit(*text))
        return rl_text_invalid(r->pool, text, "a quota of at most 1000000000", "10/1m");
    if (!slash || *slash != '/')
        return rl_text_invalid(r->pool, text, "QUOTA/WINDOW", "10/1m");
    if (!rl_text_duration(slash + 1, &limit->window_ms))
        return rl_text_invalid(r->pool, text, "a window in one of the units ms, s, m, h, d and w",
                               "10/1m");
    if (limit->window_ms < RL_WINDOW_MIN_MS || limit->window_ms > RL_WINDOW_MAX_MS)
        return rl_text_invalid(r->pool, text, "a window from 100ms to 31d", "10/1m");
    return NULL;
}

static const char *not_exact(apr_pool_t *pool, const char *text, const rl_limit *limit)
{
    int64_t max = RL_PRODUCT_MAX / (limit->window_ms * rl_limiter_ticks(limit));

    if (limit->quota > max || limit->burst > max)
        return apr_psprintf(pool, "\"%s\" is too large to count exactly: with this window, quota "
                            "and burst are at most %" APR_INT64_T_FMT, text, max);
    return apr_psprintf(pool, "\"%s\" is too large to count exactly with this delay=", text);
}

static const char *over_quota_max(apr_pool_t *pool, const rl_rule *rule, const char *text)
{
    const rl_algorithm_row *algorithm = &rl_algorithms[rule->limit.algorithm];

    return apr_psprintf(pool, "invalid value \"%s\": algorithm=%s takes a quota of at most %"
                        APR_INT64_T_FMT, text, algorithm->name, algorithm->quota_max);
}

/* Whether every request costs more than the limit ever admits, not counting a quota of 0. */
static int can_never_pass(const rl_rule *rule, const rl_limit *limit)
{
    return !rule->cost_expr.text && rule->cost > 1 && limit->quota > 0
        && rule->cost > rl_limiter_capacity(limit);
}

/* --- A whole rule ------------------------------------------------------------------------- */

static const char *complete_limit(rl_reading *r)
{
    rl_rule *rule = r->rule;

    if (!rule->limit.burst)
        rule->limit.burst = rule->limit.quota;
    if (rule->limit.quota > rl_algorithms[rule->limit.algorithm].quota_max)
        return over_quota_max(r->pool, rule, rule->text);
    if (!rl_limiter_is_exact(&rule->limit))
        return not_exact(r->pool, rule->text, &rule->limit);
    if (can_never_pass(rule, &rule->limit))
        return apr_psprintf(r->pool, "cost=%" APR_INT64_T_FMT " exceeds the %" APR_INT64_T_FMT
                            " units that the rule admits at once: every request would be denied",
                            rule->cost, rl_limiter_capacity(&rule->limit));
    return NULL;
}

static void complete_phase(rl_reading *r)
{
    if (r->rule->phase == RL_PHASE_UNSET)
        r->rule->phase = r->reads_auth ? RL_PHASE_AUTH : RL_PHASE_ACCESS;
}

static void complete_counter(rl_reading *r)
{
    static const unsigned char any[APR_SIPHASH_KSIZE];
    rl_rule *rule = r->rule;

    rule->key_suffix = apr_pstrcat(r->pool, ":", rule->name, ":",
                                   rl_algorithms[rule->limit.algorithm].name, ":",
                                   rl_text_print_duration(r->pool, rule->limit.window_ms), NULL);
    rule->counter = apr_siphash24(rule->key_suffix, strlen(rule->key_suffix), any);
    rule->tiers_text = apr_pstrcat(r->pool, rule->name, " ", NULL);
}

static const char *read_rule(rl_reading *r, const char *line)
{
    static const rl_key_part address = {.component = RL_KEY_IP};
    static const rl_key by_address = {&address, 1};
    const char *limit = rl_text_word(r->pool, &line);
    const char *error;

    if (!limit || !*limit)
        return "expected QUOTA/WINDOW or off after the name, for example 10/1m";
    if (!strcasecmp(limit, "off")) {
        r->rule->off = 1;
        return rl_text_is_end(line) ? NULL
            : apr_psprintf(r->pool, "unexpected \"%s\" after off", line + strspn(line, " \t"));
    }
    r->rule->keys = &by_address;
    r->rule->key_count = 1;
    r->rule->status = 429;
    r->rule->headers = 1;
    r->rule->cost = 1;
    if ((error = read_limit(r, limit)) || (error = rl_reading_options(r, line))
        || (error = rl_reading_check(r)) || (error = complete_limit(r)))
        return error;
    complete_phase(r);
    complete_counter(r);
    r->rule->is_shared = r->rule->keys != &by_address && !r->tells_clients;
    return NULL;
}

const char *rl_parse_rule(apr_pool_t *pool, const char *line, const rl_compiler *compiler,
                          rl_rule **rule)
{
    rl_reading r = {.pool = pool, .compiler = compiler,
                    .rule = apr_pcalloc(pool, sizeof(rl_rule))};
    const char *name = rl_text_word(pool, &line);
    const char *error;

    if (!name || !*name)
        return "expected NAME QUOTA/WINDOW, for example RateLimit login 10/1m";
    if (!rl_text_is_name(name))
        return apr_psprintf(pool, "invalid name \"%s\": expected " RL_NAME_FORM ", for example "
                            "RateLimit login 10/1m", name);
    r.rule->name = name;
    error = read_rule(&r, line);
    if (error)
        return apr_psprintf(pool, "\"%s\": %s", name, error);
    *rule = r.rule;
    return NULL;
}

/* --- Tiers -------------------------------------------------------------------------------- */

#define TIER_EXAMPLE "RateLimitTier %s gold 1000"

static const char *read_tier_quota(apr_pool_t *pool, const rl_rule *rule, const char *text,
                                   rl_tier *tier)
{
    tier->unlimited = !strcasecmp(text, "unlimited");
    tier->quota = 0;
    if (!tier->unlimited && !rl_text_whole_number(text, 0, RL_COUNT_MAX, &tier->quota))
        return rl_text_invalid(pool, text, "a quota from 0 to 1000000000 or unlimited",
                               apr_psprintf(pool, TIER_EXAMPLE, rule->name));
    if (tier->quota > rl_algorithms[rule->limit.algorithm].quota_max)
        return over_quota_max(pool, rule, text);
    tier->burst = tier->quota;
    return NULL;
}

static const char *read_tier_burst(apr_pool_t *pool, const rl_rule *rule, const char *text,
                                   rl_tier *tier)
{
    if (!*text)
        return NULL;
    if (strncasecmp(text, "burst=", 6)
        || !rl_text_whole_number(text + 6, 1, RL_COUNT_MAX, &tier->burst))
        return rl_text_invalid(pool, text, "burst=N with N from 1 to 1000000000",
                               apr_psprintf(pool, TIER_EXAMPLE " burst=2000", rule->name));
    if (!(rl_algorithms[rule->limit.algorithm].takes & RL_TAKES_BURST))
        return apr_psprintf(pool, "burst= needs algorithm=%s",
                            rl_reading_algorithms(pool, RL_TAKES_BURST));
    if (tier->unlimited)
        return "burst= cannot be combined with unlimited";
    return NULL;
}

/* Refuses a tier that could never admit a request, or could not be counted exactly. */
static const char *check_tier(apr_pool_t *pool, const rl_rule *rule, const char *quota,
                              const rl_tier *tier)
{
    rl_limit limit = rule->limit;

    limit.quota = tier->quota;
    limit.burst = tier->burst;
    if (can_never_pass(rule, &limit))
        return apr_psprintf(pool, "cost=%" APR_INT64_T_FMT " exceeds the %" APR_INT64_T_FMT
                            " units that tier %s admits at once: all its requests would be denied; "
                            "if they should be, give it a quota of 0", rule->cost,
                            rl_limiter_capacity(&limit), tier->name);
    return rl_limiter_is_exact(&limit) ? NULL : not_exact(pool, quota, &limit);
}

static const char *tier_text(apr_pool_t *pool, const rl_tier *tier)
{
    if (tier->unlimited)
        return apr_psprintf(pool, "%s unlimited 0 ", tier->name);
    return apr_psprintf(pool, "%s %" APR_INT64_T_FMT " %" APR_INT64_T_FMT " ", tier->name,
                        tier->quota, tier->burst);
}

static void add_tier(apr_pool_t *pool, rl_rule *rule, const rl_tier *tier)
{
    rl_tier *tiers = apr_palloc(pool, sizeof(*tiers) * (size_t)(rule->tier_count + 1));

    if (rule->tier_count)
        memcpy(tiers, rule->tiers, sizeof(*tiers) * (size_t)rule->tier_count);
    tiers[rule->tier_count++] = *tier;
    rule->tiers = tiers;
    rule->tiers_text = apr_pstrcat(pool, rule->tiers_text, tier_text(pool, tier), NULL);
}

/* --- Leases ------------------------------------------------------------------------------- */

int64_t rl_parse_lease_ms(const rl_rule *rule)
{
    rl_limit limit = rule->limit;
    int64_t least_ms = RL_LEASE_MAX_MS;

    for (int i = -1; rl_limiter_is_bucket(&limit) && i < rule->tier_count; i++) {
        int64_t ms;

        if (i >= 0) {
            limit.quota = rule->tiers[i].quota;
            limit.burst = rule->tiers[i].burst;
        }
        ms = rl_limiter_bucket_lease_ms(&limit);
        if ((i < 0 || !rule->tiers[i].unlimited) && ms < least_ms)
            least_ms = ms;
    }
    return least_ms;
}

/* Makes a burst of the rule smaller; refuses one that no request fits into then. */
static const char *lessen_burst(apr_pool_t *pool, const rl_rule *rule, int64_t quota,
                                int64_t *burst)
{
    rl_limit limit = rule->limit;

    if (!rl_limiter_is_bucket(&limit))
        return NULL;
    limit.quota = quota;
    limit.burst = *burst = rl_limiter_leased_burst(quota, *burst, limit.window_ms, limit.lease_ms);
    return can_never_pass(rule, &limit)
        ? apr_psprintf(pool, "cost=%" APR_INT64_T_FMT " exceeds the %" APR_INT64_T_FMT " units "
                       "that are admitted at once with sync=lease", rule->cost, *burst)
        : NULL;
}

const char *rl_parse_lease(apr_pool_t *pool, rl_rule *rule, int64_t lease_ms)
{
    rl_tier *tiers = apr_pmemdup(pool, rule->tiers,
                                 sizeof(*tiers) * (size_t)rule->tier_count);
    const char *error;

    rule->limit.lease_ms = lease_ms;
    error = lessen_burst(pool, rule, rule->limit.quota, &rule->limit.burst);
    rule->tiers_text = apr_pstrcat(pool, rule->name, " ", NULL);
    for (int i = 0; i < rule->tier_count && !error; i++) {
        error = lessen_burst(pool, rule, tiers[i].quota, &tiers[i].burst);
        if (error)
            error = apr_psprintf(pool, "tier \"%s\": %s", tiers[i].name, error);
        rule->tiers_text = apr_pstrcat(pool, rule->tiers_text, tier_text(pool, &tiers[i]), NULL);
    }
    rule->tiers = tiers;
    return error;
}

const char *rl_parse_tier(apr_pool_t *pool, rl_rule *rule, const char *line)
{
    const char *name = rl_text_word(pool, &line), *quota = rl_text_word(pool, &line);
    const char *burst = rl_text_word(pool, &line), *error;
    rl_tier tier = {.name = name};

    if (!name || !quota || !*quota || !burst || !rl_text_is_end(line))
        return apr_psprintf(pool, "\"%s\": expected TIER QUOTA|unlimited [burst=N], for example "
                            TIER_EXAMPLE, rule->name, rule->name);
    if (!rl_text_is_name(name))
        return apr_psprintf(pool, "\"%s\": invalid tier name \"%s\": expected " RL_NAME_FORM
                            ", for example " TIER_EXAMPLE, rule->name, name, rule->name);
    if (rl_rule_tier(rule, name))
        return apr_psprintf(pool, "\"%s\": tier \"%s\" is given twice", rule->name, name);
    if ((error = read_tier_quota(pool, rule, quota, &tier))
        || (error = read_tier_burst(pool, rule, burst, &tier))
        || (error = check_tier(pool, rule, quota, &tier)))
        return apr_psprintf(pool, "\"%s\": %s", rule->name, error);
    add_tier(pool, rule, &tier);
    return NULL;
}
