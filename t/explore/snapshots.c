/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Redis last said: a report is stored whole or not at all, and only by the key it was about;
 * one request a second asks again.
 */
#include "explore.h"
#include "set.h"

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, QUOTA, HOUR);

/*
 * Reports that cannot be mixed up: prev and cur go together, and with the second of Redis's clock.
 */
static const rl_state said[] = {WINDOW(BASE / HOUR, 1, 10), WINDOW(BASE / HOUR, 2, 20),
                                WINDOW(BASE / HOUR, 3, 30), WINDOW(BASE / HOUR, 4, 40)};

static int stored, asks, denials, mixed, bobs;

static void store_report(int number, int report, int64_t sent_ms)
{
    store_reply(number, &hourly, &said[report], BASE + 1000 * report, sent_ms);
}

static rl_snapshot_verdict check(int number, int64_t host_ms, rl_view *view)
{
    rl_limit limit = hourly;

    return rl_local_snapshot_check(table, key_of(number), &limit, 1, host_ms, view);
}

/* Which report is stored; -1: none, -2: none that was made. */
static int report_of(int number)
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
    stored = asks = denials = mixed = bobs = 0;
}

static void alice_known(void)
{
    make_set(7, NOW);
    store_report(ALICE, 0, NOW - 10);
    memcpy(image, memory, SIZE);
    begin();
}

static void alice_expired(void)
{
    make_set(7, NOW - 60000);
    store_report(ALICE, 0, NOW - 10);
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

static void alice_due(void)
{
    make_set(7, NOW);
    store_report(ALICE, 0, NOW - 2000);
    memcpy(image, memory, SIZE);
    begin();
}

static void one_reports(void)
{
    store_report(ALICE, 1, NOW);
}

static void another_reports(void)
{
    store_report(ALICE, 2, NOW + 1);
}

static void reads(void)
{
    for (int i = 0; i < 2; i++) {
        stored = report_of(ALICE);
        mixed += stored == -2 || stored == 3;
    }
}

static void drops(void)
{
    rl_local_snapshot_drop(table, key_of(ALICE));
}

static void bob_reports(void)
{
    store_report(BOB, 3, NOW);
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
    rl_local_snapshot_revalidate(table, key_of(ALICE), NOW);
}

static void asks_again(void)
{
    rl_view view;
    rl_snapshot_verdict said_now = check(ALICE, NOW, &view);

    if (said_now == RL_SNAPSHOT_STALE && rl_local_snapshot_revalidate(table, key_of(ALICE), NOW))
        asks++;
    else
        denials += said_now != RL_SNAPSHOT_UNKNOWN;
}

static const char *never_mixed(int dead)
{
    if (mixed || report_of(ALICE) == -2 || report_of(ALICE) == 3)
        return "a report is stored that nobody made";
    store_report(ALICE, 3, NOW + 3);
    return report_of(ALICE) == 3 || dead ? NULL : "the next report is not kept";
}

/* A report may be lost to a late writer, as if it had not come: then Redis is asked again. */
static const char *nobody_elses(int dead)
{
    int bobs_report = report_of(BOB);

    (void)dead;
    if (mixed || report_of(ALICE) > 2 || report_of(ALICE) == -2)
        return "alice is told bob's report";
    return bobs_report == 3 || bobs_report == -1 ? NULL : "bob's report is not his own";
}

static const char *bobs_count(int dead)
{
    rl_state state = peek(BOB, &fixed, NOW);

    if (ready(BOB) && (state.cur < bobs || state.cur > bobs + dead || state.blocked_until
                       || state.pending.cur + state.pending.prev))
        return "bob's count is not what bob has charged";
    return bobs == QUOTA || dead ? NULL : "bob is denied by a report";
}

static const char *one_asks(int dead)
{
    if (asks > 1)
        return "more than one asks again";
    return asks == 1 || dead ? NULL : "nobody asks again";
}

static const scene scenes[] = {
    {"two report, one reads", alice_known, never_mixed,
     {one_reports, another_reports, reads}, 2, 0, 0},
    {"two report, one reads, at random", alice_known, never_mixed,
     {one_reports, another_reports, reads}, 0, 0, 100000},
    {"one reports and dies, one reads", alice_known, never_mixed, {one_reports, reads}, 1, 1, 0},
    {"one reports, one drops, one reads", alice_known, never_mixed,
     {one_reports, drops, reads}, 1, 0, 0},
    {"a look while another key's report takes the place", alice_expired, nobody_elses,
     {reads, bob_reports}, 2, 0, 0},
    {"a late report while another key's takes the place", alice_expired, nobody_elses,
     {one_reports, bob_reports}, 2, 0, 0},
    {"a late report, one dies", alice_expired, nobody_elses, {one_reports, bob_reports}, 1, 1, 0},
    {"a late drop", alice_expired, nobody_elses, {drops, bob_reports}, 2, 0, 0},
    {"a late charge while a report takes the place", alice_has_a_count, nobody_elses,
     {alice_charges, bob_reports}, 2, 0, 0},
    {"a late report while a count takes the place", alice_expired, bobs_count,
     {one_reports, bob_charges}, 2, 0, 0},
    {"a late revalidation while a count takes the place", alice_due, bobs_count,
     {alice_revalidates, bob_charges}, 2, 0, 0},
    {"three meet a stale snapshot", alice_due, one_asks,
     {asks_again, asks_again, asks_again}, 2, 0, 0},
    {"three meet a stale snapshot, one dies", alice_due, one_asks,
     {asks_again, asks_again, asks_again}, 1, 1, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
