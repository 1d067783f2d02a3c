/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots: the reply of Redis that is read is complete, and of the key that it was stored for;
 * one request a second revalidates a denial.
 */
#include "explore.h"
#include "set.h"

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, QUOTA, HOUR);

/*
 * Replies whose mixture would show: prev, cur and the second of Redis's clock belong together.
 */
static const rl_state said[] = {WINDOW(BASE / HOUR, 1, 10), WINDOW(BASE / HOUR, 2, 20),
                                WINDOW(BASE / HOUR, 3, 30), WINDOW(BASE / HOUR, 4, 40)};

static int stored, revalidations, denials, mixed, bobs;

static void store_said(int number, int reply, int64_t sent_ms)
{
    store_reply(number, &hourly, &said[reply], BASE + 1000 * reply, sent_ms);
}

static rl_snapshot_verdict check(int number, int64_t host_ms, rl_view *view)
{
    rl_limit limit = hourly;

    return rl_local_snapshot_check(table, key_of(number), &limit, 1, host_ms, view);
}

/* The number of the reply that is stored; -1: none, -2: a mixture. */
static int reply_of(int number)
{
    rl_view view;

    check(number, NOW + 5, &view);
    if (view.now == 0)
        return -1;
    for (int i = 0; i < 4; i++) {
        if (view.state.prev == said[i].prev)
            return view.state.cur == said[i].cur && view.now / 1000 == BASE / 1000 + i ? i : -2;
    }
    return -2;
}

static void begin(void)
{
    restore_set();
    stored = revalidations = denials = mixed = bobs = 0;
}

static void alice_known(void)
{
    make_set(7, NOW);
    store_said(ALICE, 0, NOW - 10);
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_expired(void)
{
    make_set(7, NOW - 60000);
    store_said(ALICE, 0, NOW - 10);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].expires_s = NOW / 1000 - 1;
    }
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_has_a_count(void)
{
    make_set(7, NOW - 60000);
    charge(ALICE, &fixed, 1, NOW - 60000);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].expires_s = NOW / 1000 - 1;
    }
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_stale(void)
{
    make_set(7, NOW);
    store_said(ALICE, 0, NOW - 2000);
    memcpy(image, memory, SIZE);
    begin();
}

static void one_stores(void)
{
    store_said(ALICE, 1, NOW);
}

static void another_stores(void)
{
    store_said(ALICE, 2, NOW + 1);
}

static void reads(void)
{
    for (int i = 0; i < 2; i++) {
        stored = reply_of(ALICE);
        mixed += stored == -2 || stored == 3;
    }
}

static void drops(void)
{
    rl_local_snapshot_drop(table, key_of(ALICE));
}

static void bob_stores(void)
{
    store_said(BOB, 3, NOW);
}

static void bob_charges(void)
{
    for (int i = 0; i < QUOTA; i++)
        bobs += charge(BOB, &fixed, 1, NOW);
}

static void alice_charges(void)
{
    charge(ALICE, &fixed, 1, NOW);
}

static void alice_revalidates(void)
{
    rl_local_snapshot_revalidate(table, key_of(ALICE), NOW, 1);
}

static void revalidates(void)
{
    rl_view view;
    rl_snapshot_verdict verdict = check(ALICE, NOW, &view);

    if (verdict == RL_SNAPSHOT_STALE && rl_local_snapshot_revalidate(table, key_of(ALICE), NOW, 1))
        revalidations++;
    else
        denials += verdict != RL_SNAPSHOT_UNKNOWN;
}

static const char *never_mixed(int dead)
{
    if (mixed || reply_of(ALICE) == -2 || reply_of(ALICE) == 3)
        return "a mixture of replies is read";
    store_said(ALICE, 3, NOW + 3);
    return reply_of(ALICE) == 3 || dead ? NULL : "the next reply is not stored";
}

/* A late writer may destroy a snapshot, as if there had been none: Redis is asked again. */
static const char *nobody_elses(int dead)
{
    int bobs_reply = reply_of(BOB);

    (void)dead;
    if (mixed || reply_of(ALICE) > 2 || reply_of(ALICE) == -2)
        return "alice has bob's reply";
    return bobs_reply == 3 || bobs_reply == -1 ? NULL : "bob's reply is another one";
}

static const char *bobs_count(int dead)
{
    rl_state state = peek(BOB, &fixed, NOW);

    if (ready(BOB) && (state.cur < bobs || state.cur > bobs + dead || state.blocked_until
                       || state.pending.cur + state.pending.prev))
        return "bob's count is not what bob has charged";
    return bobs == QUOTA || dead ? NULL : "bob is denied by a snapshot";
}

static const char *one_revalidates(int dead)
{
    if (revalidations > 1)
        return "more than one revalidates";
    return revalidations == 1 || dead ? NULL : "none revalidates";
}

static const scene scenes[] = {
    {"two store, one reads", alice_known, never_mixed,
     {one_stores, another_stores, reads}, 2, 0, 0},
    {"two store, one reads, at random", alice_known, never_mixed,
     {one_stores, another_stores, reads}, 0, 0, 100000},
    {"one stores and dies, one reads", alice_known, never_mixed, {one_stores, reads}, 1, 1, 0},
    {"one stores, one drops, one reads", alice_known, never_mixed,
     {one_stores, drops, reads}, 1, 0, 0},
    {"a read while another key's snapshot takes the place", alice_expired, nobody_elses,
     {reads, bob_stores}, 2, 0, 0},
    {"a late store while another key's snapshot takes the place", alice_expired, nobody_elses,
     {one_stores, bob_stores}, 2, 0, 0},
    {"a late store, one dies", alice_expired, nobody_elses, {one_stores, bob_stores}, 1, 1, 0},
    {"a late drop", alice_expired, nobody_elses, {drops, bob_stores}, 2, 0, 0},
    {"a late charge while a snapshot takes the place", alice_has_a_count, nobody_elses,
     {alice_charges, bob_stores}, 2, 0, 0},
    {"a late store while a count takes the place", alice_expired, bobs_count,
     {one_stores, bob_charges}, 2, 0, 0},
    {"a late revalidation while a count takes the place", alice_stale, bobs_count,
     {alice_revalidates, bob_charges}, 2, 0, 0},
    {"three meet a stale snapshot", alice_stale, one_revalidates,
     {revalidates, revalidates, revalidates}, 2, 0, 0},
    {"three meet a stale snapshot, one dies", alice_stale, one_revalidates,
     {revalidates, revalidates, revalidates}, 1, 1, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
