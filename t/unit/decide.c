/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide.lua, limiter.c and the definition in model.h must agree. A real Redis runs the scripts,
 * with its clock and its expiry replaced so that the test sets the time. Random steps mix
 * algorithms, costs, changing quotas, overrides, clock jumps both ways, several rules in one call,
 * shadow rules, blocks, charges on response, leases, peeks, give-backs, settlements, and prolonged
 * pending units. The test compares the verdict, the remaining units, the units leased, and the
 * times until a retry and until the whole quota is back.
 *
 * RL_STEPS is the number of steps, RL_SEED the seed. Skipped if there is no redis-server.
 */
#include "model.h"
#include "random.h"
#include "redis.h"
#include "redis/script.h"
#include "tap.h"

enum { COUNTERS = 60, RULES_MAX = 5, BATCH = 100 };

static rl_script_names names; /* of the scripts with our clock */

/* --- The scripts under a clock of ours --- */

static const char time_machine[] =
    "local real = redis\n"
    "local redis = {pcall = real.pcall, call = function(name, key, ttl, value)\n"
    "if name == 'TIME' then return real.call('MGET', 'clock:s', 'clock:us') end\n"
    "if name == 'PSETEX' then return real.call('SET', key, value) end\n"
    "if name == 'PEXPIRE' then return 1 end\n"
    "if value then return real.call(name, key, ttl, value) end\n"
    "if ttl then return real.call(name, key, ttl) end\n"
    "return real.call(name, key) end}\n";

static void load_scripts(void)
{
    static char source[65536];

    for (int i = 0; i < RL_SCRIPTS; i++) {
        redisReply *reply;

        snprintf(source, sizeof(source), "%s%s", time_machine, rl_script_sources[i]);
        reply = redisCommand(redis, "SCRIPT LOAD %s", source);
        snprintf(names.sha[i], sizeof(names.sha[i]), "%s", reply->str);
        freeReplyObject(reply);
    }
}

/* --- Counters --- */

typedef struct {
    model model;
    rl_state state; /* as limiter.c has it; not used for a log, which Redis sums up */
    char key[64], override_key[64];
    enum { PLAIN, BLOCKS, ON_RESPONSE } use;
    int64_t charged_at; /* the last position, for give-backs */
    int64_t charged;
    int64_t pending_period;
    int64_t pending;
} counter;

static counter counters[COUNTERS];
static int64_t clock_us;
static long waits_compared, anchors_denied, prolonged, leases, leases_denied;

static void make_counters(rng *r)
{
    static const rl_algorithm algorithms[] = {RL_SLIDING_WINDOW, RL_FIXED_WINDOW, RL_TOKEN_BUCKET,
                                              RL_LEAKY_BUCKET, RL_SLIDING_LOG};

    for (int i = 0; i < COUNTERS; i++) {
        counter *c = &counters[i];

        memset(c, 0, sizeof(*c));
        c->model.algorithm = algorithms[i % 5];
        c->use = i / 5 % 3;
        c->model.window_ms = rng_scaled(r, RL_WINDOW_MIN_MS, RL_WINDOW_MAX_MS);
        snprintf(c->key, sizeof(c->key), "rl:{ip:192.0.2.%d}:r", i);
        snprintf(c->override_key, sizeof(c->override_key), "rl:override:{ip:192.0.2.%d}", i);
    }
}

/* --- One call --- */

/* The expected result of one rule of a call. */
typedef struct {
    int64_t now;
    rl_state state;
    int64_t blocked_ms, period, pending;
    rl_override override;
    int64_t quota, burst;
    int64_t leased;
    int admits;
    /* by the definition; or NOT_LOOKED_FOR */
    int64_t remaining, retry_ms, reset_ms;
} expected;

#define NOT_LOOKED_FOR (RL_NEVER - 1)

/* A counter moved to the clock, as the definition and limiter.c have it. */
typedef struct {
    model model;
    rl_state state;
} moved_counter;

typedef struct {
    int is_undo, peek, n, all;
    rl_limit limits[RULES_MAX];
    rl_ask asks[RULES_MAX];
    expected want[RULES_MAX];
    int commands; /* sent before the script */
    long number;
} sent_call;

static void move_clock(rng *r, const counter *c)
{
    int64_t window_us = c->model.window_ms * 1000;

    switch (rng_next(r) % 24) {
    case 0:
        clock_us += rng_between(r, 0, 3 * window_us);
        break;
    case 1:
        clock_us -= rng_between(r, 0, window_us);
        break;
    case 2:
        clock_us -= rng_between(r, 0, 5 * window_us);
        break;
    case 3:
        clock_us = (clock_us / window_us + 1) * window_us;
        break;
    case 4:
        clock_us = (clock_us / window_us + 1) * window_us - 1;
        break;
    case 5:
        clock_us += rng_between(r, 0, 200000000);
        break;
    case 6:
        clock_us -= rng_scaled(r, 0, 1000 * window_us);
        break;
    default:
        clock_us += rng_between(r, 0, window_us / 64);
    }
    if (clock_us < INT64_C(1000000000000000) || clock_us > INT64_C(2100000000000000))
        clock_us = INT64_C(1700000000000000);
}

static int64_t clock_of(const counter *c)
{
    return model_ticks(&c->model) == 1000 ? clock_us : clock_us / 1000;
}

static int64_t most_units(const counter *c)
{
    int64_t most = RL_PRODUCT_MAX / 2 / (c->model.window_ms * model_ticks(&c->model));

    if (c->model.algorithm == RL_SLIDING_LOG)
        return 50;
    return most < RL_COUNT_MAX ? most : RL_COUNT_MAX;
}

static int64_t any_quota(rng *r, const counter *c)
{
    int64_t most = most_units(c), quota = rng_between(r, 3, 12);

    if (rng_one_in(r, 16))
        quota = rng_scaled(r, 0, most);
    return quota < most ? quota : most;
}

/* Makes the limit one of a counter with leases, if there can be any. */
static void lease_out(rng *r, rl_limit *limit)
{
    int64_t most_ms = rl_limiter_is_bucket(limit) ? rl_limiter_bucket_lease_ms(limit)
                                                  : RL_LEASE_MAX_MS;

    if (most_ms == 0 || limit->delay_ms)
        return;
    limit->lease_ms = rng_one_in(r, 2) ? most_ms : rng_scaled(r, 1, most_ms);
    if (rl_limiter_is_bucket(limit))
        limit->burst = rl_limiter_leased_burst(limit->quota, limit->burst, limit->window_ms,
                                               limit->lease_ms);
}

static void any_limit(rng *r, const counter *c, rl_limit *limit)
{
    memset(limit, 0, sizeof(*limit));
    limit->algorithm = c->model.algorithm;
    limit->window_ms = c->model.window_ms;
    limit->quota = limit->burst = any_quota(r, c);
    if (model_is_bucket(&c->model) && rng_one_in(r, 2))
        limit->burst = any_quota(r, c);
    if (limit->algorithm == RL_LEAKY_BUCKET && c->use != ON_RESPONSE && rng_one_in(r, 2))
        limit->delay_ms = rng_scaled(r, 0, c->model.window_ms < 10000 ? c->model.window_ms : 10000);
    if (limit->algorithm == RL_LEAKY_BUCKET && !rl_limiter_is_exact(limit))
        limit->delay_ms = 0;
    /* The use of a counter stays the same; its quota changes. */
    if (c->use == BLOCKS)
        limit->block_ms = rng_between(r, 1, 2 * c->model.window_ms < RL_WINDOW_MAX_MS
                                                ? 2 * c->model.window_ms : RL_WINDOW_MAX_MS);
    if (c->use == ON_RESPONSE)
        limit->on_response = 1;
    if (c->use == PLAIN && limit->algorithm != RL_SLIDING_LOG && rng_one_in(r, 2))
        lease_out(r, limit);
}

/* Replaces the override by another one or by none, and changes the limit to match. */
static rl_override any_override(rng *r, counter *c, rl_limit *limit)
{
    int64_t n = any_quota(r, c);
    char word[32];

    redisAppendCommand(redis, "DEL %s", c->override_key);
    switch (rng_next(r) % 7) {
    case 0:
        strcpy(word, "unlimited");
        break;
    case 1:
        strcpy(word, "gold"); /* quota 5, burst 7 */
        break;
    case 2:
        strcpy(word, rng_one_in(r, 2) ? "-3" : "99999999999");
        break;
    case 3:
        snprintf(word, sizeof(word), "%" PRId64, n);
        break;
    case 4:
        redisAppendCommand(redis, "SET %s 0", c->override_key);
        return RL_OVERRIDE_WRONG_TYPE;
    default:
        redisAppendCommand(redis, "PING");
        return RL_OVERRIDE_NONE;
    }
    redisAppendCommand(redis, "HSET %s r %s", c->override_key, word);
    if (*word == 'u')
        return RL_OVERRIDE_UNLIMITED;
    if (*word == '-' || strlen(word) > 10)
        return RL_OVERRIDE_GARBAGE;
    limit->quota = *word == 'g' ? 5 : n;
    limit->burst = limit->quota;
    if (*word == 'g' && model_is_bucket(&c->model))
        limit->burst = 7;
    else if (limit->lease_ms && model_is_bucket(&c->model))
        limit->burst = rl_limiter_leased_burst(n, n, limit->window_ms, limit->lease_ms);
    return RL_OVERRIDE_QUOTA;
}

/* A log's sum, as the definition has it. */
static void sum_of_log(const model *m, const rl_limit *limit, int64_t now, int64_t cost,
                       rl_state *state)
{
    state->used = model_sum(m, now - m->window_ms + 1, now);
    state->asked = cost;
    state->wait_ms = cost > limit->quota ? 0
        : model_wait(&(model){.algorithm = m->algorithm, .window_ms = m->window_ms,
                              .charges = m->charges, .count = m->count},
                     limit, now, cost, fits_at);
    state->next_ms = m->count ? m->charges[0].at + m->window_ms - now : 0;
    state->reset_ms = m->count ? model_latest(m) + m->window_ms - now : 0;
}

/*
 * Moves a copy of a counter to the clock, and fills in what the definition and limiter.c then
 * expect. Returns 0 if they differ. to->model is the caller's to keep or to free.
 */
static int expect(rng *r, const counter *c, const rl_limit *limit, int64_t cost,
                  moved_counter *to, expected *want)
{
    int64_t now, clock = clock_of(c);
    model *moved = &to->model;
    rl_state *state = &to->state;
    int agree = 1;

    *moved = model_copy(&c->model);
    now = model_move(moved, limit, clock);
    memset(want, 0, sizeof(*want));
    want->now = now;
    want->period = moved->period;
    want->pending = model_pending(moved);
    want->blocked_ms = moved->blocked_until > now
        ? (moved->blocked_until - now + model_ticks(moved) - 1) / model_ticks(moved) : 0;
    want->admits = model_admits(moved, limit, now, cost);
    want->remaining = want->retry_ms = want->reset_ms = NOT_LOOKED_FOR;
    *state = c->state;
    if (limit->algorithm == RL_SLIDING_LOG) {
        memset(state, 0, sizeof(*state));
        sum_of_log(moved, limit, now, cost, state);
        state->pending = (rl_pending){moved->period, 0, want->pending};
        state->blocked_until = moved->blocked_until;
    }
    else {
        agree &= rl_limiter_roll(limit, state, clock) == now;
    }
    want->state = *state;
    if (rng_one_in(r, 4)) {
        int64_t retry_ms = model_retry(moved, limit, now, cost);

        waits_compared++;
        want->remaining = model_remaining(moved, limit, now);
        want->retry_ms = retry_ms;
        want->reset_ms = model_is_bucket(moved) && limit->quota == 0
            ? 0 : model_wait(moved, limit, now, 0, is_unused_at);
        agree &= rl_limiter_remaining(limit, state, now) == want->remaining
            && rl_limiter_retry_after(limit, state, now, cost) == retry_ms
            && rl_limiter_reset(limit, state, now) == want->reset_ms;
        if (!agree)
            diag("remaining %" PRId64 " %" PRId64 ", retry %" PRId64 " %" PRId64 ", reset %" PRId64
                 " %" PRId64, rl_limiter_remaining(limit, state, now), want->remaining,
                 rl_limiter_retry_after(limit, state, now, cost), retry_ms,
                 rl_limiter_reset(limit, state, now), want->reset_ms);
    }
    if (rl_limiter_admits(limit, state, now, cost) != want->admits) {
        diag("admits: %d, defined %d", rl_limiter_admits(limit, state, now, cost), want->admits);
        agree = 0;
    }
    if (!agree)
        diag("algorithm %d, window %" PRId64 ", quota %" PRId64 ", burst %" PRId64 ", cost %" PRId64
             ", clock %" PRId64 ", now %" PRId64 ", pending %" PRId64 ", blocked %" PRId64,
             limit->algorithm, limit->window_ms, limit->quota, limit->burst, cost, clock, now,
             want->pending, want->blocked_ms);
    return agree;
}

/* The call stores this state. */
static void keep(counter *c, moved_counter *to, const rl_limit *limit, int64_t now)
{
    model_visit(&to->model, limit, now);
    free(c->model.charges);
    free(c->model.pending);
    to->model.exists = 1;
    c->model = to->model;
    c->state = to->state;
    if (c->model.blocked_until <= now) /* which a key does not store */
        c->model.blocked_until = c->state.blocked_until = 0;
}

/* Every call drops and adds the entries of a log that are due, and stores the log then. */
static int put_in_order(const counter *c, const model *moved)
{
    const model *m = &c->model;

    return m->algorithm == RL_SLIDING_LOG && m->exists
        && (m->count != moved->count || m->pending_count != moved->pending_count
            || (m->count && m->charges[0].at != moved->charges[0].at));
}

/* The counter was too far ahead of the clock: it is moved back and stored, even on a denial. */
static int was_anchored(const counter *c, const model *moved)
{
    const model *m = &c->model;

    return m->exists && ((m->count && model_latest(moved) < model_latest(m))
                         || (m->pending_count && moved->period < m->period));
}

static void charge_both(counter *c, moved_counter *to, const rl_limit *limit, const expected *want,
                        int64_t cost)
{
    model *moved = &to->model;

    if (limit->on_response) {
        model_wait_for_response(moved, cost);
        c->pending_period = moved->period;
        c->pending = cost;
    }
    else {
        c->charged_at = rl_limiter_position(limit, &to->state, want->now);
        c->charged = cost;
        model_charge(moved, limit, want->now, cost);
    }
    if (limit->algorithm != RL_SLIDING_LOG)
        rl_limiter_charge(limit, &to->state, cost);
    if (!model_is_bucket(moved) || moved->count > 40)
        model_forget(moved, limit, want->now);
}

/* How many units the call leases. Returns 0 if they do not fit by the definition. */
static int expect_lease(const rl_ask *a, const rl_limit *limit, const moved_counter *moved,
                        expected *want)
{
    want->leased = rl_limiter_lease(limit, &moved->state, want->now, a->cost, a->wanted);
    leases += want->leased > 0;
    return want->leased == 0
        || (want->leased > 0 && want->leased <= a->wanted
            && model_admits(&moved->model, limit, want->now, a->cost + want->leased));
}

/* Some different counters, live rules before shadow rules. Returns 0 if the two models differ. */
static int expect_decision(rng *r, sent_call *call, counter **chosen)
{
    int shadow_from = (int)rng_between(r, 0, 2 * call->n), agree = 1;
    int overrides = rng_one_in(r, 12), plain = !overrides;
    moved_counter moved[RULES_MAX];

    call->peek = rng_one_in(r, 16);
    call->all = 1;
    plain &= !call->peek;
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];
        rl_ask *a = &call->asks[i];
        expected *want = &call->want[i];
        rl_limit in_force;

        any_limit(r, c, &call->limits[i]);
        in_force = call->limits[i];
        a->cost = rng_one_in(r, 6) ? rng_scaled(r, 0, in_force.quota + 1) : 1;
        a->cost = a->cost > RL_COUNT_MAX ? RL_COUNT_MAX : a->cost;
        a->shadow = i >= shadow_from;
        if (overrides) {
            a->override_key = c->override_key;
            a->tiers = "r silver 2 2 gold 5 7 ";
        }
        if (in_force.lease_ms || (c->use == PLAIN && in_force.algorithm != RL_SLIDING_LOG
                                  && rng_one_in(r, 32)))
            a->wanted = rng_one_in(r, 2) ? rng_scaled(r, 0, 2 * in_force.quota + 200) : 0;
        a->wanted = a->wanted < 1 << 24 ? a->wanted : (1 << 24) - 1;
        plain &= in_force.algorithm != RL_SLIDING_LOG && !in_force.block_ms
            && !in_force.on_response && !a->wanted;
        want->override = overrides ? any_override(r, c, &in_force) : RL_OVERRIDE_NONE;
        call->commands += 2 * overrides;
        {
            rl_override override = want->override;
            int64_t cost = override == RL_OVERRIDE_UNLIMITED ? 0 : a->cost;

            agree &= expect(r, c, &in_force, cost, &moved[i], want);
            want->override = override;
            want->admits |= override == RL_OVERRIDE_UNLIMITED;
        }
        want->quota = in_force.quota;
        want->burst = in_force.burst;
        call->all &= want->admits || a->shadow;
    }
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];
        const rl_ask *a = &call->asks[i];
        expected *want = &call->want[i];
        rl_limit in_force = call->limits[i];
        int unlimited = want->override == RL_OVERRIDE_UNLIMITED, stores = 0;

        in_force.quota = want->quota;
        in_force.burst = want->burst;
        if (!call->peek && !unlimited
            && rl_limiter_blocks(&in_force, &moved[i].state, want->now, a->cost)) {
            moved[i].model.blocked_until = want->now
                + in_force.block_ms * model_ticks(&moved[i].model);
            moved[i].state.blocked_until = moved[i].model.blocked_until;
            stores = 1;
        }
        else if (!call->peek && !unlimited && want->admits && (call->all || a->shadow)) {
            agree &= expect_lease(a, &in_force, &moved[i], want);
            stores = a->cost + want->leased > 0 || plain;
            if (stores)
                charge_both(c, &moved[i], &in_force, want, a->cost + want->leased);
        }
        if (!stores && !call->peek && was_anchored(c, &moved[i].model)) {
            stores = 1;
            anchors_denied += !want->admits;
        }
        leases_denied += a->wanted && !call->all;
        if (stores || put_in_order(c, &moved[i].model))
            keep(c, &moved[i], &in_force, want->now);
        else
            model_free(&moved[i].model);
    }
    return agree;
}

/* Settles or prolongs the last pending units of a counter. */
static void any_end_of_pending(rng *r, counter *c, rl_ask *a)
{
    static const rl_ask_kind kinds[] = {RL_ASK_SETTLE, RL_ASK_SETTLE_CHARGED, RL_ASK_PROLONG};

    a->kind = kinds[rng_next(r) % 3];
    a->position = c->pending_period - rng_one_in(r, 8);
    a->cost = c->pending ? c->pending : 1;
    a->shadow = 1;
    if (a->kind != RL_ASK_PROLONG)
        c->pending = 0;
}

/* Whether there is anything to settle, or to prolong. */
static int changes(const rl_ask *a, const model *m)
{
    if (a->kind != RL_ASK_PROLONG)
        return model_may_be_pending(m, a->position);
    return a->position == m->period - 1 && model_pending_in(m, a->position) > 0;
}

static void end_pending(counter *c, const rl_ask *a, const rl_limit *limit, int64_t now,
                        moved_counter *to)
{
    int charged = a->kind == RL_ASK_SETTLE_CHARGED;

    if (a->kind == RL_ASK_PROLONG) {
        model_prolong(&to->model, a->position, a->cost);
        rl_limiter_prolong(&to->state, a->position, a->cost);
        c->pending_period = to->model.period;
        return;
    }
    model_settle(&to->model, limit, now, a->position, a->cost, charged);
    if (limit->algorithm != RL_SLIDING_LOG)
        rl_limiter_settle(limit, &to->state, a->position, a->cost, charged);
}

static void expect_undo(rng *r, sent_call *call, counter **chosen)
{
    for (int i = 0; i < call->n; i++) {
        counter *c = chosen[i];
        rl_ask *a = &call->asks[i];
        rl_limit *limit = &call->limits[i];
        expected ignored;
        moved_counter to;

        any_limit(r, c, limit);
        if (limit->on_response) {
            any_end_of_pending(r, c, a);
        }
        else {
            a->kind = RL_ASK_GIVE_BACK;
            a->position = c->charged_at - rng_one_in(r, 8);
            a->cost = rng_one_in(r, 3) ? c->charged : 1;
        }
        expect(r, c, limit, a->cost, &to, &ignored);
        call->want[i].period = model_may_be_pending(&to.model, a->position) ? to.model.period
                                                                         : RL_PERIOD_GONE;
        if ((!c->model.exists && a->kind != RL_ASK_SETTLE_CHARGED)
            || (limit->on_response && !changes(a, &to.model) && !put_in_order(c, &to.model))) {
            model_free(&to.model);
            continue;
        }
        if (limit->on_response) {
            end_pending(c, a, limit, ignored.now, &to);
        }
        else {
            model_give_back(&to.model, limit, ignored.now, a->position, a->cost);
            if (limit->algorithm != RL_SLIDING_LOG)
                rl_limiter_give_back(limit, &to.state, a->position, a->cost);
        }
        keep(c, &to, limit, ignored.now);
    }
}

/* Sends the next call. Returns 0 if the two models differ. */
static int next_call(rng *r, sent_call *call)
{
    counter *chosen[RULES_MAX];
    int first = (int)(rng_next(r) % COUNTERS), agree = 1, length;
    char *command;

    call->n = rng_one_in(r, 3) ? (int)rng_between(r, 2, RULES_MAX) : 1;
    for (int i = 0; i < call->n; i++) {
        chosen[i] = &counters[(first + 7 * i) % COUNTERS];
        call->asks[i].key = chosen[i]->key;
        call->asks[i].limit = &call->limits[i];
        call->asks[i].has_block_or_pending = chosen[i]->use != PLAIN;
    }
    call->is_undo = rng_one_in(r, 8);
    if (!call->is_undo)
        move_clock(r, chosen[0]);
    redisAppendCommand(redis, "MSET clock:s %lld clock:us %lld", (long long)clock_us / 1000000,
                       (long long)(clock_us % 1000000));
    call->commands = 1;
    if (call->is_undo) {
        expect_undo(r, call, chosen);
        command = call->n == 1 && call->asks[0].kind == RL_ASK_PROLONG
            ? rl_script_decide(&names, call->asks, call->n, 0, &length)
            : rl_script_undo(&names, call->asks, call->n, &length);
    }
    else {
        agree = expect_decision(r, call, chosen);
        command = rl_script_decide(&names, call->asks, call->n, call->peek, &length);
    }
    redisAppendFormattedCommand(redis, command, (size_t)length);
    redisFreeCommand(command);
    return agree;
}

/* Whether two states are equal, in the members of the algorithm. */
static int is_state(const rl_limit *limit, const rl_state *a, const rl_state *b)
{
    if (limit->algorithm == RL_SLIDING_LOG)
        return a->used == b->used && a->wait_ms == b->wait_ms && a->next_ms == b->next_ms
            && a->reset_ms == b->reset_ms;
    if (rl_limiter_is_bucket(limit))
        return a->at == b->at && a->level == b->level;
    return a->index == b->index && a->prev == b->prev && a->cur == b->cur;
}

static int brought(const rl_ask *got, const expected *want)
{
    const rl_limit *limit = got->limit;
    int64_t ticks = rl_limiter_ticks(limit);

    if (got->override != want->override || got->now != want->now || got->leased != want->leased)
        return 0;
    if (want->override == RL_OVERRIDE_UNLIMITED)
        return 1;
    if (limit->on_response || limit->block_ms || got->override_key) {
        int64_t left = got->state.blocked_until ? (got->state.blocked_until - got->now) / ticks : 0;

        if (left != want->blocked_ms || got->state.pending.period != want->period
            || got->state.pending.cur != want->pending || limit->quota != want->quota
            || (rl_limiter_is_bucket(limit) && limit->quota && limit->burst != want->burst))
            return 0;
    }
    return is_state(limit, &got->state, &want->state)
        && rl_limiter_admits(limit, &got->state, got->now, got->cost) == want->admits
        && (want->retry_ms == NOT_LOOKED_FOR
            || (rl_limiter_remaining(limit, &got->state, got->now) == want->remaining
                && rl_limiter_retry_after(limit, &got->state, got->now, got->cost)
                       == want->retry_ms
                && rl_limiter_reset(limit, &got->state, got->now) == want->reset_ms));
}

static void tell(const sent_call *call, int i, const rl_ask *got)
{
    const expected *want = &call->want[i];
    const rl_limit *limit = got->limit;

    diag("rule %d of %d%s: algorithm %d, window %" PRId64 ", quota %" PRId64 " (%" PRId64
         "), burst %" PRId64 ", delay %" PRId64 ", block %" PRId64 ", on response %d, cost %" PRId64
         ", override %d (%d)", i, call->n, call->peek ? ", a peek" : "", limit->algorithm,
         limit->window_ms, limit->quota, want->quota, limit->burst, limit->delay_ms,
         limit->block_ms, limit->on_response, got->cost, got->override, want->override);
    diag("now %" PRId64 " (%" PRId64 "), words %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %"
         PRId64 " (%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 ")", got->now,
         want->now, got->state.index, got->state.prev, got->state.cur, got->state.next_ms,
         got->state.reset_ms, want->state.index, want->state.prev, want->state.cur,
         want->state.next_ms, want->state.reset_ms);
    diag("period %" PRId64 " (%" PRId64 "), pending %" PRId64 " (%" PRId64 "), "
         "blocked until %" PRId64 " (%" PRId64 " ms), admits %d (%d)",
         got->state.pending.period, want->period, got->state.pending.cur, want->pending,
         got->state.blocked_until, want->blocked_ms,
         rl_limiter_admits(limit, &got->state, got->now, got->cost), want->admits);
    diag("wanted %" PRId64 " for %" PRId64 " ms, leased %" PRId64 " (%" PRId64 ")", got->wanted,
         limit->lease_ms, got->leased, want->leased);
    diag("remaining %" PRId64 " (%" PRId64 "), retry %" PRId64 " (%" PRId64 "), reset %" PRId64
         " (%" PRId64 ")", rl_limiter_remaining(limit, &got->state, got->now), want->remaining,
         rl_limiter_retry_after(limit, &got->state, got->now, got->cost), want->retry_ms,
         rl_limiter_reset(limit, &got->state, got->now), want->reset_ms);
}

/* Whether the replies show where prolonged units are now. */
static int are_prolonged(sent_call *call)
{
    for (int i = 0; i < call->n; i++) {
        rl_ask *a = &call->asks[i];
        int64_t period;

        if (a->kind != RL_ASK_PROLONG)
            continue;
        prolonged++;
        period = rl_limiter_prolong(&a->state, a->position, a->cost);
        if (period != call->want[i].period) {
            diag("prolonged to period %" PRId64 ", not %" PRId64, period, call->want[i].period);
            return 0;
        }
    }
    return 1;
}

/* Reads the replies to a call. Returns 1 if they are as expected. */
static int arrived(sent_call *call)
{
    void *reply = NULL;
    int said;

    for (int i = 0; i < call->commands; i++) {
        if (redisGetReply(redis, &reply) != REDIS_OK)
            return 0;
        freeReplyObject(reply);
    }
    if (redisGetReply(redis, &reply) != REDIS_OK)
        return 0;
    if (((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
        diag("Redis says %s", ((redisReply *)reply)->str);
        return 0;
    }
    said = rl_script_read(reply, call->asks, call->n);
    freeReplyObject(reply);
    if (call->is_undo)
        return said == 1 && are_prolonged(call);
    for (int i = 0; i < call->n; i++) {
        if (!brought(&call->asks[i], &call->want[i])) {
            tell(call, i, &call->asks[i]);
            return 0;
        }
    }
    if (said != call->all)
        diag("said %d, not %d", said, call->all);
    return said == call->all;
}

static void test_three_agree(void)
{
    static sent_call calls[BATCH];
    uint64_t seed = rng_seed(2);
    long steps = rng_rounds("RL_STEPS", 1000000), n = 0, charged = 0, denied = 0;
    rng r = {seed};
    int models = 1, script = 1;

    clock_us = INT64_C(1700000000000000);
    make_counters(&r);
    while (n < steps && models && script) {
        int sent = 0;

        for (; sent < BATCH && models; sent++) {
            memset(&calls[sent], 0, sizeof(calls[sent]));
            models &= next_call(&r, &calls[sent]);
            calls[sent].number = n++;
        }
        for (int i = 0; i < sent && script; i++) {
            script = arrived(&calls[i]);
            if (!script)
                diag("step %ld%s", calls[i].number, calls[i].is_undo ? ", undoing" : "");
            charged += !calls[i].is_undo && calls[i].all;
            denied += !calls[i].is_undo && !calls[i].all;
        }
    }
    ok(models, "limiter.c agrees with the definition (%ld waits compared)", waits_compared);
    ok(script, "decide.lua agrees with limiter.c (%ld steps, RL_SEED=%" PRIu64 ")", n, seed);
    if (!models || !script)
        exit(done_testing());
    ok(prolonged > n / 200, "units are prolonged: %ld times", prolonged);
    ok(leases > n / 100 && leases_denied > n / 500,
       "%ld leases, and %ld times one was wanted with a rule that denied", leases, leases_denied);
    ok(charged > n / 10 && denied > n / 10, "both verdicts are common: %ld charged, %ld denied",
       charged, denied);
    ok(anchors_denied > n / 1000, "%ld denials after the clock stepped back by more than a window",
       anchors_denied);
}

int main(void)
{
    if (!start_redis()) {
        pass("# SKIP no redis-server");
        return done_testing();
    }
    load_scripts();
    test_three_agree();
    for (int i = 0; i < COUNTERS; i++)
        model_free(&counters[i].model);
    return done_testing();
}
