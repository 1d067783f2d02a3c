/*
 * rule: the grammar of a RateLimit line.
 *
 *     NAME QUOTA/WINDOW [option]...        NAME off
 *
 * Each option is a row of the table below: its name, what it expects, an example, and the function
 * that reads its value. An option that is part of the grammar but does not work yet is read and
 * checked like the others and then refused by name, so that no line is ever half obeyed.
 *
 * Two rules share a counter if name, algorithm and window agree; the key of that counter is made
 * here, once, so that nothing has to be compared or printed while requests are served.
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include "rule.h"

/* What is read while a rule is parsed. */
typedef struct {
    apr_pool_t *pool;
    rl_compile compile;
    void *context;
    rl_rule *rule;
    int reads_user; /* in its key: known only after authentication */
    int reads_auth; /* things that authentication may set */
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
    if (limit->quota > RL_PRODUCT_MAX / limit->window_ms)
        return apr_psprintf(r->pool, "\"%s\" is too large to count exactly: with this window the "
                            "quota is at most %" APR_INT64_T_FMT, text,
                            RL_PRODUCT_MAX / limit->window_ms);
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

static const char *read_expression(reading *r, const char *text, rl_key_part *part)
{
    static const char *const of_auth[] = {"%{REMOTE_USER}", "%{AUTH", "env:", "note:", NULL};
    const char *error;

    part->kind = RL_KEY_EXPR;
    part->name = text;
    r->reads_auth |= contains(text, of_auth);
    r->reads_user |= strcasestr(text, "%{REMOTE_USER}") != NULL;
    if (!r->compile)
        return apr_psprintf(r->pool, "key=: expressions such as \"%s\" are known to httpd only",
                            text);
    error = r->compile(r->context, text, 0, &part->expr);
    return error ? apr_psprintf(r->pool, "key=: \"%s\" is no expression: %s", text, error) : NULL;
}

static const char *read_part(reading *r, const char *text, rl_key_part *part)
{
    if (strstr(text, "%{"))
        return read_expression(r, text, part);
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
    if (i > RL_FIXED_WINDOW)
        return apr_psprintf(r->pool, "algorithm=%s is not supported in this version", text);
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
    if (i == 0)
        return "phase=early is not supported in this version";
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

/* Options of later versions: their values are checked as far as their form goes. */

static const char *check_units(reading *r, const char *text)
{
    int64_t n;
    const char *end = whole_number(text, RL_COUNT_MAX, &n);

    if (end && !*end && n > 0)
        return NULL;
    return apr_psprintf(r->pool, "\"%s\" is not a whole number of 1 to 1000000000", text);
}

static const char *check_duration(reading *r, const char *text)
{
    int64_t ms;

    if (rl_rule_duration(text, &ms))
        return NULL;
    return apr_psprintf(r->pool, "\"%s\" is not a duration, as in 10s", text);
}

static const char *check_boolean(reading *r, const char *text)
{
    const void *compiled;
    const char *error = r->compile ? r->compile(r->context, text, 1, &compiled) : NULL;

    return error ? apr_psprintf(r->pool, "\"%s\" is no expression: %s", text, error) : NULL;
}

static const char *check_string(reading *r, const char *text)
{
    const void *compiled;
    const char *error = r->compile ? r->compile(r->context, text, 0, &compiled) : NULL;

    return error ? apr_psprintf(r->pool, "\"%s\" is no expression: %s", text, error) : NULL;
}

static const char *check_cost(reading *r, const char *text)
{
    return strstr(text, "%{") ? check_string(r, text) : check_units(r, text);
}

static const char *check_statuses(reading *r, const char *text)
{
    for (;;) {
        size_t n = strcspn(text, ",");

        if (n != 3 || text[0] < '1' || text[0] > '5'
            || !((apr_isdigit(text[1]) && apr_isdigit(text[2])) || !strncasecmp(text + 1, "xx", 2)))
            return apr_psprintf(r->pool, "\"%s\" is not a list of statuses, as in 401,403,5xx",
                                text);
        if (!text[n])
            return NULL;
        text += n + 1;
    }
}

typedef const char *(*read_option)(reading *r, const char *value);

static const struct {
    const char *name;
    int takes_value;
    int works; /* in this version */
    read_option read; /* NULL: any text will do */
} options[] = {
    {"key", 1, 1, read_key},
    {"algorithm", 1, 1, read_algorithm},
    {"burst", 1, 0, check_units},
    {"delay", 1, 0, check_duration},
    {"cost", 1, 0, check_cost},
    {"path", 1, 0, NULL},
    {"methods", 1, 0, NULL},
    {"when", 1, 0, check_boolean},
    {"unless", 1, 0, check_boolean},
    {"tier", 1, 0, check_string},
    {"charge-on", 1, 0, check_statuses},
    {"block", 1, 0, check_duration},
    {"status", 1, 1, read_status},
    {"on-failure", 1, 1, read_on_failure},
    {"sync", 1, 1, read_sync},
    {"phase", 1, 1, read_phase},
    {"headers", 1, 1, read_headers},
    {"shadow", 0, 1, read_shadow},
    {"adaptive", 0, 0, NULL},
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
        const char *name = options[i].name, *error = NULL;

        if (strlen(name) != length || strncasecmp(word, name, length))
            continue;
        if (options[i].takes_value && (!value || !*value))
            return apr_psprintf(r->pool, "option %s= needs a value", name);
        if (!options[i].takes_value && value)
            return apr_psprintf(r->pool, "option %s takes no value, \"%s\" was read", name, word);
        if (*seen & 1u << i)
            return apr_psprintf(r->pool, "option %s is given twice", name);
        *seen |= 1u << i;
        if (options[i].read)
            error = options[i].read(r, value);
        if (error)
            return options[i].works ? error : apr_psprintf(r->pool, "%s=: %s", name, error);
        return options[i].works ? NULL : apr_psprintf(r->pool, "option %s%s is not supported in "
                                                      "this version", name,
                                                      options[i].takes_value ? "=" : "");
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

static int is_name(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(s);

    return length > 0 && length <= RL_NAME_MAX && strspn(s, plain) == length;
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
    error = read_limit(r, limit);
    if (!error)
        error = read_options(r, line);
    if (error)
        return error;
    if (r->reads_user && r->rule->phase == RL_PHASE_ACCESS)
        return "key=user needs phase=auth, and so does any key that reads the user: before "
               "authentication there is none";
    settle_phase(r);
    settle_counter(r);
    return NULL;
}

const char *rl_rule_parse(apr_pool_t *pool, const char *line, rl_compile compile, void *context,
                          rl_rule **rule)
{
    reading r = {pool, compile, context, apr_pcalloc(pool, sizeof(rl_rule)), 0, 0};
    const char *name = rl_rule_word(pool, &line);
    const char *error;

    if (!name || !*name)
        return "needs NAME QUOTA/WINDOW, as in: RateLimit login 10/1m";
    if (!is_name(name))
        return apr_psprintf(pool, "\"%s\" is no name for a rule: it takes 1 to 64 letters, digits, "
                            "-, _ and ., as in: RateLimit login 10/1m", name);
    r.rule->name = name;
    error = read_rule(&r, line);
    if (error)
        return apr_psprintf(pool, "\"%s\": %s", name, error);
    *rule = r.rule;
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
