/* SPDX-License-Identifier: Apache-2.0 */
/*
 * headers: the headers, notes and environment variables about limits.
 *
 * Headers go to err_headers_out, the one table that survives proxying, ErrorDocument and the pages
 * that httpd makes itself. A backend may send headers of the same names. A filter that runs after
 * everything that sets headers keeps one line of each: the module's or, with "yield", the
 * backend's.
 *
 * Formats: RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11,
 * RateLimit-Limit, -Remaining and -Reset of its version 03, Retry-After of RFC 9110 §10.2.3.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <util_filter.h>

#include "response/headers.h"

#define CLOCKS_DIFFER_MS 50 /* this host's and Redis's, and what a decision takes */

static ap_filter_rec_t *headers_filter;

typedef enum {
    X_LIMIT, X_REMAINING, X_RESET,
    DRAFT_11_POLICY, DRAFT_11_STATE,
    DRAFT_03_LIMIT, DRAFT_03_REMAINING, DRAFT_03_RESET,
    HEADERS
} header;

static const struct {
    int family;
    const char *name;
} headers[HEADERS] = {
    [X_LIMIT] = {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Limit"},
    [X_REMAINING] = {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Remaining"},
    [X_RESET] = {RL_HEADERS_X_RATELIMIT, "X-RateLimit-Reset"},
    [DRAFT_11_POLICY] = {RL_HEADERS_DRAFT_11, "RateLimit-Policy"},
    [DRAFT_11_STATE] = {RL_HEADERS_DRAFT_11, "RateLimit"},
    [DRAFT_03_LIMIT] = {RL_HEADERS_DRAFT_03, "RateLimit-Limit"},
    [DRAFT_03_REMAINING] = {RL_HEADERS_DRAFT_03, "RateLimit-Remaining"},
    [DRAFT_03_RESET] = {RL_HEADERS_DRAFT_03, "RateLimit-Reset"}
};

static void add(request_rec *r, header h, const char *value)
{
    apr_table_addn(r->err_headers_out, headers[h].name, value);
}

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

/* In seconds; at least one, so that a client never comes back at once. */
static int64_t retry_after_s(int64_t wait_ms)
{
    return max64(1, seconds_up(wait_ms));
}

/* --- Headers ------------------------------------------------------------------------------ */

int rl_headers_show(const rl_outcome *o)
{
    return o->rule->headers && !o->shadow && !o->uncounted && !o->exempt;
}

/* In fallback the quota is a host's share of the rule's; a tier or an override replaces it. */
static const char *quota(apr_pool_t *pool, const rl_outcome *o)
{
    return o->limit.quota == o->rule->limit.quota ? o->rule->quota_text
                                                  : number(pool, o->limit.quota);
}

/* What may be used at once: of a bucket, its capacity. */
static const char *capacity(apr_pool_t *pool, const rl_outcome *o)
{
    return rl_limiter_is_bucket(&o->limit) ? number(pool, rl_limiter_capacity(&o->limit))
                                           : quota(pool, o);
}

static int64_t remaining(const rl_outcome *o)
{
    return o->denies ? 0 : rl_limiter_remaining(&o->limit, &o->view.state, o->view.now);
}

/* Whether fewer requests like this one are left under a rule than under another. */
static int is_tighter(const rl_outcome *o, const rl_outcome *than)
{
    int64_t cost = o->cost > 0 ? o->cost : 1, other = than->cost > 0 ? than->cost : 1;

    return remaining(o) * other < remaining(than) * cost;
}

/* The outcome to show: the denial or, without one, the tightest; NULL if none may show. */
static const rl_outcome *tightest(const rl_chain *chain)
{
    const rl_outcome *found = NULL;

    if (chain->denial)
        return rl_headers_show(chain->denial) ? chain->denial : NULL;
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (rl_headers_show(o) && (!found || is_tighter(o, found)))
            found = o;
    }
    return found;
}

/* ms until the whole quota is available, but not before a denied client may come back. */
static int64_t reset_ms(const rl_outcome *o)
{
    int64_t reset = rl_limiter_reset(&o->limit, &o->view.state, o->view.now);

    return o->denies ? max64(reset, rl_outcome_retry_after(o)) : reset;
}

/*
 * The epoch second of the reset by this host's clock, as Date is. CLOCKS_DIFFER_MS is subtracted so
 * that all responses of a window name the same second. A denial's reset is never earlier than its
 * Date plus its Retry-After.
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

    add(r, X_LIMIT, capacity(r->pool, o));
    add(r, X_REMAINING, number(r->pool, remaining(o)));
    add(r, X_RESET, number(r->pool, reset));
}

static void draft_03(request_rec *r, const rl_outcome *o)
{
    add(r, DRAFT_03_LIMIT, capacity(r->pool, o));
    add(r, DRAFT_03_REMAINING, number(r->pool, remaining(o)));
    add(r, DRAFT_03_RESET, number(r->pool, seconds_up(reset_ms(o))));
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
                                : rl_limiter_next_unit(&o->limit, &o->view.state, o->view.now);
    const char *state = apr_pstrcat(r->pool, "\"", o->rule->name, "\";r=",
                                    number(r->pool, remaining(o)), NULL);
    const char *policies = NULL;

    for (const rl_outcome *each = chain->first; each; each = each->next) {
        if (rl_headers_show(each))
            policies = policies ? apr_pstrcat(r->pool, policies, ", ", policy(r->pool, each), NULL)
                                : policy(r->pool, each);
    }
    if (more_ms != RL_NEVER)
        state = apr_pstrcat(r->pool, state, ";t=", number(r->pool, seconds_up(more_ms)), NULL);
    add(r, DRAFT_11_POLICY, policies);
    add(r, DRAFT_11_STATE, state);
}

static void set_limits(request_rec *r, const rl_chain *chain)
{
    int families = rl_config_headers(chain->section);
    const rl_outcome *o;

    /* Replaces the headers that an earlier step of the chain has set. */
    for (int i = 0; chain->replied && i < HEADERS; i++)
        apr_table_unset(r->err_headers_out, headers[i].name);
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

/* The families of which the backend or another module has set a header. */
static int foreign_families(const request_rec *r)
{
    int families = 0;

    for (int i = 0; i < HEADERS; i++) {
        if (apr_table_get(r->headers_out, headers[i].name))
            families |= headers[i].family;
    }
    return families;
}

/*
 * The filter, which runs once for a response: of each family it leaves the module's headers or,
 * with yield, the others', never some of both.
 */
static apr_status_t filter_headers(ap_filter_t *f, apr_bucket_brigade *brigade)
{
    request_rec *r = f->r;
    rl_chain *chain = rl_chain_of(r);
    int families = chain ? rl_config_headers(chain->section) : 0;
    int foreign = families & foreign_families(r);

    for (int i = 0; foreign && i < HEADERS; i++) {
        if (foreign & headers[i].family)
            apr_table_unset(families & RL_HEADERS_YIELD ? r->err_headers_out : r->headers_out,
                            headers[i].name);
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
    else { /* not set yet: adding is cheaper */
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
    rl_verdict verdict = chain->denial || chain->closed ? RL_DENIED : chain->shadow ? RL_SHADOWED
                       : all_exempt(chain) ? RL_EXEMPT : RL_PASSED;

    if (chain->section->notes != RL_NOTES_ALL && !o && !chain->fallback)
        return;
    if (!o)
        o = tightest(chain);
    if (!o)
        o = chain->first;
    note(r, again, "RATELIMIT_VERDICT", rl_verdict_names[verdict]);
    note(r, again, "RATELIMIT_RULE", o->rule->name);
    note(r, again, "RATELIMIT_SOURCE", rl_source_names[o->source]);
    note(r, again, "RATELIMIT_REMAINING", number(r->pool, remaining(o)));
}

void rl_headers_set(request_rec *r, rl_chain *chain)
{
    set_limits(r, chain);
    set_notes(r, chain->replied, chain);
    chain->replied = 1;
}

void rl_headers_carry(request_rec *r)
{
    rl_chain *chain = r->prev ? rl_chain_of(r->prev) : NULL;

    if (!chain || !chain->first)
        return;
    set_notes(r, 1, chain);
    /* This request has its own filters, and its handler may set headers of the same names. */
    if (rl_config_headers(chain->section) & RL_HEADERS_FAMILIES)
        ap_add_output_filter_handle(headers_filter, NULL, r, r->connection);
}

/* --- Retry-After -------------------------------------------------------------------------- */

const char *rl_headers_set_retry_after(request_rec *r, const rl_chain *chain)
{
    int64_t wait_ms = chain->denial ? rl_outcome_retry_after(chain->denial) : RL_NEVER;
    const char *seconds;

    if (wait_ms == RL_NEVER)
        return NULL;
    seconds = number(r->pool, retry_after_s(wait_ms));
    apr_table_setn(r->err_headers_out, "Retry-After", seconds);
    return seconds;
}

/* --- The filter --------------------------------------------------------------------------- */

void rl_headers_register(apr_pool_t *pool)
{
    (void)pool;
    headers_filter = ap_register_output_filter("RATELIMIT_HEADERS", filter_headers, NULL,
                                               AP_FTYPE_CONTENT_SET + 5);
}
