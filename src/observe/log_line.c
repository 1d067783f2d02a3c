/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_line: the format of a line in a RateLimitLog.
 *
 * | what                            | as text         | as JSON           |
 * |---------------------------------|-----------------|-------------------|
 * | a field                         | window-ms=60000 | "window_ms":60000 |
 * | between fields                  | space           | ,                 |
 * | a value that is not known       | -               | null              |
 * | in a value: space               | %20             | space             |
 * | in a value: " and \             | %22 and %5C     | \" and \\         |
 * | in a value: a control character | %0A             | \u000a            |
 * | in a value: UTF-8 beyond ASCII  | %C3%B6          | \u00f6            |
 * | in a value: malformed UTF-8     | %FF             | %FF               |
 *
 * So a line is printable ASCII, whatever clients send, and has no newline except its last byte.
 * Fields that clients fill in come last, and a long one ends with "...".
 */
#include <string.h>

#include <apr_strings.h>
#include <apr_time.h>

#include "observe/log_line.h"

/* The bytes that a value takes at most, escaped, before its "...". */
#define VALUE_MAX 320
#define PATH_VALUE_MAX 1600

/* --- Severity ----------------------------------------------------------------------------- */

/*
 * Compares the denials since the last line with what the rule admits between two lines, or in its
 * window if that is longer.
 */
static const char *severity(const rl_log_line *line, int64_t every_ms)
{
    const rl_top_denied_details *denied = line->denied;
    int64_t admitted = denied->quota, denials = line->denials;

    if (denied->window_ms > 0 && every_ms > denied->window_ms)
        admitted = denied->quota * every_ms / denied->window_ms;
    if (admitted < 1)
        admitted = 1;
    return denials >= 100 * admitted ? "critical"
         : denials >= 10 * admitted ? "high"
         : denials >= admitted ? "medium" : "low";
}

/* --- Text --------------------------------------------------------------------------------- */

typedef struct {
    char *bytes;
    size_t length;
    int json;
} text;

static void put(text *t, const char *bytes, size_t n)
{
    if (n > RL_LOG_FILE_LINE - 1 - t->length)
        n = RL_LOG_FILE_LINE - 1 - t->length;
    memcpy(t->bytes + t->length, bytes, n);
    t->length += n;
}

static void put_plain(text *t, const char *s)
{
    put(t, s, strlen(s));
}

/* Decodes a UTF-8 character that is not ASCII; returns its bytes, 0 if it is malformed. */
static int read_utf8(const unsigned char *s, unsigned *code)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : 2;

    if (*s < 0xc2 || *s > 0xf4)
        return 0;
    *code = *s & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (s[i] & 0x3f);
    }
    if (*code < least[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
        return 0;
    return n;
}

/* Writes the next character of s in its escaped form; returns how many bytes of s it took. */
static int escape(const unsigned char *s, int json, char *out, size_t size)
{
    unsigned code = 0;
    int n = 1;

    if (*s > 0x20 && *s < 0x7f && *s != '"' && *s != '\\') {
        apr_snprintf(out, size, "%c", *s);
        return 1;
    }
    if (!json || (*s > 0x7f && !(n = read_utf8(s, &code)))) {
        apr_snprintf(out, size, "%%%02X", *s);
        return 1;
    }
    if (*s > 0x7f && code > 0xffff)
        apr_snprintf(out, size, "\\u%04x\\u%04x", 0xd7c0 + (code >> 10), 0xdc00 + (code & 0x3ff));
    else if (*s > 0x7f)
        apr_snprintf(out, size, "\\u%04x", code);
    else if (*s == '"' || *s == '\\')
        apr_snprintf(out, size, "\\%c", *s);
    else if (*s == ' ')
        apr_snprintf(out, size, " ");
    else
        apr_snprintf(out, size, "\\u%04x", *s);
    return n;
}

/* Writes at most max bytes of a value; "..." marks one that was cut. */
static void put_escaped(text *t, const char *value, size_t max)
{
    const unsigned char *s = (const unsigned char *)value;
    size_t length = 0;
    char out[16];

    while (*s) {
        s += escape(s, t->json, out, sizeof(out));
        length += strlen(out);
        if (length > max) {
            put_plain(t, "...");
            return;
        }
        put_plain(t, out);
    }
}

static void put_name(text *t, const char *name)
{
    if (!t->json) {
        put_plain(t, " ");
        for (; *name; name++)
            put(t, *name == '_' ? "-" : name, 1);
        put_plain(t, "=");
        return;
    }
    put_plain(t, ",\"");
    put_plain(t, name);
    put_plain(t, "\":");
}

static void put_text(text *t, const char *name, const char *value, size_t max)
{
    put_name(t, name);
    if (!value || !*value) {
        put_plain(t, t->json ? "null" : "-");
        return;
    }
    put_plain(t, t->json ? "\"" : "");
    put_escaped(t, value, max);
    put_plain(t, t->json ? "\"" : "");
}

static void put_number(text *t, const char *name, int64_t value)
{
    char digits[24];

    put_name(t, name);
    apr_snprintf(digits, sizeof(digits), "%" APR_INT64_T_FMT, value);
    put_plain(t, value < 0 ? (t->json ? "null" : "-") : digits);
}

/* The first field, in the format of RFC 3339 and in UTC. */
static void put_time(text *t)
{
    char digits[40];
    apr_time_exp_t now;

    apr_time_exp_gmt(&now, apr_time_now());
    apr_snprintf(digits, sizeof(digits), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", now.tm_year + 1900,
                 now.tm_mon + 1, now.tm_mday, now.tm_hour, now.tm_min, now.tm_sec,
                 now.tm_usec / 1000);
    put_plain(t, t->json ? "{\"time\":\"" : "");
    put_plain(t, digits);
    put_plain(t, t->json ? "\"" : "");
}

/* --- The line ----------------------------------------------------------------------------- */

/* Identity, request id, method, host and path may reach their bounds; the rest takes under 900. */
_Static_assert(4 * VALUE_MAX + PATH_VALUE_MAX + 900 < RL_LOG_FILE_LINE,
               "a line has room for its values");

size_t rl_log_line_print(const rl_log_line *line, const rl_log_file *log, char bytes[])
{
    const rl_top_denied_details *denied = line->denied;
    text t = {.bytes = bytes, .json = log->json};

    put_time(&t);
    put_text(&t, "verdict", rl_verdict_names[denied->shadow ? RL_SHADOWED : RL_DENIED], VALUE_MAX);
    put_text(&t, "rule", denied->rule, VALUE_MAX);
    put_text(&t, "algorithm", rl_algorithms[denied->algorithm].name, VALUE_MAX);
    put_number(&t, "limit", denied->quota);
    put_number(&t, "window_ms", denied->window_ms);
    put_text(&t, "source", rl_source_names[denied->source], VALUE_MAX);
    put_text(&t, "severity", severity(line, log->every_ms), VALUE_MAX);
    put_number(&t, "denials", line->denials);
    put_number(&t, "retry_after_ms", line->retry_after_ms);
    put_text(&t, "address", denied->address, VALUE_MAX);
    put_text(&t, "identity", line->identity, VALUE_MAX);
    put_text(&t, "request_id", line->request_id, VALUE_MAX);
    put_text(&t, "method", line->method, VALUE_MAX);
    put_text(&t, "host", line->host, VALUE_MAX);
    put_text(&t, "path", line->path, PATH_VALUE_MAX);
    put_plain(&t, t.json ? "}\n" : "\n");
    return t.length;
}
