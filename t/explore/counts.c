/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts of one host: exactly the quota is admitted, whatever is charged, given back, made pending,
 * prolonged, settled or overdue at the same time, and whichever thread dies. A thread never reads
 * or changes the count of another key, however late it is.
 */
#include "explore.h"
#include "set.h"

static const rl_limit bucket = LIMIT(RL_TOKEN_BUCKET, QUOTA, HOUR);
static const rl_limit responding = {.algorithm = RL_FIXED_WINDOW, .quota = QUOTA, .window_ms = HOUR,
                                    .burst = QUOTA, .on_response = 1};
static const rl_limit blocking = {.algorithm = RL_FIXED_WINDOW, .quota = QUOTA, .window_ms = HOUR,
                                  .burst = QUOTA, .block_ms = HOUR};
static const rl_limit blocking_bucket = {.algorithm = RL_TOKEN_BUCKET, .quota = QUOTA,
                                         .window_ms = 60000, .burst = QUOTA, .block_ms = HOUR};
static const rl_limit monthly = LIMIT(RL_SLIDING_WINDOW, QUOTA, RL_WINDOW_MAX_MS);

#define LATER (NOW + 4 * MINUTE) /* when units that are pending since NOW are overdue */

static int admitted, bobs, charged, before;
static rl_state seen;

static void begin(void)
{
    restore_set();
    admitted = bobs = charged = before = 0;
    memset(&seen, 0, sizeof(seen));
}

/* --- One key, present --- */

static void two_left(void)
{
    make_set(7, NOW);
    charge(ALICE, &fixed, 1, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

static void bucket_with_two_left(void)
{
    make_set(7, NOW);
    charge(ALICE, &bucket, 1, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

static void charges(void)
{
    for (int i = 0; i < 2; i++)
        admitted += charge(ALICE, &fixed, 1, NOW);
}

static void charges_bucket(void)
{
    for (int i = 0; i < 2; i++)
        admitted += charge(ALICE, &bucket, 1, NOW);
}

static void charges_and_gives_back(void)
{
    if (charge(ALICE, &fixed, 1, NOW))
        rl_local_give_back(table, key_of(ALICE), &fixed, BASE / HOUR, 1);
}

static const char *two_more(int dead)
{
    admitted += take_rest(ALICE, &fixed, NOW);
    return admitted <= 2 && admitted >= 2 - dead ? NULL : "the units admitted are not the quota";
}

static const char *two_more_of_bucket(int dead)
{
    admitted += take_rest(ALICE, &bucket, NOW);
    return admitted <= 2 && admitted >= 2 - dead ? NULL : "the units admitted are not the burst";
}

/* Charges 1 ms before a window ends, and just after. */
static void before_the_edge(void)
{
    admitted += charge(ALICE, &fixed, 1, HOUR - 1);
}

static int after_edge;

static void after_the_edge(void)
{
    after_edge += charge(ALICE, &fixed, 1, HOUR);
}

static void at_the_edge(void)
{
    two_left();
    after_edge = 0;
}

static const char *both_windows(int dead)
{
    rl_state state = peek(ALICE, &fixed, HOUR);

    (void)dead;
    return state.prev + state.cur == 1 + admitted + after_edge ? NULL : "a unit is in no window";
}

/* --- Pending --- */

static void none_pending(void)
{
    make_set(7, NOW);
    charge(ALICE, &responding, 0, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

static void one_left_of_both(void)
{
    make_set(7, NOW);
    charge(ALICE, &fixed, QUOTA - 1, NOW);
    charge(ALICE, &responding, 0, NOW);
    memcpy(image, memory, SIZE);
    begin();
    before = QUOTA - 1;
}

static void responds(int is_charged)
{
    rl_view view = {.now = BASE + NOW};
    rl_local_units units = {0, 1, NOW, BASE + NOW};

    if (!rl_local_charge(table, key_of(ALICE), &responding, 1, NOW, &view))
        return;
    admitted++;
    charged += is_charged;
    units.period = view.state.pending.period;
    units.now = view.now;
    rl_local_settle(table, key_of(ALICE), &responding, &units, is_charged);
}

static void responds_charged(void)
{
    responds(1);
}

static void responds_uncharged(void)
{
    responds(0);
}

static void stays_pending(void)
{
    admitted += charge(ALICE, &responding, 1, NOW);
}

static void charges_one(void)
{
    int was_charged = charge(ALICE, &fixed, 1, NOW);

    admitted += was_charged;
    charged += was_charged;
}

static const char *one_more(int dead)
{
    return admitted + charge(ALICE, &fixed, 1, NOW) <= 1 || dead
        ? NULL : "two units are admitted where one fits";
}

static const char *settled(int dead)
{
    rl_state state = peek(ALICE, &responding, NOW);

    if (state.cur > QUOTA)
        return "more than the quota is charged";
    if (state.cur + state.pending.cur + state.pending.prev < before + charged)
        return "a charged unit is lost";
    if (dead)
        return NULL;
    if (state.pending.cur || state.pending.prev)
        return "units stay pending";
    return state.cur == before + charged ? NULL : "a unit is charged twice";
}

/* --- Overdue --- */

static void some_overdue(void)
{
    make_set(7, LATER);
    charge(ALICE, &responding, 1, NOW);
    charge(ALICE, &responding, 1, NOW + MINUTE);
    memcpy(image, memory, SIZE);
    begin();
}

static void finds_overdue(void)
{
    charge(ALICE, &fixed, 0, LATER);
}

static void finds_some_overdue(void)
{
    charge(ALICE, &fixed, 0, NOW + 2 * MINUTE);
}

static void responds_later(void)
{
    admitted += charge(ALICE, &responding, 1, LATER);
}

static void peeks_later(void)
{
    seen = peek(ALICE, &fixed, LATER);
}

static const char *charged_once(int dead)
{
    rl_state state;

    (void)dead;
    charge(ALICE, &fixed, 0, LATER);
    state = peek(ALICE, &fixed, LATER);
    if (state.cur != 2 || seen.cur > 2)
        return "overdue units are not charged once";
    return state.pending.prev + state.pending.cur == admitted ? NULL : "a unit is lost";
}

static const char *seen_once(int dead)
{
    return seen.cur + seen.pending.prev + seen.pending.cur == 2 ? charged_once(dead)
                                                                : "overdue units are not seen once";
}

/* One unit, which is overdue for threads whose clock is ahead. */
static void one_just_overdue(void)
{
    make_set(7, LATER);
    charge(ALICE, &responding, 1, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

#define EDGE (((BASE + NOW) / MINUTE + 2) * MINUTE - BASE)

static void settles_at_the_last_moment(void)
{
    rl_local_settle(table, key_of(ALICE), &responding, UNITS((BASE + NOW) / MINUTE, 1, EDGE - 1),
                    1);
}

static void finds_just_overdue(void)
{
    charge(ALICE, &fixed, 0, EDGE);
}

static const char *one_is_charged(int dead)
{
    rl_state state;

    charge(ALICE, &fixed, 0, EDGE);
    state = peek(ALICE, &responding, EDGE);
    return state.cur >= 1 && state.cur <= 1 + dead && !state.pending.prev && !state.pending.cur
        ? NULL : "a unit is not charged once";
}

/* --- Prolonged --- */

static int64_t prolonged; /* the period that was returned */

static void prolongs(int64_t host_ms)
{
    prolonged = rl_local_prolong(table, key_of(ALICE), &responding,
                                 UNITS((BASE + NOW) / MINUTE, 1, host_ms));
}

static void prolongs_at_the_last_moment(void)
{
    prolongs(EDGE - 1);
}

static const char *pending_or_charged(int dead)
{
    rl_state state;

    charge(ALICE, &fixed, 0, EDGE);
    state = peek(ALICE, &responding, EDGE);
    if (state.cur + state.pending.prev != 1 || state.pending.cur)
        return "a unit is not pending or charged once";
    return dead || (prolonged == RL_PERIOD_GONE) == state.cur
        ? NULL : "prolonging returned a wrong period";
}

/* Two units, of which one is prolonged a period later, and one settled. */
static void two_pending(void)
{
    make_set(7, NOW);
    charge(ALICE, &responding, 2, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

static void prolongs_one(void)
{
    prolongs(NOW + MINUTE);
}

static void settles_one(void)
{
    rl_local_settle(table, key_of(ALICE), &responding,
                    UNITS((BASE + NOW) / MINUTE, 1, NOW + MINUTE), 1);
}

static void one_more_is_pending(void)
{
    admitted += charge(ALICE, &responding, 1, NOW + MINUTE);
}

static const char *one_charged_and_others_pending(int dead)
{
    rl_state state = peek(ALICE, &responding, NOW + 2 * MINUTE);

    (void)dead;
    if (prolonged != (BASE + NOW) / MINUTE + 1)
        return "prolonging returned a wrong period";
    return state.cur == 1 && state.pending.prev == 1 + admitted && !state.pending.cur
        ? NULL : "a unit is not pending or charged once";
}

/* --- A place that another key takes --- */

/*
 * alice's entry has expired, so bob's takes its place. The others are idle, so alice then takes the
 * place of one of them.
 */
static void alice_expired(const rl_limit *limit)
{
    make_set(7, NOW - 60000);
    charge(ALICE, limit, 1, NOW - 60000);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].expires_s = NOW / 1000 - 1;
    }
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_has_one(void)
{
    alice_expired(&fixed);
}

static void alice_has_one_pending(void)
{
    alice_expired(&responding);
}

static void alice_has_one_in_bucket(void)
{
    alice_expired(&blocking_bucket);
}

static void alice_is_full(void)
{
    alice_expired(&fixed);
    restore_set();
    charge(ALICE, &fixed, QUOTA - 1, NOW - 60000);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].expires_s = NOW / 1000 - 1;
    }
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_was_blocked(void)
{
    alice_expired(&fixed);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].words[BLOCKED] = (set[i].owner & GENERATION) | (uint64_t)(BASE + NOW + HOUR);
    }
    memcpy(image, memory, SIZE);
}

static void bob(void)
{
    for (int i = 0; i < QUOTA; i++)
        bobs += charge(BOB, &fixed, 1, NOW);
}

static void bob_responds(void)
{
    bobs += charge(BOB, &responding, QUOTA, NOW) ? QUOTA : 0;
}

static void bobs_bucket(void)
{
    bobs += charge(BOB, &blocking_bucket, 1, NOW);
}

static void peek_at_alice(const rl_limit *limit)
{
    rl_view view = {.now = BASE + NOW};

    rl_local_peek(table, key_of(ALICE), limit, &view);
    admitted = rl_limiter_admits(limit, &view.state, view.now, 1);
    if (!admitted)
        rl_local_block(table, key_of(ALICE), limit, 1, NOW, &view);
    seen = view.state;
}

static void peeks_at_alice(void)
{
    peek_at_alice(&blocking);
}

static void peeks_at_alices_month(void)
{
    peek_at_alice(&monthly);
}

static const char *alice_passes(int dead)
{
    (void)dead;
    if (!admitted)
        return "alice is denied by another count";
    return peek(ALICE, &blocking, NOW).blocked_until ? "alice is blocked for another count" : NULL;
}

static void alice_charges(void)
{
    charge(ALICE, &fixed, 1, NOW);
}

static void alice_charges_bucket(void)
{
    charge(ALICE, &blocking_bucket, 1, NOW);
}

static void alice_responds(void)
{
    charge(ALICE, &responding, 1, NOW);
}

static void alice_settles(void)
{
    rl_local_settle(table, key_of(ALICE), &responding, UNITS((BASE + NOW - 60000) / MINUTE, 1, NOW),
                    1);
}

static void alice_gives_back(void)
{
    rl_local_give_back(table, key_of(ALICE), &fixed, BASE / HOUR, 1);
}

static void alice_is_blocked(void)
{
    charge(ALICE, &blocking, 1, NOW);
}

static void alice_stores(void)
{
    rl_state state = WINDOW(BASE / HOUR, 7, 9);

    store_reply(ALICE, &fixed, &state, BASE + NOW, NOW);
}

/* bob may have no entry: alice may have claimed the place back. */
static const char *bobs_own(int dead)
{
    rl_state state = peek(BOB, &fixed, NOW);

    if (ready(BOB) > 1 || ready(ALICE) > 1)
        return "a key has two entries";
    if (ready(BOB) && (state.cur < bobs || state.cur > bobs + dead || state.prev
                       || state.blocked_until || state.pending.cur + state.pending.prev))
        return "bob's count is not what bob has charged";
    return bobs == QUOTA || dead ? NULL : "bob is denied by another count";
}

static const char *bobs_own_pending(int dead)
{
    rl_state state = peek(BOB, &responding, NOW);

    if (ready(BOB) && (state.pending.cur != bobs || state.cur || state.prev || state.blocked_until))
        return "bob's pending units are not what bob made pending";
    return bobs == QUOTA || dead ? NULL : "bob is denied by another count";
}

static const char *bobs_own_bucket(int dead)
{
    rl_state state = peek(BOB, &blocking_bucket, NOW);

    if (ready(BOB) && (state.level != 60000000 || state.blocked_until))
        return "bob's level is not what bob has charged";
    return bobs == 1 || dead ? NULL : "bob is denied by another count";
}

/*
 * Words of the generation that the next tenure of each place will have, as if they were left from
 * 4,096 tenures ago.
 */
static void old_words(void)
{
    alice_expired(&fixed);
    for (int i = 0; i < WAYS; i++) {
        uint64_t next = (set[i].owner & GENERATION) + (UINT64_C(1) << GENERATION_SHIFT);

        set[i].words[BLOCKED] = next | (uint64_t)(BASE + HOUR);
        set[i].words[COUNT] = next | (uint64_t)(BASE / HOUR);
        set[i].words[COUNT + 1] = 2;
        set[i].words[PENDING] = next | (uint64_t)((BASE + NOW) / MINUTE);
        set[i].words[PENDING + 1] = 2;
    }
    memcpy(image, memory, SIZE);
}

/* --- Blocks --- */

static void blocked_at(int64_t host_ms)
{
    rl_view view = {.now = BASE + host_ms};

    rl_local_charge(table, key_of(ALICE), &blocking, 1, host_ms, &view);
    seen = view.state;
}

static void used_up(void)
{
    make_set(7, NOW);
    charge(ALICE, &fixed, QUOTA, NOW);
    memcpy(image, memory, SIZE);
    begin();
}

static void denied(void)
{
    blocked_at(NOW);
}

static void denied_a_little_later(void)
{
    blocked_at(NOW + 5);
}

static const char *blocked_once(int dead)
{
    int64_t until = peek(ALICE, &blocking, NOW + 6).blocked_until - BASE - HOUR;

    if (until == NOW || until == NOW + 5 || dead)
        return NULL;
    return "a denial did not start a block";
}

/* --- A clock that was set back --- */

static void used_up_ahead(void)
{
    make_set(7, NOW);
    charge(ALICE, &fixed, QUOTA, NOW + 5 * HOUR);
    memcpy(image, memory, SIZE);
    begin();
}

static void is_denied(void)
{
    admitted += charge(ALICE, &fixed, 1, NOW);
}

static void anchors(void)
{
    rl_local_anchor(table, key_of(ALICE), &fixed, BASE + NOW);
}

static const char *anchored(int dead)
{
    (void)dead;
    if (admitted || charge(ALICE, &fixed, 1, NOW))
        return "a clock that was set back refills a quota";
    return charge(ALICE, &fixed, 1, NOW + 2 * HOUR) ? NULL : "the denial does not end";
}

static const scene scenes[] = {
    {"two charge at once", two_left, two_more, {charges, charges}, 2, 0, 0},
    {"three charge at once", two_left, two_more, {charges, charges, charges}, 1, 0, 0},
    {"two charge and one of them dies", two_left, two_more, {charges, charges}, 1, 1, 0},
    {"two charge and one gives back", two_left, two_more,
     {charges, charges_and_gives_back}, 2, 0, 0},
    {"two charge a bucket and one dies", bucket_with_two_left, two_more_of_bucket,
     {charges_bucket, charges_bucket}, 1, 1, 0},
    {"a window ends while three charge", at_the_edge, both_windows,
     {before_the_edge, after_the_edge, before_the_edge}, 2, 0, 0},

    {"one charges at once, one makes a unit pending", one_left_of_both, one_more,
     {charges_one, stays_pending}, 3, 0, 0},
    {"one charges at once, one makes a unit pending and settles it with a charge", one_left_of_both,
     settled, {charges_one, responds_charged}, 3, 0, 0},
    {"three make units pending and settle them", none_pending, settled,
     {responds_charged, responds_uncharged, responds_charged}, 1, 0, 0},
    {"three, one charges at once, at random", none_pending, settled,
     {responds_charged, charges_one, responds_uncharged}, 0, 0, 100000},
    {"two make units pending and settle them, one dies", none_pending, settled,
     {responds_charged, responds_charged}, 1, 1, 0},

    {"three find overdue units", some_overdue, charged_once,
     {finds_overdue, finds_overdue, finds_overdue}, 2, 0, 0},
    {"three find overdue units, at different times", some_overdue, charged_once,
     {finds_some_overdue, finds_overdue, responds_later}, 2, 0, 0},
    {"three find overdue units, two die", some_overdue, charged_once,
     {finds_overdue, finds_some_overdue, finds_overdue}, 0, 2, 0},
    {"a unit is settled while it becomes overdue", one_just_overdue, one_is_charged,
     {settles_at_the_last_moment, finds_just_overdue, finds_just_overdue}, 2, 0, 0},
    {"a unit is settled while it becomes overdue, one dies", one_just_overdue, one_is_charged,
     {settles_at_the_last_moment, finds_just_overdue}, 1, 1, 0},
    {"one peeks while overdue units are charged", some_overdue, seen_once,
     {finds_overdue, peeks_later}, 3, 0, 0},

    {"a unit is prolonged while it becomes overdue", one_just_overdue, pending_or_charged,
     {prolongs_at_the_last_moment, finds_just_overdue, finds_just_overdue}, 2, 0, 0},
    {"a unit is prolonged while it becomes overdue, one dies", one_just_overdue, pending_or_charged,
     {prolongs_at_the_last_moment, finds_just_overdue}, 1, 1, 0},
    {"one is prolonged, one settled, one made pending", two_pending, one_charged_and_others_pending,
     {prolongs_one, settles_one, one_more_is_pending}, 2, 0, 0},

    {"a peek while another key takes the place", alice_has_one, alice_passes,
     {peeks_at_alice, bob}, 2, 0, 0},
    {"a peek while a bucket takes the place", alice_has_one, alice_passes,
     {peeks_at_alices_month, bobs_bucket}, 2, 0, 0},
    {"a peek while pending units take the place", alice_has_one, alice_passes,
     {peeks_at_alice, bob_responds}, 2, 0, 0},
    {"the place of a key that was blocked", alice_was_blocked, bobs_own,
     {bob, alice_charges}, 2, 0, 0},
    {"a late charge", alice_has_one, bobs_own, {alice_charges, bob}, 2, 0, 0},
    {"a late charge of a bucket", alice_has_one_in_bucket, bobs_own,
     {alice_charges_bucket, bob}, 2, 0, 0},
    {"a late charge that will be settled", alice_has_one_pending, bobs_own,
     {alice_responds, bob}, 2, 0, 0},
    {"a late charge, while a bucket takes the place", alice_has_one, bobs_own_bucket,
     {alice_charges, bobs_bucket}, 2, 0, 0},
    {"a late charge, while pending units take the place", alice_has_one_pending, bobs_own_pending,
     {alice_responds, bob_responds}, 2, 0, 0},
    {"a late settling", alice_has_one_pending, bobs_own, {alice_settles, bob}, 2, 0, 0},
    {"a late give-back", alice_has_one, bobs_own, {alice_gives_back, bob}, 2, 0, 0},
    {"a late block", alice_is_full, bobs_own, {alice_is_blocked, bob}, 2, 0, 0},
    {"a late reply of Redis", alice_has_one, bobs_own, {alice_stores, bob}, 2, 0, 0},
    {"late writers of which one dies", alice_has_one_pending, bobs_own,
     {alice_charges, alice_settles, bob}, 1, 1, 0},
    {"a generation that comes back", old_words, bobs_own, {bob}, 0, 0, 0},
    {"a generation that comes back, for pending units", old_words, bobs_own_pending,
     {bob_responds}, 0, 0, 0},

    {"two denials after the clock was set back", used_up_ahead, anchored,
     {is_denied, anchors, is_denied}, 1, 1, 0},
    {"two denials start a block", used_up, blocked_once, {denied, denied_a_little_later}, 2, 0, 0},
    {"two denials start a block, one dies", used_up, blocked_once,
     {denied, denied_a_little_later}, 1, 1, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
