/*
 * reply: headers, and the body of a denial.
 *
 * Headers go to err_headers_out, the one table that survives proxying, ErrorDocument and the pages
 * httpd makes itself. A backend may send headers of the same names; a filter behind everything that
 * sets headers keeps one line of each: ours, or with "yield" the backend's.
 *
 * The body of a denial takes the place of httpd's own page only, never that of an ErrorDocument:
 * the denial runs through httpd's error path like any other, and a filter that is inserted where no
 * ErrorDocument is set swaps the page.
 *
 * Formats: problem details of RFC 9457 §3.1 with the type quota-exceeded and the members that
 * draft-ietf-httpapi-ratelimit-headers-11 §5 gives it; RateLimit and RateLimit-Policy of §3 and §4
 * of the same; Retry-After of RFC 9110 §10.2.3.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <mod_core.h>
#include <util_filter.h>

#include "reply.h"

#define PROBLEM_TYPE "https://iana.org/assignments/http-problem-types#quota-exceeded"

static ap_filter_rec_t *headers_filter;
static ap_filter_rec_t *body_filter;

static const char *const names[] = {
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Limit",
    "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy", "RateLimit"
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

/* --- Headers ------------------------------------------------------------------------------------ */

static int shows(const rl_outcome *o)
{
    return o->rule->headers && !o->shadow && !o->open;
}

static int64_t remaining(const rl_outcome *o)
{
    return o->denies ? 0 : rl_limiter_remaining(&o->limit, &o->state, o->now);
}

/* The rule that denied, or else the one with the least left; NULL if none may show. */
static const rl_outcome *tightest(const rl_chain *chain)
{
    const rl_outcome *found = NULL;

    if (chain->denial)
        return shows(chain->denial) ? chain->denial : NULL;
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (shows(o) && (!found || remaining(o) < remaining(found)))
            found = o;
    }
    return found;
}

/* ms until the whole quota is there, but not before the client may come back at all. */
static int64_t reset_ms(const rl_outcome *o)
{
    int64_t reset = rl_limiter_reset(&o->limit, &o->state, o->now);

    return o->denies ? max64(reset, rl_decide_retry_after(o)) : reset;
}

/* The clock is the one that decided: the moment is then the same in every response. */
static void x_ratelimit(request_rec *r, const rl_outcome *o)
{
    int64_t reset = seconds_up(o->now + reset_ms(o));

    apr_table_setn(r->err_headers_out, "X-RateLimit-Limit", number(r->pool, o->limit.quota));
    apr_table_setn(r->err_headers_out, "X-RateLimit-Remaining", number(r->pool, remaining(o)));
    apr_table_setn(r->err_headers_out, "X-RateLimit-Reset", number(r->pool, reset));
}

static void draft_03(request_rec *r, const rl_outcome *o)
{
    apr_table_setn(r->err_headers_out, "RateLimit-Limit", number(r->pool, o->limit.quota));
    apr_table_setn(r->err_headers_out, "RateLimit-Remaining", number(r->pool, remaining(o)));
    apr_table_setn(r->err_headers_out, "RateLimit-Reset",
                   number(r->pool, seconds_up(reset_ms(o))));
}

static const char *policy(apr_pool_t *pool, const rl_outcome *o)
{
    const char *quota = apr_psprintf(pool, "\"%s\";q=%" APR_INT64_T_FMT, o->rule->name,
                                     o->limit.quota);

    if (o->limit.window_ms % 1000)
        return quota;
    return apr_psprintf(pool, "%s;w=%" APR_INT64_T_FMT, quota, o->limit.window_ms / 1000);
}

static void draft_11(request_rec *r, const rl_chain *chain, const rl_outcome *o)
{
    int64_t more_ms = o->denies ? rl_decide_retry_after(o)
                                : rl_limiter_next_unit(&o->limit, &o->state, o->now);
    const char *state = apr_psprintf(r->pool, "\"%s\";r=%" APR_INT64_T_FMT, o->rule->name,
                                     remaining(o));
    const char *policies = NULL;

    for (const rl_outcome *each = chain->first; each; each = each->next) {
        if (shows(each))
            policies = policies ? apr_pstrcat(r->pool, policies, ", ", policy(r->pool, each), NULL)
                                : policy(r->pool, each);
    }
    if (more_ms != RL_NEVER)
        state = apr_psprintf(r->pool, "%s;t=%" APR_INT64_T_FMT, state, seconds_up(more_ms));
    apr_table_setn(r->err_headers_out, "RateLimit-Policy", policies);
    apr_table_setn(r->err_headers_out, "RateLimit", state);
}

static void set_headers(request_rec *r, const rl_chain *chain)
{
    int families = rl_config_headers(chain->section);
    const rl_outcome *o;

    if (!(families & RL_HEADERS_FAMILIES) || !(o = tightest(chain)))
        return;
    if (families & RL_HEADERS_X_RATELIMIT)
        x_ratelimit(r, o);
    if (families & RL_HEADERS_DRAFT_11)
        draft_11(r, chain, o);
    if (families & RL_HEADERS_DRAFT_03)
        draft_03(r, o);
}

/* Runs once, behind everything that sets headers: one line for each name. */
static apr_status_t one_line_each(ap_filter_t *f, apr_bucket_brigade *brigade)
{
    request_rec *r = f->r;
    rl_chain *chain = rl_decide_chain(r);
    int yields = chain && rl_config_headers(chain->section) & RL_HEADERS_YIELD;

    for (size_t i = 0; i < NAMES; i++) {
        if (!apr_table_get(r->headers_out, names[i]) || !apr_table_get(r->err_headers_out, names[i]))
            continue;
        apr_table_unset(yields ? r->err_headers_out : r->headers_out, names[i]);
    }
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, brigade);
}

/* --- Notes and environment ------------------------------------------------------------------------ */

static void note(request_rec *r, const char *name, const char *value)
{
    apr_table_setn(r->notes, name, value);
    apr_table_setn(r->subprocess_env, name, value);
}

static void set_notes(request_rec *r, const rl_chain *chain)
{
    const rl_outcome *o = chain->denial ? chain->denial : chain->shadow;
    const char *verdict = chain->denial || chain->closed ? "deny" : chain->shadow ? "shadow" : "pass";

    if (chain->section->notes != RL_NOTES_ALL && !o && !chain->fallback)
        return;
    if (!o)
        o = tightest(chain);
    if (!o)
        o = chain->first;
    note(r, "RATELIMIT_VERDICT", verdict);
    note(r, "RATELIMIT_RULE", o->rule->name);
    note(r, "RATELIMIT_SOURCE", rl_source_names[o->source]);
    note(r, "RATELIMIT_REMAINING", number(r->pool, remaining(o)));
}

void rl_reply_carry(request_rec *r)
{
    rl_chain *chain = r->prev ? rl_decide_chain(r->prev) : NULL;

    if (chain && chain->first)
        set_notes(r, chain);
}

/* --- Denials ------------------------------------------------------------------------------------------ */

/* A body that is still to come must not keep the worker: httpd would drain it with blocking reads. */
static void leave_body(request_rec *r)
{
    if (!apr_table_get(r->headers_in, "Content-Length")
        && !apr_table_get(r->headers_in, "Transfer-Encoding"))
        return;
    r->connection->keepalive = AP_CONN_CLOSE;
    apr_table_setn(r->connection->notes, "short-lingering-close", "1");
}

int rl_reply(request_rec *r, int status)
{
    rl_chain *chain = rl_decide_chain(r);

    if (!chain || !chain->first)
        return status;
    set_headers(r, chain);
    set_notes(r, chain);
    if (status == DECLINED)
        return status;
    if (chain->denial) {
        int64_t wait_ms = rl_decide_retry_after(chain->denial);

        if (wait_ms != RL_NEVER)
            apr_table_setn(r->err_headers_out, "Retry-After",
                           number(r->pool, max64(1, seconds_up(wait_ms))));
    }
    apr_table_setn(r->err_headers_out, "Cache-Control", "no-store");
    leave_body(r);
    return status;
}

/* --- The body ------------------------------------------------------------------------------------------ */

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

/* The weight of a media range in thousandths: q=0.5 is 500 (RFC 9110 §12.4.2). */
static int weight_of(const char *parameters)
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
        int weight = weight_of(item + length);

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

static const char *message_of(apr_pool_t *pool, int64_t wait_ms)
{
    int64_t seconds = max64(1, seconds_up(wait_ms));

    if (wait_ms == RL_NEVER)
        return "This request is not admitted.";
    return apr_psprintf(pool, "Too many requests. Try again in %" APR_INT64_T_FMT " second%s.",
                        seconds, seconds == 1 ? "" : "s");
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

static const char *problem(request_rec *r, const rl_chain *chain, int64_t wait_ms,
                           const char *message)
{
    const char *retry = "";

    if (wait_ms != RL_NEVER)
        retry = apr_psprintf(r->pool, ",\"retry_after\":%" APR_INT64_T_FMT ",\"retry_after_ms\":%"
                             APR_INT64_T_FMT, max64(1, seconds_up(wait_ms)), wait_ms);
    return apr_psprintf(r->pool, "{\"type\":\"" PROBLEM_TYPE "\",\"title\":\"Request cannot be "
                        "satisfied as assigned quota has been exceeded\",\"status\":%d,\"detail\":"
                        "\"%s\",\"violated-policies\":[%s],\"error\":\"rate_limit_exceeded\","
                        "\"message\":\"%s\"%s}\n", r->status, message, violated(r->pool, chain),
                        message, retry);
}

static const char *html(request_rec *r, const char *message)
{
    const char *title = ap_get_status_line(r->status);

    return apr_psprintf(r->pool, "<!DOCTYPE html>\n<html lang=\"en\"><head><title>%s</title></head>\n"
                        "<body><h1>%s</h1><p>%s</p></body></html>\n", title, title + 4, message);
}

/* Puts our body in the place of httpd's page. */
static apr_status_t our_body(ap_filter_t *f, apr_bucket_brigade *brigade)
{
    request_rec *r = f->r;
    rl_chain *chain = rl_decide_chain(r);
    int64_t wait_ms = rl_decide_retry_after(chain->denial);
    int as_text = chain->section->response == RL_RESPONSE_TEXT;
    body_form form = negotiate(r, as_text ? BODY_TEXT : BODY_PROBLEM);
    const char *message = message_of(r->pool, wait_ms), *body;

    if (f->ctx) { /* what is left of httpd's page */
        apr_brigade_cleanup(brigade);
        return APR_SUCCESS;
    }
    f->ctx = f;
    body = form == BODY_PROBLEM ? problem(r, chain, wait_ms, message)
         : form == BODY_HTML ? html(r, message) : apr_pstrcat(r->pool, message, "\n", NULL);
    apr_brigade_cleanup(brigade);
    ap_set_content_type(r, content_types[form]);
    ap_set_content_length(r, (apr_off_t)strlen(body));
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_pool_create(body, strlen(body), r->pool,
                                                            f->c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_eos_create(f->c->bucket_alloc));
    return ap_pass_brigade(f->next, brigade);
}

/* --- Filters ------------------------------------------------------------------------------------------- */

void rl_reply_register(apr_pool_t *pool)
{
    (void)pool;
    headers_filter = ap_register_output_filter("RATELIMIT_HEADERS", one_line_each, NULL,
                                               AP_FTYPE_CONTENT_SET + 5);
    body_filter = ap_register_output_filter("RATELIMIT_BODY", our_body, NULL, AP_FTYPE_RESOURCE);
}

void rl_reply_insert_filter(request_rec *r)
{
    rl_chain *chain = r->main ? NULL : rl_decide_chain(r);

    if (chain && chain->first && rl_config_headers(chain->section) & RL_HEADERS_FAMILIES)
        ap_add_output_filter_handle(headers_filter, NULL, r, r->connection);
}

void rl_reply_insert_error_filter(request_rec *r)
{
    rl_chain *chain = rl_decide_chain(r);

    if (chain && chain->denial && r->status == chain->denial->rule->status
        && chain->section->response != RL_RESPONSE_OFF
        && !ap_response_code_string(r, ap_index_of_response(r->status)))
        ap_add_output_filter_handle(body_filter, NULL, r, r->connection);
}
