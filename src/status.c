/*
 * status: what the module shows of itself in server-status.
 *
 * Numbers come from shared memory as they are at the moment; nothing here takes a lock or asks
 * Redis. What is shown is data: a table of columns for the rules and one of named numbers, printed
 * as HTML for people or as lines for programs. The lines follow mod_status's ?auto: a name without
 * blanks, a colon, a number.
 */
#include <httpd.h>
#include <http_protocol.h>
#include <mod_status.h>

#include "status.h"

typedef struct {
    const char *name;
    uint64_t value;
} named_number;

enum { RULE_COLUMNS = 1 + RL_VERDICTS + RL_SOURCES };

static const char *const rule_columns[RULE_COLUMNS] = {
    "Requests", "Passed", "Denied", "Shadowed", "FromMemory", "Leased", "Asked", "Fallback"
};

static void read_columns(const rl_stats_rule *rule, uint64_t values[RULE_COLUMNS])
{
    int n = 0;

    values[n++] = rule->requests;
    for (int i = 0; i < RL_VERDICTS; i++)
        values[n++] = rule->verdicts[i];
    for (int i = 0; i < RL_SOURCES; i++)
        values[n++] = rule->sources[i];
}

static void print_rules(request_rec *r, const rl_tiers *tiers, int as_lines)
{
    const rl_stats_rule *rule;

    if (!as_lines) {
        ap_rputs("<table><tr><th>Rule</th>", r);
        for (int i = 0; i < RULE_COLUMNS; i++)
            ap_rprintf(r, "<th>%s</th>", rule_columns[i]);
        ap_rputs("</tr>\n", r);
    }
    for (int row = 0; (rule = rl_stats_read_row(tiers->stats, row)); row++) {
        uint64_t values[RULE_COLUMNS];

        read_columns(rule, values);
        if (!as_lines)
            ap_rprintf(r, "<tr><td>%s</td>", rule->name);
        for (int i = 0; i < RULE_COLUMNS; i++) {
            if (as_lines)
                ap_rprintf(r, "RateLimit[%s]%s: %" APR_UINT64_T_FMT "\n", rule->name,
                           rule_columns[i], values[i]);
            else
                ap_rprintf(r, "<td>%" APR_UINT64_T_FMT "</td>", values[i]);
        }
        if (!as_lines)
            ap_rputs("</tr>\n", r);
    }
    if (!as_lines)
        ap_rputs("</table>\n", r);
}

static void print_numbers(request_rec *r, const named_number *numbers, int count, int as_lines)
{
    if (!as_lines)
        ap_rputs("<dl>\n", r);
    for (int i = 0; i < count; i++)
        ap_rprintf(r, as_lines ? "RateLimit%s: %" APR_UINT64_T_FMT "\n"
                               : "<dt>%s: %" APR_UINT64_T_FMT "</dt>\n",
                   numbers[i].name, numbers[i].value);
    if (!as_lines)
        ap_rputs("</dl>\n", r);
}

static void print_totals(request_rec *r, const rl_tiers *tiers, int as_lines)
{
    uint64_t sums[RULE_COLUMNS] = {0}, values[RULE_COLUMNS];
    named_number numbers[RULE_COLUMNS];
    const rl_stats_rule *rule;

    for (int row = 0; (rule = rl_stats_read_row(tiers->stats, row)); row++) {
        read_columns(rule, values);
        for (int i = 0; i < RULE_COLUMNS; i++)
            sums[i] += values[i];
    }
    for (int i = 0; i < RULE_COLUMNS; i++) {
        numbers[i].name = rule_columns[i];
        numbers[i].value = sums[i];
    }
    print_numbers(r, numbers, RULE_COLUMNS, as_lines);
}

static void print_local(request_rec *r, const rl_tiers *tiers, int as_lines)
{
    rl_local_stats local;

    rl_local_read_stats(tiers->local, &local);
    print_numbers(r, (named_number[]){{"LocalCapacity", local.capacity},
                                      {"LocalEntries", local.entries},
                                      {"LocalEvictions", local.evictions}}, 3, as_lines);
}

static uint64_t count_open(rl_breakers *breakers)
{
    char ignored[RL_BREAKER_NAME];
    const rl_breaker *breaker;
    uint64_t open = 0;

    for (int i = 0; (breaker = rl_breaker_at(breakers, i, ignored)); i++)
        open += rl_breaker_read(breaker) == RL_BREAKER_OPEN;
    return open;
}

static void print_redis(request_rec *r, const rl_tiers *tiers, int as_lines)
{
    static const char *const names[RL_FAILURES] = {
        "RedisAnswered", "RedisFailedOpen", "RedisFailedDown", "RedisFailedBusy",
        "RedisFailedLate", "RedisFailedLost", "RedisFailedRefused", "RedisFailedGarbage"
    };
    static const struct {
        const char *name;
        int per_mille;
    } quantiles[] = {{"RedisWaitP50Us", 500}, {"RedisWaitP95Us", 950}, {"RedisWaitP99Us", 990},
                     {"RedisWaitP999Us", 999}, {"RedisWaitMaxUs", 1000}};
    named_number numbers[RL_FAILURES + 6];
    int n = 0;

    if (!tiers->settings->redis) {
        if (!as_lines)
            ap_rputs("<p>No Redis: this host counts alone.</p>\n", r);
        return;
    }
    if (!as_lines)
        ap_rprintf(r, "<p>Redis at %s</p>\n",
                   ap_escape_html(r->pool, tiers->settings->redis->name));
    numbers[n].name = "RedisBreakerOpen";
    numbers[n++].value = count_open(tiers->breakers);
    for (int i = 0; i < RL_FAILURES; i++) {
        numbers[n].name = names[i];
        numbers[n++].value = rl_stats_read_redis(tiers->stats, (rl_failure)i);
    }
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        numbers[n].name = quantiles[i].name;
        numbers[n++].value = (uint64_t)rl_stats_quantile(tiers->stats, quantiles[i].per_mille);
    }
    print_numbers(r, numbers, n, as_lines);
}

int rl_status(request_rec *r, int flags, const rl_tiers *tiers)
{
    int as_lines = flags & AP_STATUS_SHORT;

    if (!as_lines)
        ap_rputs("<hr />\n<h2>Rate limits</h2>\n", r);
    print_totals(r, tiers, as_lines);
    print_rules(r, tiers, as_lines);
    print_redis(r, tiers, as_lines);
    print_local(r, tiers, as_lines);
    return OK;
}
