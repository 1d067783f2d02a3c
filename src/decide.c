/*
 * decide: the flow of a decision.
 *
 *     memory   a snapshot of what Redis last said, or this host's own count, that denies: done,
 *              nothing is charged
 *     Redis    one call for all rules that are shared; it charges all of them or none
 *     host     rules of this host alone, and, where Redis did not answer, all the others as
 *              on-failure says
 *
 * All or nothing holds in every step: counts are looked at before the first is charged, and what
 * was charged before somebody else's charge came in between is given back. A shadow rule is
 * charged if it admits, whatever the others say, and never speaks for them.
 *
 * A rule is charged once in a chain of requests. Which ones have been is in the chain, by the
 * rule's address: merging sections hands rules on, it never copies them. What is charged by its
 * response is pending until log_transaction, when the status of the last request of the chain is
 * known.
 */
#include <string.h>

#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>
#include <http_request.h>

#include "complaint.h"
#include "decide.h"
#include "redis/link.h"
#include "violation.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

/* One step: some rules of one request. */
typedef struct {
    request_rec *r;
    const rl_tiers *tiers;
    rl_chain *chain;
    rl_outcome *outcomes[RL_ASKS_MAX];
    int count;
    int shadows;      /* among them */
    int look;         /* nothing is charged */
    int64_t host_ms;
    int64_t delay_ms; /* the longest that a rule among them may hold the request */
    rl_hold hold;     /* a place among the held, if there is such a rule */
    rl_ask asks[RL_ASKS_MAX];
    rl_outcome *asked[RL_ASKS_MAX];
    int ask_count;
} step;

/* --- The chain ---------------------------------------------------------------------------- */

rl_chain *rl_decide_chain(const request_rec *r)
{
    for (; r; r = r->prev ? r->prev : r->main) {
        rl_chain *chain = ap_get_module_config(r->request_config, &ratelimit_redis_module);

        if (chain)
            return chain;
    }
    return NULL;
}

static rl_chain *make_chain(request_rec *r)
{
    rl_chain *chain = apr_pcalloc(r->pool, sizeof(*chain));

    chain->end = &chain->first;
    return chain;
}

static rl_chain *chain_of(request_rec *r)
{
    rl_chain *chain = rl_decide_chain(r);

    if (!chain) {
        chain = make_chain(r);
        ap_set_module_config(r->request_config, &ratelimit_redis_module, chain);
    }
    return chain;
}

const char *rl_decide_who(rl_chain *chain, rl_outcome *o)
{
    if (!o->who)
        o->who = rl_identity_text(&chain->terms, &o->identity);
    return o->who;
}

/* Turns the chain to a request and its section. */
static void face(rl_chain *chain, request_rec *r, const rl_tiers *tiers,
                 const rl_section *section)
{
    rl_terms *terms = &chain->terms;

    if (terms->r != r || chain->uri != r->uri || chain->section != section)
        terms->path = NULL;
    terms->r = r;
    terms->settings = tiers->settings;
    terms->local = tiers->local;
    terms->normalize = rl_config_normalize(section);
}

/* --- Preparing ---------------------------------------------------------------------------- */

static int was_evaluated(const rl_chain *chain, const rl_rule *rule)
{
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->rule == rule)
            return 1;
    }
    return 0;
}

static uint64_t key_of(const step *s, const rl_outcome *o)
{
    return rl_local_key(s->tiers->local, o->kind,
                        o->rule->counter ^ rl_config_of_server(s->r->server)->scope_hash,
                        o->identity.raw, o->identity.length);
}

/* Whether another rule of the chain, with the same counter, has charged it already. */
static int is_paid(const rl_chain *chain, uint64_t key)
{
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->key == key && o->charged)
            return 1;
    }
    return 0;
}

static void add_outcome(step *s, rl_outcome *o)
{
    *s->chain->end = o;
    s->chain->end = &o->next;
    s->outcomes[s->count++] = o;
}

/* An outcome for a rule that applies; none if the request is not to be counted under it. */
static void prepare(step *s, const rl_rule *rule, int shadow)
{
    int64_t cost = s->look ? 1 : rl_terms_cost(&s->chain->terms, rule);
    rl_outcome *o;

    if (cost == 0)
        return;
    o = apr_pcalloc(s->r->pool, sizeof(*o));
    o->rule = rule;
    o->exempt = !rl_terms_limit(&s->chain->terms, rule, &o->limit);
    o->shadow = shadow || rule->shadow;
    s->shadows += o->shadow;
    if (s->tiers->client && rule->sync == RL_SYNC_REQUEST) {
        o->kind = RL_LOCAL_SNAPSHOT;
        o->source = RL_SOURCE_REDIS;
    }
    else {
        o->kind = RL_LOCAL_COUNT;
        o->source = RL_SOURCE_LOCAL;
    }
    rl_identity_find(&s->chain->terms, rule, &o->identity);
    o->key = key_of(s, o);
    o->cost = is_paid(s->chain, o->key) ? 0 : cost;
    if (o->limit.delay_ms > s->delay_ms && !o->shadow)
        s->delay_ms = o->limit.delay_ms;
    add_outcome(s, o);
}

/*
 * Collects the rules to decide over now, as many as fit in a step; returns how many. Which rules
 * apply was settled when they were first looked at for this path in this section.
 */
static int collect(step *s, const rl_section *section, rl_phase phase)
{
    const rl_chain *chain = s->chain;
    int is_known = chain->section == section && chain->uri == s->r->uri;

    s->count = s->shadows = 0;
    s->delay_ms = 0;
    for (int i = 0; i < section->rule_count && s->count < RL_ASKS_MAX; i++) {
        const rl_rule *rule = section->rules[i];

        if (!rule->off && rule->phase <= phase && !(is_known && rule->phase <= chain->phase)
            && !was_evaluated(chain, rule) && rl_terms_apply(&s->chain->terms, rule))
            prepare(s, rule, section->engine == RL_ENGINE_SHADOW);
    }
    return s->count;
}

/* --- Memory ------------------------------------------------------------------------------- */

static int64_t ticks(const rl_outcome *o, int64_t ms)
{
    return ms * rl_limiter_ticks(&o->limit);
}

static void deny_from_memory(rl_outcome *o)
{
    o->source = RL_SOURCE_LOCAL;
    o->denies = 1;
}

static void judge(rl_outcome *o)
{
    o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
}

static void look_at_count(step *s, rl_outcome *o)
{
    rl_local *local = s->tiers->local;

    o->now = ticks(o, rl_local_now(local, RL_CLOCK_HOST, s->host_ms));
    rl_local_peek(local, o->key, &o->limit, NULL, &o->now, &o->state);
    judge(o);
    if (o->denies && !s->look)
        rl_local_block(local, o->key, &o->limit, o->cost, s->host_ms, o->now, &o->state);
}

static void look_at_snapshot(step *s, rl_outcome *o)
{
    rl_limit limit = o->limit; /* becomes an override's, if there was one */
    rl_recall recall = rl_local_recall(s->tiers->local, o->key, &limit, o->cost, s->host_ms,
                                       &o->now, &o->state, &o->lag_ms);

    if (recall == RL_RECALL_UNKNOWN)
        return;
    /* A block is for Redis to start: memory, which knows that it will deny, must not come first. */
    o->renews = recall == RL_RECALL_ASK
        || rl_limiter_blocks(&limit, &o->state, o->now, o->cost);
    o->limit = limit;
    if (!o->renews)
        deny_from_memory(o);
}

static void look_at_memory(step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->exempt)
            continue;
        if (o->kind == RL_LOCAL_SNAPSHOT)
            look_at_snapshot(s, o);
        /* A count of this host that stands alone is looked at when it is charged. */
        else if (s->count > 1 || s->look)
            look_at_count(s, o);
    }
}

/* Whether a live rule denies. */
static int denied(const step *s)
{
    for (int i = 0; i < s->count; i++) {
        if (s->outcomes[i]->denies && !s->outcomes[i]->shadow)
            return 1;
    }
    return 0;
}

/* --- Redis -------------------------------------------------------------------------------- */

static const char *redis_key_of(const step *s, rl_outcome *o)
{
    const char *scope = rl_config_of_server(s->r->server)->scope;
    const char *who = rl_decide_who(s->chain, o);

    if (!scope)
        return apr_pstrcat(s->r->pool, s->tiers->settings->prefix, ":{", who, "}",
                           o->rule->key_suffix, NULL);
    return apr_pstrcat(s->r->pool, s->tiers->settings->prefix, ":{", who, "}:", scope, "/",
                       o->rule->key_suffix + 1, NULL);
}

/* An ask about an outcome, with nothing in it that only a decision needs. */
static rl_ask *begin_ask(step *s, rl_outcome *o, rl_ask_kind kind)
{
    rl_ask *ask = &s->asks[s->ask_count];

    memset(ask, 0, sizeof(*ask));
    ask->key = o->redis_key;
    ask->limit = &o->limit;
    ask->kind = kind;
    ask->cost = o->cost;
    ask->position = o->position;
    ask->has_tail = o->rule->has_tail;
    s->asked[s->ask_count++] = o;
    return ask;
}

static void add_ask(step *s, rl_outcome *o)
{
    rl_ask *ask;

    o->redis_key = redis_key_of(s, o);
    if (o->renews) { /* without the override that memory knew */
        rl_terms_limit(&s->chain->terms, o->rule, &o->limit);
        o->limit.delay_ms = s->hold.end < 0 ? 0 : o->limit.delay_ms;
    }
    ask = begin_ask(s, o, RL_ASK_DECIDE);
    ask->shadow = o->shadow;
    if (s->tiers->settings->overrides) {
        ask->override_key = apr_pstrcat(s->r->pool, s->tiers->settings->prefix, ":override:{",
                                        rl_decide_who(s->chain, o), "}", NULL);
        ask->tiers = o->rule->tiers_text;
    }
}

/* Keys of single clients before those that many share: in a cluster, what denies one stops there. */
static void add_asks(step *s, int shadow)
{
    for (int shared = 0; shared <= 1; shared++) {
        for (int i = 0; i < s->count; i++) {
            rl_outcome *o = s->outcomes[i];

            if (o->source == RL_SOURCE_REDIS && !o->exempt && o->shadow == shadow
                && o->rule->is_shared == shared)
                add_ask(s, o);
        }
    }
}

static int64_t share(int64_t n, int64_t nodes)
{
    return (n + nodes - 1) / nodes;
}

/* Charges an outcome's state, as the count itself was charged, and keeps what that meant. */
static void mark_charged(rl_outcome *o)
{
    o->charged = 1;
    o->position = rl_limiter_position(&o->limit, &o->state, o->now);
    o->hold_ms = o->shadow ? 0 : rl_limiter_hold(&o->limit, &o->state, o->cost);
    rl_limiter_charge(&o->limit, &o->state, o->cost);
}

/* What Redis holds for an identity in place of the rule's quota. */
static void take_override(step *s, rl_outcome *o, rl_override override)
{
    request_rec *r = s->r;

    o->exempt = override == RL_OVERRIDE_UNLIMITED;
    if (override == RL_OVERRIDE_GARBAGE)
        rl_complain(r, s->tiers->local,
                    apr_pstrcat(r->pool, "the override of rule=", o->rule->name, " for identity=",
                                rl_decide_who(s->chain, o), " is neither a quota, nor a tier of the "
                                "rule, nor unlimited: it is ignored", NULL));
}

/* Takes over what Redis reported of one rule. */
static void settle_asked(step *s, rl_outcome *o, const rl_ask *ask, int all)
{
    int64_t received_ms = rl_local_clock();

    take_override(s, o, ask->override);
    if (o->exempt)
        return;
    o->now = ask->now;
    o->lag_ms = 0;
    o->state = ask->state;
    judge(o);
    if (s->look)
        return;
    if (o->denies && rl_limiter_blocks(&o->limit, &o->state, o->now, o->cost))
        o->state.blocked_until = o->now + ticks(o, o->limit.block_ms);
    else if (o->shadow ? !o->denies : all)
        mark_charged(o);
    rl_local_remember(s->tiers->local, o->key, &o->limit, ask->override == RL_OVERRIDE_QUOTA,
                      &o->state, o->now, s->host_ms, received_ms);
}

/* What Redis last said of the counter: this host's share of it, as far as it still holds. */
static rl_state *seed_of(step *s, const rl_outcome *o)
{
    int64_t nodes = s->tiers->settings->nodes;
    rl_state *seed = apr_pcalloc(s->r->pool, sizeof(*seed));

    if (rl_limiter_is_bucket(o->limit.algorithm)) {
        seed->at = o->state.at;
        seed->level = share(o->state.level, nodes);
    }
    else if (o->limit.algorithm == RL_SLIDING_LOG) {
        seed->index = o->now / o->limit.window_ms;
        seed->cur = share(o->state.used, nodes);
    }
    else {
        seed->index = o->state.index;
        seed->prev = share(o->state.prev, nodes);
        seed->cur = share(o->state.cur, nodes);
    }
    return seed;
}

/*
 * Turns to a count of this host, which starts from what Redis last said. A log is too long for that:
 * a sliding window stands in for it.
 */
static void count_here(step *s, rl_outcome *o)
{
    int64_t nodes = s->tiers->settings->nodes;

    o->kind = RL_LOCAL_FALLBACK;
    o->key = key_of(s, o);
    o->seed = o->now ? seed_of(s, o) : NULL;
    if (o->limit.algorithm == RL_SLIDING_LOG)
        o->limit.algorithm = RL_SLIDING_WINDOW;
    o->limit.quota = share(o->limit.quota, nodes);
    o->limit.burst = share(o->limit.burst, nodes);
    o->now = ticks(o, rl_local_now(s->tiers->local, RL_CLOCK_REDIS, s->host_ms));
    o->lag_ms = 0;
    rl_local_peek(s->tiers->local, o->key, &o->limit, o->seed, &o->now, &o->state);
    judge(o);
    if (o->denies && !s->look)
        rl_local_block(s->tiers->local, o->key, &o->limit, o->cost, s->host_ms, o->now, &o->state);
}

/*
 * Each rule that Redis should have decided is now decided as on-failure says; but a denial that
 * was only to be renewed stands to its own end.
 */
static void fall_back(step *s)
{
    s->chain->fallback = 1;
    for (int i = 0; i < s->ask_count; i++) {
        rl_outcome *o = s->asked[i];
        rl_on_failure on_failure = o->rule->on_failure ? o->rule->on_failure
                                                       : s->tiers->settings->on_failure;

        o->redis_key = NULL;
        if (o->renews) {
            deny_from_memory(o);
            continue;
        }
        o->source = RL_SOURCE_FALLBACK;
        if (on_failure == RL_FAIL_LOCAL)
            count_here(s, o);
        else
            o->open = 1;
        o->closes = on_failure == RL_FAIL_CLOSED && !o->shadow;
        if (o->closes)
            s->chain->closed = o;
    }
}

/* Asks, within what the chain may still spend on Redis. */
static rl_failure ask_in_time(step *s, int *all)
{
    int64_t began_us = rl_link_clock(), waited_us;
    int64_t left_us = s->tiers->settings->timeout_ms * 1000 - s->chain->waited_us;
    rl_failure failure = RL_FAILED_LATE;

    if (left_us > 0)
        failure = rl_client_decide(s->tiers->client, s->asks, s->ask_count, s->look,
                                   began_us + left_us, all);
    waited_us = rl_link_clock() - began_us;
    s->chain->waited_us += waited_us;
    rl_stats_count_redis(s->tiers->stats, failure, waited_us);
    return failure;
}

static void ask_redis(step *s)
{
    int all = 0;

    s->ask_count = 0;
    if (!s->tiers->client)
        return;
    add_asks(s, 0);
    add_asks(s, 1);
    if (s->ask_count == 0)
        return;
    if (ask_in_time(s, &all) != RL_ANSWERED) {
        fall_back(s);
        return;
    }
    for (int i = 0; i < s->ask_count; i++)
        settle_asked(s, s->asked[i], &s->asks[i], all);
}

/* --- Counts of this host ------------------------------------------------------------------ */

/* Charges those that are counted here; one that another request has just filled up denies. */
static void charge_host(step *s, int shadow)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->kind == RL_LOCAL_SNAPSHOT || o->exempt || o->open || o->denies
            || o->shadow != shadow)
            continue;
        if (o->kind == RL_LOCAL_COUNT)
            o->now = ticks(o, rl_local_now(s->tiers->local, RL_CLOCK_HOST, s->host_ms));
        o->denies = !rl_local_charge(s->tiers->local, o->key, &o->limit, o->cost, o->seed,
                                     s->host_ms, &o->now, &o->state);
        if (!o->denies)
            mark_charged(o);
        else if (!shadow)
            return;
    }
}

/* --- Giving back -------------------------------------------------------------------------- */

/* Takes back, on this host, what an outcome was charged or has pending. */
static void give_back_here(step *s, rl_outcome *o)
{
    rl_local *local = s->tiers->local;

    if (o->limit.on_response)
        rl_local_settle(local, o->key, &o->limit, o->position, o->cost, 0, s->host_ms, o->now);
    else
        rl_local_give_back(local, o->key, &o->limit, o->position, o->cost);
}

/* Takes it back from the state that the response shows. */
static void unmark_charged(rl_outcome *o)
{
    o->charged = 0;
    o->hold_ms = 0;
    if (o->limit.on_response)
        o->state.pending.cur -= o->cost;
    else if (o->limit.algorithm == RL_SLIDING_LOG)
        o->state.used -= o->cost;
    else
        rl_limiter_give_back(&o->limit, &o->state, o->position, o->cost);
}

/* Takes back what live rules were charged in this step and in earlier ones of the chain. */
static void give_back(step *s)
{
    s->ask_count = 0;
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        if (!o->charged || o->shadow)
            continue;
        unmark_charged(o);
        if (o->redis_key && s->ask_count < RL_ASKS_MAX) {
            begin_ask(s, o, o->limit.on_response ? RL_ASK_SETTLE : RL_ASK_GIVE_BACK);
            rl_local_forget(s->tiers->local, o->key);
        }
        else {
            give_back_here(s, o);
        }
    }
    if (s->ask_count)
        rl_client_undo(s->tiers->client, s->asks, s->ask_count);
}

/* --- The response ------------------------------------------------------------------------- */

static void settle(step *s, rl_outcome *o, int status)
{
    int charged = rl_rule_charges_on(o->rule, status);

    o->charged = 0;
    if (!o->redis_key)
        rl_local_settle(s->tiers->local, o->key, &o->limit, o->position, o->cost, charged,
                        s->host_ms, ticks(o, rl_local_now(s->tiers->local,
                                                          o->kind == RL_LOCAL_COUNT
                                                              ? RL_CLOCK_HOST : RL_CLOCK_REDIS,
                                                          s->host_ms)));
    else if (s->ask_count < RL_ASKS_MAX)
        begin_ask(s, o, charged ? RL_ASK_SETTLE_CHARGED : RL_ASK_SETTLE);
}

void rl_decide_settle(request_rec *r, const rl_tiers *tiers)
{
    rl_chain *chain;
    step s;

    while (r->next)
        r = r->next;
    chain = rl_decide_chain(r);
    if (!chain || !chain->on_response)
        return;
    s.r = r;
    s.tiers = tiers;
    s.chain = chain;
    s.ask_count = 0;
    s.host_ms = rl_local_clock();
    for (rl_outcome *o = chain->first; o; o = o->next) {
        if (o->charged && o->limit.on_response)
            settle(&s, o, r->status);
    }
    if (s.ask_count)
        rl_client_undo(tiers->client, s.asks, s.ask_count);
}

/* --- Holding ------------------------------------------------------------------------------ */

/* Takes a place among the held; where there is none, no rule may hold the request. */
static void reserve_hold(step *s)
{
    int percent = s->tiers->settings->delay_workers;
    int most = rl_load_workers() * percent / 100;

    s->hold.end = -1;
    if (percent > 0 && most == 0)
        most = 1;
    if (s->delay_ms == 0
        || rl_held_take(s->tiers->held, s->host_ms, s->delay_ms, most, &s->hold))
        return;
    for (int i = 0; i < s->count; i++)
        s->outcomes[i]->limit.delay_ms = 0;
}

/* Holds an admitted request for as long as a leaky bucket said. */
static void hold(step *s, int refused)
{
    int64_t hold_ms = 0;

    if (s->delay_ms == 0)
        return;
    for (int i = 0; i < s->count && !refused; i++) {
        if (s->outcomes[i]->hold_ms > hold_ms)
            hold_ms = s->outcomes[i]->hold_ms;
    }
    rl_held_shorten(s->tiers->held, s->host_ms, hold_ms, &s->hold);
    if (hold_ms > 0)
        apr_sleep(apr_time_from_msec(hold_ms));
}

/* --- The verdict -------------------------------------------------------------------------- */

int64_t rl_decide_retry_after(const rl_outcome *o)
{
    int64_t cost = o->cost > 0 ? o->cost : 1; /* of the next try */
    int64_t wait_ms = rl_limiter_retry_after(&o->limit, &o->state, o->now, cost);

    return wait_ms == RL_NEVER ? RL_NEVER : wait_ms + o->lag_ms;
}

static int waits_longer(const rl_outcome *o, const rl_outcome *than)
{
    int64_t a = rl_decide_retry_after(o), b;

    if (!than || a == RL_NEVER)
        return 1;
    b = rl_decide_retry_after(than);
    return b != RL_NEVER && a > b;
}

static void count_outcome(const step *s, const rl_outcome *o, int refused)
{
    int unseen = o->kind == RL_LOCAL_SNAPSHOT && !o->redis_key && !o->open;
    rl_verdict verdict = RL_PASSED;

    if (o->denies || o->closes)
        verdict = o->shadow ? RL_SHADOWED : RL_DENIED;
    else if (o->exempt)
        verdict = RL_EXEMPT;
    else if (unseen || (refused && !o->shadow))
        verdict = RL_VETOED;
    rl_stats_count(s->tiers->stats, o->rule->row, verdict, o->source);
}

static int conclude(step *s)
{
    rl_chain *chain = s->chain;
    int refused = denied(s) || chain->closed;

    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->kind == RL_LOCAL_SNAPSHOT && !o->redis_key)
            o->source = RL_SOURCE_LOCAL; /* memory was enough */
        chain->on_response |= o->charged && o->limit.on_response;
        count_outcome(s, o, refused);
        if (!o->denies)
            continue;
        if (o->shadow)
            chain->shadow = o;
        else if (waits_longer(o, chain->denial))
            chain->denial = o;
        rl_violation(s->r, s->tiers, o);
    }
    if (refused)
        give_back(s);
    hold(s, refused);
    if (chain->denial)
        return chain->denial->rule->status;
    return chain->closed ? HTTP_SERVICE_UNAVAILABLE : OK;
}

/* Subrequests, and the error document of a request: what led to them was decided already. */
static int is_aftermath(const request_rec *r)
{
    return r->main || (r->prev && r->prev->status != HTTP_OK);
}

/* Decides over the rules that were collected. */
static int decide_step(step *s)
{
    s->host_ms = rl_local_clock();
    reserve_hold(s);
    look_at_memory(s);
    if (!denied(s))
        ask_redis(s);
    if (!denied(s) && !s->chain->closed)
        charge_host(s, 0);
    if (s->shadows)
        charge_host(s, 1);
    return conclude(s);
}

int rl_decide(request_rec *r, const rl_tiers *tiers, rl_phase phase)
{
    const rl_section *section = rl_config_of(r);
    int verdict = DECLINED;
    step s;

    if (!section || section->rule_count == 0 || section->engine == RL_ENGINE_OFF
        || is_aftermath(r))
        return DECLINED;
    s.r = r;
    s.tiers = tiers;
    s.look = 0;
    s.chain = chain_of(r);
    face(s.chain, r, tiers, section);
    /* One step is enough for any sane section; the others take more. */
    do {
        if (collect(&s, section, phase))
            verdict = decide_step(&s);
    } while (s.count == RL_ASKS_MAX && verdict == OK);
    s.chain->section = section;
    s.chain->uri = r->uri;
    s.chain->phase = phase;
    return verdict;
}

rl_chain *rl_decide_look(request_rec *r, const rl_tiers *tiers)
{
    const rl_section *section = rl_config_of(r);
    step s;

    if (!section || section->rule_count == 0 || section->engine == RL_ENGINE_OFF)
        return NULL;
    s.r = r;
    s.tiers = tiers;
    s.look = 1;
    s.chain = make_chain(r);
    face(s.chain, r, tiers, section);
    do {
        if (!collect(&s, section, RL_PHASE_AUTH))
            break;
        s.host_ms = rl_local_clock();
        look_at_memory(&s);
        ask_redis(&s);
    } while (s.count == RL_ASKS_MAX);
    s.chain->section = section;
    return s.chain->first ? s.chain : NULL;
}
