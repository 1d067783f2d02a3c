/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide_redis: the part of a decision that Redis has.
 *
 * One call for all outcomes of a step that Redis decides; what to do where it does not answer; and
 * what is given back, or settled by the response, in Redis and on this host alike.
 */
#include <string.h>

#include <apr_strings.h>

#include "decide/step.h"
#include "httpd/log_once.h"
#include "redis/link.h"

/* --- Asking ------------------------------------------------------------------------------- */

static const char *redis_key_of(const rl_step *s, rl_outcome *o)
{
    const char *scope = rl_config_settings(s->r->server)->scope;
    const char *identity = rl_decide_identity_text(s->chain, o);

    if (!scope)
        return apr_pstrcat(s->r->pool, s->context->settings->prefix, ":{", identity, "}",
                           o->rule->key_suffix, NULL);
    return apr_pstrcat(s->r->pool, s->context->settings->prefix, ":{", identity, "}:", scope, "/",
                       o->rule->key_suffix + 1, NULL);
}

/* An ask about an outcome, with nothing in it that only a decision needs. */
static rl_ask *begin_ask(rl_step *s, rl_outcome *o, rl_ask_kind kind)
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

static void add_ask(rl_step *s, rl_outcome *o)
{
    rl_ask *ask;

    o->redis_key = redis_key_of(s, o);
    if (o->renews) { /* without the override that memory knew */
        o->remembered = apr_pmemdup(s->r->pool, &o->limit, sizeof(o->limit));
        rl_terms_limit(&s->chain->terms, o->rule, &o->limit);
        o->limit.delay_ms = s->no_place ? 0 : o->limit.delay_ms;
    }
    ask = begin_ask(s, o, RL_ASK_DECIDE);
    ask->shadow = o->shadow;
    if (s->context->settings->overrides) {
        ask->override_key = apr_pstrcat(s->r->pool, s->context->settings->prefix, ":override:{",
                                        rl_decide_identity_text(s->chain, o), "}", NULL);
        ask->tiers = o->rule->tiers_text;
    }
}

/*
 * Keys of single clients before those that many share: in a cluster, what denies one stops there.
 */
static void add_asks(rl_step *s, int shadow)
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

/* Says why an override is ignored; whom Redis refuses to read one, it refuses all. */
static void complain_of_override(rl_step *s, rl_outcome *o, rl_override override)
{
    static const char *const why[RL_OVERRIDES] = {
        [RL_OVERRIDE_GARBAGE] = " is neither a quota, nor a tier of the rule, nor unlimited: it is "
                                "ignored",
        [RL_OVERRIDE_WRONG_TYPE] = " is ignored: its key is not a hash; delete the key, then set the "
                                   "override with HSET"};
    apr_pool_t *pool = s->r->pool;

    if (override == RL_OVERRIDE_REFUSED)
        rl_complain(s->r, s->context->local, "overrides are ignored: Redis refuses to read them; "
                    "allow it with ACL SETUSER USER +hget");
    else if (why[override])
        rl_complain(s->r, s->context->local,
                    apr_pstrcat(pool, "the override of rule=", o->rule->name, " for identity=",
                                rl_decide_identity_text(s->chain, o), why[override], NULL));
}

/* Takes over what Redis reported of one rule. */
static void settle_asked(rl_step *s, rl_outcome *o, const rl_ask *ask, int all)
{
    int64_t received_ms = rl_local_clock();

    complain_of_override(s, o, ask->override);
    o->exempt = ask->override == RL_OVERRIDE_UNLIMITED;
    if (o->exempt) {
        rl_local_forget(s->context->local, o->key); /* it may deny from before the override */
        return;
    }
    o->now = ask->now;
    o->lag_ms = 0;
    o->state = ask->state;
    rl_step_judge(o);
    if (s->look)
        return;
    if (o->denies && rl_limiter_blocks(&o->limit, &o->state, o->now, o->cost))
        o->state.blocked_until = o->now + rl_step_ticks(o, o->limit.block_ms);
    else if (o->shadow ? !o->denies : all)
        rl_step_mark_charged(o);
    rl_local_remember(s->context->local, o->key, &o->limit, ask->override == RL_OVERRIDE_QUOTA,
                      &o->state, o->now, s->host_ms, received_ms);
}

/* What Redis last said of the counter: this host's share of it, as far as it still holds. */
static rl_state *seed_of(rl_step *s, const rl_outcome *o)
{
    int64_t nodes = s->context->settings->nodes;
    rl_state *seed = apr_pcalloc(s->r->pool, sizeof(*seed));

    if (rl_limiter_is_bucket(&o->limit)) {
        seed->at = o->state.at;
        seed->level = share(o->state.level, nodes);
    }
    else if (rl_limiter_is_log(&o->limit)) {
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
 * Turns to a count of this host, which starts from what Redis last said. A log is too long for
 * that: a sliding window stands in for it.
 */
static void count_here(rl_step *s, rl_outcome *o)
{
    int64_t nodes = s->context->settings->nodes;

    o->kind = RL_LOCAL_FALLBACK;
    o->key = rl_step_key(s, o);
    o->seed = o->now ? seed_of(s, o) : NULL;
    o->limit.algorithm = rl_algorithms[o->limit.algorithm].local;
    o->limit.quota = share(o->limit.quota, nodes);
    o->limit.burst = share(o->limit.burst, nodes);
    o->now = rl_step_ticks(o, rl_local_now(s->context->local, RL_CLOCK_REDIS, s->host_ms));
    o->lag_ms = 0;
    rl_local_peek(s->context->local, o->key, &o->limit, o->seed, &o->now, &o->state);
    rl_step_judge(o);
    if (o->denies && !s->look) { /* Redis's clock may have stepped since the last fallback */
        rl_local_anchor(s->context->local, o->key, &o->limit, o->now);
        rl_local_block(s->context->local, o->key, &o->limit, o->cost, s->host_ms, o->now, &o->state);
    }
}

/*
 * A rule that Redis should have decided is decided as on-failure says; but a denial that was only to
 * be renewed stands to its own end, under the limit that it was made with.
 */
static void fall_back(rl_step *s, rl_outcome *o)
{
    rl_on_failure on_failure = o->rule->on_failure ? o->rule->on_failure
                                                   : s->context->settings->on_failure;

    s->chain->fallback = 1;
    o->redis_key = NULL;
    if (o->renews) {
        o->limit = *o->remembered;
        rl_step_deny_from_memory(o);
        return;
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

/* What the chain may still spend on Redis. */
static int64_t time_left(const rl_step *s)
{
    return s->context->settings->timeout_ms * 1000 - s->chain->waited_us;
}

static void ask_in_time(rl_step *s, int *all)
{
    int64_t began_us = rl_link_clock(), left_us = time_left(s), waited_us;
    rl_failure failure = RL_FAILED_LATE;

    if (left_us > 0)
        failure = rl_client_decide(s->context->client, s->asks, s->ask_count, s->look,
                                   began_us + left_us, all);
    waited_us = rl_link_clock() - began_us;
    s->chain->waited_us += waited_us;
    rl_stats_count_redis(s->context->stats, failure, waited_us);
}

void rl_step_ask_redis(rl_step *s)
{
    int all = 0;

    s->ask_count = 0;
    if (!s->context->client)
        return;
    if (!rl_step_is_denied(s) || s->look)
        add_asks(s, 0);
    add_asks(s, 1);
    if (s->ask_count == 0)
        return;
    ask_in_time(s, &all);
    for (int i = 0; i < s->ask_count; i++) {
        if (s->asks[i].answered)
            settle_asked(s, s->asked[i], &s->asks[i], all);
        else
            fall_back(s, s->asked[i]);
    }
}

/* --- Keeping ------------------------------------------------------------------------------ */

/* What is pending under an outcome is known to this request alone from now on. */
static apr_status_t stop_keeping(void *outcome)
{
    rl_outcome *o = outcome;

    if (o->kept)
        o->position = rl_keeper_remove(o->kept);
    o->kept = NULL;
    return APR_SUCCESS;
}

/* To its log phase, as a rule. Where it has none it is not settled either, and becomes a charge. */
void rl_step_keep(rl_step *s)
{
    for (int i = 0; i < s->count; i++) {
        rl_outcome *o = s->outcomes[i];
        rl_keeper_units units = {.redis_key = o->redis_key, .key = o->key,
                                 .clock = rl_step_clock(o), .limit = o->limit,
                                 .slot = o->position, .cost = o->cost};

        if (!o->charged || !o->limit.on_response || o->cost == 0)
            continue;
        o->kept = rl_keeper_add(s->context->keeper, &units, s->host_ms);
        apr_pool_cleanup_register(s->r->pool, o, stop_keeping, apr_pool_cleanup_null);
    }
}

/* --- Giving back -------------------------------------------------------------------------- */

/* Takes back, on this host, what an outcome was charged or has pending. */
static void give_back_here(rl_step *s, rl_outcome *o)
{
    rl_local *local = s->context->local;

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
    else if (rl_limiter_is_log(&o->limit))
        o->state.used -= o->cost;
    else
        rl_limiter_give_back(&o->limit, &o->state, o->position, o->cost);
}

/* Sends what was collected, where more would not fit or no more comes. */
static void send_undo(rl_step *s, int most)
{
    int64_t began_us;

    if (s->ask_count == 0 || s->ask_count < most)
        return;
    began_us = rl_link_clock();
    rl_client_undo(s->context->client, s->asks, s->ask_count, began_us + time_left(s));
    s->chain->waited_us += rl_link_clock() - began_us;
    s->ask_count = 0;
}

/* One ask for each key in a call: a script reads all of its keys before it writes any. */
static void undo(rl_step *s, rl_outcome *o, rl_ask_kind kind)
{
    for (int i = 0; i < s->ask_count; i++) {
        if (s->asked[i]->counter == o->counter)
            send_undo(s, 1);
    }
    begin_ask(s, o, kind);
    send_undo(s, RL_ASKS_MAX);
}

void rl_step_give_back(rl_step *s)
{
    s->ask_count = 0;
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        if (!o->charged || o->shadow)
            continue;
        stop_keeping(o);
        unmark_charged(o);
        if (o->redis_key) {
            undo(s, o, o->limit.on_response ? RL_ASK_SETTLE : RL_ASK_GIVE_BACK);
            rl_local_forget(s->context->local, o->key);
        }
        else {
            give_back_here(s, o);
        }
    }
    send_undo(s, 1);
}

/* --- The response ------------------------------------------------------------------------- */

static void settle_here(rl_step *s, rl_outcome *o, int charged)
{
    int64_t now = rl_step_ticks(o, rl_local_now(s->context->local, rl_step_clock(o), s->host_ms));

    rl_local_settle(s->context->local, o->key, &o->limit, o->position, o->cost, charged, s->host_ms,
                    now);
}

void rl_step_settle(rl_step *s, int status)
{
    s->ask_count = 0;
    s->chain->waited_us = 0; /* the response has been sent: there is the full time again */
    for (rl_outcome *o = s->chain->first; o; o = o->next) {
        /* A denial of ours is no response that a shadow rule would have seen. */
        int charged = rl_rule_charges_on(o->rule, status) && !s->chain->denial && !s->chain->closed;

        if (!o->charged || !o->limit.on_response || o->cost == 0)
            continue;
        stop_keeping(o);
        o->charged = 0;
        if (o->position == RL_SLOT_GONE)
            continue;
        if (o->redis_key)
            undo(s, o, charged ? RL_ASK_SETTLE_CHARGED : RL_ASK_SETTLE);
        else
            settle_here(s, o, charged);
    }
    send_undo(s, 1);
}
