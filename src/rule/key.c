/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of key=:
 *
 *     key         = alternative *( "|" alternative )
 *     alternative = part *( "+" part )
 *     part        = component [ separator argument ]    a row of components.c, such as path:2
 *                 / any text with %{...}                a string expression of httpd
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_tables.h>

#include "rule/reading.h"
#include "rule/text.h"

/* The first separator outside the braces of %{...}, or the end of the text. */
static const char *find_separator(const char *s, char separator)
{
    int depth = 0;

    for (; *s && (depth || *s != separator); s++) {
        if (*s == '{')
            depth++;
        else if (*s == '}' && depth)
            depth--;
    }
    return s;
}

static const char *read_expression(rl_reading *r, const char *text, rl_key_part *part)
{
    static const char *const of_path[] = {"REQUEST_URI", "_FILENAME}", "PATH_INFO", NULL};
    rl_expr expr;
    const char *error = rl_reading_expr(r, "key", text, 0, &expr);

    if (error)
        return error;
    part->name = expr.text;
    part->expr = expr.compiled;
    r->reads_path |= rl_text_contains(text, of_path);
    return NULL;
}

/* RFC 9110 §5.6.2 */
static int is_token(const char *name)
{
    while (apr_isalnum(*name) || (*name && strchr("!#$%&'*+-.^_`|~", *name)))
        name++;
    return !*name;
}

static const char *invalid_argument(rl_reading *r, const char *text, const rl_key_row *row,
                                    const char *expected)
{
    return rl_reading_invalid(r, "key", text, expected,
                              apr_psprintf(r->pool, "%s%c%s", row->name, row->separator,
                                           row->example));
}

static const char *read_name(rl_reading *r, const char *text, const rl_key_row *row,
                             const char *argument, rl_key_part *part)
{
    char *name = apr_pstrdup(r->pool, argument);

    if (row->is_token && !is_token(name))
        return invalid_argument(r, text, row, apr_psprintf(r->pool, "a valid %s name", row->name));
    part->name = name;
    for (; row->any_case && *name; name++)
        *name = (char)apr_tolower(*name);
    return NULL;
}

static const char *read_number(rl_reading *r, const char *text, const rl_key_row *row,
                               const char *argument, rl_key_part *part)
{
    int64_t number;

    if (!rl_text_whole_number(argument, 1, row->number_max, &number))
        return invalid_argument(r, text, row, apr_psprintf(r->pool, "a number from 1 to %d after "
                                                           "\"%s%c\"", row->number_max, row->name,
                                                           row->separator));
    part->number = (int)number;
    return NULL;
}

/* All components in all their forms, as "ip, ip/N, user, ... or %{...}". */
static const char *known_components(apr_pool_t *pool)
{
    const char *list = "";

    for (int i = 0; i < RL_KEY_EXPR; i++) {
        const rl_key_row *row = &rl_key_rows[i];

        if (row->argument != RL_KEY_HAS_NAME)
            list = apr_pstrcat(pool, list, *list ? ", " : "", row->name, NULL);
        if (row->argument != RL_KEY_NO_ARGUMENT)
            list = apr_psprintf(pool, "%s, %s%c%s", list, row->name, row->separator,
                                row->argument == RL_KEY_HAS_NAME ? "NAME" : "N");
    }
    return apr_pstrcat(pool, list, " or %{...}", NULL);
}

/* The component that text names, -1 if none; *argument is NULL if it has none. */
static int find_component(const char *text, const char **argument)
{
    for (int i = 0; i < RL_KEY_EXPR; i++) {
        const rl_key_row *row = &rl_key_rows[i];
        size_t length = strlen(row->name);
        const char *rest = text + length;

        if (strncasecmp(text, row->name, length))
            continue;
        *argument = *rest ? rest + 1 : NULL;
        if (!*rest && row->argument != RL_KEY_HAS_NAME)
            return i;
        if (row->argument != RL_KEY_NO_ARGUMENT && *argument && *rest == row->separator
            && (row->argument != RL_KEY_HAS_NAME || **argument))
            return i;
    }
    return -1;
}

static void note_component(rl_reading *r, const rl_key_row *row)
{
    r->reads_user |= row->is_user;
    r->reads_auth |= row->is_set_by_auth;
    r->reads_path |= row->is_path;
    r->tells_clients |= row->tells_clients;
}

static const char *read_part(rl_reading *r, const char *text, rl_key_part *part)
{
    const char *argument = NULL;
    const rl_key_row *row;
    int i = strstr(text, "%{") ? RL_KEY_EXPR : find_component(text, &argument);

    memset(part, 0, sizeof(*part));
    if (i < 0)
        return rl_reading_invalid(r, "key", text, known_components(r->pool), "user|ip");
    row = &rl_key_rows[i];
    part->component = (rl_key_component)i;
    note_component(r, row);
    if (i == RL_KEY_EXPR)
        return read_expression(r, text, part);
    if (!argument)
        return NULL;
    return row->argument == RL_KEY_HAS_NAME ? read_name(r, text, row, argument, part)
                                            : read_number(r, text, row, argument, part);
}

static const char *read_alternative(rl_reading *r, const char *text, rl_key *key)
{
    apr_array_header_t *parts = apr_array_make(r->pool, 2, sizeof(rl_key_part));

    for (;;) {
        const char *end = find_separator(text, '+');
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

const char *rl_reading_key(rl_reading *r, const char *text)
{
    apr_array_header_t *keys = apr_array_make(r->pool, 2, sizeof(rl_key));

    for (;;) {
        const char *end = find_separator(text, '|');
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
