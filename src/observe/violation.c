/* SPDX-License-Identifier: Apache-2.0 */
/*
 * violation: who was denied, in the log.
 *
 * A flood must not become a flood of lines, so who is denied again and again is reported once and
 * then by number; the count is kept in the identity's entry of the local tier. Under a flood this
 * costs a few atomic adds per denial.
 *
 * The line with the count is written by the next denial that comes when it is due. When none comes
 * any more, httpd's parent writes it: it looks every ten seconds, under every MPM, at those in the
 * table of the most denied, which knows their names, and once more when httpd ends.
 *
 * A line holds what clients send only in an escaped form: printable ASCII, in text no blank and in
 * JSON \uXXXX. A byte that is no UTF-8 stands as %XX. Fields that clients fill in come last.
 */
#include <apr_lib.h>
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>

#include "observe/violation.h"
#include "httpd/log_file.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* Most bytes that a value of a line may take, escaped. All of them together fit in a line. */
#define VALUE_MAX 320
#define PATH_MAX_BYTES 1600

/* What a line says. Texts that are NULL are not known. */
typedef struct {
    const rl_top_denied_key *who;
    const char *identity;
    uint32_t denials;
    int64_t retry_after_ms; /* RL_NEVER: no waiting helps; below: not known */
    const char *method;
    const char *host;
    const char *path;
    const char *request_id;
} report;

#define NOT_KNOWN (RL_NEVER - 1)

/* --- Severity ----------------------------------------------------------------------------- */

/*
 * How far over: denials since the last line, against what the rule admits in the time between two
 * lines, or in its window if that is longer.
 */
static const char *severity(const rl_top_denied_key *who, uint32_t denials, int64_t every_ms)
{
    int64_t admitted = who->quota;

    if (who->window_ms > 0 && every_ms > who->window_ms)
        admitted = who->quota * every_ms / who->window_ms;
    if (admitted < 1)
        admitted = 1;
    return denials >= 100 * admitted ? "critical"
         : denials >= 10 * admitted ? "high"
         : denials >= admitted ? "medium" : "low";
}

/* --- Lines -------------------------------------------------------------------------------- */

typedef struct {
    char text[RL_LOG_FILE_LINE];
    size_t length;
    int json;
} line;

static void put(line *l, const char *bytes, size_t n)
{
    if (n > sizeof(l->text) - 1 - l->length)
        n = sizeof(l->text) - 1 - l->length;
    memcpy(l->text + l->length, bytes, n);
    l->length += n;
}

static void puts_(line *l, const char *s)
{
    put(l, s, strlen(s));
}

/* Reads a character of UTF-8 that is not ASCII; returns its bytes, 0 if these are none. */
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

/* Writes the next character of s in its escaped form; returns the bytes read. */
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

/* A value of at most max bytes; "..." at its end says that there was more. */
static void put_escaped(line *l, const char *value, size_t max)
{
    const unsigned char *s = (const unsigned char *)value;
    size_t length = 0;
    char out[16];

    while (*s) {
        s += escape(s, l->json, out, sizeof(out));
        length += strlen(out);
        if (length > max) {
            puts_(l, "...");
            return;
        }
        puts_(l, out);
    }
}

static void put_name(line *l, const char *name)
{
    if (!l->json) {
        puts_(l, " ");
        for (; *name; name++)
            put(l, *name == '_' ? "-" : name, 1);
        puts_(l, "=");
        return;
    }
    puts_(l, ",\"");
    puts_(l, name);
    puts_(l, "\":");
}

static void put_text(line *l, const char *name, const char *value, size_t max)
{
    put_name(l, name);
    if (!value || !*value) {
        puts_(l, l->json ? "null" : "-");
        return;
    }
    puts_(l, l->json ? "\"" : "");
    put_escaped(l, value, max);
    puts_(l, l->json ? "\"" : "");
}

static void put_number(line *l, const char *name, int64_t value)
{
    char digits[24];

    put_name(l, name);
    apr_snprintf(digits, sizeof(digits), "%" APR_INT64_T_FMT, value);
    puts_(l, value < 0 ? (l->json ? "null" : "-") : digits);
}

/* RFC 3339, in UTC. */
static void put_time(line *l)
{
    char text[40];
    apr_time_exp_t t;

    apr_time_exp_gmt(&t, apr_time_now());
    apr_snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.tm_year + 1900,
                 t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, t.tm_usec / 1000);
    puts_(l, l->json ? "{\"time\":\"" : "");
    puts_(l, text);
    puts_(l, l->json ? "\"" : "");
}

static void make_line(line *l, const report *said, int64_t every_ms)
{
    const rl_top_denied_key *who = said->who;

    l->length = 0;
    put_time(l);
    put_text(l, "verdict", who->shadow ? "shadow" : "deny", VALUE_MAX);
    put_text(l, "rule", who->rule, VALUE_MAX);
    put_text(l, "algorithm", rl_algorithms[who->algorithm].name, VALUE_MAX);
    put_number(l, "limit", who->quota);
    put_number(l, "window_ms", who->window_ms);
    put_text(l, "source", rl_source_names[who->source], VALUE_MAX);
    put_text(l, "severity", severity(who, said->denials, every_ms), VALUE_MAX);
    put_number(l, "denials", said->denials);
    put_number(l, "retry_after_ms", said->retry_after_ms);
    put_text(l, "address", who->address, VALUE_MAX);
    put_text(l, "identity", said->identity, VALUE_MAX);
    put_text(l, "request_id", said->request_id, VALUE_MAX);
    put_text(l, "method", said->method, VALUE_MAX);
    put_text(l, "host", said->host, VALUE_MAX);
    put_text(l, "path", said->path, PATH_MAX_BYTES);
    puts_(l, l->json ? "}\n" : "\n");
}

/* Identity, request id, method, host and path are as long as they like; the rest takes less. */
_Static_assert(4 * VALUE_MAX + PATH_MAX_BYTES + 900 < RL_LOG_FILE_LINE, "a line holds its values");

static void write_line(const rl_log_file *log, const rl_context *context, const report *said)
{
    line l;

    l.json = log->json;
    make_line(&l, said, log->every_ms);
    rl_stats_count_log(context->stats, rl_log_file_write(log, l.text, l.length) ? RL_LOG_WRITTEN
                                                                         : RL_LOG_LOST);
}

/* --- Denials ------------------------------------------------------------------------------ */

static void who_is(rl_top_denied_key *who, const request_rec *r, const rl_outcome *o,
                   const char *identity, const rl_log_file *log)
{
    memset(who, 0, sizeof(*who));
    apr_cpystrn(who->identity, identity, sizeof(who->identity));
    apr_cpystrn(who->rule, o->rule->name, sizeof(who->rule));
    apr_cpystrn(who->address, r->useragent_ip, sizeof(who->address));
    apr_cpystrn(who->limit, o->rule->text, sizeof(who->limit));
    who->quota = o->limit.quota;
    who->window_ms = o->limit.window_ms;
    who->algorithm = o->limit.algorithm;
    who->source = o->source;
    who->shadow = o->shadow != 0;
    who->log = log ? log->id : 0;
}

static const char *retry_text(apr_pool_t *pool, int64_t wait_ms)
{
    return wait_ms == RL_NEVER ? "never" : apr_psprintf(pool, "%" APR_INT64_T_FMT "ms", wait_ms);
}

static void to_error_log(request_rec *r, const report *said)
{
    const rl_top_denied_key *who = said->who;

    ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                  "ratelimit: %s rule=%s limit=%s algorithm=%s identity=%s source=%s "
                  "retry-after=%s denials=%u method=%s path=%s",
                  who->shadow ? "would deny (shadow)" : "denied", who->rule, who->limit,
                  rl_algorithms[who->algorithm].name, said->identity,
                  rl_source_names[who->source], retry_text(r->pool, said->retry_after_ms),
                  said->denials, r->method, r->uri);
}

static void to_log(request_rec *r, const rl_log_file *log, const rl_context *context, report *said,
                   rl_chain *chain)
{
    said->method = r->method;
    said->host = r->hostname ? r->hostname : r->server->server_hostname;
    said->path = rl_evaluation_path(&chain->evaluation);
    said->request_id = apr_table_get(r->subprocess_env, "UNIQUE_ID");
    write_line(log, context, said);
}

static void report_outcome(request_rec *r, const rl_context *context, rl_chain *chain,
                           rl_outcome *o)
{
    int64_t now_ms = rl_local_clock();
    const rl_log_file *log = rl_config_log(r->server, context->settings);
    uint32_t denials = rl_local_report(context->local, o->key, now_ms,
                                       log ? log->every_ms : RL_LOG_FILE_EVERY_MS);
    rl_top_denied_key who;
    report said;

    rl_top_denied_count(context->top_denied, o->key, now_ms);
    if (!denials)
        return;
    memset(&said, 0, sizeof(said));
    said.who = &who;
    said.identity = rl_chain_identity_text(chain, o);
    said.denials = denials;
    said.retry_after_ms = rl_outcome_retry_after(o);
    who_is(&who, r, o, said.identity, log);
    rl_top_denied_enter(context->top_denied, o->key, &who, denials, now_ms);
    if (log && log->file)
        to_log(r, log, context, &said, chain);
    else
        to_error_log(r, &said);
}

void rl_violation(request_rec *r, const rl_context *context, rl_chain *chain)
{
    for (rl_outcome *o = chain->first; o; o = o->next) {
        if (!o->denies || o->reported)
            continue;
        o->reported = 1;
        report_outcome(r, context, chain, o);
    }
}

/* --- Those that went away ----------------------------------------------------------------- */

static const rl_log_file *log_with(uint32_t id)
{
    apr_array_header_t *logs = rl_config_logs();

    for (int i = 0; i < logs->nelts; i++) {
        const rl_log_file *log = APR_ARRAY_IDX(logs, i, const rl_log_file *);

        if (log->id == id && log->file)
            return log;
    }
    return NULL;
}

static void report_gone(server_rec *s, const rl_context *context, const rl_log_file *log,
                        const rl_top_denied_key *who, uint32_t denials)
{
    report said;

    if (!log) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s,
                     "ratelimit: %s rule=%s limit=%s algorithm=%s identity=%s source=%s "
                     "denials=%u address=%s, and none since",
                     who->shadow ? "would deny (shadow)" : "denied", who->rule, who->limit,
                     rl_algorithms[who->algorithm].name, who->identity,
                     rl_source_names[who->source], denials, who->address);
        return;
    }
    memset(&said, 0, sizeof(said));
    said.who = who;
    said.identity = who->identity;
    said.denials = denials;
    said.retry_after_ms = NOT_KNOWN;
    write_line(log, context, &said);
}

void rl_violation_flush(server_rec *s, const rl_context *context, int all)
{
    int64_t now_ms = rl_local_clock();
    rl_top_denied_entry entry;

    for (int i = 0; i < RL_DENIED_MAX; i++) {
        const rl_log_file *log;
        int64_t every_ms;
        uint32_t denials;

        if (!rl_top_denied_read(context->top_denied, i, now_ms, &entry))
            continue;
        log = log_with(entry.who.log);
        every_ms = all ? -1 : log ? log->every_ms : RL_LOG_FILE_EVERY_MS;
        denials = rl_local_unreported(context->local, entry.key, now_ms, every_ms);
        if (denials)
            report_gone(s, context, log, &entry.who, denials);
    }
}
