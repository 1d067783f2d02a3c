/*
 * rule: the grammar of a RateLimit line.
 *
 *     NAME QUOTA/WINDOW [option]...        NAME off
 *
 * Each option is a row of the table below: its name, whether it takes a value, and the function that
 * reads it. What one option alone cannot know, whether it goes with the others, is checked when all
 * are read, so that their order does not matter.
 *
 * Two rules share a counter if name, algorithm and window agree; the key of that counter is made
 * here, once, so that nothing has to be compared or printed while requests are served.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include "path.h"
#include "rule.h"

/* What is read while a rule is parsed. */
typedef struct {
    apr_pool_t *pool;
    rl_compile compile;
    void *context;
    rl_rule *rule;
    int reads_user; /* in its key or an expression: known only after authentication */
    int reads_auth; /* things that authentication may set */
    int reads_path; /* in its key */
    int reads_client; /* in its key: something that tells one client from another */
} reading;

static const char *const algorithms[] = {
    "sliding-window", "fixed-window", "sliding-log", "token-bucket", "leaky-bucket", NULL
};
static const char *const syncs[] = {"request", "lease", "local", NULL};
static const char *const failures[] = {"local", "open", "closed", NULL};
static const char *const phases[] = {"early", "access", "auth", NULL};
static const char *const switches[] = {"off", "on", NULL};

int rl_rule_choice(const char *text, const char *const names[])
{
    for (int i = 0; names[i]; i++) {
        if (!strcasecmp(text, names[i]))
            return i;
    }
    return -1;
}

const char *rl_rule_algorithm_name(rl_algorithm algorithm)
{
    return algorithms[algorithm];
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

/* Whether nothing but blanks is left: "" may be a word, too. */
static int is_end(const char *line)
{
    while (apr_isspace(*line))
        line++;
    return !*line;
}

/* Reads a whole number of at most max; returns what follows it, or NULL if there is none. */
static const char *whole_number(const char *s, int64_t max, int64_t *number)
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
        text = whole_number(text, DURATION_MAX_MS, &n);
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

/* --- QUOTA/WINDOW ------------------------------------------------------------------------- */

static const char *read_limit(reading *r, const char *text)
{
    rl_limit *limit = &r->rule->limit;
    const char *slash = whole_number(text, RL_COUNT_MAX, &limit->quota);

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

/* --- key= --------------------------------------------------------------------------------- */

/* Where the text that ends at one of the separators does end; braces of %{...} hide them. */
static const char *piece_end(const char *s, const char *separators)
{
    int depth = 0;

    for (; *s && (depth || !strchr(separators, *s)); s++) {
        if (*s == '{')
            depth++;
        else if (*s == '}' && depth)
            depth--;
    }
    return s;
}

static const struct {
    const char *name;
    rl_key_kind kind;
    enum { ALONE, NUMBERED, NAMED } form;
    char separator;
    int max;
} key_kinds[] = {
    {"ip", RL_KEY_IP, NUMBERED, '/', 128},
    {"user", RL_KEY_USER, ALONE, 0, 0},
    {"header", RL_KEY_HEADER, NAMED, ':', 0},
    {"cookie", RL_KEY_COOKIE, NAMED, ':', 0},
    {"env", RL_KEY_ENV, NAMED, ':', 0},
    {"method", RL_KEY_METHOD, ALONE, 0, 0},
    {"host", RL_KEY_HOST, ALONE, 0, 0},
    {"path", RL_KEY_PATH, NUMBERED, ':', 1000},
    {"server", RL_KEY_SERVER, ALONE, 0, 0},
};

#define KEY_KINDS "ip, ip/N, user, header:NAME, cookie:NAME, env:NAME, method, host, path, " \
                  "path:N, server and %%{...}"

/* httpd takes the names in an expression in any case. */
static int contains(const char *text, const char *const names[])
{
    for (int i = 0; names[i]; i++) {
        if (strcasestr(text, names[i]))
            return 1;
    }
    return 0;
}

/* Compiles an expression and notes what it reads. */
static const char *read_expr(reading *r, const char *text, int boolean, const void **compiled)
{
    static const char *const of_auth[] = {"REMOTE_USER", "%{AUTH", "env:", "env(", "note:", "note(",
                                          NULL};
    const char *error;

    r->reads_auth |= contains(text, of_auth);
    r->reads_user |= strcasestr(text, "REMOTE_USER") != NULL;
    if (!r->compile)
        return apr_psprintf(r->pool, "expressions such as \"%s\" are known to httpd only", text);
    error = r->compile(r->context, text, boolean, compiled);
    return error ? apr_psprintf(r->pool, "\"%s\" is no expression: %s", text, error) : NULL;
}

static const char *read_key_expr(reading *r, const char *text, rl_key_part *part)
{
    const char *error = read_expr(r, text, 0, &part->expr);

    part->kind = RL_KEY_EXPR;
    part->name = text;
    r->reads_client = 1;
    return error ? apr_pstrcat(r->pool, "key=: ", error, NULL) : NULL;
}

static int is_of_client(rl_key_kind kind)
{
    return kind != RL_KEY_SERVER && kind != RL_KEY_HOST && kind != RL_KEY_PATH
        && kind != RL_KEY_METHOD;
}

static const char *read_part(reading *r, const char *text, rl_key_part *part)
{
    if (strstr(text, "%{"))
        return read_key_expr(r, text, part);
    for (size_t i = 0; i < sizeof(key_kinds) / sizeof(key_kinds[0]); i++) {
        size_t length = strlen(key_kinds[i].name);
        const char *rest = text + length;
        int64_t number = 0;

        if (strncasecmp(text, key_kinds[i].name, length) || (*rest && strchr("/:", *rest) == NULL))
            continue;
        part->kind = key_kinds[i].kind;
        if (key_kinds[i].form == NAMED && *rest == ':' && rest[1]) {
            part->name = apr_pstrdup(r->pool, rest + 1);
        }
        else if (key_kinds[i].form == NUMBERED && *rest == key_kinds[i].separator) {
            rest = whole_number(rest + 1, key_kinds[i].max, &number);
            if (!rest || *rest || number == 0)
                return apr_psprintf(r->pool, "key=%s needs a number of 1 to %d behind \"%s%c\"",
                                    text, key_kinds[i].max, key_kinds[i].name,
                                    key_kinds[i].separator);
            part->number = (int)number;
        }
        else if (*rest || key_kinds[i].form == NAMED) {
            break;
        }
        r->reads_user |= part->kind == RL_KEY_USER;
        r->reads_auth |= part->kind == RL_KEY_USER || part->kind == RL_KEY_ENV;
        r->reads_path |= part->kind == RL_KEY_PATH;
        r->reads_client |= is_of_client(part->kind);
        return NULL;
    }
    return apr_psprintf(r->pool, "key=: \"%s\" is none of " KEY_KINDS, text);
}

static const char *read_alternative(reading *r, const char *text, rl_key *key)
{
    apr_array_header_t *parts = apr_array_make(r->pool, 2, sizeof(rl_key_part));

    for (;;) {
        const char *end = piece_end(text, "+");
        const char *error;

        error = read_part(r, apr_pstrmemdup(r->pool, text, (apr_size_t)(end - text)),
                          apr_array_push(parts));
        if (error)
            return error;
        if (!*end)
            break;
        text = end + 1;
    }
    key->parts = (const rl_key_part *)parts->elts;
    key->count = parts->nelts;
    return NULL;
}

static const char *read_key(reading *r, const char *text)
{
    apr_array_header_t *keys = apr_array_make(r->pool, 2, sizeof(rl_key));

    for (;;) {
        const char *end = piece_end(text, "|");
        const char *error;

        error = read_alternative(r, apr_pstrmemdup(r->pool, text, (apr_size_t)(end - text)),
                                 apr_array_push(keys));
        if (error)
            return error;
        if (!*end)
            break;
        text = end + 1;
    }
    r->rule->keys = (const rl_key *)keys->elts;
    r->rule->key_count = keys->nelts;
    return NULL;
}

/* --- The other options -------------------------------------------------------------------- */

static const char *read_algorithm(reading *r, const char *text)
{
    int i = rl_rule_choice(text, algorithms);

    if (i < 0)
        return apr_psprintf(r->pool, "algorithm=%s is none of sliding-window, fixed-window, "
                            "sliding-log, token-bucket and leaky-bucket", text);
    r->rule->limit.algorithm = (rl_algorithm)i;
    return NULL;
}

static const char *read_status(reading *r, const char *text)
{
    int64_t status;
    const char *end = whole_number(text, 599, &status);

    if (!end || *end || status < 400)
        return apr_psprintf(r->pool, "status=%s is not a status of 400 to 599, as in status=503",
                            text);
    r->rule->status = (int)status;
    return NULL;
}

static const char *read_on_failure(reading *r, const char *text)
{
    int i = rl_rule_choice(text, failures);

    if (i < 0)
        return apr_psprintf(r->pool, "on-failure=%s is none of local, open and closed", text);
    r->rule->on_failure = (rl_on_failure)(RL_FAIL_LOCAL + i);
    return NULL;
}

static const char *read_sync(reading *r, const char *text)
{
    int i = rl_rule_choice(text, syncs);

    if (i < 0)
        return apr_psprintf(r->pool, "sync=%s is none of request, lease and local", text);
    if (i == RL_SYNC_LEASE)
        return "sync=lease is not supported in this version";
    r->rule->sync = (rl_sync)i;
    return NULL;
}

static const char *read_phase(reading *r, const char *text)
{
    int i = rl_rule_choice(text, phases);

    if (i < 0)
        return apr_psprintf(r->pool, "phase=%s is none of early, access and auth", text);
    r->rule->phase = (rl_phase)(RL_PHASE_EARLY + i);
    return NULL;
}

static const char *read_headers(reading *r, const char *text)
{
    int i = rl_rule_choice(text, switches);

    if (i < 0)
        return apr_psprintf(r->pool, "headers=%s is neither on nor off", text);
    r->rule->headers = i;
    return NULL;
}

static const char *read_shadow(reading *r, const char *text)
{
    (void)text;
    r->rule->shadow = 1;
    return NULL;
}

static const char *read_adaptive(reading *r, const char *text)
{
    (void)text;
    r->rule->adaptive = 1;
    return NULL;
}

static int is_units(const char *text, int64_t *n)
{
    const char *end = whole_number(text, RL_COUNT_MAX, n);

    return end && !*end && *n > 0;
}

static const char *read_burst(reading *r, const char *text)
{
    if (is_units(text, &r->rule->limit.burst))
        return NULL;
    return apr_psprintf(r->pool, "burst=%s is not a whole number of 1 to 1000000000, as in burst=100",
                        text);
}

#define DELAY_MAX_MS 10000

static const char *read_delay(reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.delay_ms;

    if (!strcmp(text, "0")
        || (rl_rule_duration(text, ms) && *ms <= DELAY_MAX_MS))
        return NULL;
    return apr_psprintf(r->pool, "delay=%s is not a duration of at most 10s, as in delay=500ms",
                        text);
}

static const char *read_block(reading *r, const char *text)
{
    int64_t *ms = &r->rule->limit.block_ms;

    if (rl_rule_duration(text, ms) && *ms > 0 && *ms <= RL_WINDOW_MAX_MS)
        return NULL;
    return apr_psprintf(r->pool, "block=%s is not a duration of at most 31d, as in block=10m", text);
}

static const char *read_cost(reading *r, const char *text)
{
    const char *error;

    if (is_units(text, &r->rule->cost))
        return NULL;
    if (!strstr(text, "%{") && !strchr(text, '('))
        return apr_psprintf(r->pool, "cost=%s is neither a whole number of 1 to 1000000000 nor an "
                            "expression, as in cost=5 or cost=%%{HTTP:X-Cost}", text);
    r->rule->cost_expr.text = text;
    error = read_expr(r, text, 0, &r->rule->cost_expr.compiled);
    return error ? apr_pstrcat(r->pool, "cost=: ", error, NULL) : NULL;
}

static const char *read_path(reading *r, const char *text)
{
    char *normal;

    if (*text != '/')
        return apr_psprintf(r->pool, "path=%s does not begin with a slash, as in path=/api/**", text);
    normal = apr_palloc(r->pool, strlen(text) + 2);
    normal[rl_path_normalise(normal, text, strlen(text), RL_PATH_ALL)] = '\0';
    r->rule->path = text;
    r->rule->path_normal = normal;
    return NULL;
}

static const char *read_methods(reading *r, const char *text)
{
    apr_array_header_t *methods = apr_array_make(r->pool, 4, sizeof(const char *));
    const char *s = text;

    for (;;) {
        size_t n = strcspn(s, ",");

        for (size_t i = 0; i < n; i++) {
            if (!apr_isalpha(s[i]) && s[i] != '-')
                n = 0;
        }
        if (n == 0)
            return apr_psprintf(r->pool, "methods=%s is not a list of methods, as in "
                                "methods=POST,PUT", text);
        APR_ARRAY_PUSH(methods, const char *) = apr_pstrmemdup(r->pool, s, n);
        if (!s[n])
            break;
        s += n + 1;
    }
    APR_ARRAY_PUSH(methods, const char *) = NULL;
    r->rule->methods = (const char *const *)methods->elts;
    return NULL;
}

static const char *read_condition(reading *r, const char *option, const char *text, rl_expr *expr)
{
    const char *error = read_expr(r, text, 1, &expr->compiled);

    expr->text = text;
    return error ? apr_pstrcat(r->pool, option, "=: ", error, NULL) : NULL;
}

static const char *read_when(reading *r, const char *text)
{
    return read_condition(r, "when", text, &r->rule->when);
}

static const char *read_unless(reading *r, const char *text)
{
    return read_condition(r, "unless", text, &r->rule->unless);
}

static const char *read_tier(reading *r, const char *text)
{
    const char *error = read_expr(r, text, 0, &r->rule->tier.compiled);

    r->rule->tier.text = text;
    return error ? apr_pstrcat(r->pool, "tier=: ", error, NULL) : NULL;
}

#define STATUSES 600

static const char *read_charge_on(reading *r, const char *text)
{
    uint64_t *statuses = apr_pcalloc(r->pool, (STATUSES / 64 + 1) * sizeof(*statuses));
    const char *s = text;

    for (;;) {
        size_t n = strcspn(s, ",");
        int whole_class = n == 3 && !strncasecmp(s + 1, "xx", 2), first, last;

        if (n != 3 || *s < '1' || *s > '5'
            || !(whole_class || (apr_isdigit(s[1]) && apr_isdigit(s[2]))))
            return apr_psprintf(r->pool, "charge-on=%s is not a list of statuses, as in "
                                "charge-on=401,403,5xx", text);
        first = whole_class ? (*s - '0') * 100 : atoi(s);
        last = whole_class ? first + 99 : first;
        for (int status = first; status <= last; status++)
            statuses[status / 64] |= UINT64_C(1) << status % 64;
        if (!s[n])
            break;
        s += n + 1;
    }
    r->rule->statuses = statuses;
    r->rule->limit.on_response = 1;
    return NULL;
}

int rl_rule_charges_on(const rl_rule *rule, int status)
{
    return !rule->statuses
        || (status >= 0 && status < STATUSES && rule->statuses[status / 64] >> status % 64 & 1);
}

typedef const char *(*read_option)(reading *r, const char *value);

static const struct {
    const char *name;
    int takes_value;
    read_option read;
} options[] = {
    {"key", 1, read_key},
    {"algorithm", 1, read_algorithm},
    {"burst", 1, read_burst},
    {"delay", 1, read_delay},
    {"cost", 1, read_cost},
    {"path", 1, read_path},
    {"methods", 1, read_methods},
    {"when", 1, read_when},
    {"unless", 1, read_unless},
    {"tier", 1, read_tier},
    {"charge-on", 1, read_charge_on},
    {"block", 1, read_block},
    {"status", 1, read_status},
    {"on-failure", 1, read_on_failure},
    {"sync", 1, read_sync},
    {"phase", 1, read_phase},
    {"headers", 1, read_headers},
    {"shadow", 0, read_shadow},
    {"adaptive", 0, read_adaptive},
};

#define OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *known_options(apr_pool_t *pool)
{
    const char *list = "";

    for (size_t i = 0; i < OPTIONS; i++)
        list = apr_pstrcat(pool, list, i ? ", " : "", options[i].name,
                           options[i].takes_value ? "=" : "", NULL);
    return list;
}

static const char *read_one_option(reading *r, const char *word, unsigned *seen)
{
    size_t length = strcspn(word, "=");
    const char *value = word[length] ? word + length + 1 : NULL;

    for (size_t i = 0; i < OPTIONS; i++) {
        const char *name = options[i].name;

        if (strlen(name) != length || strncasecmp(word, name, length))
            continue;
        if (options[i].takes_value && (!value || !*value))
            return apr_psprintf(r->pool, "option %s= needs a value", name);
        if (!options[i].takes_value && value)
            return apr_psprintf(r->pool, "option %s takes no value, \"%s\" was read", name, word);
        if (*seen & 1u << i)
            return apr_psprintf(r->pool, "option %s is given twice", name);
        *seen |= 1u << i;
        return options[i].read(r, value);
    }
    return apr_psprintf(r->pool, "\"%s\" is no option; known are %s", word, known_options(r->pool));
}

static const char *read_options(reading *r, const char *line)
{
    unsigned seen = 0;

    while (!is_end(line)) {
        const char *word = rl_rule_word(r->pool, &line);
        const char *error;

        if (!word)
            return apr_psprintf(r->pool, "a quote is not closed in %s", line);
        error = read_one_option(r, word, &seen);
        if (error)
            return error;
    }
    return NULL;
}

/* --- A whole rule ------------------------------------------------------------------------- */

/* --- Options together --------------------------------------------------------------------- */

static const char *check_algorithm(reading *r)
{
    const rl_rule *rule = r->rule;
    const rl_limit *limit = &rule->limit;

    if (limit->burst && !rl_limiter_is_bucket(limit->algorithm))
        return "burst= is for algorithm=token-bucket and leaky-bucket";
    if (limit->delay_ms && limit->algorithm != RL_LEAKY_BUCKET)
        return "delay= is for algorithm=leaky-bucket";
    if (limit->delay_ms && limit->on_response)
        return "delay= and charge-on= exclude each other: what is held has to be charged before";
    if (limit->algorithm == RL_SLIDING_LOG && limit->quota > RL_LOG_QUOTA_MAX)
        return apr_psprintf(r->pool, "algorithm=sliding-log takes a quota of at most %d, \"%s\" was "
                            "read", RL_LOG_QUOTA_MAX, rule->text);
    if (limit->algorithm == RL_SLIDING_LOG && rule->sync == RL_SYNC_LOCAL)
        return "algorithm=sliding-log needs Redis and excludes sync=local; sliding-window does not";
    return NULL;
}

static const char *check_phase(const reading *r)
{
    const rl_rule *rule = r->rule;

    if (r->reads_user && rule->phase != RL_PHASE_AUTH && rule->phase != RL_PHASE_UNSET)
        return "key=user needs phase=auth, and so does any key, tier or expression that reads the "
               "user: before authentication there is none";
    if (r->reads_path && rule->phase == RL_PHASE_EARLY)
        return "key=path excludes phase=early: httpd has not looked at the path by then; path= does "
               "not";
    if (rule->statuses && rl_rule_charges_on(rule, 401)
        && (rule->phase == RL_PHASE_AUTH || (rule->phase == RL_PHASE_UNSET && r->reads_auth)))
        return "charge-on=401 needs phase=access: a failed login never gets as far as phase=auth";
    return NULL;
}

static const char *too_large(apr_pool_t *pool, const char *text, const rl_limit *limit)
{
    int64_t most = RL_PRODUCT_MAX / (limit->window_ms * rl_limiter_ticks(limit));

    if (limit->quota > most || limit->burst > most)
        return apr_psprintf(pool, "\"%s\" is too large to count exactly: with this window quota and "
                            "burst are at most %" APR_INT64_T_FMT, text, most);
    return apr_psprintf(pool, "\"%s\" is too large to count exactly with this delay=", text);
}

static const char *settle_limit(reading *r)
{
    rl_rule *rule = r->rule;

    if (!rule->limit.burst)
        rule->limit.burst = rule->limit.quota;
    if (!rl_limiter_is_exact(&rule->limit))
        return too_large(r->pool, rule->text, &rule->limit);
    if (!rule->cost_expr.text && rule->cost > 1 && rule->limit.quota > 0
        && rule->cost > rl_limiter_capacity(&rule->limit))
        return apr_psprintf(r->pool, "cost=%" APR_INT64_T_FMT " is above the %" APR_INT64_T_FMT
                            " there are: each request would be denied", rule->cost,
                            rl_limiter_capacity(&rule->limit));
    return NULL;
}

static void settle_phase(reading *r)
{
    if (r->rule->phase == RL_PHASE_UNSET)
        r->rule->phase = r->reads_auth ? RL_PHASE_AUTH : RL_PHASE_ACCESS;
}

static void settle_counter(reading *r)
{
    static const unsigned char any[APR_SIPHASH_KSIZE];
    rl_rule *rule = r->rule;

    rule->key_suffix = apr_pstrcat(r->pool, ":", rule->name, ":",
                                   rl_rule_algorithm_name(rule->limit.algorithm), ":",
                                   rl_rule_print_duration(r->pool, rule->limit.window_ms), NULL);
    rule->counter = apr_siphash24(rule->key_suffix, strlen(rule->key_suffix), any);
    rule->tiers_text = apr_pstrcat(r->pool, rule->name, " ", NULL);
}

static const char *read_rule(reading *r, const char *line)
{
    static const rl_key_part address = {RL_KEY_IP, 0, NULL, NULL};
    static const rl_key by_address = {&address, 1};
    const char *limit = rl_rule_word(r->pool, &line);
    const char *error;

    if (!limit || !*limit)
        return "needs QUOTA/WINDOW or off behind its name, as in 10/1m";
    if (!strcasecmp(limit, "off")) {
        r->rule->off = 1;
        return is_end(line) ? NULL : "takes nothing behind off";
    }
    r->rule->keys = &by_address;
    r->rule->key_count = 1;
    r->rule->status = 429;
    r->rule->headers = 1;
    r->rule->cost = 1;
    if ((error = read_limit(r, limit)) || (error = read_options(r, line))
        || (error = check_algorithm(r)) || (error = check_phase(r)) || (error = settle_limit(r)))
        return error;
    settle_phase(r);
    settle_counter(r);
    r->rule->is_shared = r->rule->keys != &by_address && !r->reads_client;
    return NULL;
}

const char *rl_rule_parse(apr_pool_t *pool, const char *line, rl_compile compile, void *context,
                          rl_rule **rule)
{
    reading r = {pool, compile, context, apr_pcalloc(pool, sizeof(rl_rule)), 0, 0, 0, 0};
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
    const char *end = whole_number(text, RL_COUNT_MAX, &tier->quota);

    tier->unlimited = !strcasecmp(text, "unlimited");
    if (!tier->unlimited && (!end || *end))
        return apr_psprintf(pool, "\"%s\" is neither a quota of at most 1000000000 nor unlimited, as "
                            "in: RateLimitTier %s gold 1000", text, rule->name);
    if (!tier->unlimited && rule->limit.algorithm == RL_SLIDING_LOG
        && tier->quota > RL_LOG_QUOTA_MAX)
        return apr_psprintf(pool, "algorithm=sliding-log takes a quota of at most %d, \"%s\" was read",
                            RL_LOG_QUOTA_MAX, text);
    tier->burst = tier->quota;
    return NULL;
}

static const char *read_tier_burst(apr_pool_t *pool, const rl_rule *rule, const char *text,
                                   rl_tier *tier)
{
    if (!*text)
        return NULL;
    if (strncasecmp(text, "burst=", 6) || !is_units(text + 6, &tier->burst))
        return apr_psprintf(pool, "\"%s\" is not burst=N with a whole number of 1 to 1000000000, as "
                            "in: RateLimitTier %s gold 1000 burst=2000", text, rule->name);
    if (!rl_limiter_is_bucket(rule->limit.algorithm) || tier->unlimited)
        return "burst= is for algorithm=token-bucket and leaky-bucket, and for a quota";
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

    if (!name || !quota || !*quota || !burst || !is_end(line))
        return apr_psprintf(pool, "\"%s\": needs TIER QUOTA|unlimited [burst=N], as in: RateLimitTier "
                            "%s gold 1000", rule->name, rule->name);
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
    if (!rl_limiter_is_exact(&limit))
        return apr_psprintf(pool, "\"%s\": %s", rule->name, too_large(pool, quota, &limit));
    add_tier(pool, rule, &tier);
    return NULL;
}

/* --- Questions about a key ---------------------------------------------------------------- */

static int part_is_inventable(const rl_key_part *part)
{
    static const char *const of_client[] = {"%{HTTP", "%{req", "%{QUERY_STRING}", NULL};

    return part->kind == RL_KEY_HEADER || part->kind == RL_KEY_COOKIE
        || (part->kind == RL_KEY_EXPR && contains(part->name, of_client));
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

int rl_rule_key_is_anchored(const rl_rule *rule)
{
    return rule->key_count == 1 && rule->keys[0].count == 1
        && part_is_anchored(&rule->keys[0].parts[0]);
}
