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
 * rule's address: merging sections hands rules on, it never copies them.
 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_log.h>
#include <http_request.h>

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
    int shadows; /* among them */
    int64_t host_ms;
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

static rl_chain *chain_of(request_rec *r)
{
    rl_chain *chain = rl_decide_chain(r);

    if (!chain) {
        chain = apr_pcalloc(r->pool, sizeof(*chain));
        chain->end = &chain->first;
        ap_set_module_config(r->request_config, &ratelimit_redis_module, chain);
    }
    return chain;
}

static int was_evaluated(const rl_chain *chain, const rl_rule *rule)
{
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->rule == rule)
            return 1;
    }
    return 0;
}

/* --- Preparing ---------------------------------------------------------------------------- */

static uint64_t key_of(const step *s, const rl_outcome *o)
{
    return rl_local_key(s->tiers->local, o->kind, o->rule->counter, o->identity.raw,
                        o->identity.length);
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

static void prepare(step *s, const rl_rule *rule, int shadow)
{
    rl_outcome *o = apr_pcalloc(s->r->pool, sizeof(*o));

    o->rule = rule;
    o->limit = rule->limit;
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
    rl_identity_find(s->r, rule, &s->chain->options, &o->identity);
    o->key = key_of(s, o);
    o->cost = is_paid(s->chain, o->key) ? 0 : 1;
    *s->chain->end = o;
    s->chain->end = &o->next;
    s->outcomes[s->count++] = o;
}

/* Collects the rules to decide over now, as many as fit in a step; returns how many. */
static int collect(step *s, const rl_section *section, rl_phase phase)
{
    s->count = s->shadows = 0;
    for (int i = 0; i < section->rule_count && s->count < RL_ASKS_MAX; i++) {
        const rl_rule *rule = section->rules[i];

        if (!rule->off && rule->phase <= phase && !was_evaluated(s->chain, rule))
            prepare(s, rule, section->engine == RL_ENGINE_SHADOW);
    }
    return s->count;
}

/* --- Memory ------------------------------------------------------------------------------- */

static void deny_from_memory(rl_outcome *o)
{
    o->source = RL_SOURCE_LOCAL;
    o->denies = 1;
}

static void look_at_memory(step *s, rl_outcome *o)
{
    rl_local *local = s->tiers->local;

    if (o->kind == RL_LOCAL_COUNT) {
        o->now = rl_local_now(local, RL_CLOCK_HOST, s->host_ms);
        rl_local_peek(local, o->key, &o->limit, NULL, &o->now, &o->state);
        o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
    }
    else {
        rl_recall recall = rl_local_recall(local, o->key, &o->limit, o->cost, s->host_ms, &o->now,
                                           &o->state, &o->lag_ms);

        o->renews = recall == RL_RECALL_ASK;
        if (recall == RL_RECALL_DENY)
            deny_from_memory(o);
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

static void add_asks(step *s, int shadow)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];
        rl_ask *ask = &s->asks[s->ask_count];

        if (o->source != RL_SOURCE_REDIS || o->shadow != shadow)
            continue;
        o->redis_key = apr_pstrcat(s->r->pool, s->tiers->settings->prefix, ":{",
                                   rl_identity_text(s->r, &s->chain->options, &o->identity), "}",
                                   o->rule->key_suffix, NULL);
        ask->key = o->redis_key;
        ask->limit = &o->limit;
        ask->cost = o->cost;
        ask->shadow = shadow;
        s->asked[s->ask_count++] = o;
    }
}

static int64_t share(int64_t n, int64_t nodes)
{
    return (n + nodes - 1) / nodes;
}

/* Takes over what Redis reported of one rule. */
static void settle_asked(step *s, rl_outcome *o, const rl_ask *ask, int all)
{
    int64_t received_ms = rl_local_clock();

    o->now = ask->now;
    o->lag_ms = 0;
    o->state = ask->state;
    o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
    o->charged = o->shadow ? !o->denies : all;
    if (o->charged)
        o->state.cur += o->cost;
    rl_local_remember(s->tiers->local, o->key, &o->limit, &o->state, o->now, s->host_ms,
                      received_ms);
}

/* What Redis last said of the counter: this host's share of it, as far as it still holds. */
static rl_state *seed_of(step *s, const rl_outcome *o, int64_t now)
{
    int64_t nodes = s->tiers->settings->nodes;
    rl_state *seed = apr_pmemdup(s->r->pool, &o->state, sizeof(*seed));

    seed->prev = share(seed->prev, nodes);
    seed->cur = share(seed->cur, nodes);
    rl_limiter_roll(&o->limit, seed, now);
    return seed;
}

/* Turns to a count of this host, which starts from what Redis last said. */
static void count_here(step *s, rl_outcome *o)
{
    int64_t now = rl_local_now(s->tiers->local, RL_CLOCK_REDIS, s->host_ms);

    o->kind = RL_LOCAL_FALLBACK;
    o->key = key_of(s, o);
    o->limit.quota = share(o->limit.quota, s->tiers->settings->nodes);
    o->seed = o->now ? seed_of(s, o, now) : NULL;
    o->now = now;
    o->lag_ms = 0;
    rl_local_peek(s->tiers->local, o->key, &o->limit, o->seed, &o->now, &o->state);
    o->denies = !rl_limiter_admits(&o->limit, &o->state, o->now, o->cost);
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
        failure = rl_client_decide(s->tiers->client, s->asks, s->ask_count, began_us + left_us, all);
    waited_us = rl_link_clock() - began_us;
    s->chain->waited_us += waited_us;
    rl_stats_count_redis(s->tiers->stats, failure, waited_us);
    return failure;
}

static void ask_redis(step *s)
{
    int all = 0;

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

        if (o->kind == RL_LOCAL_SNAPSHOT || o->open || o->denies || o->shadow != shadow)
            continue;
        if (o->kind == RL_LOCAL_COUNT)
            o->now = rl_local_now(s->tiers->local, RL_CLOCK_HOST, s->host_ms);
        o->charged = rl_local_charge(s->tiers->local, o->key, &o->limit, o->cost, o->seed,
                                     s->host_ms, &o->now, &o->state);
        o->denies = !o->charged;
        if (o->denies && !shadow)
            return;
    }
}

/* --- Giving back -------------------------------------------------------------------------- */

/* Takes back what live rules were charged in this step and in earlier ones of the chain. */
static void give_back(step *s)
{
    s->ask_count = 0;
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        if (!o->charged || o->shadow)
            continue;
        o->charged = 0;
        o->state.cur -= o->cost;
        if (o->redis_key && s->ask_count < RL_ASKS_MAX) {
            rl_ask *ask = &s->asks[s->ask_count++];

            ask->key = o->redis_key;
            ask->limit = &o->limit;
            ask->cost = o->cost;
            ask->state = o->state;
            rl_local_forget(s->tiers->local, o->key);
        }
        else {
            rl_local_give_back(s->tiers->local, o->key, o->state.index, o->cost);
        }
    }
    if (s->ask_count)
        rl_client_give_back(s->tiers->client, s->asks, s->ask_count);
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
    rl_stats *stats = s->tiers->stats;
    int unseen = o->kind == RL_LOCAL_SNAPSHOT && !o->redis_key && !o->open;

    if (o->denies || o->closes)
        rl_stats_count(stats, o->rule->row, o->shadow ? RL_SHADOWED : RL_DENIED, o->source);
    else if (unseen || (refused && !o->shadow))
        rl_stats_count(stats, o->rule->row, RL_VETOED, o->source);
    else
        rl_stats_count(stats, o->rule->row, RL_PASSED, o->source);
}

static int conclude(step *s)
{
    rl_chain *chain = s->chain;
    int refused = denied(s) || chain->closed;

    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];

        if (o->kind == RL_LOCAL_SNAPSHOT && !o->redis_key)
            o->source = RL_SOURCE_LOCAL; /* memory was enough */
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
    s->ask_count = 0;
    s->host_ms = rl_local_clock();
    /* A count of this host that stands alone is looked at when it is charged. */
    for (int i = 0; i < s->count && !(s->count == 1 && s->outcomes[0]->kind == RL_LOCAL_COUNT); i++)
        look_at_memory(s, s->outcomes[i]);
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
    s.chain = chain_of(r);
    s.chain->section = section;
    s.chain->options.normalize = rl_config_normalize(section);
    s.chain->options.ipv6_prefix = tiers->settings->ipv6_prefix;
    /* One step is enough for any sane section; the others take more. */
    do {
        if (collect(&s, section, phase))
            verdict = decide_step(&s);
    } while (s.count == RL_ASKS_MAX && verdict == OK);
    return verdict;
}
