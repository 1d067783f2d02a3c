/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: errors and warnings that need the whole configuration.
 *
 * A rule may be valid by itself and still do nothing, never match, or be easy to evade: it gets a
 * warning, with its file and line. What cannot work is an error.
 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/check.h"
#include "config/config.h"
#include "config/redis.h"
#include "rule/parse.h"
#include "rule/text.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* Whether a rule can deny every request: it has no condition, and is not a shadow rule. */
static int is_unconditional(const rl_rule *rule)
{
    return !rule->off && !rule->shadow && !rule->methods && !rule->path && !rule->when.text
        && !rule->unless.text;
}

/*
 * Whether there is a rule that clients cannot evade in the same section, or outside of sections in
 * the same virtual host or in the main server.
 */
static int has_anchor(const rl_written_rule *place)
{
    const apr_array_header_t *rules = rl_config_rules();

    for (int i = 0; i < rules->nelts; i++) {
        const rl_written_rule *other = &APR_ARRAY_IDX(rules, i, rl_written_rule);
        int beside = other->section == place->section
            || (other->whole_server
                && (other->server == place->server || !other->server->is_virtual));

        if (beside && is_unconditional(other->rule) && rl_rule_key_is_anchored(other->rule))
            return 1;
    }
    return 0;
}

static void warn(server_rec *s, const rl_written_rule *place, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s,
                 "ratelimit: RateLimit \"%s\" (%s:%d): %s", place->rule->name, place->file,
                 place->line, what);
}

static int refuse(server_rec *s, const rl_written_rule *place, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, s,
                 "ratelimit: RateLimit \"%s\" (%s:%d): %s", place->rule->name, place->file,
                 place->line, what);
    return 0;
}

/* By now RegisterHttpMethod and other modules have registered their methods. */
static void check_methods(apr_pool_t *pool, server_rec *s, const rl_written_rule *place)
{
    for (const char *const *method = place->rule->methods; method && *method; method++) {
        char *name = apr_pstrdup(pool, *method);

        ap_str_toupper(name);
        if (ap_method_number_of(name) == M_INVALID)
            warn(s, place, apr_psprintf(pool, "httpd does not know the method in methods=%s, so it "
                                        "never matches; to make it known use RegisterHttpMethod %s",
                                        *method, name));
    }
}

/* Warns of a tier= that never finds a RateLimitTier. */
static void check_tier(apr_pool_t *pool, server_rec *s, const rl_settings *settings,
                       const rl_written_rule *place)
{
    const rl_rule *rule = place->rule;
    const char *text = rule->tier.text;

    if (!text && rule->tier_count && !settings->overrides)
        warn(s, place, "its RateLimitTier does nothing without RateLimitOverrides on or tier=, for "
             "example tier=%{env:PLAN}");
    else if (text && !rule->tier_count)
        warn(s, place, apr_psprintf(pool, "tier= does nothing without a tier, for example "
                                    "RateLimitTier %s gold 1000", rule->name));
    else if (text && rl_text_is_name(text) && !rl_rule_tier(rule, text))
        warn(s, place, apr_psprintf(pool, "tier=%s is always \"%s\", which is not one of its "
                                    "tiers; an expression has %%{...}, for example "
                                    "tier=%%{env:PLAN}", text, text));
}

static int check_rule(apr_pool_t *pool, server_rec *s, const rl_settings *settings,
                      const rl_written_rule *place)
{
    const rl_rule *rule = place->rule;
    const rl_algorithm_row *algorithm = &rl_algorithms[rule->limit.algorithm];

    check_methods(pool, s, place);
    check_tier(pool, s, settings, place);
    if (rl_rule_key_has_dead_end(rule))
        warn(s, place, "an alternative of its key is never used: every request has a value for one "
             "before it; put what may be missing first, for example key=user|ip");
    if (rl_rule_key_is_inventable(rule) && !has_anchor(place))
        warn(s, place, "clients choose its key and get a fresh quota with each new value; add a "
             "rule with key=ip or key=server beside it");
    if (rl_rule_tier_is_inventable(rule))
        warn(s, place, "clients choose its tier; let tier= read what the server knows of them, "
             "for example tier=%{env:PLAN}");
    if (rule->on_failure && (rule->sync == RL_SYNC_LOCAL || !settings->redis))
        warn(s, place, "on-failure= does nothing for a rule that does not use Redis");
    if (rule->sync == RL_SYNC_LEASE && !settings->redis)
        warn(s, place, "sync=lease does nothing without RateLimitRedis: this host counts alone");
    if (rule->adaptive && !settings->adaptive_count)
        warn(s, place, "adaptive does nothing without RateLimitAdaptive, for example "
             "RateLimitAdaptive 70 0.5");
    if (algorithm->local != rule->limit.algorithm && !settings->redis)
        return refuse(s, place, apr_psprintf(pool, "algorithm=%s needs RateLimitRedis, for example "
                                             "RateLimitRedis redis://127.0.0.1:6379; algorithm=%s "
                                             "does not", algorithm->name,
                                             rl_algorithms[algorithm->local].name));
    return 1;
}

/* Sets has_block_or_pending: rules with a common counter share its block and its pending units. */
static void set_block_or_pending(void)
{
    const apr_array_header_t *rules = rl_config_rules();

    for (int i = 0; i < rules->nelts; i++) {
        const rl_rule *one = APR_ARRAY_IDX(rules, i, rl_written_rule).rule;

        if (one->sync == RL_SYNC_LOCAL) /* its block and its pending units are this host's */
            continue;
        for (int j = 0; j < rules->nelts; j++) {
            rl_rule *other = APR_ARRAY_IDX(rules, j, rl_written_rule).rule;

            if (other->counter == one->counter && (one->limit.block_ms || one->limit.on_response))
                other->has_block_or_pending = 1;
        }
    }
}

#define LEASE_MIN_MS 20 /* a shorter lease is spent less often than it is asked for */

/* The rule i, if it is counted in Redis under this counter; otherwise NULL. */
static rl_rule *rule_of(uint64_t counter, int i)
{
    rl_rule *rule = APR_ARRAY_IDX(rl_config_rules(), i, rl_written_rule).rule;

    return !rule->off && rule->sync != RL_SYNC_LOCAL && rule->counter == counter ? rule : NULL;
}

/* The smallest lease_ms of the rules of a counter; -1: none of them has sync=lease. */
static int64_t lease_ms_of(uint64_t counter)
{
    int64_t least_ms = RL_LEASE_MAX_MS;
    int leases = 0;

    for (int i = 0; i < rl_config_rules()->nelts; i++) {
        const rl_rule *rule = rule_of(counter, i);
        int64_t ms = !rule ? RL_LEASE_MAX_MS
            : rule->limit.lease_ms ? rule->limit.lease_ms : rl_parse_lease_ms(rule);

        leases |= rule && rule->sync == RL_SYNC_LEASE;
        if (ms < least_ms)
            least_ms = ms;
    }
    return leases ? least_ms : -1;
}

/* Refuses a burst below the least, or one of which a quarter is refilled before a lease ends. */
static const char *refuse_burst(apr_pool_t *pool, int64_t quota, int64_t burst, int64_t window_ms,
                                int64_t least)
{
    int64_t refilled = (4 * LEASE_MIN_MS * quota + window_ms - 1) / window_ms;

    if (quota == 0 || (burst >= least && burst >= refilled))
        return NULL;
    if (least >= refilled)
        return apr_psprintf(pool, "sync=lease needs a burst of at least %" APR_INT64_T_FMT
                            ", because a lease is at most an eighth of it; this one is %"
                            APR_INT64_T_FMT, least, burst);
    return apr_psprintf(pool, "sync=lease needs a burst of at least %" APR_INT64_T_FMT ", what is "
                        "refilled in %d ms; this one is %" APR_INT64_T_FMT, refilled,
                        4 * LEASE_MIN_MS, burst);
}

/* Why the counter of a rule cannot be leased as far as this rule is concerned; NULL: it can. */
static const char *refuse_lease(apr_pool_t *pool, const rl_rule *rule)
{
    const char *error;

    if (rule->has_block_or_pending)
        return "sync=lease cannot be combined with block= or charge-on= of another rule with the "
            "same name, algorithm and window, because both use one counter";
    if (!rl_limiter_is_bucket(&rule->limit))
        return NULL;
    error = refuse_burst(pool, rule->limit.quota, rule->limit.burst, rule->limit.window_ms,
                         RL_LEASE_SHARE);
    for (int i = 0; i < rule->tier_count && !error; i++) {
        const rl_tier *tier = &rule->tiers[i];

        error = tier->unlimited ? NULL
            : refuse_burst(pool, tier->quota, tier->burst, rule->limit.window_ms, 0);
        if (error)
            error = apr_psprintf(pool, "tier \"%s\": %s", tier->name, error);
    }
    return error;
}

/*
 * Prepares the counters of rules with sync=lease. All rules of a counter get the smaller burst,
 * also those that ask Redis for each request. Without Redis there are no leases and bursts stay
 * whole.
 */
static int prepare_leases(apr_pool_t *pool, server_rec *s, int has_redis)
{
    const apr_array_header_t *rules = rl_config_rules();
    int good = 1;

    for (int i = 0; i < rules->nelts; i++) {
        const rl_written_rule *place = &APR_ARRAY_IDX(rules, i, rl_written_rule);
        rl_rule *rule = rule_of(place->rule->counter, i);
        int64_t lease_ms = rule ? lease_ms_of(rule->counter) : -1;
        const char *error = NULL;

        if (lease_ms < 0)
            continue;
        error = refuse_lease(pool, rule);
        if (!error && has_redis)
            error = rl_parse_lease(pool, rule, lease_ms);
        good &= !error || refuse(s, place, error);
    }
    return good;
}

int rl_config_check(apr_pool_t *pool, server_rec *main_server)
{
    const apr_array_header_t *rules = rl_config_rules();
    const rl_settings *settings = rl_config_settings(main_server);
    int good;

    set_block_or_pending();
    good = prepare_leases(pool, main_server, settings->redis != NULL);
    for (int i = 0; i < rules->nelts; i++) {
        const rl_written_rule *place = &APR_ARRAY_IDX(rules, i, rl_written_rule);

        if (!place->rule->off)
            good &= check_rule(pool, main_server, settings, place);
    }
    if (settings->overrides && !settings->redis) {
        ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, main_server,
                     "ratelimit: RateLimitOverrides on needs RateLimitRedis, where overrides "
                     "are kept, for example RateLimitRedis redis://127.0.0.1:6379");
        good = 0;
    }
    return good & rl_config_redis_check(pool, main_server);
}
