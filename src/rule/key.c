/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rule_key: the grammar of key=.
 *
 *     key         alternative | alternative ...
 *     alternative part + part ...
 *     part        a component of the table below, or a string expression with %{...}
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "rule/reading.h"

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

static const char *read_key_expr(rl_reading *r, const char *text, rl_key_part *part)
{
    static const char *const of_path[] = {"REQUEST_URI", "_FILENAME}", "PATH_INFO", NULL};
    const char *error = rl_rule_read_expr(r, text, 0, &part->expr);

    part->kind = RL_KEY_EXPR;
    part->name = text;
    r->reads_client = 1;
    r->reads_path |= rl_rule_mentions(text, of_path);
    return error ? apr_pstrcat(r->pool, "key=: ", error, NULL) : NULL;
}

static int is_of_client(rl_key_kind kind)
{
    return kind != RL_KEY_SERVER && kind != RL_KEY_HOST && kind != RL_KEY_PATH
        && kind != RL_KEY_METHOD;
}

/* Whether a header or a cookie can have this name: a token of RFC 9110 §5.6.2. */
static int is_token(const char *name)
{
    while (apr_isalnum(*name) || (*name && strchr("!#$%&'*+-.^_`|~", *name)))
        name++;
    return !*name;
}

static const char *read_part(rl_reading *r, const char *text, rl_key_part *part)
{
    if (strstr(text, "%{"))
        return read_key_expr(r, text, part);
    for (size_t i = 0; i < sizeof(key_kinds) / sizeof(key_kinds[0]); i++) {
        size_t length = strlen(key_kinds[i].name);
        const char *rest = text + length;
        int64_t number = 0;
        char *name;

        if (strncasecmp(text, key_kinds[i].name, length) || (*rest && strchr("/:", *rest) == NULL))
            continue;
        part->kind = key_kinds[i].kind;
        if (key_kinds[i].form == NAMED && *rest == ':' && rest[1]) {
            if (part->kind != RL_KEY_ENV && !is_token(rest + 1))
                return apr_psprintf(r->pool, "key=%s: \"%s\" is not a name that a %s can have, as in "
                                    "key=%s:%s", text, rest + 1, key_kinds[i].name,
                                    key_kinds[i].name,
                                    part->kind == RL_KEY_HEADER ? "X-Api-Key" : "session");
            part->name = name = apr_pstrdup(r->pool, rest + 1);
            for (; part->kind == RL_KEY_HEADER && *name; name++)
                *name = (char)apr_tolower(*name); /* as headers have it: in any case */
        }
        else if (key_kinds[i].form == NUMBERED && *rest == key_kinds[i].separator) {
            rest = rl_rule_number(rest + 1, key_kinds[i].max, &number);
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

static const char *read_alternative(rl_reading *r, const char *text, rl_key *key)
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

const char *rl_rule_read_key(rl_reading *r, const char *text)
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
