/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "rule/rule.h"
#include "rule/text.h"

const rl_tier *rl_rule_tier(const rl_rule *rule, const char *name)
{
    for (int i = 0; i < rule->tier_count; i++) {
        if (!strcmp(rule->tiers[i].name, name))
            return &rule->tiers[i];
    }
    return NULL;
}

int rl_rule_charges_on(const rl_rule *rule, int status)
{
    return !rule->statuses
        || (status >= 0 && status <= RL_STATUS_MAX
            && rule->statuses[status / 64] >> status % 64 & 1);
}

/* Whether an expression reads what clients send. */
static int reads_client(const char *expression)
{
    static const char *const sent[] = {"%{HTTP", "%{req", "%{QUERY_STRING}", NULL};

    return rl_text_contains(expression, sent);
}

int rl_rule_tier_is_inventable(const rl_rule *rule)
{
    return rule->tier.text && reads_client(rule->tier.text);
}

static int is_inventable(const rl_key_part *part)
{
    return rl_key_rows[part->component].is_inventable
        || (part->component == RL_KEY_EXPR && reads_client(part->name));
}

int rl_rule_key_is_inventable(const rl_rule *rule)
{
    for (int i = 0; i < rule->key_count; i++) {
        for (int j = 0; j < rule->keys[i].count; j++) {
            if (is_inventable(&rule->keys[i].parts[j]))
                return 1;
        }
    }
    return 0;
}

static int always_applies(const rl_key *key)
{
    for (int i = 0; i < key->count; i++) {
        if (!rl_key_rows[key->parts[i].component].is_always_there)
            return 0;
    }
    return 1;
}

int rl_rule_key_has_dead_end(const rl_rule *rule)
{
    for (int i = 0; i < rule->key_count - 1; i++) {
        if (always_applies(&rule->keys[i]))
            return 1;
    }
    return 0;
}

int rl_rule_key_is_anchored(const rl_rule *rule)
{
    return rule->key_count == 1 && rule->keys[0].count == 1
        && rl_key_rows[rule->keys[0].parts[0].component].is_anchor;
}
