/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reply: headers, and the body of a denial.
 *
 * Headers go to err_headers_out, the one table that survives proxying, ErrorDocument and the pages
 * httpd makes itself. A backend may send headers of the same names; a filter behind everything that
 * sets headers keeps one line of each: ours, or with "yield" the backend's.
 *
 * The body of a denial takes the place of httpd's own page only. Where an ErrorDocument is set, or
 * RateLimitResponse is off, the status goes back to httpd, which does what it always does. Else the
 * response is made here and DONE goes back: httpd's page takes some 3,500 instructions, and a flood
 * of denials is when that matters. Text is joined, not formatted, for the same reason.
 *
 * Formats: problem details of RFC 9457 §3.1; their type quota-exceeded with its members, RateLimit
 * and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11; Retry-After of RFC 9110 §10.2.3.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <mod_core.h>
#include <util_filter.h>

#include "response/reply.h"

#define PROBLEM_BEGIN                                                                  \
    "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\","     \
    "\"title\":\"Request cannot be satisfied as assigned quota has been exceeded\","    \
    "\"status\":"

#define CLOCKS_DIFFER_MS 50 /* this host's and Redis's, and what a decision takes */

static ap_filter_rec_t *headers_filter;

static const struct {
    int family;
    const char *name;
} names[] = {
    {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Limit"},
    {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Remaining"},
    {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Reset"},
    {RL_HEADERS_DRAFT_11, "RateLimit-Policy"},
    {RL_HEADERS_DRAFT_11, "RateLimit"},
    {RL_HEADERS_DRAFT_03, "RateLimit-Limit"},
    {RL_HEADERS_DRAFT_03, "RateLimit-Remaining"},
    {RL_HEADERS_DRAFT_03, "RateLimit-Reset"}
};

#define NAMES (sizeof(names) / sizeof(names[0]))

static int64_t seconds_up(int64_t ms)
{
    return (ms + 999) / 1000;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static char *number(apr_pool_t *pool, int64_t n)
{
    return apr_off_t_toa(pool, n);
}

/* In seconds for a client, who must not come back at once. */
static int64_t retry_after_s(int64_t wait_ms)
{
    return max64(1, seconds_up(wait_ms));
}

/* --- Headers ------------------------------------------------------------------------------ */

static int shows(const rl_outcome *o)
{
    return o->rule->headers && !o->shadow && !o->uncounted && !o->exempt;
}

/* In fallback a host's share is less than the rule says; a tier or an override may say more. */
static const char *quota(apr_pool_t *pool, const rl_outcome *o)
{
    return o->limit.quota == o->rule->limit.quota ? o->rule->quota_text
                                                  : number(pool, o->limit.quota);
}

/* What there may be at once: of a bucket, what it holds. */
static const char *capacity(apr_pool_t *pool, const rl_outcome *o)
{
    return rl_limiter_is_bucket(&o->limit) ? number(pool, rl_limiter_capacity(&o->limit))
                                                    : quota(pool, o);
}

static int64_t remaining(const rl_outcome *o)
{
    return o->denies ? 0 : rl_limiter_remaining(&o->limit, &o->state, o->now);
}

/* Whether fewer requests like this one are left under a rule than under another. */
static int is_tighter(const rl_outcome *o, const rl_outcome *than)
{
    int64_t cost = o->cost > 0 ? o->cost : 1, other = than->cost > 0 ? than->cost : 1;

    return remaining(o) * other < remaining(than) * cost;
}

/* The rule that denied, or else the tightest; NULL if none may show. */
static const rl_outcome *tightest(const rl_chain *chain)
{
    const rl_outcome *found = NULL;

    if (chain->denial)
        return shows(chain->denial) ? chain->denial : NULL;
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (shows(o) && (!found || is_tighter(o, found)))
            found = o;
    }
    return found;
}

/* ms until the whole quota is there, but not before the client may come back at all. */
static int64_t reset_ms(const rl_outcome *o)
{
    int64_t reset = rl_limiter_reset(&o->limit, &o->state, o->now);

    return o->denies ? max64(reset, rl_outcome_retry_after(o)) : reset;
}

/*
 * The epoch second of the reset by this host's clock, as Date is. So that all responses of a window
 * name the same second, the time since the decision and small differences between clocks do not
 * push it into the next one; but a denial's is never before Date and Retry-After together.
 */
static int64_t reset_at(const request_rec *r, const rl_outcome *o)
{
    int64_t reset = seconds_up(apr_time_as_msec(apr_time_now()) - CLOCKS_DIFFER_MS + reset_ms(o));
    int64_t wait_ms = o->denies ? rl_outcome_retry_after(o) : RL_NEVER;

    if (wait_ms == RL_NEVER)
        return reset;
    return max64(reset, apr_time_sec(r->request_time) + retry_after_s(wait_ms));
}

static void x_ratelimit(request_rec *r, const rl_outcome *o)
{
    int64_t reset = reset_at(r, o);

    apr_table_addn(r->err_headers_out, "X-RateLimit-Limit", capacity(r->pool, o));
    apr_table_addn(r->err_headers_out, "X-RateLimit-Remaining", number(r->pool, remaining(o)));
    apr_table_addn(r->err_headers_out, "X-RateLimit-Reset", number(r->pool, reset));
}

static void draft_03(request_rec *r, const rl_outcome *o)
{
    apr_table_addn(r->err_headers_out, "RateLimit-Limit", capacity(r->pool, o));
    apr_table_addn(r->err_headers_out, "RateLimit-Remaining", number(r->pool, remaining(o)));
    apr_table_addn(r->err_headers_out, "RateLimit-Reset",
                   number(r->pool, seconds_up(reset_ms(o))));
}

static const char *policy(apr_pool_t *pool, const rl_outcome *o)
{
    const char *plain = apr_pstrcat(pool, "\"", o->rule->name, "\";q=", quota(pool, o), NULL);

    if (o->limit.window_ms % 1000)
        return plain;
    return apr_pstrcat(pool, plain, ";w=", number(pool, o->limit.window_ms / 1000), NULL);
}

static void draft_11(request_rec *r, const rl_chain *chain, const rl_outcome *o)
{
    int64_t more_ms = o->denies ? rl_outcome_retry_after(o)
                                : rl_limiter_next_unit(&o->limit, &o->state, o->now);
    const char *state = apr_pstrcat(r->pool, "\"", o->rule->name, "\";r=",
                                    number(r->pool, remaining(o)), NULL);
    const char *policies = NULL;

    for (const rl_outcome *each = chain->first; each; each = each->next) {
        if (shows(each))
            policies = policies ? apr_pstrcat(r->pool, policies, ", ", policy(r->pool, each), NULL)
                                : policy(r->pool, each);
    }
    if (more_ms != RL_NEVER)
        state = apr_pstrcat(r->pool, state, ";t=", number(r->pool, seconds_up(more_ms)), NULL);
    apr_table_addn(r->err_headers_out, "RateLimit-Policy", policies);
    apr_table_addn(r->err_headers_out, "RateLimit", state);
}

static void set_headers(request_rec *r, const rl_chain *chain)
{
    int families = rl_config_headers(chain->section);
    const rl_outcome *o;

    /* What an earlier step of the chain said does not hold any more. */
    for (size_t i = 0; chain->replied && i < NAMES; i++)
        apr_table_unset(r->err_headers_out, names[i].name);
    if (!(families & RL_HEADERS_FAMILIES) || !(o = tightest(chain)))
        return;
    if (!chain->denial)
        ap_add_output_filter_handle(headers_filter, NULL, r, r->connection);
    if (families & RL_HEADERS_X_RATELIMIT)
        x_ratelimit(r, o);
    if (families & RL_HEADERS_DRAFT_11)
        draft_11(r, chain, o);
    if (families & RL_HEADERS_DRAFT_03)
        draft_03(r, o);
}

/* The families of which the response has a header of somebody else's. */
static int foreign_families(const request_rec *r)
{
    int families = 0;

    for (size_t i = 0; i < NAMES; i++) {
        if (apr_table_get(r->headers_out, names[i].name))
            families |= names[i].family;
    }
    return families;
}

/*
 * Runs once, behind everything that sets headers: of a family there are our lines or, with yield,
 * the others', never some of both.
 */
static apr_status_t one_line_each(ap_filter_t *f, apr_bucket_brigade *brigade)
{
    request_rec *r = f->r;
    rl_chain *chain = rl_chain_of(r);
    int families = chain ? rl_config_headers(chain->section) : 0;
    int foreign = families & foreign_families(r);

    for (size_t i = 0; foreign && i < NAMES; i++) {
        if (foreign & names[i].family)
            apr_table_unset(families & RL_HEADERS_YIELD ? r->err_headers_out : r->headers_out,
                            names[i].name);
    }
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, brigade);
}

/* --- Notes and environment ---------------------------------------------------------------- */

static void note(request_rec *r, int again, const char *name, const char *value)
{
    if (again) {
        apr_table_setn(r->notes, name, value);
        apr_table_setn(r->subprocess_env, name, value);
    }
    else { /* nothing is there to be replaced */
        apr_table_addn(r->notes, name, value);
        apr_table_addn(r->subprocess_env, name, value);
    }
}

static int all_exempt(const rl_chain *chain)
{
    const rl_outcome *o = chain->first;

    while (o && o->exempt)
        o = o->next;
    return !o;
}

static void set_notes(request_rec *r, int again, const rl_chain *chain)
{
    const rl_outcome *o = chain->denial ? chain->denial
                          : chain->closed ? chain->closed : chain->shadow;
    const char *verdict = chain->denial || chain->closed ? "deny"
                        : chain->shadow ? "shadow" : all_exempt(chain) ? "exempt" : "pass";

    if (chain->section->notes != RL_NOTES_ALL && !o && !chain->fallback)
        return;
    if (!o)
        o = tightest(chain);
    if (!o)
        o = chain->first;
    note(r, again, "RATELIMIT_VERDICT", verdict);
    note(r, again, "RATELIMIT_RULE", o->rule->name);
    note(r, again, "RATELIMIT_SOURCE", rl_source_names[o->source]);
    note(r, again, "RATELIMIT_REMAINING", number(r->pool, remaining(o)));
}

void rl_reply_carry(request_rec *r)
{
    rl_chain *chain = r->prev ? rl_chain_of(r->prev) : NULL;

    if (!chain || !chain->first)
        return;
    set_notes(r, 1, chain);
    /* It has filters of its own, and may bring headers like ours. */
    if (rl_config_headers(chain->section) & RL_HEADERS_FAMILIES)
        ap_add_output_filter_handle(headers_filter, NULL, r, r->connection);
}

/* --- Denials ------------------------------------------------------------------------------ */

/* A body still to come must not keep the worker: httpd would drain it with blocking reads. */
static void leave_body(request_rec *r)
{
    const char *length = apr_table_get(r->headers_in, "Content-Length");

    if ((!length || !strcmp(length, "0")) && !apr_table_get(r->headers_in, "Transfer-Encoding"))
        return;
    r->connection->keepalive = AP_CONN_CLOSE;
    apr_table_setn(r->connection->notes, "short-lingering-close", "1");
}

/* --- The body ----------------------------------------------------------------------------- */

typedef enum { BODY_PROBLEM, BODY_HTML, BODY_TEXT } body_form;

static const struct {
    const char *type; /* as the client may accept it */
    body_form form;
} acceptable[] = {
    {"application/problem+json", BODY_PROBLEM}, {"application/json", BODY_PROBLEM},
    {"application/*", BODY_PROBLEM}, {"text/html", BODY_HTML}, {"text/plain", BODY_TEXT},
    {"text/*", BODY_TEXT}
};

static const char *const content_types[] = {
    "application/problem+json", "text/html; charset=utf-8", "text/plain; charset=utf-8"
};

int rl_reply_weight(const char *parameters)
{
    const char *q = strstr(parameters, ";q=");
    int weight = 0;

    if (!q)
        return 1000;
    q += 3;
    weight = (*q == '1') * 1000;
    if (*q && q[1] == '.') {
        for (int digit = 2, unit = 100; unit && q[digit] >= '0' && q[digit] <= '9';
             digit++, unit /= 10)
            weight += (q[digit] - '0') * unit;
    }
    return weight < 1000 ? weight : 1000;
}

/* The form that the client likes best; the one given where it does not mind. */
static body_form negotiate(request_rec *r, body_form usual)
{
    const char *accept = apr_table_get(r->headers_in, "Accept"), *item;
    body_form form = usual;
    int best = 0;

    while (accept && (item = ap_get_list_item(r->pool, &accept))) {
        size_t length = strcspn(item, ";");
        int weight = rl_reply_weight(item + length);

        for (size_t i = 0; i < sizeof(acceptable) / sizeof(acceptable[0]); i++) {
            if (weight > best && strlen(acceptable[i].type) == length
                && !strncmp(item, acceptable[i].type, length)) {
                best = weight;
                form = acceptable[i].form;
            }
        }
        if (weight > best && length == 3 && !strncmp(item, "*/*", 3)) {
            best = weight;
            form = usual;
        }
    }
    return form;
}

/* What a person is told; seconds is NULL where waiting does not help. */
static const char *message_of(apr_pool_t *pool, const char *seconds)
{
    if (!seconds)
        return "This request is not admitted.";
    return apr_pstrcat(pool, "Too many requests. Try again in ", seconds,
                       strcmp(seconds, "1") ? " seconds." : " second.", NULL);
}

/* The names of the rules that denied, as JSON strings; they are plain by their grammar. */
static const char *violated(apr_pool_t *pool, const rl_chain *chain)
{
    const char *list = "";

    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->denies && shows(o))
            list = apr_pstrcat(pool, list, *list ? ",\"" : "\"", o->rule->name, "\"", NULL);
    }
    return list;
}

/* The members that RFC 9457 and the draft name, and a few that clients of other limiters expect. */
static const char *problem(request_rec *r, const rl_chain *chain, const char *seconds,
                           const char *message)
{
    const char *ms = seconds ? number(r->pool, rl_outcome_retry_after(chain->denial)) : "";

    return apr_pstrcat(r->pool, PROBLEM_BEGIN, number(r->pool, r->status), ",\"detail\":\"",
                       message, "\",\"violated-policies\":[", violated(r->pool, chain),
                       "],\"error\":\"rate_limit_exceeded\",\"message\":\"", message,
                       seconds ? "\",\"retry_after\":" : "\"}\n", seconds ? seconds : "",
                       seconds ? ",\"retry_after_ms\":" : "", ms, seconds ? "}\n" : "", NULL);
}

static const char *html(request_rec *r, const char *message)
{
    const char *title = ap_get_status_line(r->status);

    return apr_pstrcat(r->pool, "<!DOCTYPE html>\n<html lang=\"en\"><head><title>", title,
                       "</title></head>\n<body><h1>", title + 4, "</h1><p>", message,
                       "</p></body></html>\n", NULL);
}

/* Makes the whole response, as httpd would with its own page. */
static void send_body(request_rec *r, const rl_chain *chain, const char *seconds)
{
    int as_text = chain->section->response == RL_RESPONSE_TEXT;
    body_form form = negotiate(r, as_text ? BODY_TEXT : BODY_PROBLEM);
    const char *message = message_of(r->pool, seconds), *body;
    apr_bucket_alloc_t *alloc = r->connection->bucket_alloc;
    apr_bucket_brigade *brigade = apr_brigade_create(r->pool, alloc);

    apr_table_clear(r->headers_out);
    r->content_encoding = NULL;
    r->content_languages = NULL;
    ap_run_insert_error_filter(r);
    body = form == BODY_PROBLEM ? problem(r, chain, seconds, message)
         : form == BODY_HTML ? html(r, message) : apr_pstrcat(r->pool, message, "\n", NULL);
    ap_set_content_type(r, content_types[form]);
    ap_set_content_length(r, (apr_off_t)strlen(body));
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_pool_create(body, strlen(body), r->pool, alloc));
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_eos_create(alloc));
    ap_pass_brigade(r->output_filters, brigade);
}

static int has_error_document(request_rec *r, int status)
{
    return ap_response_code_string(r, ap_index_of_response(status)) != NULL;
}

int rl_reply(request_rec *r, rl_chain *chain, int status)
{
    const char *seconds = NULL;
    int64_t wait_ms;

    set_headers(r, chain);
    set_notes(r, chain->replied, chain);
    chain->replied = 1;
    if (status == OK)
        return DECLINED;
    wait_ms = chain->denial ? rl_outcome_retry_after(chain->denial) : RL_NEVER;
    if (wait_ms != RL_NEVER) {
        seconds = number(r->pool, retry_after_s(wait_ms));
        apr_table_setn(r->err_headers_out, "Retry-After", seconds);
    }
    apr_table_setn(r->err_headers_out, "Cache-Control", "no-store");
    leave_body(r);
    if (!chain->denial || chain->section->response == RL_RESPONSE_OFF
        || has_error_document(r, status))
        return status;
    r->status = status;
    send_body(r, chain, seconds);
    return DONE;
}

/* --- Filters ------------------------------------------------------------------------------ */

void rl_reply_register(apr_pool_t *pool)
{
    (void)pool;
    headers_filter = ap_register_output_filter("RATELIMIT_HEADERS", one_line_each, NULL,
                                               AP_FTYPE_CONTENT_SET + 5);
}
