/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <ap_expr.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/directive.h"
#include "config/section.h"
#include "rule/parse.h"
#include "rule/text.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* In <Limit> a directive would apply to all methods: httpd does not keep settings by method. */
static const char *not_in_limit(cmd_parms *cmd)
{
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

/* --- RateLimit ---------------------------------------------------------------------------- */

static const char *compile(void *data, const char *text, int boolean, const void **compiled)
{
    const cmd_parms *cmd = data;
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

    if (size)
        memcpy(rules, section->rules, size);
    rules[section->rule_count++] = rule;
    section->rules = rules;
    section->phases |= rule->off ? 0 : 1u << rule->phase;
    APR_ARRAY_PUSH(rl_config_rules(), rl_written_rule) = (rl_written_rule){
        .rule = rule, .section = section, .server = cmd->server,
        .file = cmd->directive->filename, .line = cmd->directive->line_num,
        .whole_server = cmd->path == NULL
    };
}

/* Whether httpd would send 500 in place of this status. */
static int is_unknown_status(int status)
{
    return status != HTTP_INTERNAL_SERVER_ERROR
        && ap_index_of_response(status) == ap_index_of_response(HTTP_INTERNAL_SERVER_ERROR);
}

const char *rl_cmd_rule(cmd_parms *cmd, void *config, const char *line)
{
    rl_compiler compiler = {compile, cmd};
    rl_section *section = config;
    const char *error;
    rl_rule *rule;

    if (cmd->limited != -1)
        return "RateLimit is not allowed inside <Limit> and <LimitExcept>; for a rule on some "
               "methods use methods=, for example RateLimit login 10/1m methods=POST";
    if (!strcasecmp(line, "off")) {
        section->drops_inherited = 1;
        return NULL;
    }
    error = rl_parse_rule(cmd->pool, line, &compiler, &rule);
    if (error)
        return apr_pstrcat(cmd->pool, "RateLimit ", error, NULL);
    if (!rule->off && rule->phase == RL_PHASE_EARLY && cmd->path)
        return apr_psprintf(cmd->pool, "RateLimit \"%s\": phase=early is allowed only outside of "
                            "sections, which are not known by then; use path= or when= to say "
                            "where the rule applies", rule->name);
    if (!rule->off && is_unknown_status(rule->status))
        return apr_psprintf(cmd->pool, "RateLimit \"%s\": httpd cannot send status=%d; expected a "
                            "status that it knows, for example 429 or 503", rule->name,
                            rule->status);
    if (rl_config_rule_named(section, rule->name))
        return apr_psprintf(cmd->pool, "RateLimit \"%s\" is given twice in one section; give the "
                            "second rule another name", rule->name);
    add_rule(cmd, section, rule);
    return NULL;
}

/* Adds a tier to a rule that is earlier in the same section. */
const char *rl_cmd_tier(cmd_parms *cmd, void *config, const char *line)
{
    const char *error = not_in_limit(cmd), *name;
    const rl_rule *rule;

    if (error)
        return error;
    name = rl_text_word(cmd->pool, &line);
    rule = name ? rl_config_rule_named(config, name) : NULL;
    if (!rule || rule->off)
        return apr_psprintf(cmd->pool, "RateLimitTier \"%s\": expected the name of a RateLimit "
                            "before it in this section, for example RateLimitTier api gold 1000 "
                            "after RateLimit api 100/1m", name ? name : "");
    error = rl_parse_tier(cmd->pool, (rl_rule *)rule, line);
    return error ? apr_pstrcat(cmd->pool, "RateLimitTier ", error, NULL) : NULL;
}

/* --- Enforcement and responses ------------------------------------------------------------ */

static const char *choose(cmd_parms *cmd, const char *word, const char *const words[], int *member)
{
    const char *error = not_in_limit(cmd);

    if (error)
        return error;
    *member = rl_text_choice(word, words);
    return *member < 0 ? rl_cmd_invalid(cmd, word, rl_text_list(cmd->pool, words), words[1]) : NULL;
}

/* The words are in the order of their enums. */

const char *rl_cmd_engine(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const words[] = {"off", "on", "shadow", NULL};
    rl_section *section = config;

    return choose(cmd, word, words, &section->engine);
}

const char *rl_cmd_response(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const words[] = {"off", "problem", "text", NULL};
    rl_section *section = config;

    return choose(cmd, word, words, &section->response);
}

const char *rl_cmd_notes(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const words[] = {"denied", "all", NULL};
    rl_section *section = config;

    return choose(cmd, word, words, &section->notes);
}

const char *rl_cmd_headers(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const names[] = {"off", "x-ratelimit", "draft-11", "draft-03", "yield",
                                        NULL};
    static const int bits[] = {0, RL_HEADERS_X_RATELIMIT, RL_HEADERS_DRAFT_11, RL_HEADERS_DRAFT_03,
                               RL_HEADERS_YIELD};
    rl_section *section = config;
    const char *error = not_in_limit(cmd);
    int i = rl_text_choice(word, names);

    if (error)
        return error;
    if (i < 0)
        return rl_cmd_invalid(cmd, word, rl_text_list(cmd->pool, names), names[1]);
    if (section->headers >= 0 && !bits[i] != !section->headers)
        return rl_cmd_invalid(cmd, word, "off alone, or other words without off",
                              "draft-11 yield");
    if (section->headers < 0)
        section->headers = 0;
    section->headers |= bits[i];
    return NULL;
}

const char *rl_cmd_normalize(cmd_parms *cmd, void *config, const char *word)
{
    static const char *const names[] = {"case", "slashes", "dots", "trailing", "params", "encoding",
                                        NULL};
    static const unsigned steps[] = {RL_PATH_CASE, RL_PATH_SLASHES, RL_PATH_DOTS, RL_PATH_TRAILING,
                                     RL_PATH_PARAMS, RL_PATH_ENCODING};
    rl_section *section = config;
    const char *error = not_in_limit(cmd);
    int i = rl_text_choice(word + (*word == '-' || *word == '+'), names);

    if (error)
        return error;
    if (i < 0)
        return rl_cmd_invalid(cmd, word, "case, slashes, dots, trailing, params or encoding, with "
                              "or without + or - before it", "-case");
    section->normalize_given |= steps[i];
    if (*word == '-')
        section->normalize &= ~steps[i];
    else
        section->normalize |= steps[i];
    return NULL;
}
