/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule: the grammar of a RateLimit line.
 *
 *     NAME QUOTA/WINDOW [option]...        NAME off
 *
 * Two rules share a counter if name, algorithm and window agree; the key of that counter is made
 * here, once, so that nothing has to be compared or printed while requests are served.
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include "rule/reading.h"

int rl_rule_choice(const char *text, const char *const names[])
{
    for (int i = 0; names[i]; i++) {
        if (!strcasecmp(text, names[i]))
            return i;
    }
    return -1;
}

const char *rl_rule_list(apr_pool_t *pool, const char *const names[])
{
    const char *list = names[0];

    for (int i = 1; names[i]; i++)
        list = apr_pstrcat(pool, list, names[i + 1] ? ", " : " or ", names[i], NULL);
    return list;
}

/* --- Words and numbers -------------------------------------------------------------------- */

const char *rl_rule_word(apr_pool_t *pool, const char **line)
{
    const char *s = *line;
    char *word, *end, quote = 0;
    int may_open = 1;

    while (apr_isspace(*s))
        s++;
    word = end = apr_palloc(pool, strlen(s) + 1);
    for (; *s && (quote || !apr_isspace(*s)); s++) {
        if (quote && *s == '\\' && (s[1] == quote || s[1] == '\\'))
            *end++ = *++s;
        else if (quote && *s == quote)
            quote = 0;
        else if (!quote && may_open && (*s == '"' || *s == '\''))
            quote = *s;
        else
            *end++ = *s;
        /* A quote opens at the start of a word and behind its first '='. */
        may_open = !quote && *s == '=' && !memchr(word, '=', (size_t)(end - word) - 1);
    }
    if (quote)
        return NULL;
    *end = '\0';
    *line = s;
    return word;
}

int rl_rule_is_end(const char *line)
{
    while (apr_isspace(*line))
        line++;
    return !*line;
}

/* Reads a whole number of at most max; returns what follows it, or NULL if there is none. */
const char *rl_rule_number(const char *s, int64_t max, int64_t *number)
{
    int64_t n = 0;

    if (!apr_isdigit(*s))
        return NULL;
    for (; apr_isdigit(*s); s++) {
        n = n * 10 + (*s - '0');
        if (n > max)
            return NULL;
    }
    *number = n;
    return s;
}

static const struct {
    const char *name;
    int64_t ms;
} units[] = {
    {"w", 604800000}, {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}
};

#define UNITS (sizeof(units) / sizeof(units[0]))
#define DURATION_MAX_MS (INT64_C(3653) * 86400000)

int rl_rule_duration(const char *text, int64_t *ms)
{
    int64_t n = 1;

    if (apr_isdigit(*text)) {
        text = rl_rule_number(text, DURATION_MAX_MS, &n);
        if (!text)
            return 0;
    }
    for (size_t i = 0; i < UNITS; i++) {
        if (!strcasecmp(text, units[i].name)) {
            if (n > DURATION_MAX_MS / units[i].ms)
                return 0;
            *ms = n * units[i].ms;
            return 1;
        }
    }
    return 0;
}

const char *rl_rule_print_duration(apr_pool_t *pool, int64_t ms)
{
    for (size_t i = 0; i < UNITS; i++) {
        if (ms && ms % units[i].ms == 0)
            return apr_psprintf(pool, "%" APR_INT64_T_FMT "%s", ms / units[i].ms, units[i].name);
    }
    return "0s";
}

int rl_rule_is_name(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(s);

    return length > 0 && length <= RL_NAME_MAX && strspn(s, plain) == length;
}

int rl_rule_units(const char *text, int64_t *n)
{
    const char *end = rl_rule_number(text, RL_COUNT_MAX, n);

    return end && !*end && *n > 0;
}

/* --- QUOTA/WINDOW ------------------------------------------------------------------------- */

static const char *read_limit(rl_reading *r, const char *text)
{
    rl_limit *limit = &r->rule->limit;
    const char *slash = rl_rule_number(text, RL_COUNT_MAX, &limit->quota);

    r->rule->text = text;
    r->rule->quota_text = apr_psprintf(r->pool, "%" APR_INT64_T_FMT, limit->quota);
    if (!slash && apr_isdigit(*text))
        return apr_psprintf(r->pool, "\"%s\" has a quota above 1000000000", text);
    if (!slash || *slash != '/')
        return apr_psprintf(r->pool, "\"%s\" is not QUOTA/WINDOW, as in 10/1m", text);
    if (!rl_rule_duration(slash + 1, &limit->window_ms))
        return apr_psprintf(r->pool, "\"%s\" needs a window with one of the units ms, s, m, h, d "
                            "and w, as in 10/1m", text);
    if (limit->window_ms == 0)
        return apr_psprintf(r->pool, "\"%s\" needs a window above zero, as in 10/1m", text);
    if (limit->window_ms < RL_WINDOW_MIN_MS || limit->window_ms > RL_WINDOW_MAX_MS)
        return apr_psprintf(r->pool, "\"%s\" needs a window of 100ms to 31d, as in 10/1m", text);
    return NULL;
}

/* --- Expressions -------------------------------------------------------------------------- */

/* httpd takes the names in an expression in any case. */
int rl_rule_mentions(const char *text, const char *const names[])
{
    for (int i = 0; names[i]; i++) {
        if (strcasestr(text, names[i]))
            return 1;
    }
    return 0;
}

/* Compiles an expression and notes what it reads. */
const char *rl_rule_read_expr(rl_reading *r, const char *text, int boolean, const void **compiled)
{
    static const char *const of_response[] = {"%{resp:", "resp(", "%{REQUEST_STATUS}",
                                              "%{LAST_MODIFIED}", NULL};
    /* Of SSL_ some is known before, and none of it certainly: a section may ask for a certificate. */
    static const char *const of_auth[] = {"REMOTE_USER", "%{AUTH", "env:", "env(", "note:", "note(",
                                          "%{SSL_", "PeerExtList(", NULL};
    static const char *const of_type[] = {"%{CONTENT_TYPE}", "%{HANDLER}", NULL};
    static const char *const of_file[] = {"_FILENAME}", "%{PATH_INFO}", "%{CONTEXT_",
                                          "%{SCRIPT_USER}", "%{SCRIPT_GROUP}", NULL};
    const char *error;

    if (rl_rule_mentions(text, of_response))
        return apr_psprintf(r->pool, "\"%s\" reads the response, which does not exist yet when a rule "
                            "decides; a rule that depends on it is one with charge-on=, as in "
                            "charge-on=404", text);
    r->reads_file |= rl_rule_mentions(text, of_file);
    r->reads_type |= rl_rule_mentions(text, of_type);
    r->reads_auth |= r->reads_type || rl_rule_mentions(text, of_auth);
    r->reads_user |= strcasestr(text, "REMOTE_USER") != NULL;
    if (!r->compile)
        return apr_psprintf(r->pool, "expressions such as \"%s\" are known to httpd only", text);
    error = r->compile(r->context, text, boolean, compiled);
    return error ? apr_psprintf(r->pool, "\"%s\" is no expression: %s", text, error) : NULL;
}

/* --- A whole rule ------------------------------------------------------------------------- */

static const char *too_large(apr_pool_t *pool, const char *text, const rl_limit *limit)
{
    int64_t most = RL_PRODUCT_MAX / (limit->window_ms * rl_limiter_ticks(limit));

    if (limit->quota > most || limit->burst > most)
        return apr_psprintf(pool, "\"%s\" is too large to count exactly: with this window quota "
                            "and burst are at most %" APR_INT64_T_FMT, text, most);
    return apr_psprintf(pool, "\"%s\" is too large to count exactly with this delay=", text);
}

/* Whether the cost that each request has is above what a limit ever admits. */
static int is_too_dear(const rl_rule *rule, const rl_limit *limit)
{
    return !rule->cost_expr.text && rule->cost > 1 && limit->quota > 0
        && rule->cost > rl_limiter_capacity(limit);
}

static const char *settle_limit(rl_reading *r)
{
    rl_rule *rule = r->rule;

    if (!rule->limit.burst)
        rule->limit.burst = rule->limit.quota;
    if (!rl_limiter_is_exact(&rule->limit))
        return too_large(r->pool, rule->text, &rule->limit);
    if (is_too_dear(rule, &rule->limit))
        return apr_psprintf(r->pool, "cost=%" APR_INT64_T_FMT " is above the %" APR_INT64_T_FMT
                            " there are: each request would be denied", rule->cost,
                            rl_limiter_capacity(&rule->limit));
    return NULL;
}

static void settle_phase(rl_reading *r)
{
    if (r->rule->phase == RL_PHASE_UNSET)
        r->rule->phase = r->reads_auth ? RL_PHASE_AUTH : RL_PHASE_ACCESS;
}

static void settle_counter(rl_reading *r)
{
    static const unsigned char any[APR_SIPHASH_KSIZE];
    rl_rule *rule = r->rule;

    rule->key_suffix = apr_pstrcat(r->pool, ":", rule->name, ":",
                                   rl_algorithms[rule->limit.algorithm].name, ":",
                                   rl_rule_print_duration(r->pool, rule->limit.window_ms), NULL);
    rule->counter = apr_siphash24(rule->key_suffix, strlen(rule->key_suffix), any);
    rule->tiers_text = apr_pstrcat(r->pool, rule->name, " ", NULL);
}

static const char *read_rule(rl_reading *r, const char *line)
{
    static const rl_key_part address = {RL_KEY_IP, 0, NULL, NULL};
    static const rl_key by_address = {&address, 1};
    const char *limit = rl_rule_word(r->pool, &line);
    const char *error;

    if (!limit || !*limit)
        return "needs QUOTA/WINDOW or off behind its name, as in 10/1m";
    if (!strcasecmp(limit, "off")) {
        r->rule->off = 1;
        return rl_rule_is_end(line) ? NULL : "takes nothing behind off";
    }
    r->rule->keys = &by_address;
    r->rule->key_count = 1;
    r->rule->status = 429;
    r->rule->headers = 1;
    r->rule->cost = 1;
    if ((error = read_limit(r, limit)) || (error = rl_rule_read_options(r, line))
        || (error = rl_rule_check_options(r)) || (error = settle_limit(r)))
        return error;
    settle_phase(r);
    settle_counter(r);
    r->rule->is_shared = r->rule->keys != &by_address && !r->reads_client;
    return NULL;
}

const char *rl_rule_parse(apr_pool_t *pool, const char *line, rl_compile compile, void *context,
                          rl_rule **rule)
{
    rl_reading r = {.pool = pool, .compile = compile, .context = context,
                    .rule = apr_pcalloc(pool, sizeof(rl_rule))};
    const char *name = rl_rule_word(pool, &line);
    const char *error;

    if (!name || !*name)
        return "needs NAME QUOTA/WINDOW, as in: RateLimit login 10/1m";
    if (!rl_rule_is_name(name))
        return apr_psprintf(pool, "\"%s\" is no name for a rule: it takes 1 to 64 letters, digits, "
                            "-, _ and ., as in: RateLimit login 10/1m", name);
    r.rule->name = name;
    error = read_rule(&r, line);
    if (error)
        return apr_psprintf(pool, "\"%s\": %s", name, error);
    *rule = r.rule;
    return NULL;
}

/* --- Tiers -------------------------------------------------------------------------------- */

const rl_tier *rl_rule_tier(const rl_rule *rule, const char *name)
{
    for (int i = 0; i < rule->tier_count; i++) {
        if (!strcmp(rule->tiers[i].name, name))
            return &rule->tiers[i];
    }
    return NULL;
}

static const char *read_tier_quota(apr_pool_t *pool, const rl_rule *rule, const char *text,
                                   rl_tier *tier)
{
    const rl_algorithm_row *algorithm = &rl_algorithms[rule->limit.algorithm];
    const char *end = rl_rule_number(text, RL_COUNT_MAX, &tier->quota);

    tier->unlimited = !strcasecmp(text, "unlimited");
    if (!tier->unlimited && (!end || *end))
        return apr_psprintf(pool, "\"%s\" is neither a quota of at most 1000000000 nor "
                            "unlimited, as in: RateLimitTier %s gold 1000", text, rule->name);
    if (!tier->unlimited && tier->quota > algorithm->quota_max)
        return apr_psprintf(pool, "algorithm=%s takes a quota of at most %" APR_INT64_T_FMT
                            ", \"%s\" was read", algorithm->name, algorithm->quota_max, text);
    tier->burst = tier->quota;
    return NULL;
}

static const char *read_tier_burst(apr_pool_t *pool, const rl_rule *rule, const char *text,
                                   rl_tier *tier)
{
    if (!*text)
        return NULL;
    if (strncasecmp(text, "burst=", 6) || !rl_rule_units(text + 6, &tier->burst))
        return apr_psprintf(pool, "\"%s\" is not burst=N with a whole number of 1 to 1000000000, "
                            "as in: RateLimitTier %s gold 1000 burst=2000", text, rule->name);
    if (!(rl_algorithms[rule->limit.algorithm].takes & RL_TAKES_BURST))
        return apr_psprintf(pool, "burst= needs algorithm=%s",
                            rl_rule_algorithms(pool, RL_TAKES_BURST));
    if (tier->unlimited)
        return "unlimited takes no burst=";
    return NULL;
}

static void add_tier(apr_pool_t *pool, rl_rule *rule, const rl_tier *tier)
{
    rl_tier *tiers = apr_palloc(pool, sizeof(*tiers) * (size_t)(rule->tier_count + 1));

    if (rule->tier_count)
        memcpy(tiers, rule->tiers, sizeof(*tiers) * (size_t)rule->tier_count);
    tiers[rule->tier_count++] = *tier;
    rule->tiers = tiers;
    rule->tiers_text = tier->unlimited
        ? apr_psprintf(pool, "%s%s unlimited 0 ", rule->tiers_text, tier->name)
        : apr_psprintf(pool, "%s%s %" APR_INT64_T_FMT " %" APR_INT64_T_FMT " ", rule->tiers_text,
                       tier->name, tier->quota, tier->burst);
}

const char *rl_rule_add_tier(apr_pool_t *pool, rl_rule *rule, const char *line)
{
    const char *name = rl_rule_word(pool, &line), *quota = rl_rule_word(pool, &line);
    const char *burst = rl_rule_word(pool, &line), *error;
    rl_limit limit = rule->limit;
    rl_tier tier;

    if (!name || !quota || !*quota || !burst || !rl_rule_is_end(line))
        return apr_psprintf(pool, "\"%s\": needs TIER QUOTA|unlimited [burst=N], as in: "
                            "RateLimitTier %s gold 1000", rule->name, rule->name);
    if (!rl_rule_is_name(name))
        return apr_psprintf(pool, "\"%s\": \"%s\" is no name for a tier: it takes 1 to 64 letters, "
                            "digits, -, _ and .", rule->name, name);
    if (rl_rule_tier(rule, name))
        return apr_psprintf(pool, "\"%s\": tier \"%s\" is given twice", rule->name, name);
    tier.name = name;
    if ((error = read_tier_quota(pool, rule, quota, &tier))
        || (error = read_tier_burst(pool, rule, burst, &tier)))
        return apr_psprintf(pool, "\"%s\": %s", rule->name, error);
    limit.quota = tier.unlimited ? 0 : tier.quota;
    limit.burst = tier.unlimited ? 0 : tier.burst;
    if (is_too_dear(rule, &limit))
        return apr_psprintf(pool, "\"%s\": cost=%" APR_INT64_T_FMT " is above the %" APR_INT64_T_FMT
                            " of tier %s: each of its requests would be denied, which a quota of 0 "
                            "says more clearly", rule->name, rule->cost, rl_limiter_capacity(&limit),
                            name);
    if (!rl_limiter_is_exact(&limit))
        return apr_psprintf(pool, "\"%s\": %s", rule->name, too_large(pool, quota, &limit));
    add_tier(pool, rule, &tier);
    return NULL;
}

/* --- Questions about a key ---------------------------------------------------------------- */

static int is_of_client(const char *expression)
{
    static const char *const of_client[] = {"%{HTTP", "%{req", "%{QUERY_STRING}", NULL};

    return rl_rule_mentions(expression, of_client);
}

static int part_is_inventable(const rl_key_part *part)
{
    return part->kind == RL_KEY_HEADER || part->kind == RL_KEY_COOKIE
        || (part->kind == RL_KEY_EXPR && is_of_client(part->name));
}

int rl_rule_tier_is_inventable(const rl_rule *rule)
{
    return rule->tier.text && is_of_client(rule->tier.text);
}

static int part_is_anchored(const rl_key_part *part)
{
    return part->kind == RL_KEY_IP || part->kind == RL_KEY_SERVER;
}

int rl_rule_key_is_inventable(const rl_rule *rule)
{
    for (int i = 0; i < rule->key_count; i++) {
        for (int j = 0; j < rule->keys[i].count; j++) {
            if (part_is_inventable(&rule->keys[i].parts[j]))
                return 1;
        }
    }
    return 0;
}

/* Whether a component is there in every request. */
static int part_is_always_there(const rl_key_part *part)
{
    return part->kind == RL_KEY_IP || part->kind == RL_KEY_METHOD || part->kind == RL_KEY_HOST
        || part->kind == RL_KEY_PATH || part->kind == RL_KEY_SERVER;
}

int rl_rule_key_has_dead_end(const rl_rule *rule)
{
    for (int i = 0; i < rule->key_count - 1; i++) {
        int there = 1;

        for (int j = 0; j < rule->keys[i].count; j++)
            there &= part_is_always_there(&rule->keys[i].parts[j]);
        if (there)
            return 1;
    }
    return 0;
}

int rl_rule_key_is_anchored(const rl_rule *rule)
{
    return rule->key_count == 1 && rule->keys[0].count == 1
        && part_is_anchored(&rule->keys[0].parts[0]);
}
