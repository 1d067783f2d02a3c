/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ask_redis: the part of a decision that Redis makes, and what replaces it without an answer.
 *
 * One call decides all outcomes of a step that are Redis's, and charges all of the live ones or
 * none. Each state that Redis reports is stored in the local tier, so that memory can deny later
 * requests without a call.
 */
#include <string.h>

#include <apr_strings.h>

#include "decide/step.h"
#include "httpd/log_once.h"
#include "redis/link.h"

static const char *redis_key_of(const rl_step *s, rl_outcome *o)
{
    const char *scope = rl_config_settings(s->r->server)->scope;
    const char *identity = rl_chain_identity_text(s->chain, o);

    if (!scope)
        return apr_pstrcat(s->r->pool, s->context->settings->prefix, ":{", identity, "}",
                           o->rule->key_suffix, NULL);
    return apr_pstrcat(s->r->pool, s->context->settings->prefix, ":{", identity, "}:", scope, "/",
                       o->rule->key_suffix + 1, NULL);
}

rl_ask *rl_step_ask_about(rl_step *s, rl_outcome *o)
{
    rl_ask *ask;

    o->redis_key = redis_key_of(s, o);
    if (o->revalidates) { /* not with the override that memory has */
        o->snapshot_limit = apr_pmemdup(s->r->pool, &o->limit, sizeof(o->limit));
        rl_evaluation_limit(&s->chain->evaluation, o->rule, &o->limit);
        o->limit.delay_ms = s->no_place ? 0 : o->limit.delay_ms;
    }
    ask = rl_step_add_ask(s, o, RL_ASK_DECIDE);
    ask->shadow = o->shadow;
    if (s->context->settings->overrides) {
        ask->override_key = apr_pstrcat(s->r->pool, s->context->settings->prefix, ":override:{",
                                        rl_chain_identity_text(s->chain, o), "}", NULL);
        ask->tiers = o->rule->tiers_text;
    }
    return ask;
}

/*
 * Puts keys of single clients before keys that many share: a cluster is asked slot by slot, so a
 * client that exceeds its own limit never charges a shared key.
 */
static void add_asks(rl_step *s, int shadow)
{
    for (int shared = 0; shared <= 1; shared++) {
        for (int i = 0; i < s->count; i++) {
            rl_outcome *o = s->outcomes[i];

            if (o->source == RL_SOURCE_REDIS && !o->exempt && o->shadow == shadow
                && o->rule->is_shared == shared)
                rl_step_want_lease(s, o, rl_step_ask_about(s, o));
        }
    }
}

static int64_t share(int64_t n, int64_t nodes)
{
    return (n + nodes - 1) / nodes;
}

/* Logs why an override is ignored. A missing ACL right concerns all overrides, so it names none. */
static void log_override(rl_step *s, rl_outcome *o, rl_override override)
{
    static const char *const why[RL_OVERRIDES] = {
        [RL_OVERRIDE_GARBAGE] = " is neither a quota, nor a tier of the rule, nor unlimited: it is "
                                "ignored",
        [RL_OVERRIDE_WRONG_TYPE] = " is ignored: its key is not a hash; delete the key, then set "
                                   "the override with HSET"};
    apr_pool_t *pool = s->r->pool;

    if (override == RL_OVERRIDE_REFUSED)
        rl_log_once(s->r, s->context->local, "overrides are ignored: Redis refuses to read them; "
                    "allow it with ACL SETUSER USER +hget");
    else if (why[override])
        rl_log_once(s->r, s->context->local,
                    apr_pstrcat(pool, "the override of rule=", o->rule->name, " for identity=",
                                rl_chain_identity_text(s->chain, o), why[override], NULL));
}

/* Takes over what Redis reported of one rule. */
static void settle_asked(rl_step *s, rl_outcome *o, const rl_ask *ask, int all)
{
    rl_local_reply reply = {.overridden = ask->override == RL_OVERRIDE_QUOTA,
                            .sent_ms = s->host_ms, .received_ms = rl_local_clock()};
    rl_state with_lease; /* memory counts what is leased as charged, like Redis */

    log_override(s, o, ask->override);
    o->exempt = ask->override == RL_OVERRIDE_UNLIMITED;
    if (o->exempt) {
        rl_local_snapshot_drop(s->context->local, o->key); /* a denial from before the override */
        return;
    }
    o->view.now = ask->now;
    o->view.lag_ms = 0;
    o->view.state = ask->state;
    rl_step_judge(o);
    if (s->peek)
        return;
    if (o->denies && rl_limiter_blocks(&o->limit, &o->view.state, o->view.now, o->cost))
        o->view.state.blocked_until = o->view.now + rl_step_ticks(o, o->limit.block_ms);
    else if (o->shadow ? !o->denies : all)
        rl_step_mark_charged(o);
    reply.state = &o->view.state;
    reply.redis_now = o->view.now;
    if (ask->wanted) {
        rl_step_take_lease(s, o, ask, reply.received_ms);
        with_lease = o->view.state;
        rl_limiter_charge(&o->limit, &with_lease, o->charged ? ask->leased : 0);
        reply.state = &with_lease;
    }
    rl_local_snapshot_store(s->context->local, o->key, &o->limit, &reply);
}

/* This host's share of what Redis last reported of the counter. */
static rl_state *seed_of(rl_step *s, const rl_outcome *o)
{
    int64_t nodes = s->context->settings->nodes;
    rl_state *seed = apr_pcalloc(s->r->pool, sizeof(*seed));

    if (rl_limiter_is_bucket(&o->limit)) {
        seed->at = o->view.state.at;
        seed->level = share(o->view.state.level, nodes);
    }
    else if (rl_limiter_is_log(&o->limit)) {
        seed->index = o->view.now / o->limit.window_ms;
        seed->cur = share(o->view.state.used, nodes);
    }
    else {
        seed->index = o->view.state.index;
        seed->prev = share(o->view.state.prev, nodes);
        seed->cur = share(o->view.state.cur, nodes);
    }
    return seed;
}

/*
 * Decides by a count of this host that starts from what Redis last reported. A sliding log is too
 * long for the local tier: a sliding window replaces it.
 */
static void count_here(rl_step *s, rl_outcome *o)
{
    int64_t nodes = s->context->settings->nodes;

    o->kind = RL_LOCAL_FALLBACK;
    o->key = rl_step_key(s, o);
    o->view.seed = o->view.now ? seed_of(s, o) : NULL;
    o->limit.algorithm = rl_algorithms[o->limit.algorithm].local;
    o->limit.quota = share(o->limit.quota, nodes);
    o->limit.burst = share(o->limit.burst, nodes);
    o->view.now = rl_step_ticks(o, rl_local_now(s->context->local, RL_CLOCK_REDIS, s->host_ms));
    o->view.lag_ms = 0;
    rl_local_peek(s->context->local, o->key, &o->limit, &o->view);
    rl_step_judge(o);
    if (o->denies && !s->peek) { /* Redis's clock may have stepped since the last fallback */
        rl_local_anchor(s->context->local, o->key, &o->limit, o->view.now);
        rl_local_block(s->context->local, o->key, &o->limit, o->cost, s->host_ms, &o->view);
    }
}

/*
 * Decides by on-failure= what Redis should have decided. A denial that was to be revalidated stays
 * in force, under the limit that it was made with.
 */
static void fall_back(rl_step *s, rl_outcome *o)
{
    rl_on_failure on_failure = o->rule->on_failure ? o->rule->on_failure
                                                   : s->context->settings->on_failure;

    s->chain->fallback = 1;
    o->redis_key = NULL;
    if (o->revalidates && !o->dry) {
        o->limit = *o->snapshot_limit;
        rl_step_deny_from_memory(o);
        return;
    }
    o->source = RL_SOURCE_FALLBACK;
    if (on_failure == RL_FAIL_LOCAL)
        count_here(s, o);
    else
        o->uncounted = 1;
    o->fail_closed = on_failure == RL_FAIL_CLOSED && !o->shadow;
    if (o->fail_closed)
        s->chain->closed = o;
}

static void ask_in_time(rl_step *s, int *all)
{
    int64_t began_us = rl_link_clock(), left_us = rl_step_time_left_us(s), waited_us;
    rl_failure failure = RL_FAILED_LATE;

    if (left_us > 0)
        failure = rl_client_decide(s->context->client, s->asks, s->ask_count, s->peek,
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
    if (!rl_step_is_denied(s) || s->peek)
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
