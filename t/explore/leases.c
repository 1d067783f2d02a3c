/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: all threads together spend the units that were granted and not reported as lost, no unit
 * twice, none after its lease has expired, and none of another key; one thread asks for a refill.
 */
#include "explore.h"
#include "set.h"

#define LIFE_MS 500
#define AFTER (NOW + LIFE_MS)  /* when leases that were asked for at NOW have expired */
#define FAR (NOW + 10 * LIFE_MS)

/* The units of a key, as the callers know them. */
typedef struct {
    int granted, lost, spent, claims;
    int fresh;       /* of granted: units of leases that expire after AFTER */
    int spent_after; /* of spent: at AFTER */
} account;

static account accounts[BOB + 1];
static uint64_t serial; /* of the lease that was spent before the scene */

static int spend(int number, int cost, int64_t host_ms)
{
    account *a = &accounts[number];
    rl_lease spent;

    if (!rl_local_lease_spend(table, key_of(number), cost, host_ms, &spent))
        return 0;
    a->spent += cost;
    a->spent_after += host_ms >= AFTER ? cost : 0;
    serial = x.inside ? serial : spent.serial;
    return 1;
}

static void grant(int number, int units, int64_t sent_ms)
{
    account *a = &accounts[number];
    rl_lease_grant grant = {units, sent_ms, LIFE_MS, sent_ms, 1};

    a->granted += units;
    a->fresh += sent_ms + LIFE_MS > AFTER ? units : 0;
    a->lost += (int)rl_local_lease_grant(table, key_of(number), &grant);
}

static int claim(int number, int64_t host_ms)
{
    rl_lease_times times = {host_ms, host_ms - 1, host_ms + 50, 1};

    /* The first request only leaves word for the second. */
    if (!rl_local_lease_claim(table, key_of(number), &times)
        && !rl_local_lease_claim(table, key_of(number), &times))
        return 0;
    accounts[number].claims++;
    return 1;
}

static void give(int number, int cost)
{
    rl_local_lease_return(table, key_of(number), serial, cost);
    accounts[number].spent -= cost;
}

/* --- Scenes --- */

static void without_leases(void)
{
    make_set(3, NOW - 1000);
    memset(accounts, 0, sizeof(accounts));
}

static void with_three(void)
{
    without_leases();
    grant(ALICE, 3, NOW);
}

/* The lease that expires first is the second one, and has one unit. */
static void with_two_leases(void)
{
    without_leases();
    grant(ALICE, 2, NOW + 100);
    grant(ALICE, 1, NOW);
}

static void with_one_of_three(void)
{
    with_three();
    spend(ALICE, 2, NOW);
}

static void used_up(void)
{
    with_three();
    spend(ALICE, 3, NOW);
}

static void one_live_one_used_up(void)
{
    without_leases();
    grant(ALICE, 3, NOW);
    grant(ALICE, 3, NOW - 100);
    spend(ALICE, 3, NOW); /* the second expires first */
}

/* alice's entry has expired, so bob takes its place, and alice then that of an idle one. */
static void evicted(int claimed)
{
    make_set(7, NOW - 60000);
    memset(accounts, 0, sizeof(accounts));
    grant(ALICE, 3, NOW);
    spend(ALICE, 1, NOW);
    if (claimed)
        claim(ALICE, NOW);
    for (int i = 0; i < WAYS; i++) {
        if ((set[i].owner & FINGERPRINT) == ALICE)
            set[i].expires_s = NOW / 1000 - 1;
    }
}

static void alice_evicted(void)
{
    evicted(0);
}

static void alices_claim_evicted(void)
{
    evicted(1);
}

/* All places have words of the next tenure's generation, which is 4,096 tenures old. */
static void old_words(void)
{
    alice_evicted();
    for (int i = 0; i < WAYS; i++) {
        uint64_t next = (set[i].owner & GENERATION) + (UINT64_C(1) << GENERATION_SHIFT);

        set[i].words[CLAIM] = next | (uint64_t)FAR;
        for (int j = 0; j < 2; j++) {
            set[i].words[LEASE + 2 * j] = next | UINT64_C(2) << 40 | (uint64_t)FAR;
            set[i].words[LEASE + 2 * j + 1] = UINT64_C(3) << 40 | 3 << 16 | LIFE_MS;
        }
    }
}

/* --- Threads --- */

static void spends(void)
{
    spend(ALICE, 1, NOW);
}

static void spends_twice(void)
{
    spend(ALICE, 1, NOW);
    spend(ALICE, 1, NOW);
}

static void spends_two(void)
{
    spend(ALICE, 2, NOW);
}

static void spends_after(void)
{
    spend(ALICE, 1, AFTER);
    spend(ALICE, 1, AFTER);
}

static void returns(void)
{
    give(ALICE, 1);
}

static void returns_two(void)
{
    give(ALICE, 2);
}

static void is_granted_two(void)
{
    grant(ALICE, 2, NOW);
}

static void is_granted_four(void)
{
    grant(ALICE, 4, NOW);
}

static void is_granted_five(void)
{
    grant(ALICE, 5, NOW);
}

static void is_granted_after(void)
{
    grant(ALICE, 3, AFTER);
}

static void claims(void)
{
    claim(ALICE, NOW);
}

static void refills(void)
{
    if (claim(ALICE, NOW))
        grant(ALICE, 3, NOW);
}

static void spends_or_refills(void)
{
    if (!spend(ALICE, 1, NOW))
        refills();
}

static void bob_charges(void)
{
    for (int i = 0; i < QUOTA; i++)
        accounts[BOB].spent += charge(BOB, &fixed, 1, NOW);
}

/* The same units and the same expiry as alice's lease. */
static void bob_leases(void)
{
    grant(BOB, 3, NOW);
    spend(BOB, 1, NOW);
}

static void bob_claims(void)
{
    claim(BOB, NOW);
    claim(BOB, NOW + 1);
}

/* --- Promises --- */

/* Takes all that is left at AFTER, then what only late threads could take. */
static void spend_rest(int number)
{
    while (spend(number, 1, AFTER))
        ;
    while (spend(number, 1, NOW))
        ;
}

static const char *never_too_many(int number)
{
    const account *a = &accounts[number];

    spend_rest(number);
    if (a->spent > a->granted)
        return "more is spent than was granted";
    if (a->spent_after > a->fresh)
        return "an expired unit is spent";
    return ready(number) > 1 ? "a key has two entries" : NULL;
}

/* A key whose leases are over gets another one, whatever happened before. */
static const char *usable(int number)
{
    rl_lease_grant grant = {3, FAR, LIFE_MS, FAR, 1};
    int spent = 0;

    rl_local_lease_grant(table, key_of(number), &grant);
    while (spend(number, 1, FAR))
        spent++;
    return spent == 3 ? NULL : "a later lease cannot be spent";
}

static const char *at_most(int dead)
{
    const char *wrong = never_too_many(ALICE);

    (void)dead;
    return wrong ? wrong : usable(ALICE);
}

static const char *exactly(int dead)
{
    const char *wrong = never_too_many(ALICE);
    const account *a = &accounts[ALICE];

    if (!wrong && !dead && a->spent + a->lost != a->granted)
        return "less can be spent than was granted and not lost";
    return wrong ? wrong : usable(ALICE);
}

/* One of two grants has a place, and the live lease keeps its own. */
static const char *one_is_stored(int dead)
{
    int lost = accounts[ALICE].lost;

    return dead || lost == 2 || lost == 4 ? exactly(dead) : "a lease was replaced that is not over";
}

static const char *two_are_stored(int dead)
{
    int lost = accounts[ALICE].lost;

    return dead || lost == 2 || lost == 4 || lost == 5 ? exactly(dead)
                                                       : "two of three grants are not stored";
}

static const char *one_claims(int dead)
{
    int was = accounts[ALICE].claims;

    if (was > 1 || (was == 0 && !dead))
        return "not one thread claims the refill";
    if (claim(ALICE, NOW + 49) && !dead)
        return "a claim ends too early";
    return claim(ALICE, NOW + 50) || claim(ALICE, NOW + 99) ? usable(ALICE)
                                                            : "a claim does not end";
}

/* A refill may follow another one, but not while it has not ended. */
static const char *refilled(int dead)
{
    const account *a = &accounts[ALICE];

    if (!dead && a->claims == 0)
        return "no thread refills";
    return exactly(dead);
}

static const char *bobs_count(int dead)
{
    rl_state state = peek(BOB, &fixed, NOW);
    int spent = accounts[BOB].spent;

    if (ready(BOB) && (state.cur < spent || state.cur > spent + dead || state.blocked_until
                       || state.pending.cur + state.pending.prev))
        return "bob's count is not what bob has charged";
    if (spent != QUOTA && !dead)
        return "bob is denied by a lease";
    return never_too_many(ALICE);
}

static const char *bobs_leases(int dead)
{
    const account *a = &accounts[BOB];
    const char *wrong = never_too_many(BOB);

    if (!wrong && !dead && a->spent + a->lost != a->granted)
        return "bob cannot spend bob's own units";
    return wrong ? wrong : never_too_many(ALICE);
}

static const char *bobs_claim(int dead)
{
    if (accounts[BOB].claims > 1)
        return "bob's claim is gone";
    return accounts[BOB].claims || dead ? NULL : "bob's claim is refused";
}

static const char *bobs_nothing(int dead)
{
    (void)dead;
    if (spend(BOB, 1, NOW))
        return "bob spends an old lease";
    return accounts[BOB].claims == 1 ? bobs_leases(dead) : "bob is refused by an old claim";
}

static const scene scenes[] = {
    {"three spend the last units", with_three, exactly,
     {spends_twice, spends_twice, spends_twice}, 2, 0, 0},
    {"three spend the last units, one dies", with_three, exactly,
     {spends_twice, spends_twice, spends_twice}, 1, 1, 0},
    {"three spend the last units, at random", with_three, exactly,
     {spends_twice, spends_twice, spends_twice}, 0, 0, 50000},
    {"costs that do not fit together", with_three, exactly,
     {spends_two, spends_two, spends}, 2, 0, 0},
    {"the last units of two leases", with_two_leases, exactly,
     {spends_twice, spends_twice, spends_two}, 2, 0, 0},
    {"two spend, one returns", with_one_of_three, exactly,
     {spends_twice, returns, spends_two}, 2, 0, 0},
    {"two return, one spends", with_one_of_three, exactly, {returns, returns, spends}, 2, 0, 0},
    {"two return, one dies", with_one_of_three, at_most, {returns, returns, spends}, 1, 1, 0},

    {"a lease expires while it is spent, and is replaced", with_three, exactly,
     {spends_twice, is_granted_after, spends_after}, 2, 0, 0},
    {"a lease expires, one dies", with_three, exactly,
     {spends_twice, is_granted_after, spends_after}, 1, 1, 0},
    {"a lease that expires and is replaced, at random", with_three, exactly,
     {spends_twice, is_granted_after, spends_after}, 0, 1, 50000},
    {"a return to a lease that is replaced", with_one_of_three, at_most,
     {returns_two, is_granted_after, spends_after}, 2, 0, 0},
    {"a return to a lease that is used up and replaced in the same ms", used_up, at_most,
     {returns_two, is_granted_two, spends_twice}, 2, 0, 0},

    {"two grants beside a live lease", one_live_one_used_up, one_is_stored,
     {is_granted_two, is_granted_four}, 3, 0, 0},
    {"two grants beside a live lease that is spent", one_live_one_used_up, exactly,
     {is_granted_two, is_granted_four, spends_twice}, 2, 0, 0},
    {"three grants", without_leases, two_are_stored,
     {is_granted_two, is_granted_four, is_granted_five}, 2, 0, 0},
    {"three grants, one dies", without_leases, at_most,
     {is_granted_two, is_granted_four, is_granted_five}, 1, 1, 0},

    {"three claim a refill", without_leases, one_claims, {claims, claims, claims}, 2, 0, 0},
    {"three claim a refill, one dies", without_leases, one_claims,
     {claims, claims, claims}, 1, 1, 0},
    {"two claim a refill of a used-up lease", used_up, one_claims, {claims, claims}, 3, 0, 0},
    {"three refill", without_leases, refilled, {refills, refills, spends}, 2, 0, 0},
    {"three spend or refill, one dies", used_up, refilled,
     {spends_or_refills, spends_or_refills, spends_or_refills}, 1, 1, 0},

    {"a late spend while a count takes the place", alice_evicted, bobs_count,
     {spends_twice, bob_charges}, 2, 0, 0},
    {"a late spend while other leases take the place", alice_evicted, bobs_leases,
     {spends_twice, bob_leases}, 2, 0, 0},
    {"a late return while a count takes the place", alice_evicted, bobs_count,
     {returns, bob_charges}, 2, 0, 0},
    {"a late return while other leases take the place", alice_evicted, bobs_leases,
     {returns, bob_leases}, 2, 0, 0},
    {"a late grant while a count takes the place", alice_evicted, bobs_count,
     {is_granted_two, bob_charges}, 2, 0, 0},
    {"a late grant while other leases take the place", alice_evicted, bobs_leases,
     {is_granted_two, bob_leases}, 2, 0, 0},
    {"a late grant, one dies", alice_evicted, bobs_leases,
     {is_granted_two, bob_leases, spends}, 1, 1, 0},
    {"a late claim while a count takes the place", alices_claim_evicted, bobs_count,
     {claims, bob_charges}, 2, 0, 0},
    {"a late claim while another claim takes the place", alice_evicted, bobs_claim,
     {claims, bob_claims}, 2, 0, 0},
    {"the end of a late claim", alices_claim_evicted, bobs_claim,
     {is_granted_two, bob_claims}, 2, 0, 0},
    {"leases that are evicted and come again", alice_evicted, at_most,
     {spends_twice, bob_leases, is_granted_four}, 2, 0, 0},
    {"leases that are evicted and come again, at random", alice_evicted, at_most,
     {spends_twice, bob_leases, is_granted_four}, 0, 1, 50000},
    {"a generation of leases that comes back", old_words, bobs_nothing, {bob_claims}, 0, 0, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
