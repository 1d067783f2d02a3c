/*
 * Any bytes as a RateLimit line, as a duration and as words. Aborts where a promise of rule.h does
 * not hold, and so names the input.
 */
#include "rule.h"

#include <apr_general.h>

#include <stdlib.h>
#include <string.h>

static void must(int holds)
{
    if (!holds)
        abort();
}

static const char *compile(void *context, const char *text, int boolean, const void **compiled)
{
    (void)context;
    *compiled = text;
    return boolean || strchr(text, '}') ? NULL : "not closed";
}

static void must_be_sound(apr_pool_t *pool, const rl_rule *rule)
{
    const rl_limit *limit = &rule->limit;

    must(strlen(rule->name) > 0 && strlen(rule->name) <= RL_NAME_MAX);
    if (rule->off)
        return;
    must(limit->algorithm == RL_SLIDING_WINDOW || limit->algorithm == RL_FIXED_WINDOW);
    must(limit->window_ms >= RL_WINDOW_MIN_MS && limit->window_ms <= RL_WINDOW_MAX_MS);
    must(limit->quota >= 0 && limit->quota <= RL_COUNT_MAX);
    must(limit->quota * limit->window_ms <= RL_PRODUCT_MAX);
    must(rule->status >= 400 && rule->status <= 599);
    must(rule->phase == RL_PHASE_ACCESS || rule->phase == RL_PHASE_AUTH);
    must(rule->sync != RL_SYNC_LEASE && rule->key_count > 0);
    for (int i = 0; i < rule->key_count; i++) {
        must(rule->keys[i].count > 0);
        for (int j = 0; j < rule->keys[i].count; j++) {
            const rl_key_part *part = &rule->keys[i].parts[j];

            must((part->kind == RL_KEY_EXPR) == (part->expr != NULL));
            must(part->number >= 0 && part->number <= 1000);
        }
    }
    must(strstr(rule->key_suffix, rl_rule_print_duration(pool, limit->window_ms)) != NULL);
    rl_rule_key_is_inventable(rule);
    rl_rule_key_is_anchored(rule);
}

static void must_read_durations(apr_pool_t *pool, const char *text)
{
    int64_t ms, again;

    if (!rl_rule_duration(text, &ms))
        return;
    must(ms >= 0 && ms <= INT64_C(3653) * 86400000);
    must(rl_rule_duration(rl_rule_print_duration(pool, ms), &again) && again == ms);
}

/* Words end, and each moves on. */
static void must_end(apr_pool_t *pool, const char *line)
{
    const char *before = line, *end = line + strlen(line), *word;

    while ((word = rl_rule_word(pool, &line)) != NULL && line > before)
        before = line;
    must(!word || line <= end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static apr_pool_t *pool;
    char *line = malloc(size + 1);
    const char *error;
    rl_rule *rule = NULL;

    if (!pool) {
        apr_initialize();
        apr_pool_create(&pool, NULL);
    }
    memcpy(line, data, size);
    line[size] = '\0';
    error = rl_rule_parse(pool, line, size % 2 ? compile : NULL, NULL, &rule);
    must(error ? *error != '\0' : rule != NULL);
    if (!error)
        must_be_sound(pool, rule);
    must_read_durations(pool, line);
    must_end(pool, line);
    apr_pool_clear(pool);
    free(line);
    return 0;
}
