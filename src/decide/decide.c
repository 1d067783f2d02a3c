/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide: the flow of a decision.
 *
 *     memory   if a snapshot of what Redis last reported, or this host's own count, denies, the
 *              request is denied and no live rule is charged
 *     Redis    one call for all rules that hosts share; it charges all of them or none
 *     host     the rules that this host counts alone and, where Redis did not answer, the others
 *              by on-failure=
 *
 * A step charges all of its live rules or none: all counts are read before the first is charged,
 * and if another request's charge came in between, what was charged is given back. A shadow rule is
 * charged if it admits, whatever the live rules decide, and never denies.
 *
 * A rule is charged once in a request chain. A charge that depends on the response (charge-on=) is
 * pending until log_transaction, when the status of the last request of the chain is known.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>
#include <http_request.h>

#include "decide/decide.h"
#include "decide/step.h"

APLOG_USE_MODULE(ratelimit_redis);

/* --- Preparing ---------------------------------------------------------------------------- */

/* Adds an outcome for a rule that applies, unless the request costs nothing under it. */
static void prepare(rl_step *s, const rl_rule *rule, int shadow)
{
    int64_t cost = s->peek ? 1 : rl_evaluation_cost(&s->chain->evaluation, rule);
    rl_outcome *o;

    if (cost == 0)
        return;
    o = apr_pcalloc(s->r->pool, sizeof(*o));
    o->rule = rule;
    o->exempt = !rl_evaluation_limit(&s->chain->evaluation, rule, &o->limit);
    o->shadow = shadow || rule->shadow;
    s->shadows += o->shadow;
    if (s->context->client && rule->sync != RL_SYNC_LOCAL) {
        o->kind = RL_LOCAL_SNAPSHOT;
        o->source = RL_SOURCE_REDIS;
    }
    else {
        o->kind = RL_LOCAL_COUNT;
        o->limit.lease_ms = 0;
        o->source = RL_SOURCE_LOCAL;
        o->limit.algorithm = rl_algorithms[o->limit.algorithm].local;
    }
    rl_identity_find(&s->chain->evaluation, rule, &o->identity);
    o->key = o->counter = rl_step_key(s, o);
    o->cost = rl_chain_is_charged(s->chain, o->counter, o->limit.on_response) ? 0 : cost;
    if (o->limit.delay_ms > s->delay_ms && !o->shadow)
        s->delay_ms = o->limit.delay_ms;
    rl_chain_add(s->chain, o);
    s->outcomes[s->count++] = o;
}

/*
 * Collects the rules to decide now, as many as fit in a step; returns how many. Rules that an
 * earlier phase evaluated for this path in this section are not evaluated again.
 */
static int collect(rl_step *s, const rl_section *section, rl_phase phase)
{
    /* cppcheck-suppress ctuuninitvar ; rl_decide() has set it */
    const rl_chain *chain = s->chain;
    int is_known = chain->section == section && chain->uri == s->r->uri;

    s->count = s->shadows = s->no_place = 0;
    s->delay_ms = 0;
    for (int i = 0; i < section->rule_count && s->count < RL_ASKS_MAX; i++) {
        const rl_rule *rule = section->rules[i];

        if (!rule->off && rule->phase <= phase && !(is_known && rule->phase <= chain->phase)
            && !rl_chain_has(chain, rule) && rl_evaluation_applies(&s->chain->evaluation, rule))
            prepare(s, rule, section->engine == RL_ENGINE_SHADOW);
    }
    return s->count;
}

/* --- Memory ------------------------------------------------------------------------------- */

static void peek_at_count(rl_step *s, rl_outcome *o)
{
    rl_local *local = s->context->local;

    o->view.now = rl_step_ticks(o, rl_local_now(local, RL_CLOCK_HOST, s->host_ms));
    rl_local_peek(local, o->key, &o->limit, &o->view);
    rl_step_judge(o);
    if (o->denies && !s->peek)
        rl_local_block(local, o->key, &o->limit, o->cost, s->host_ms, &o->view);
}

static void check_snapshot(rl_step *s, rl_outcome *o)
{
    rl_limit limit = o->limit; /* becomes an override's, if there was one */
    rl_snapshot_verdict verdict;

    verdict = rl_local_snapshot_check(s->context->local, o->key, &limit, o->cost, s->host_ms,
                                      &o->view);
    if (verdict == RL_SNAPSHOT_UNKNOWN)
        return;
    /* A block starts in Redis, so a denial that would start one must be made there, too. */
    o->starts_block = rl_limiter_blocks(&limit, &o->view.state, o->view.now, o->cost);
    o->dry = verdict == RL_SNAPSHOT_DRY;
    o->revalidates = verdict == RL_SNAPSHOT_STALE || o->dry || o->starts_block;
    o->limit = limit;
    if (!o->revalidates)
        rl_step_deny_from_memory(o);
}

/*
 * Only a request that will ask Redis revalidates a stale denial. Where another live rule denies, or
 * the request only peeks, memory denies, and a later request revalidates.
 */
static void take_on_revalidations(rl_step *s)
{
    int denied = rl_step_is_denied(s);

    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->revalidates
            && (s->peek || (denied && !o->shadow)
                || !(o->starts_block
                     || rl_local_snapshot_revalidate(s->context->local, o->key, s->host_ms,
                                                     !o->dry)))) {
            o->revalidates = 0;
            rl_step_deny_from_memory(o);
        }
    }
}

/* Whether an outcome's counter has leases that it can be charged to. */
static int may_spend(const rl_step *s, const rl_outcome *o)
{
    return o->limit.lease_ms && o->rule->sync == RL_SYNC_LEASE && o->cost > 0 && !s->peek;
}

static void consult_memory(rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->exempt || (may_spend(s, o) && rl_step_spend(s, o)))
            continue;
        if (o->kind == RL_LOCAL_SNAPSHOT)
            check_snapshot(s, o);
        /* The only count of a step is not read first: charging it decides. */
        else if (s->count > 1 || s->peek)
            peek_at_count(s, o);
    }
    take_on_revalidations(s);
}

/* --- Counts of this host ------------------------------------------------------------------ */

/* Charges what this host counts. A count that other requests filled up in the meantime denies. */
static void charge_host(rl_step *s, int shadow)
{
    rl_local *local = s->context->local;

    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->kind == RL_LOCAL_SNAPSHOT || o->exempt || o->uncounted || o->denies
            || o->shadow != shadow)
            continue;
        if (o->kind == RL_LOCAL_COUNT)
            o->view.now = rl_step_ticks(o, rl_local_now(local, RL_CLOCK_HOST, s->host_ms));
        o->denies = !rl_local_charge(local, o->key, &o->limit, o->cost, s->host_ms, &o->view);
        if (!o->denies)
            rl_step_mark_charged(o);
        else if (!shadow)
            return;
    }
}

/* --- The verdict -------------------------------------------------------------------------- */

static int waits_longer(const rl_outcome *o, const rl_outcome *than)
{
    int64_t a, b;

    if (!than)
        return 1;
    a = rl_outcome_retry_after(o);
    b = rl_outcome_retry_after(than);
    return a == RL_NEVER || (b != RL_NEVER && a > b);
}

static void count_outcome(const rl_step *s, const rl_outcome *o, int refused)
{
    int unseen = o->kind == RL_LOCAL_SNAPSHOT && !o->redis_key && !o->uncounted
        && o->source != RL_SOURCE_LEASE;
    rl_verdict verdict = RL_PASSED;

    if (o->denies || o->fail_closed)
        verdict = o->shadow ? RL_SHADOWED : RL_DENIED;
    else if (o->exempt)
        verdict = RL_EXEMPT;
    else if (unseen || (refused && !o->shadow))
        verdict = RL_VETOED;
    rl_stats_count(s->context->stats, o->rule->row, verdict, o->source);
    if (o->source == RL_SOURCE_LEASE && verdict != RL_VETOED)
        rl_stats_count_lease(s->context->stats, RL_LEASE_SPENT, o->cost);
}

static int conclude(rl_step *s)
{
    rl_chain *chain = s->chain;
    int refused = rl_step_is_denied(s) || chain->closed;
    int64_t delay_ms = 0;

    if (s->delay_ms > 0 && !refused) {
        delay_ms = rl_step_take_place(s);
        refused = rl_step_is_denied(s);
    }
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->source == RL_SOURCE_REDIS && !o->redis_key)
            o->source = RL_SOURCE_LOCAL; /* Redis was not asked about it */
        chain->on_response |= o->charged && o->limit.on_response;
        count_outcome(s, o, refused);
        if (!o->denies)
            continue;
        if (o->shadow)
            chain->shadow = o;
        else if (waits_longer(o, chain->denial))
            chain->denial = o;
    }
    if (refused)
        rl_step_give_back(s);
    if (chain->on_response && s->context->keeper) /* NULL: no memory, or no descriptor left */
        rl_step_keep(s);
    if (chain->refills && rl_client_has_thread(s->context->client))
        rl_step_refill(s);
    if (delay_ms > 0)
        apr_sleep(apr_time_from_msec(delay_ms));
    if (chain->denial)
        return chain->denial->rule->status;
    return chain->closed ? HTTP_SERVICE_UNAVAILABLE : OK;
}

/* The main request, or the one that led to the error page, has been decided already. */
static int is_subrequest_or_error_page(const request_rec *r)
{
    return r->main || (r->prev && r->prev->status != HTTP_OK);
}

/* Decides the rules that were collected. */
static int decide_step(rl_step *s)
{
    s->host_ms = rl_local_clock();
    if (s->delay_ms > 0)
        rl_step_check_places(s);
    consult_memory(s);
    rl_step_ask_redis(s);
    if (!rl_step_is_denied(s) && !s->chain->closed)
        charge_host(s, 0);
    if (s->shadows)
        charge_host(s, 1);
    return conclude(s);
}

int rl_decide_is_due(const request_rec *r, rl_phase phase)
{
    const rl_section *section = rl_config_section(r);
    unsigned phases = (2u << phase) - 1; /* this one and those before it */
    const rl_chain *chain;

    if (!section || !(section->phases & phases) || section->engine == RL_ENGINE_OFF
        || is_subrequest_or_error_page(r))
        return 0;
    chain = rl_chain_of(r);
    if (chain && chain->section == section && chain->uri == r->uri)
        phases &= ~((2u << chain->phase) - 1);
    return (section->phases & phases) != 0;
}

int rl_decide(request_rec *r, const rl_context *context, rl_phase phase)
{
    const rl_section *section = rl_config_section(r);
    int verdict = DECLINED;
    rl_step s;

    s.r = r;
    s.context = context;
    s.peek = 0;
    s.chain = rl_chain_begin(r);
    rl_chain_bind_request(s.chain, r, context, section);
    /* A section with more than RL_ASKS_MAX rules that apply takes several steps. */
    do {
        if (collect(&s, section, phase))
            verdict = decide_step(&s);
    } while (s.count == RL_ASKS_MAX && verdict == OK);
    s.chain->section = section;
    s.chain->uri = r->uri;
    s.chain->phase = phase;
    return verdict;
}

rl_chain *rl_decide_peek(request_rec *r, const rl_context *context)
{
    const rl_section *section = rl_config_section(r);
    rl_step s;

    if (!section || section->rule_count == 0 || section->engine == RL_ENGINE_OFF)
        return NULL;
    s.r = r;
    s.context = context;
    s.peek = 1;
    s.chain = rl_chain_create(r);
    rl_chain_bind_request(s.chain, r, context, section);
    do {
        if (!collect(&s, section, RL_PHASE_AUTH))
            break;
        s.host_ms = rl_local_clock();
        consult_memory(&s);
        rl_step_ask_redis(&s);
    } while (s.count == RL_ASKS_MAX);
    s.chain->section = section;
    return s.chain->first ? s.chain : NULL;
}

void rl_decide_settle(request_rec *r, const rl_context *context)
{
    rl_chain *chain;
    rl_step s;

    while (r->next)
        r = r->next;
    chain = rl_chain_of(r);
    if (!chain || !(chain->on_response || chain->refills))
        return;
    s.r = r;
    s.context = context;
    s.chain = chain;
    s.host_ms = rl_local_clock();
    if (chain->on_response)
        rl_step_settle(&s, r->status);
    if (chain->refills) {
        if (!chain->on_response)
            chain->waited_us = 0; /* as rl_step_settle() does */
        rl_step_refill(&s);
    }
}
