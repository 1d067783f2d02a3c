/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "rule/text.h"

/* --- Words -------------------------------------------------------------------------------- */

const char *rl_text_word(apr_pool_t *pool, const char **line)
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
        /* A quote opens a word or what follows its first '='. */
        may_open = !quote && *s == '=' && !memchr(word, '=', (size_t)(end - word) - 1);
    }
    if (quote)
        return NULL;
    *end = '\0';
    *line = s;
    return word;
}

int rl_text_is_end(const char *line)
{
    while (apr_isspace(*line))
        line++;
    return !*line;
}

/* --- Numbers and durations ---------------------------------------------------------------- */

const char *rl_text_number(const char *s, int64_t max, int64_t *number)
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

int rl_text_whole_number(const char *text, int64_t min, int64_t max, int64_t *number)
{
    const char *end = rl_text_number(text, max, number);

    return end && !*end && *number >= min;
}

static const struct {
    const char *name;
    int64_t ms;
} units[] = {
    {"w", 604800000}, {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}
};

#define UNITS (sizeof(units) / sizeof(units[0]))
#define DURATION_MAX_MS (INT64_C(3653) * 86400000)

int rl_text_duration(const char *text, int64_t *ms)
{
    int64_t n = 1;

    if (apr_isdigit(*text)) {
        text = rl_text_number(text, DURATION_MAX_MS, &n);
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

const char *rl_text_print_duration(apr_pool_t *pool, int64_t ms)
{
    for (size_t i = 0; i < UNITS; i++) {
        if (ms && ms % units[i].ms == 0)
            return apr_psprintf(pool, "%" APR_INT64_T_FMT "%s", ms / units[i].ms, units[i].name);
    }
    return "0s";
}

/* --- Names and choices -------------------------------------------------------------------- */

int rl_text_is_name(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(text);

    return length > 0 && length <= RL_NAME_MAX && strspn(text, plain) == length;
}

int rl_text_choice(const char *text, const char *const choices[])
{
    for (int i = 0; choices[i]; i++) {
        if (!strcasecmp(text, choices[i]))
            return i;
    }
    return -1;
}

const char *rl_text_list(apr_pool_t *pool, const char *const choices[])
{
    const char *list = choices[0];

    for (int i = 1; choices[i]; i++)
        list = apr_pstrcat(pool, list, choices[i + 1] ? ", " : " or ", choices[i], NULL);
    return list;
}

const char *rl_text_invalid(apr_pool_t *pool, const char *value, const char *expected,
                            const char *example)
{
    return apr_psprintf(pool, "invalid value \"%s\": expected %s, for example %s", value, expected,
                        example);
}

int rl_text_contains(const char *text, const char *const parts[])
{
    for (int i = 0; parts[i]; i++) {
        if (strcasestr(text, parts[i]))
            return 1;
    }
    return 0;
}
