/* SPDX-License-Identifier: Apache-2.0 */
/*
 * body: the response to a denied request.
 *
 * The body takes the place of httpd's own page only. Where an ErrorDocument is set, or
 * RateLimitResponse is off, the hook returns the status and httpd does what it does for any error.
 * Otherwise the response is made here and the hook returns DONE: httpd's page takes some 3,500
 * instructions, which matters in a flood of denials. Text is joined, not formatted, for the same
 * reason.
 *
 * Formats: problem details of RFC 9457 §3.1, with the type quota-exceeded and its members of
 * draft-ietf-httpapi-ratelimit-headers-11.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <mod_core.h>
#include <util_filter.h>

#include "httpd/accept.h"
#include "response/body.h"
#include "response/headers.h"

#define PROBLEM_BEGIN                                                                  \
    "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\","     \
    "\"title\":\"Request cannot be satisfied as assigned quota has been exceeded\","    \
    "\"status\":"

/* --- The form ----------------------------------------------------------------------------- */

typedef enum { BODY_PROBLEM, BODY_HTML, BODY_TEXT } body_form;

static const struct {
    const char *type; /* in Accept */
    body_form form;
} acceptable[] = {
    {"application/problem+json", BODY_PROBLEM}, {"application/json", BODY_PROBLEM},
    {"application/*", BODY_PROBLEM}, {"text/html", BODY_HTML}, {"text/plain", BODY_TEXT},
    {"text/*", BODY_TEXT}
};

static const char *const content_types[] = {
    "application/problem+json", "text/html; charset=utf-8", "text/plain; charset=utf-8"
};

/* The form that the client prefers; the usual one if it has no preference. */
static body_form negotiate(request_rec *r, body_form usual)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");
    rl_accept_range range;
    body_form form = usual;
    int best = 0;

    while (rl_accept_next(r->pool, &accept, &range)) {
        for (size_t i = 0; i < sizeof(acceptable) / sizeof(acceptable[0]); i++) {
            if (range.weight > best && rl_accept_is(&range, acceptable[i].type)) {
                best = range.weight;
                form = acceptable[i].form;
            }
        }
        if (range.weight > best && rl_accept_is(&range, "*/*")) {
            best = range.weight;
            form = usual;
        }
    }
    return form;
}

/* --- The text ----------------------------------------------------------------------------- */

/* The message for people; seconds is NULL where waiting does not help. */
static const char *message_of(apr_pool_t *pool, const char *seconds)
{
    if (!seconds)
        return "This request is not admitted.";
    return apr_pstrcat(pool, "Too many requests. Try again in ", seconds,
                       strcmp(seconds, "1") ? " seconds." : " second.", NULL);
}

/* The names of the rules that denied, as JSON strings; their grammar leaves nothing to escape. */
static const char *violated(apr_pool_t *pool, const rl_chain *chain)
{
    const char *list = "";

    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->denies && rl_headers_show(o))
            list = apr_pstrcat(pool, list, *list ? ",\"" : "\"", o->rule->name, "\"", NULL);
    }
    return list;
}

/* The members that RFC 9457 and the draft name, and a few that clients of other limiters expect. */
static const char *problem(request_rec *r, const rl_chain *chain, const char *seconds,
                           const char *message)
{
    const char *ms = seconds ? apr_off_t_toa(r->pool, rl_outcome_retry_after(chain->denial)) : "";

    return apr_pstrcat(r->pool, PROBLEM_BEGIN, apr_itoa(r->pool, r->status), ",\"detail\":\"",
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

/* --- The response ------------------------------------------------------------------------- */

/* Makes the whole response, as httpd does for its own page. */
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

/* Closes the connection if the request has a body: httpd would read all of it, and block. */
static void discard_body(request_rec *r)
{
    const char *length = apr_table_get(r->headers_in, "Content-Length");

    if ((!length || !strcmp(length, "0")) && !apr_table_get(r->headers_in, "Transfer-Encoding"))
        return;
    r->connection->keepalive = AP_CONN_CLOSE;
    apr_table_setn(r->connection->notes, "short-lingering-close", "1");
}

static int has_error_document(request_rec *r, int status)
{
    return ap_response_code_string(r, ap_index_of_response(status)) != NULL;
}

int rl_body_deny(request_rec *r, const rl_chain *chain, int status)
{
    const char *seconds = rl_headers_set_retry_after(r, chain);

    apr_table_setn(r->err_headers_out, "Cache-Control", "no-store");
    discard_body(r);
    if (!chain->denial || chain->section->response == RL_RESPONSE_OFF
        || has_error_document(r, status))
        return status;
    r->status = status;
    send_body(r, chain, seconds);
    return DONE;
}
