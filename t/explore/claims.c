/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A key has one entry, in whatever order threads meet, and no count is lost to a claim of another
 * key or to a death. The table is one set of eight places.
 */
#include "explore.h"
#include "set.h"

static const rl_limit once = LIMIT(RL_FIXED_WINDOW, 1, HOUR);
static int admitted[FILLERS + WAYS];
static int generations; /* of all places, before the scene */

static int sum_of_generations(void)
{
    int sum = 0;

    for (int i = 0; i < WAYS; i++)
        sum += (int)(set[i].owner >> GENERATION_SHIFT);
    return sum;
}

static void begin_with(int fillers, int64_t used_at_ms)
{
    make_set(fillers, used_at_ms);
    generations = sum_of_generations();
    memset(admitted, 0, sizeof(admitted));
}

static void in_empty_set(void)
{
    begin_with(0, 0);
}

static void beside_seven(void)
{
    begin_with(7, NOW - 1000);
}

static void in_full_set(void)
{
    begin_with(8, NOW - 1000);
}

static void among_idle(void)
{
    begin_with(8, NOW - 60000);
}

/* The sixth has expired for threads whose clock is a second ahead, so they choose another place. */
static void with_one_about_to_expire(void)
{
    begin_with(8, NOW - 1000);
    set[5].expires_s = NOW / 1000 + 1;
}

/* The first has expired, so all threads choose it. */
static void among_idle_beside_an_expired(void)
{
    begin_with(8, NOW - 60000);
    set[0].expires_s = NOW / 1000 - 1;
}

/* All places are being made by threads that died a while ago, or are only stopped. */
static void among_makers(int64_t since_s)
{
    begin_with(8, NOW - 1000);
    for (int i = 0; i < WAYS; i++) {
        set[i].owner |= BEING_MADE;
        set[i].used = (uint32_t)(NOW / 1000 - since_s) << 8;
    }
}

static void among_dead_makers(void)
{
    among_makers(60);
}

static void among_live_makers(void)
{
    among_makers(0);
}

/* A thread died with alice's entry half made, in the fourth place. */
static void with_half_made(void)
{
    begin_with(8, NOW - 1000);
    set[3].owner = ((set[3].owner & GENERATION) + (UINT64_C(1) << GENERATION_SHIFT))
        | BEING_MADE | ALICE;
}

static void charge_key(int number)
{
    admitted[number] += charge(number, &fixed, 1, NOW);
}

static void alice(void)
{
    charge_key(ALICE);
}

static void bob(void)
{
    charge_key(BOB);
}

static void carol(void)
{
    charge_key(CAROL);
}

static void alice_a_second_ahead(void)
{
    admitted[ALICE] += charge(ALICE, &fixed, 1, NOW + 1000);
}

static void alice_once(void)
{
    admitted[ALICE] += charge(ALICE, &once, 1, NOW);
}

static int is_admitted(int number, int dead)
{
    int total = admitted[number] + take_rest(number, &fixed, NOW);

    return total <= QUOTA && total >= QUOTA - dead;
}

static const char *one_tenure(int dead)
{
    if (ready(ALICE) > 1)
        return "alice has two entries";
    if (!dead && ready(ALICE) != 1)
        return "alice has no entry";
    if (!is_admitted(ALICE, dead))
        return "the units admitted are not the quota";
    return ready(ALICE) == 1 ? NULL : "alice has two entries in the end";
}

static const char *one_key(int dead)
{
    return !dead && being_made() ? "an entry is left half made" : one_tenure(dead);
}

static const char *one_unit(int dead)
{
    if (admitted[ALICE] + charge(ALICE, &once, 1, NOW) > 1)
        return "a quota of one is admitted twice";
    return ready(ALICE) == 1 || dead ? NULL : "alice does not have one entry";
}

static const char *each_key(int dead)
{
    static const int keys[] = {ALICE, BOB, CAROL};

    if (!dead && being_made())
        return "an entry is left half made";
    for (int i = 0; i < 3; i++) {
        if (ready(keys[i]) > 1)
            return "a key has two entries";
    }
    for (int i = 0; i < 3; i++) {
        if (!is_admitted(keys[i], dead))
            return "a count is lost";
    }
    return NULL;
}

static const char *two_tenures(int dead)
{
    (void)dead;
    return sum_of_generations() == generations + 2 ? NULL : "a place was taken from its maker";
}

static const char *three_tenures(int dead)
{
    (void)dead;
    return sum_of_generations() == generations + 3 ? NULL : "a place was taken from its maker";
}

static const scene scenes[] = {
    {"a new key, two threads, an empty set", in_empty_set, one_key, {alice, alice}, 3, 0, 0},
    {"a new key, two threads, one place free", beside_seven, one_key, {alice, alice}, 3, 0, 0},
    {"a new key, two threads, a full set", in_full_set, one_key, {alice, alice}, 3, 0, 0},
    {"a new key, three threads, an empty set", in_empty_set, one_key,
     {alice, alice, alice}, 1, 0, 0},
    {"a new key, three threads, a full set", in_full_set, one_key, {alice, alice, alice}, 2, 0, 0},
    {"a new key, three threads, a full set, at random", in_full_set, one_key,
     {alice, alice, alice}, 0, 0, 200000},
    {"a new key, two threads, two places", with_one_about_to_expire, one_key,
     {alice, alice_a_second_ahead}, 3, 0, 0},
    {"a new key, three threads, two places", with_one_about_to_expire, one_key,
     {alice, alice_a_second_ahead, alice}, 2, 0, 0},
    {"a new key, three threads, two places, at random", with_one_about_to_expire, one_key,
     {alice, alice_a_second_ahead, alice}, 0, 1, 300000},
    {"a quota of one, two threads, a full set", in_full_set, one_unit,
     {alice_once, alice_once}, 2, 0, 0},
    {"a new key, two threads of which one dies", in_full_set, one_key, {alice, alice}, 1, 1, 0},
    {"a new key, three threads of which two die, at random", in_full_set, one_key,
     {alice, alice, alice}, 0, 2, 200000},
    {"a half-made key, two threads", with_half_made, one_key,
     {alice, alice}, 2, 0, 0},
    {"a half-made key, three threads of which one dies, at random", with_half_made,
     one_key, {alice, alice, alice}, 0, 1, 100000},
    {"two new keys, a full set", among_idle, each_key, {alice, bob}, 3, 0, 0},
    {"two new keys, three threads, a full set", among_idle, each_key, {alice, alice, bob}, 2, 0, 0},
    {"three new keys, a full set, one dies", among_idle, each_key, {alice, bob, carol}, 1, 1, 0},
    {"two makers take no place from each other", among_idle_beside_an_expired, two_tenures,
     {alice, bob}, 3, 0, 0},
    {"three makers take no place from each other", among_idle_beside_an_expired, three_tenures,
     {alice, bob, carol}, 2, 0, 0},
    {"a key, all places being made by dead threads", among_dead_makers, one_tenure, {alice, alice},
     2, 0, 0},
    {"a key, all places being made by late threads", among_live_makers, one_tenure, {alice, alice},
     2, 0, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
