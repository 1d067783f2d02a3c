/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a RateLimit line, with a RateLimitTier behind a line break, as a duration and as
 * words. Aborts where a promise of parse.h, rule.h or text.h does not hold, and so names the input.
 */
#include "rule/parse.h"
#include "rule/text.h"

#include <apr_general.h>

#include <stdlib.h>
#include <string.h>

static void must(int holds)
{
    if (!holds)
        abort();
}

static const char *compile(void *data, const char *text, int boolean, const void **compiled)
{
    (void)data;
    *compiled = text;
    return boolean || strchr(text, '}') ? NULL : "not closed";
}

static const rl_compiler compiler = {compile, NULL};

static void must_be_sound(apr_pool_t *pool, const rl_rule *rule)
{
    const rl_limit *limit = &rule->limit;
    int is_bucket = rl_limiter_is_bucket(limit);

    must(strlen(rule->name) > 0 && strlen(rule->name) <= RL_NAME_MAX);
    if (rule->off)
        return;
    must(limit->algorithm >= RL_SLIDING_WINDOW && limit->algorithm <= RL_LEAKY_BUCKET);
    must(limit->window_ms >= RL_WINDOW_MIN_MS && limit->window_ms <= RL_WINDOW_MAX_MS);
    must(limit->quota >= 0 && limit->quota <= RL_COUNT_MAX);
    must(limit->burst >= 0 && limit->burst <= RL_COUNT_MAX);
    must(rl_limiter_is_exact(limit) && (is_bucket || limit->burst == limit->quota));
    must(limit->algorithm != RL_SLIDING_LOG || limit->quota <= RL_LOG_QUOTA_MAX);
    must(limit->delay_ms == 0 || (limit->algorithm == RL_LEAKY_BUCKET && !limit->on_response));
    must(limit->delay_ms >= 0 && limit->delay_ms <= 10000);
    must(limit->block_ms >= 0 && limit->block_ms <= RL_WINDOW_MAX_MS);
    must((rule->statuses != NULL) == (limit->on_response != 0));
    must(rule->cost >= 1 && rule->cost <= RL_COUNT_MAX);
    must(!rule->path == !rule->path_normal && (!rule->path || rule->path_normal[0] == '/'));
    must(rule->status >= 400 && rule->status <= 599);
    must(rule->phase >= RL_PHASE_EARLY && rule->phase <= RL_PHASE_AUTH);
    must(rule->sync != RL_SYNC_LEASE
         || !(rl_limiter_is_log(limit) || limit->delay_ms || limit->block_ms || rule->statuses));
    must(rule->key_count > 0);
    for (int i = 0; rule->methods && rule->methods[i]; i++)
        must(*rule->methods[i] != '\0');
    for (int i = 0; i < rule->key_count; i++) {
        must(rule->keys[i].count > 0);
        for (int j = 0; j < rule->keys[i].count; j++) {
            const rl_key_part *part = &rule->keys[i].parts[j];

            must((part->component == RL_KEY_EXPR) == (part->expr != NULL));
            must(part->number >= 0 && part->number <= 1000);
        }
    }
    must(strstr(rule->key_suffix, rl_text_print_duration(pool, limit->window_ms)) != NULL);
    rl_rule_key_is_inventable(rule);
    rl_rule_key_is_anchored(rule);
    for (int status = -1; status < 1000; status++)
        must(rl_rule_charges_on(rule, status) || rule->statuses);
}

/* What follows the first line break is a tier of the rule. */
static void must_take_tiers(apr_pool_t *pool, rl_rule *rule, const char *line)
{
    const char *error = rl_parse_tier(pool, rule, line);
    const rl_tier *tier;
    rl_limit limit = rule->limit;

    must(rule->tier_count == (error ? 0 : 1));
    if (error) {
        must(strstr(error, rule->name) != NULL);
        return;
    }
    tier = rl_rule_tier(rule, rule->tiers[0].name);
    must(tier && rl_text_is_name(tier->name));
    limit.quota = tier->unlimited ? 0 : tier->quota;
    limit.burst = tier->unlimited ? 0 : tier->burst;
    must(rl_limiter_is_exact(&limit));
    must(rl_parse_tier(pool, rule, line) != NULL && rule->tier_count == 1);
}

static void must_read_durations(apr_pool_t *pool, const char *text)
{
    int64_t ms, again;

    if (!rl_text_duration(text, &ms))
        return;
    must(ms >= 0 && ms <= INT64_C(3653) * 86400000);
    must(rl_text_duration(rl_text_print_duration(pool, ms), &again) && again == ms);
}

/* Words end, and each moves on. */
static void must_end(apr_pool_t *pool, const char *line)
{
    const char *before = line, *end = line + strlen(line), *word;

    while ((word = rl_text_word(pool, &line)) != NULL && line > before)
        before = line;
    must(!word || line <= end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static apr_pool_t *pool;
    char *line = malloc(size + 1), *tier;
    const char *error;
    rl_rule *rule = NULL;

    if (!pool) {
        apr_initialize();
        apr_pool_create(&pool, NULL);
    }
    memcpy(line, data, size);
    line[size] = '\0';
    tier = strchr(line, '\n');
    if (tier)
        *tier++ = '\0';
    error = rl_parse_rule(pool, line, size % 2 ? &compiler : NULL, &rule);
    must(error ? *error != '\0' : rule != NULL);
    if (!error)
        must_be_sound(pool, rule);
    if (!error && tier && !rule->off)
        must_take_tiers(pool, rule, tier);
    must_read_durations(pool, line);
    must_end(pool, line);
    apr_pool_clear(pool);
    free(line);
    return 0;
}
