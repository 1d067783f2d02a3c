/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: directives, create and merge, checks at httpd -t.
 *
 * A section keeps the rules that were written in it. Merging appends the inner section's to the
 * outer's, less those whose names the inner gives again. "RateLimit NAME off" stays in the list as
 * a rule that is off: httpd merges sections with each other before it merges them with what is
 * outside, so merging must be associative, and a tombstone makes it so. Where either side says
 * nothing the other is handed on as it is, which is what happens for most requests.
 *
 * httpd reads its configuration twice at start, and again at each reload; the list of all rules
 * lives as long as the configuration it was read from.
 */
#include <stddef.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_siphash.h>
#include <apr_strings.h>

#include <ap_expr.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/config.h"
#include "config/redis.h"
#include "config/server.h"
#include "shm/local.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* A rule and where it was written, for messages. */
typedef struct {
    rl_rule *rule;
    const rl_section *section;
    const server_rec *server;
    const char *file;
    int line;
    int whole_server; /* not inside a section */
} written;

static apr_array_header_t *all_rules;  /* of rl_rule * */
static apr_array_header_t *all_places; /* of written */
static apr_array_header_t *all_logs;   /* of rl_log * */

void rl_config_begin(apr_pool_t *pool)
{
    all_rules = apr_array_make(pool, 16, sizeof(rl_rule *));
    all_places = apr_array_make(pool, 16, sizeof(written));
    all_logs = apr_array_make(pool, 2, sizeof(rl_log *));
}

apr_array_header_t *rl_config_rules(void)
{
    return all_rules;
}

apr_array_header_t *rl_config_logs(void)
{
    return all_logs;
}

/* --- Create and merge --------------------------------------------------------------------- */

void *rl_config_create_section(apr_pool_t *pool, char *where)
{
    rl_section *section = apr_pcalloc(pool, sizeof(*section));

    (void)where;
    section->engine = section->headers = section->response = section->notes = -1;
    return section;
}

static int says_nothing(const rl_section *s)
{
    return s->rule_count == 0 && !s->drops_inherited && s->engine < 0 && s->headers < 0
        && s->response < 0 && s->notes < 0 && !s->normalize_said;
}

static const rl_rule *named(const rl_section *section, const char *name)
{
    for (int i = 0; i < section->rule_count; i++) {
        if (!strcmp(section->rules[i]->name, name))
            return section->rules[i];
    }
    return NULL;
}

static void merge_rules(apr_pool_t *pool, rl_section *merged, const rl_section *outer,
                        const rl_section *inner)
{
    const rl_rule **rules;
    int n = 0;

    merged->drops_inherited = outer->drops_inherited || inner->drops_inherited;
    if (inner->drops_inherited || outer->rule_count == 0) {
        merged->rules = inner->rules;
        merged->rule_count = inner->rule_count;
        merged->phases = inner->phases;
        return;
    }
    if (inner->rule_count == 0)
        return;
    rules = apr_palloc(pool, sizeof(*rules) * (size_t)(outer->rule_count + inner->rule_count));
    for (int i = 0; i < outer->rule_count; i++) {
        if (!named(inner, outer->rules[i]->name))
            rules[n++] = outer->rules[i];
    }
    for (int i = 0; i < inner->rule_count; i++)
        rules[n++] = inner->rules[i];
    merged->rules = rules;
    merged->rule_count = n;
    merged->phases = outer->phases | inner->phases;
}

static int said(int inner, int outer)
{
    return inner >= 0 ? inner : outer;
}

void *rl_config_merge_section(apr_pool_t *pool, void *outer_section, void *inner_section)
{
    const rl_section *outer = outer_section, *inner = inner_section;
    rl_section *merged;

    if (says_nothing(inner))
        return outer_section;
    if (says_nothing(outer))
        return inner_section;
    merged = apr_pmemdup(pool, outer, sizeof(*merged));
    merge_rules(pool, merged, outer, inner);
    merged->engine = said(inner->engine, outer->engine);
    merged->headers = said(inner->headers, outer->headers);
    merged->response = said(inner->response, outer->response);
    merged->notes = said(inner->notes, outer->notes);
    merged->normalize = (outer->normalize & ~inner->normalize_said) | inner->normalize;
    merged->normalize_said = outer->normalize_said | inner->normalize_said;
    return merged;
}

void *rl_config_create_server(apr_pool_t *pool, server_rec *s)
{
    rl_settings *settings = apr_pcalloc(pool, sizeof(*settings));

    (void)s;
    settings->timeout_ms = 25;
    settings->connect_ms = 250;
    settings->prefix = "rl";
    settings->on_failure = RL_FAIL_LOCAL;
    settings->nodes = 1;
    settings->breaker_failures = 5;
    settings->retry_min_ms = 50;
    settings->retry_max_ms = 2000;
    settings->shared_memory = 16 << 20;
    settings->ipv6_prefix = 64;
    settings->delay_workers = 25;
    return settings;
}

const rl_settings *rl_config_settings(server_rec *main_server)
{
    return rl_config_of_server(main_server);
}

const rl_settings *rl_config_of_server(const server_rec *server)
{
    return ap_get_module_config(server->module_config, &ratelimit_redis_module);
}

/* A virtual host has its own scope, or the main server's. */
void *rl_config_merge_server(apr_pool_t *pool, void *outer_settings, void *inner_settings)
{
    const rl_settings *outer = outer_settings, *inner = inner_settings;
    rl_settings *merged;

    if (inner->scope || !outer->scope)
        return inner_settings;
    merged = apr_pmemdup(pool, inner, sizeof(*merged));
    merged->scope = outer->scope;
    merged->scope_hash = outer->scope_hash;
    return merged;
}

const rl_log *rl_config_log(const server_rec *server, const rl_settings *settings)
{
    const rl_settings *own = ap_get_module_config(server->module_config, &ratelimit_redis_module);

    return own->log ? own->log : settings->log;
}

const rl_section *rl_config_of(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &ratelimit_redis_module);
}

unsigned rl_config_normalize(const rl_section *section)
{
    return section->normalize | (RL_PATH_ALL & ~section->normalize_said);
}

int rl_config_headers(const rl_section *section)
{
    if (section->headers < 0)
        return RL_HEADERS_X_RATELIMIT;
    /* "yield" by itself is about the usual headers. */
    return section->headers == RL_HEADERS_YIELD ? RL_HEADERS_YIELD | RL_HEADERS_X_RATELIMIT
                                                : section->headers;
}

/* --- RateLimit ---------------------------------------------------------------------------- */

static const char *compile(void *context, const char *text, int boolean, const void **compiled)
{
    const cmd_parms *cmd = context;
    unsigned flags = AP_EXPR_FLAG_DONT_VARY | AP_EXPR_FLAG_RESTRICTED;
    const char *error = NULL;

    if (!boolean)
        flags |= AP_EXPR_FLAG_STRING_RESULT;
    *compiled = ap_expr_parse_cmd(cmd, text, flags, &error, NULL);
    return error;
}

static void add_rule(cmd_parms *cmd, rl_section *section, rl_rule *rule)
{
    size_t size = sizeof(*section->rules) * (size_t)section->rule_count;
    const rl_rule **rules = apr_palloc(cmd->pool, size + sizeof(*rules));
    written *place = apr_array_push(all_places);

    if (size)
        memcpy(rules, section->rules, size);
    rules[section->rule_count++] = rule;
    section->rules = rules;
    section->phases |= rule->off ? 0 : 1u << rule->phase;
    APR_ARRAY_PUSH(all_rules, rl_rule *) = rule;
    place->rule = rule;
    place->section = section;
    place->server = cmd->server;
    place->file = cmd->directive->filename;
    place->line = cmd->directive->line_num;
    place->whole_server = cmd->path == NULL;
}

/* httpd sends 500 in place of a status it does not know. */
static int is_unknown_status(int status)
{
    return status != HTTP_INTERNAL_SERVER_ERROR
        && ap_index_of_response(status) == ap_index_of_response(HTTP_INTERNAL_SERVER_ERROR);
}

static const char *cmd_rule(cmd_parms *cmd, void *config, const char *line)
{
    rl_section *section = config;
    const char *error;
    rl_rule *rule;

    if (cmd->limited != -1)
        return "RateLimit is not allowed inside <Limit> and <LimitExcept>; a rule for some methods "
               "says methods=, as in: RateLimit login 10/1m methods=POST";
    if (!strcasecmp(line, "off")) {
        section->drops_inherited = 1;
        return NULL;
    }
    error = rl_rule_parse(cmd->pool, line, compile, cmd, &rule);
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimit ", error, NULL);
    if (!rule->off && rule->phase == RL_PHASE_EARLY && cmd->path)
        return apr_psprintf(cmd->pool, "RateLimit \"%s\": phase=early is for the server and for "
                            "virtual hosts: sections are not known by then; path= and when= say "
                            "where a rule holds", rule->name);
    if (!rule->off && is_unknown_status(rule->status))
        return apr_psprintf(cmd->pool, "RateLimit \"%s\": status=%d is none that httpd can send, "
                            "as 429 and 503 are", rule->name, rule->status);
    if (named(section, rule->name))
        return apr_psprintf(cmd->pool, "RateLimit \"%s\" is given twice in one section; rules that "
                            "are to hold together need names of their own", rule->name);
    add_rule(cmd, section, rule);
    return NULL;
}

/* --- Directives for sections -------------------------------------------------------------- */

/* httpd has no sections by method: what stands in <Limit> would hold for all of them. */
static const char *not_in_limit(cmd_parms *cmd)
{
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

/* A directive that takes one of some words; its number in them is what a section keeps. */
typedef struct {
    const char *const *words;
    size_t member; /* of rl_section, an int */
    const char *expected;
} choice;

static const char *const engines[] = {"off", "on", "shadow", NULL};
static const char *const responses[] = {"off", "problem", "text", NULL};
static const char *const notes[] = {"denied", "all", NULL};

static const choice engine_choice = {engines, offsetof(rl_section, engine), "on, shadow or off"};
static const choice response_choice = {responses, offsetof(rl_section, response),
                                       "problem, text or off"};
static const choice notes_choice = {notes, offsetof(rl_section, notes), "denied or all"};

static const char *cmd_choice(cmd_parms *cmd, void *config, const char *word)
{
    const choice *c = cmd->info;
    int *member = (int *)((char *)config + c->member);
    const char *error = not_in_limit(cmd);

    if (error)
        return error;
    *member = rl_rule_choice(word, c->words);
    return *member < 0 ? rl_not_a_choice(cmd, word, c->expected) : NULL;
}

static const char *cmd_headers(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const names[] = {"off", "x-ratelimit", "draft-11", "draft-03", "yield",
                                        NULL};
    static const int bits[] = {0, RL_HEADERS_X_RATELIMIT, RL_HEADERS_DRAFT_11, RL_HEADERS_DRAFT_03,
                               RL_HEADERS_YIELD};
    rl_section *section = config;
    const char *error = not_in_limit(cmd);
    int i = rl_rule_choice(word, names);

    if (error)
        return error;
    if (i < 0)
        return rl_not_a_choice(cmd, word, "x-ratelimit, draft-11, draft-03, off or yield");
    if (section->headers >= 0 && !bits[i] != !section->headers)
        return rl_not_a_choice(cmd, word, "off alone, or families of headers, as in draft-11 "
                               "yield");
    if (section->headers < 0)
        section->headers = 0;
    section->headers |= bits[i];
    return NULL;
}

static const char *cmd_normalize(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const names[] = {"case", "slashes", "dots", "trailing", "params", "encoding",
                                        NULL};
    static const unsigned steps[] = {RL_PATH_CASE, RL_PATH_SLASHES, RL_PATH_DOTS, RL_PATH_TRAILING,
                                     RL_PATH_PARAMS, RL_PATH_ENCODING};
    rl_section *section = config;
    const char *error = not_in_limit(cmd);
    int i = rl_rule_choice(word + (*word == '-' || *word == '+'), names);

    if (error)
        return error;
    if (i < 0)
        return rl_not_a_choice(cmd, word, "case, slashes, dots, trailing, params or encoding, each "
                            "with + or - before it, as in -case");
    section->normalize_said |= steps[i];
    if (*word == '-')
        section->normalize &= ~steps[i];
    else
        section->normalize |= steps[i];
    return NULL;
}

static const char *cmd_log(cmd_parms *cmd, void *config, const char *target, const char *first,
                           const char *second)
{
    rl_settings *settings = ap_get_module_config(cmd->server->module_config,
                                                 &ratelimit_redis_module);
    const char *error = not_in_limit(cmd);

    (void)config;
    if (error)
        return error;
    if (settings->log)
        return "RateLimitLog is given twice for one server; a virtual host may have its own";
    error = rl_log_parse(cmd->pool, target, first, second, &settings->log);
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimitLog: ", error, NULL);
    APR_ARRAY_PUSH(all_logs, rl_log *) = settings->log;
    return NULL;
}

/* The rule that was written before in this section. */
static const char *cmd_tier(cmd_parms *cmd, void *config, const char *line)
{
    const char *error = not_in_limit(cmd), *name;
    const rl_rule *rule;

    if (error)
        return error;
    name = rl_rule_word(cmd->pool, &line);
    rule = name ? named(config, name) : NULL;
    if (!rule || rule->off)
        return apr_psprintf(cmd->pool, "RateLimitTier \"%s\": there is no RateLimit of this name "
                            "before it in this section", name ? name : "");
    error = rl_rule_add_tier(cmd->pool, (rl_rule *)rule, line);
    return error ? apr_pstrcat(cmd->pool, "RateLimitTier ", error, NULL) : NULL;
}

#define ANYWHERE (RSRC_CONF | ACCESS_CONF)

const command_rec rl_config_commands[] = {
    AP_INIT_RAW_ARGS("RateLimit", cmd_rule, NULL, ANYWHERE,
                     "NAME QUOTA/WINDOW [option]..., as in: login 10/1m; NAME off; or off"),
    AP_INIT_TAKE1("RateLimitEngine", cmd_choice, (void *)&engine_choice, ANYWHERE,
                  "on, shadow or off"),
    AP_INIT_ITERATE("RateLimitHeaders", cmd_headers, NULL, ANYWHERE,
                    "x-ratelimit, draft-11, draft-03 or off; yield lets a backend's header stand"),
    AP_INIT_TAKE1("RateLimitResponse", cmd_choice, (void *)&response_choice, ANYWHERE,
                  "problem, text or off"),
    AP_INIT_TAKE1("RateLimitNotes", cmd_choice, (void *)&notes_choice, ANYWHERE,
                  "denied or all"),
    AP_INIT_ITERATE("RateLimitNormalize", cmd_normalize, NULL, ANYWHERE,
                    "[+-]case [+-]slashes [+-]dots [+-]trailing [+-]params [+-]encoding"),
    AP_INIT_TAKE1("RateLimitRedis", rl_config_redis, NULL, RSRC_CONF,
                  "URL with redis://, rediss://, unix://, sentinel:// or cluster://"),
    AP_INIT_TAKE12("RateLimitRedisAuth", rl_config_redis_auth, NULL, RSRC_CONF,
                   "file:PATH of a file with password, or user password; and sentinel=file:PATH"),
    AP_INIT_TAKE_ARGV("RateLimitRedisTLS", rl_config_redis_tls, NULL, RSRC_CONF,
                      "ca=FILE cert=FILE key=FILE name=HOST"),
    AP_INIT_TAKE12("RateLimitRedisTimeout", rl_config_timeout, NULL, RSRC_CONF,
                   "a duration and connect=duration, as in 25ms connect=250ms"),
    AP_INIT_TAKE1("RateLimitRedisPrefix", rl_config_prefix, NULL, RSRC_CONF, "prefix of all keys"),
    AP_INIT_TAKE12("RateLimitOnFailure", rl_config_on_failure, NULL, RSRC_CONF,
                   "local, open or closed; nodes=N hosts share a quota"),
    AP_INIT_TAKE12("RateLimitBreaker", rl_config_breaker, NULL, RSRC_CONF,
                   "failures=N retry=MIN..MAX, as in failures=5 retry=50ms..2s"),
    AP_INIT_TAKE1("RateLimitSharedMemory", rl_config_shared_memory, NULL, RSRC_CONF,
                  "size of the local tier, as in 16M"),
    AP_INIT_TAKE1("RateLimitIPv6Prefix", rl_config_ipv6_prefix, NULL, RSRC_CONF,
                  "one client per prefix of this length"),
    AP_INIT_TAKE123("RateLimitLog", cmd_log, NULL, RSRC_CONF,
                    "FILE or \"|program\", json or text, every=T; once for each server"),
    AP_INIT_RAW_ARGS("RateLimitTier", cmd_tier, NULL, ANYWHERE,
                     "RULE TIER QUOTA|unlimited [burst=N], as in: api gold 1000"),
    AP_INIT_TAKE1("RateLimitScope", rl_config_scope, NULL, RSRC_CONF,
                  "counts of this virtual host are apart from those of other scopes"),
    AP_INIT_FLAG("RateLimitOverrides", rl_config_overrides, NULL, RSRC_CONF,
                 "on: limits that Redis holds for single identities"),
    AP_INIT_TAKE1("RateLimitDelayWorkers", rl_config_delay_workers, NULL, RSRC_CONF,
                  "percent of the workers that delay= may hold at a time"),
    AP_INIT_TAKE_ARGV("RateLimitAdaptive", rl_config_adaptive, NULL, RSRC_CONF,
                      "LOAD FACTOR ..., as in 70 0.5 90 0.2"),
    {.name = NULL}
};

/* --- Checks ------------------------------------------------------------------------------- */

/* Whether a rule denies whatever the request: no condition of its own lets it off. */
static int is_always_there(const rl_rule *rule)
{
    return !rule->off && !rule->shadow && !rule->methods && !rule->path && !rule->when.text
        && !rule->unless.text;
}

/* Whether a rule that cannot be dodged stands in the same section, or for the whole of its virtual
 * host or of the server. */
static int has_anchor(const written *place)
{
    const written *places = (const written *)all_places->elts;

    for (int i = 0; i < all_places->nelts; i++) {
        int beside = places[i].section == place->section
            || (places[i].whole_server
                && (places[i].server == place->server || !places[i].server->is_virtual));

        if (beside && is_always_there(places[i].rule) && rl_rule_key_is_anchored(places[i].rule))
            return 1;
    }
    return 0;
}

static void warn(server_rec *s, const written *place, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, s,
                 "ratelimit: RateLimit \"%s\" (%s:%d): %s", place->rule->name, place->file,
                 place->line, what);
}

static int refuse(server_rec *s, const written *place, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, s,
                 "ratelimit: RateLimit \"%s\" (%s:%d): %s", place->rule->name, place->file,
                 place->line, what);
    return 0;
}

/* RegisterHttpMethod, and the modules that use it, have had their say by now. */
static void check_methods(apr_pool_t *pool, server_rec *s, const written *place)
{
    for (const char *const *method = place->rule->methods; method && *method; method++) {
        char *name = apr_pstrdup(pool, *method);

        ap_str_toupper(name);
        if (ap_method_number_of(name) == M_INVALID)
            warn(s, place, apr_psprintf(pool, "methods=%s is not a method that httpd knows; one that "
                                        "is meant is made known with RegisterHttpMethod %s", *method,
                                        name));
    }
}

/* A tier= that never finds a RateLimitTier. */
static void check_tier(apr_pool_t *pool, server_rec *s, const rl_settings *settings,
                       const written *place)
{
    const rl_rule *rule = place->rule;
    const char *text = rule->tier.text;

    if (!text && rule->tier_count && !settings->overrides)
        warn(s, place, "its RateLimitTier does nothing without tier=, as in tier=%{env:PLAN}, or "
             "RateLimitOverrides on");
    else if (text && !rule->tier_count)
        warn(s, place, apr_psprintf(pool, "tier= does nothing without a tier, as in: RateLimitTier "
                                    "%s gold 1000", rule->name));
    else if (text && rl_rule_is_name(text) && !rl_rule_tier(rule, text))
        warn(s, place, apr_psprintf(pool, "tier=%s is always \"%s\", which is none of its tiers; an "
                                    "expression has %%{...}, as in tier=%%{env:PLAN}", text, text));
}

static int check_place(apr_pool_t *pool, server_rec *s, const rl_settings *settings,
                       const written *place)
{
    const rl_rule *rule = place->rule;
    const rl_algorithm_row *algorithm = &rl_algorithms[rule->limit.algorithm];

    check_methods(pool, s, place);
    check_tier(pool, s, settings, place);
    if (rl_rule_key_has_dead_end(rule))
        warn(s, place, "an alternative of its key is never used: one before it is there in every "
             "request; put what may be missing first, as in key=user|ip");
    if (rl_rule_key_is_inventable(rule) && !has_anchor(place))
        warn(s, place, "clients choose its key and get a fresh quota with each new value; put a "
             "rule with key=ip or key=server beside it");
    if (rl_rule_tier_is_inventable(rule))
        warn(s, place, "clients choose its tier; let tier= read what the server knows of them, "
             "as in tier=%{env:PLAN}");
    if (rule->on_failure && (rule->sync == RL_SYNC_LOCAL || !settings->redis))
        warn(s, place, "on-failure= does nothing where Redis is not asked");
    if (rule->adaptive && !settings->adaptive_count)
        warn(s, place, "adaptive does nothing without RateLimitAdaptive, as in: "
             "RateLimitAdaptive 70 0.5");
    if (algorithm->local != rule->limit.algorithm && !settings->redis)
        return refuse(s, place, apr_psprintf(pool, "algorithm=%s needs RateLimitRedis, as in: "
                                             "RateLimitRedis redis://127.0.0.1:6379; algorithm=%s "
                                             "does not", algorithm->name,
                                             rl_algorithms[algorithm->local].name));
    return 1;
}

/* Rules that share a counter share what its key holds: each must know what the others put there. */
static void share_tails(void)
{
    for (int i = 0; i < all_rules->nelts; i++) {
        const rl_rule *one = APR_ARRAY_IDX(all_rules, i, const rl_rule *);

        for (int j = 0; j < all_rules->nelts; j++) {
            rl_rule *other = APR_ARRAY_IDX(all_rules, j, rl_rule *);

            if (other->counter == one->counter && (one->limit.block_ms || one->limit.on_response))
                other->has_tail = 1;
        }
    }
}

int rl_config_check(apr_pool_t *pool, server_rec *main_server)
{
    const written *places = (const written *)all_places->elts;
    const rl_settings *settings = rl_config_settings(main_server);
    int good = 1;

    share_tails();
    for (int i = 0; i < all_places->nelts; i++) {
        if (!places[i].rule->off)
            good &= check_place(pool, main_server, settings, &places[i]);
    }
    if (settings->overrides && !settings->redis) {
        ap_log_error(APLOG_MARK, APLOG_ERR | APLOG_STARTUP, 0, main_server,
                     "ratelimit: RateLimitOverrides on needs RateLimitRedis, where overrides "
                     "are, as in: RateLimitRedis redis://127.0.0.1:6379");
        good = 0;
    }
    return good & rl_config_redis_check(pool, main_server);
}
