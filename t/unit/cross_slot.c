/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A decision over several slots is all or nothing: whatever denies and whichever slot is being
 * moved, either all live rules are charged or none, and every denial is reported. If a slot fails,
 * the others are still decided.
 *
 * The cluster is a model with a count and a quota for each key, a letter after its tag.
 */
#include <stdlib.h>

#include "random.h"
#include "redis/cross_slot.h"
#include "redis/slots.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define KEYS 12

static rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 1, .window_ms = 60000};
static rl_limit blocking = {.algorithm = RL_FIXED_WINDOW, .quota = 1, .window_ms = 60000,
                            .block_ms = 1000};

/* Keys of four slots: the tag says which. */
static char names[KEYS][8];

static struct {
    int count[KEYS], quota[KEYS];
    int calls, given;
    int fails_at;   /* the number of the call that comes too late; 0: none */
    int failed_slot; /* its server is gone; -1: none */
    int split_slot; /* of this slot only single keys can be decided; -1: none */
    int wrong;      /* a call was not valid */
    int peek;       /* nothing may be charged */
    int denied;     /* a live rule has denied */
    char log[256];
} model;

static int number_of(const rl_ask *ask)
{
    return ask->key[3] - 'a';
}

static int admits(const rl_ask *ask)
{
    int k = number_of(ask);

    return model.count[k] + ask->cost <= model.quota[k];
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void check_call(const rl_slot_decision *d)
{
    int shadow = 0;

    for (int i = 0; i < d->n; i++) {
        const rl_ask *ask = &d->asks[i];

        model.wrong |= rl_slots_of_key(ask->key, strlen(ask->key)) != d->slot;
        model.wrong |= shadow && !ask->shadow;
        shadow |= ask->shadow;
        model.wrong |= d->peek && ask->shadow && !model.peek;
        model.wrong |= !d->peek && model.peek;
        model.wrong |= !d->peek && model.denied && !ask->shadow && ask->limit != &blocking;
        strncat(model.log, ask->key + 3, 1);
    }
    strcat(model.log, d->peek ? "? " : " ");
}

static rl_failure decide(void *context, rl_slot_decision *d)
{
    rl_ask *asks = d->asks;

    (void)context;
    model.calls++;
    check_call(d);
    if (model.calls == model.fails_at)
        return RL_FAILED_LATE;
    if (d->slot == model.failed_slot)
        return RL_FAILED_OPEN;
    if (d->slot == model.split_slot && (d->n > 1 || asks[0].override_key)) {
        d->split = 1;
        return RL_FAILED_REFUSED;
    }
    d->admitted = 1;
    for (int i = 0; i < d->n; i++) {
        asks[i].now = 1;
        asks[i].state.index = 7;
        asks[i].state.cur = model.count[number_of(&asks[i])];
        d->admitted &= asks[i].shadow || admits(&asks[i]);
    }
    for (int i = 0; i < d->n && !d->peek; i++) {
        int k = number_of(&asks[i]);

        if (asks[i].shadow ? !admits(&asks[i]) : !d->admitted)
            continue;
        asks[i].leased = least(asks[i].wanted, model.quota[k] - model.count[k] - asks[i].cost);
        model.count[k] += (int)(asks[i].cost + asks[i].leased);
    }
    model.denied |= !d->admitted;
    return RL_ANSWERED;
}

static void undo(void *context, int slot, const rl_ask *asks, int n)
{
    (void)context;
    for (int i = 0; i < n; i++) {
        model.wrong |= rl_slots_of_key(asks[i].key, strlen(asks[i].key)) != slot;
        model.wrong |= asks[i].shadow || asks[i].kind != RL_ASK_GIVE_BACK || asks[i].position != 7;
        model.wrong |= asks[i].override_key != NULL;
        model.count[number_of(&asks[i])] -= (int)asks[i].cost;
        model.given++;
    }
}

static const rl_cross_slot_calls calls = {decide, undo, NULL};

/* Empties the cluster, and gives every key this quota. */
static void reset(int quota)
{
    memset(&model, 0, sizeof(model));
    model.split_slot = model.failed_slot = -1;
    for (int k = 0; k < KEYS; k++)
        model.quota[k] = quota;
}

/* Makes asks for keys by their letters; capitals are shadow rules. Returns how many. */
static int make_asks(const char *letters, rl_ask *asks)
{
    int n = 0;

    for (; *letters; letters++, n++) {
        int shadow = *letters >= 'A' && *letters <= 'Z';
        int k = *letters - (shadow ? 'A' : 'a');

        asks[n] = (rl_ask){.key = names[k], .limit = &limit, .cost = 1, .shadow = shadow};
    }
    return n;
}

/* Decides over these letters; '1' charged, '0' denied, 'F' failed. */
static char say(const char *letters, rl_ask *asks)
{
    int n = make_asks(letters, asks), charged = -1;
    rl_failure failure = rl_cross_slot_decide(&calls, asks, n, model.peek, &charged);

    return failure != RL_ANSWERED ? 'F' : charged ? '1' : '0';
}

static void test_one_slot(void)
{
    rl_ask asks[RL_ASKS_MAX];

    reset(1);
    is_int(say("aeI", asks), '1', "rules of one slot pass");
    is_str(model.log, "aei ", "in one call");
    is_int(say("ae", asks), '0', "or are denied");
    is_int(model.calls, 2, "by one more");
    is_int(model.given, 0, "and nothing is given back");
}

static void test_order(void)
{
    rl_ask asks[RL_ASKS_MAX];

    reset(1);
    is_int(say("abfcE", asks), '1', "rules of three slots pass");
    is_str(model.log, "ae bf c ", "a call for each slot, in the order of the rules");
    ok(asks[2].now == 1 && asks[4].now == 1, "every rule has its report");
    reset(1);
    model.quota[2] = 0;
    is_int(say("abcdeF", asks), '0', "the third slot denies");
    is_str(model.log, "ae bf c d? ", "then the fourth is only peeked at");
    is_int(model.given, 3, "the charges of earlier live rules are given back");
    is_int(model.count[0] + model.count[1] + model.count[4], 0, "all of it");
    is_int(model.count[5], 1, "a shadow rule that admitted stays charged");
    ok(asks[3].now == 1, "every rule has its report");
}

static void test_shadows(void)
{
    rl_ask asks[RL_ASKS_MAX];

    reset(1);
    model.quota[0] = 0;
    is_int(say("abEFC", asks), '0', "the first slot denies");
    is_str(model.log, "ae b? f c ",
           "live rules are peeked at, shadow rules of their slots are charged");
    is_int(model.count[4] + model.count[5] + model.count[2], 3, "all three");
    reset(1);
    model.quota[0] = 0;
    is_int(say("bA", asks), '1', "a shadow rule that denies vetoes nothing");
    is_int(model.given, 0, "and takes nothing back");
}

static void test_leases(void)
{
    rl_ask asks[RL_ASKS_MAX];
    int n, admitted;

    reset(10);
    n = make_asks("abE", asks);
    for (int i = 0; i < n; i++)
        asks[i].wanted = 3 + i;
    rl_cross_slot_decide(&calls, asks, n, 0, &admitted);
    ok(admitted && model.count[0] == 4 && model.count[1] == 5 && model.count[4] == 6,
       "units are leased in each slot");
    ok(asks[0].leased == 3 && asks[1].leased == 4 && asks[2].leased == 5, "and reported");
    reset(10);
    model.quota[1] = 0;
    n = make_asks("abE", asks);
    for (int i = 0; i < n; i++)
        asks[i].wanted = 3 + i;
    rl_cross_slot_decide(&calls, asks, n, 0, &admitted);
    ok(!admitted && model.count[0] == 0, "on a denial what was leased is given back with the cost");
    ok(model.count[4] == 6 && asks[2].leased == 5, "but a shadow rule keeps its lease");
}

static void test_blocks(void)
{
    rl_ask asks[RL_ASKS_MAX];
    int n, admitted;

    reset(1);
    model.quota[0] = 0;
    n = make_asks("abc", asks);
    asks[1].limit = &blocking;
    rl_cross_slot_decide(&calls, asks, n, 0, &admitted);
    is_str(model.log, "a b c? ", "a rule that blocks is not only peeked at after a denial");
    ok(!admitted && model.given == 1 && model.count[1] == 0, "and its charge is given back");
}

static void test_peek(void)
{
    rl_ask asks[RL_ASKS_MAX];

    reset(1);
    model.peek = 1;
    model.quota[1] = 0;
    is_int(say("abcE", asks), '0', "a peek reports a denial");
    is_str(model.log, "ae? b? c? ", "by peeks alone");
    is_int(model.count[0] + model.count[4] + model.given, 0, "and nothing is charged");
}

static void test_overrides(void)
{
    rl_ask asks[RL_ASKS_MAX];
    int n, admitted;

    reset(1);
    model.split_slot = rl_slots_of_key(names[0], 4);
    n = make_asks("aeb", asks);
    for (int i = 0; i < n; i++)
        asks[i].override_key = asks[i].tiers = i < 2 ? names[0] : names[1];
    is_int(rl_cross_slot_decide(&calls, asks, n, 0, &admitted), RL_ANSWERED,
           "if the override is at the other end of a move, the rule's own quota is used");
    ok(admitted && model.count[0] == 1 && model.count[4] == 1 && model.count[1] == 1, "for each");
    is_int(model.wrong, 0, "and no other rule");
}

static int answered(const rl_ask *asks, int n)
{
    int mask = 0;

    for (int i = 0; i < n; i++)
        mask |= asks[i].answered << i;
    return mask;
}

static void test_failures(void)
{
    rl_ask asks[RL_ASKS_MAX];
    int n, admitted;

    for (int i = 1; i <= 3; i++) {
        reset(1);
        model.fails_at = i;
        is_int(say("abc", asks), 'F', "call %d is late", i);
        is_int(model.calls, i, "... there is no time for the others then");
        is_int(answered(asks, 3), (1 << (i - 1)) - 1, "... and those before it are decided");
        is_int(model.count[0] + model.count[1] + model.count[2], i - 1, "... and charged");
    }
    reset(1);
    model.failed_slot = rl_slots_of_key(names[0], 4);
    n = make_asks("aeI", asks);
    is_int(rl_cross_slot_decide(&calls, asks, n, 0, &admitted), RL_FAILED_OPEN,
           "one slot, and it fails");
    is_int(answered(asks, n), 0, "nothing is decided");
    n = make_asks("abecF", asks);
    is_int(rl_cross_slot_decide(&calls, asks, n, 0, &admitted), RL_FAILED_OPEN,
           "one of three slots fails");
    is_int(answered(asks, n), 2 + 8 + 16, "the others are decided");
    ok(admitted && model.count[1] == 1 && model.count[2] == 1 && model.count[5] == 1,
       "and charged");
    reset(1);
    model.failed_slot = rl_slots_of_key(names[0], 4);
    model.quota[2] = 0;
    n = make_asks("abec", asks);
    is_int(rl_cross_slot_decide(&calls, asks, n, 0, &admitted), RL_FAILED_OPEN,
           "one fails, one denies");
    ok(!admitted && answered(asks, n) == 2 + 8, "the denial is known");
    is_int(model.count[1], 0, "and no rule stays charged");
}

static void test_moving_slot(void)
{
    rl_ask asks[RL_ASKS_MAX];

    reset(1);
    model.split_slot = rl_slots_of_key(names[0], 4);
    is_int(say("aeI", asks), '1', "keys at both ends of a move are decided one by one");
    is_int(model.count[0] + model.count[4] + model.count[8], 3, "all charged");
    model.denied = 0;
    model.quota[0] = 2;
    is_int(say("aeb", asks), '0', "and denied");
    ok(model.count[0] == 1 && model.count[1] == 0, "with what was charged given back");
    model.denied = 0;
    model.quota[4] = 2;
    is_int(say("bae", asks), '1', "after others too");
    is_int(model.wrong, 0, "by the right calls");
}

static int has_failed(const rl_ask *ask)
{
    return rl_slots_of_key(ask->key, strlen(ask->key)) == model.failed_slot;
}

/* Compared with a decision that sees all keys at once, except those of a slot that fails. */
static void test_any(void)
{
    rng r = {rng_seed(42)};
    int held = 1, denials = 0, wrong = 0;

    for (int round = 0; round < 20000 && held; round++) {
        rl_ask asks[RL_ASKS_MAX];
        char letters[KEYS + 1] = "";
        int before[KEYS], live = 1, fails = 0, n = 0, shadows = 0;

        reset(0);
        model.split_slot = rng_one_in(&r, 3) ? rl_slots_of_key(names[0], 4) : -1;
        model.failed_slot = rng_one_in(&r, 3) ? rl_slots_of_key(names[rng_next(&r) % 4], 4) : -1;
        for (int k = 0; k < KEYS; k++) {
            model.quota[k] = (int)rng_between(&r, 0, 6) ? 3 : 0;
            model.count[k] = before[k] = (int)rng_between(&r, 0, 2);
        }
        shadows = (int)rng_between(&r, 0, 3);
        for (int k = 0; k < KEYS; k++) { /* each key once, in any order, the last ones shadows */
            int other = (int)rng_between(&r, 0, k);

            letters[k] = letters[other];
            letters[other] = (char)('a' + k);
        }
        n = (int)rng_between(&r, 1, KEYS);
        letters[n] = '\0';
        for (int i = n - 1; i >= 0 && shadows-- > 0; i--)
            letters[i] = (char)(letters[i] - 'a' + 'A');
        for (int i = make_asks(letters, asks) - 1; i >= 0; i--) {
            fails |= has_failed(&asks[i]);
            live &= asks[i].shadow || admits(&asks[i]) || has_failed(&asks[i]);
        }
        held &= say(letters, asks) == (fails ? 'F' : live ? '1' : '0');
        denials += !live;
        for (int i = 0; i < n; i++) {
            int k = number_of(&asks[i]);
            int expected = asks[i].shadow ? before[k] < model.quota[k] : live;
            int failed = has_failed(&asks[i]);

            held &= model.count[k] == before[k] + (failed ? 0 : expected);
            held &= asks[i].answered == !failed;
            held &= failed || (asks[i].now == 1 && asks[i].state.cur == before[k]);
        }
        wrong |= model.wrong;
    }
    ok(held, "20,000 decisions are as if all keys that can be reached were in one slot");
    ok(denials > 1000 && !wrong, "and make only valid calls");
}

static void test_give_back(void)
{
    rl_ask asks[RL_ASKS_MAX];
    int n;

    reset(1);
    n = make_asks("abe", asks);
    for (int i = 0; i < n; i++) {
        asks[i].kind = RL_ASK_GIVE_BACK;
        asks[i].position = 7;
        model.count[number_of(&asks[i])] = 1;
    }
    rl_cross_slot_undo(&calls, asks, n);
    is_int(model.given, 3, "a later give-back reaches every slot");
    is_int(model.count[0] + model.count[1] + model.count[4] + model.wrong, 0, "the right ones");
}

int main(void)
{
    for (int k = 0; k < KEYS; k++)
        snprintf(names[k], sizeof(names[k]), "{%d}%c", k % 4, 'a' + k);
    test_one_slot();
    test_order();
    test_shadows();
    test_leases();
    test_blocks();
    test_peek();
    test_overrides();
    test_failures();
    test_moving_slot();
    test_any();
    test_give_back();
    return done_testing();
}
