/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases as one process sees them: a unit is spent once, before its lease expires and from the
 * lease that expires first; a grant never replaces or extends a lease that can be spent; units
 * that are lost are reported; one caller at a time asks for more, for what the demand is worth.
 */
#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE (1024 * 1024)
#define NOW INT64_C(100000) /* host_ms at which most of it happens */

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, 1000, HOUR);

static rl_local *table;
static rl_lease spent; /* of the last spend */

static uint64_t lease_key(int number)
{
    return rl_local_lease_key(table, key_of(table, RL_LOCAL_SNAPSHOT, number), &hourly);
}

static int spend(uint64_t key, int64_t cost, int64_t host_ms)
{
    memset(&spent, 0, sizeof(spent));
    return rl_local_lease_spend(table, key, cost, host_ms, &spent);
}

/* Stores a grant whose reply came 1 ms after its request was sent. Returns the units lost. */
static int64_t grant(uint64_t key, int64_t units, int64_t sent_ms, int64_t life_ms)
{
    return rl_local_lease_grant(table, key, &(rl_lease_grant){units, sent_ms, life_ms,
                                                              sent_ms + 1, 1});
}

static int64_t claim_until(uint64_t key, int64_t host_ms, int64_t asked_ms, int64_t until_ms)
{
    return rl_local_lease_claim(table, key, &(rl_lease_times){host_ms, asked_ms, until_ms, 1});
}

/* The units that a caller would ask for; ends its claim. */
static int64_t wanted(uint64_t key, int64_t host_ms, int64_t asked_ms)
{
    int64_t units = claim_until(key, host_ms, asked_ms, host_ms + 100);

    if (units)
        grant(key, 0, host_ms, 0);
    return units;
}

/* Spends all units, one at a time; returns how many there were. */
static int64_t spend_all(uint64_t key, int64_t host_ms)
{
    int64_t n = 0;

    while (n < 1000000 && spend(key, 1, host_ms))
        n++;
    return n;
}

/* --- Spending ----------------------------------------------------------------------------- */

static void test_spending(void)
{
    uint64_t key = lease_key(1);

    ok(!spend(key, 1, NOW), "without a lease nothing can be spent");
    is_int(grant(key, 10, NOW, 500), 0, "a first grant costs nothing");
    ok(spend(key, 3, NOW + 2) && spent.left == 7 && !spent.refill, "3 of 10 units are spent");
    ok(!spend(key, 8, NOW + 2), "8 of the other 7 are not");
    ok(spend(key, 1, NOW + 2) && spent.left == 6 && !spent.refill, "nothing was taken by that");
    ok(spend(key, 1, NOW + 2) && spent.left == 5 && spent.refill,
       "when half is left it is time for a refill");
    ok(spend(key, 5, NOW + 2) && spent.left == 0 && spent.refill, "all are spent");
    ok(!spend(key, 1, NOW + 2), "and no more");
}

static void test_expiry(void)
{
    uint64_t key = lease_key(2);

    grant(key, 10, NOW, 500);
    ok(spend(key, 1, NOW + 499), "a unit is spent in the last ms of its lease");
    ok(!spend(key, 1, NOW + 500), "not in the ms at which the lease expires");
    ok(!spend(key, 1, NOW + 100000), "nor later");
    ok(spend(key, 1, NOW + 498), "a caller that read the clock earlier spends one");
    is_int(grant(key, 5, NOW + 499, 500), 8, "the 8 units left are lost to the next grant");
    ok(!spend(key, 6, NOW + 500), "to which they are not added");
    is_int(spend_all(key, NOW + 998), 5, "which is spent to its own end");
}

static void test_two_leases(void)
{
    uint64_t key = lease_key(3);

    grant(key, 10, NOW, 500);
    is_int(grant(key, 20, NOW + 50, 300), 0, "a second lease has a place beside the first");
    ok(spend(key, 1, NOW + 51) && spent.left == 29, "both are counted as left");
    ok(!spend(key, 21, NOW + 51), "a cost that neither has alone is not spent");
    is_int(grant(key, 7, NOW + 52, 500), 7, "a third has no place and is lost");
    ok(!spent.refill, "while there are two no refill is due");
    ok(spend(key, 9, NOW + 60) && spend(key, 6, NOW + 60) && spent.left == 14 && !spent.refill,
       "the lease that expires first is spent first, to below its half without a refill");
    ok(spend(key, 9, NOW + 60) && spent.left == 5 && spent.refill,
       "a cost that it does not have is taken from the other one, which needs a refill for it");
    ok(spend(key, 1, NOW + 349) && spent.left == 4, "the first to expire has a ms to live");
    ok(spend(key, 1, NOW + 350) && spent.left == 0 && spent.refill,
       "then the other one is spent, and units that expired are not counted as left");
    is_int(grant(key, 6, NOW + 351, 500), 0, "a grant replaces the one that is used up");
    is_int(grant(key, 8, NOW + 352, 500), 3, "the next one that which expired with 3 units");
    is_int(spend_all(key, NOW + 353), 14, "both can be spent");
}

static void test_late_grants(void)
{
    uint64_t key = lease_key(4);

    is_int(rl_local_lease_grant(table, key, &(rl_lease_grant){9, NOW, 100, NOW + 100, 1}), 9,
           "a grant that is received when it expires is lost");
    is_int(rl_local_lease_grant(table, key, &(rl_lease_grant){9, NOW, 100, NOW + 99, 1}), 0,
           "one that is received before is not");
    ok(!spend(key, 1, NOW + 100) && spend(key, 1, NOW + 99),
       "its life began when the request was sent");
    is_int(grant(key, 9, NOW, 0), 9, "a grant without a life is lost");
    is_int(grant(key, 0, NOW + 200, 500), 0, "of no grant nothing is");
    is_int(grant(key, 1, NOW + 200, 500), 8, "it has left what expired as it was");
    is_int(grant(lease_key(5), (1 << 24) - 1, NOW, 1000), 0,
           "the largest lease has 2^24 - 1 units");
    ok(spend(lease_key(5), (1 << 24) - 2, NOW) && spent.left == 1 && spend(lease_key(5), 1, NOW)
           && !spend(lease_key(5), 1, NOW), "which can be spent");
}

static void test_returns(void)
{
    uint64_t key = lease_key(6), first, second;

    grant(key, 10, NOW, 500);
    spend(key, 4, NOW + 2);
    first = spent.serial;
    grant(key, 10, NOW + 10, 600);
    rl_local_lease_return(table, key, first, 3);
    ok(spend(key, 9, NOW + 20) && spent.left == 10, "units return to their lease");
    rl_local_lease_return(table, key, first + 1, 1);
    rl_local_lease_return(table, key, 0, 1);
    ok(!spend(key, 11, NOW + 20), "not by another serial");
    spend(key, 10, NOW + 20);
    second = spent.serial;
    ok(first != second, "two leases have different serials");
    rl_local_lease_return(table, key, first, 11);
    is_int(spend_all(key, NOW + 20), 0, "nor more than the lease had");
    rl_local_lease_return(table, key, second, 2);
    rl_local_lease_return(table, key, first, 5);
    is_int(spend_all(key, NOW + 501), 2, "what returns to an expired lease is not spent");
    grant(key, 10, NOW + 502, 500);
    grant(key, 10, NOW + 602, 500);
    spend(key, 10, NOW + 650);
    spend(key, 10, NOW + 650);
    rl_local_lease_return(table, key, first, 1);
    rl_local_lease_return(table, key, second, 1);
    is_int(spend_all(key, NOW + 650), 0, "nor what belongs to a lease that was replaced");
    rl_local_lease_return(table, lease_key(7), first, 1);
    ok(!spend(lease_key(7), 1, NOW), "an identity without leases gets none by a return");
}

/* As many leases as there are serials, and more. */
static void test_serials(void)
{
    uint64_t key = lease_key(9), serials[3] = {0}, first;
    int wrong = 0;

    grant(key, 2, NOW, 500);
    grant(key, 2, NOW, 500);
    spend(key, 2, NOW + 2);
    first = spent.serial;
    spend(key, 2, NOW + 2);
    ok(first != spent.serial, "two leases of the same ms have different serials");
    key = lease_key(8);

    for (int i = 0; i < 10000; i++) {
        int64_t sent_ms = NOW + 7 * i;

        wrong += grant(key, 3, sent_ms, 1000) != 0;
        wrong += !spend(key, 3, sent_ms + 1) || spent.left != 0;
        for (int j = 0; j < 3; j++)
            rl_local_lease_return(table, key, serials[j], 1);
        wrong += spend(key, 1, sent_ms + 1);
        serials[i % 3] = spent.serial ? spent.serial : serials[i % 3];
    }
    is_int(wrong, 0, "10,000 leases one after another: none is spent by the serial of another");
    wrong = 0;
    for (int i = 0; i < 5000; i++) { /* all in the same ms, so that only the numbers differ */
        grant(key, 1, NOW + 200000, 1000);
        spend(key, 1, NOW + 200001);
        wrong += spent.serial == serials[0] || spent.serial == serials[1]
            || spent.serial == serials[2];
        serials[i % 3] = spent.serial;
    }
    is_int(wrong, 0, "the serials of leases of one ms differ");
}

/* --- Refills ------------------------------------------------------------------------------ */

static void test_claims(void)
{
    uint64_t key = lease_key(20);

    is_int(claim_until(key, NOW - 1, NOW - 10, NOW + 49), 0, "a first caller does not ask");
    ok(claim_until(key, NOW, NOW - 1, NOW + 50) > 0, "the second one is to ask");
    is_int(claim_until(key, NOW + 1, NOW - 10, NOW + 51), 0, "the next one is not");
    is_int(claim_until(key, NOW + 49, NOW + 40, NOW + 99), 0, "until the claim ends");
    ok(claim_until(key, NOW + 50, NOW + 40, NOW + 100) > 0, "then it is");
    grant(key, 4, NOW + 60, 500);
    ok(claim_until(key, NOW + 65, NOW, NOW + 100) == 0
           && spend(key, 4, NOW + 65) && claim_until(key, NOW + 66, NOW, NOW + 100) > 0,
       "a grant ends the claim of its caller");
    grant(key, 0, NOW + 67, 0);
    ok(claim_until(key, NOW + 68, NOW + 64, NOW + 100) > 0, "and so does a refusal");
    grant(key, 10, NOW + 69, 500);
    grant(key, 10, NOW + 69, 500);
    spend(key, 9, NOW + 70);
    is_int(claim_until(key, NOW + 70, NOW + 69, NOW + 100), 0,
           "with two leases to spend no caller asks");
    is_int(grant(lease_key(21), 5, NOW, 500), 0, "a grant is stored without a claim, too");
}

/* The units for the second of two callers that find no lease, gap_ms after the first. */
static int64_t second(int number, int64_t first_gap_ms, int64_t gap_ms)
{
    uint64_t key = lease_key(number);

    if (wanted(key, NOW, NOW - first_gap_ms))
        return -1;
    return wanted(key, NOW + gap_ms, NOW);
}

/* Where nothing is leased a lease follows from three requests in a short time. */
static void test_first_demand(void)
{
    uint64_t key = lease_key(22);

    is_int(wanted(key, NOW, 0), 0, "a counter that Redis was never asked about is not leased");
    is_int(wanted(key, NOW, NOW - 1000), 0, "nor one that it was asked about a second ago");
    is_int(wanted(key, NOW + 1, NOW - 50), 0, "nor one of one request in 51 ms");
    is_int(second(23, 50, 50), 2, "two in 50 ms each: 2 units");
    is_int(second(24, 50, 51), 0, "one in 50, one in 51 ms: none");
    is_int(second(25, 51, 50), 0, "one in 51, one in 50 ms: none");
    is_int(second(26, 0, 0), 2, "several in one ms: 2 units");
    is_int(second(27, -5, 0), 2, "also where another process's clock is ahead");
}

/* A lease of so many units, of which some are spent; what is asked for age_ms after it was sent. */
static int64_t wanted_after(int number, int64_t units, int64_t used, int64_t age_ms)
{
    uint64_t key = lease_key(number);

    grant(key, units, NOW, 1000);
    if (used)
        spend(key, used, NOW + 1);
    return wanted(key, NOW + age_ms, NOW);
}

#define D RL_LEASE_DEMAND_MS
#define LIFE_MS 1000

/* The same for a lease of 32 units whose last one is spent so many ms after it was sent. */
static int64_t used_up_in(int number, int64_t ms, int64_t age_ms)
{
    uint64_t key = lease_key(number);

    grant(key, 32, NOW, LIFE_MS);
    for (int i = 1; i < 32; i++)
        spend(key, 1, NOW + 1);
    spend(key, 1, NOW + ms);
    return wanted(key, NOW + age_ms, 0);
}

static void test_demand(void)
{
    is_int(wanted_after(30, 32, 16, D), 15, "16 units spent, the last one after the time that "
           "a lease is for: 15 units");
    is_int(wanted_after(31, 32, 16, D / 2), 30, "in half of it: 30");
    is_int(wanted_after(32, 32, 16, D / 50), 128, "at once: no more than four times the lease");
    is_int(wanted_after(33, 32, 16, 1), 128, "likewise in 1 ms");
    is_int(wanted_after(37, 32, 1, D), 0, "1 unit spent: no lease");
    is_int(wanted_after(38, 32, 0, 10), 0, "nothing spent: no lease");
    is_int(used_up_in(34, 2 * D - 1, 2 * D), 32, "all 32 spent in twice the time: as many again");
    is_int(used_up_in(35, 2 * D, 3 * D), 15, "a ms later: the demand, 15");
    is_int(used_up_in(36, D / 2, LIFE_MS), 62, "how long none has been left does not matter");
    is_int(used_up_in(40, D / 2, LIFE_MS + 2 * D - 1), 62, "until the lease is long over");
    is_int(used_up_in(42, D / 2, LIFE_MS + 2 * D), 0, "then it is forgotten");
    grant(lease_key(43), 32, NOW, LIFE_MS);
    for (int i = 1; i < 32; i++)
        spend(lease_key(43), 1, NOW + 1);
    for (int i = 0; i < 3; i++) {
        spend(lease_key(43), 1, NOW + 2 * D);
        rl_local_lease_return(table, lease_key(43), spent.serial, 1);
    }
    is_int(wanted(lease_key(43), NOW + 2 * D, 0), 15,
           "that the last unit was spent and returned does not matter");
    is_int(wanted_after(41, 1 << 23, 1 << 23, 1), (1 << 24) - 1, "never more than 2^24 - 1");
    is_int(rl_local_lease_claim(table, lease_key(44), &(rl_lease_times){NOW, NOW, NOW + 1, 1 << 23})
               + rl_local_lease_claim(table, lease_key(44),
                                      &(rl_lease_times){NOW + 2, NOW, NOW + 3, 1 << 23}),
           0, "and no lease for a cost of which two are more than that");
}

/* Requests at a steady rate: the lease grows to their demand, and shrinks with it. */
static int64_t lease_at(uint64_t key, int64_t *host_ms, int64_t per_ms, int64_t lasts_ms)
{
    int64_t asked_ms = *host_ms - 1, latest = 0;

    for (int64_t end = *host_ms + lasts_ms; *host_ms < end; ++*host_ms) {
        for (int64_t i = 0; i < per_ms; i++) {
            int asks = !spend(key, 1, *host_ms) || spent.refill;
            int64_t units = asks ? claim_until(key, *host_ms, asked_ms, *host_ms + 50) : 0;

            asked_ms = asks ? *host_ms : asked_ms;
            if (units) {
                grant(key, units, *host_ms, 1000);
                latest = units;
            }
        }
    }
    return latest;
}

static void test_growth(void)
{
    uint64_t key = lease_key(50);
    int64_t host_ms = NOW, fast, slow;

    fast = lease_at(key, &host_ms, 10, 2000);
    ok(fast >= 500 && fast <= 2000, "10 requests a ms: leases for about 100 ms of them (%d)",
       (int)fast);
    slow = lease_at(key, &host_ms, 1, 5000);
    ok(slow >= 50 && slow <= 200, "then 1 a ms: leases for about 100 ms of them (%d)", (int)slow);
}

/* --- Keys, tenures, tables ---------------------------------------------------------------- */

static void test_keys(void)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 60);
    uint64_t leases = rl_local_lease_key(table, key, &hourly);
    rl_limit other = hourly;

    ok(leases == rl_local_lease_key(table, key, &other), "a key of leases is the same again");
    ok(leases != key, "and not that of the snapshot");
    other.quota++;
    ok(leases != rl_local_lease_key(table, key, &other), "it differs by the quota");
    other = hourly;
    other.burst++;
    ok(leases != rl_local_lease_key(table, key, &other), "by the burst");
    ok(leases != rl_local_lease_key(table, key_of(table, RL_LOCAL_SNAPSHOT, 61), &hourly),
       "and by the identity");
    other = (rl_limit)LIMIT(RL_SLIDING_WINDOW, 1001, HOUR);
    grant(leases, 5, NOW, 500);
    ok(!spend(rl_local_lease_key(table, key, &other), 1, NOW),
       "what is leased under one limit is not spent under another");
}

/* A reload with another size: the old table is still used by children that have not ended. */
static void test_move(void)
{
    static const unsigned char seed[RL_LOCAL_SEED] = "another sixteen";
    enum { LARGE = 4 * 1024 * 1024, LEASES = 200 };
    rl_local *from = make_table(LARGE), *was = table;
    rl_local *to = rl_local_init(shared_memory(2 * LARGE), 2 * LARGE, seed, BASE);
    uint64_t snapshot = key_of(from, RL_LOCAL_SNAPSHOT, 1), live;
    int64_t moved = 0, left = 0;
    rl_state state;

    table = from;
    for (int i = 0; i < LEASES; i++)
        grant(lease_key(i), 5, NOW, 500);
    charge(from, key_of(from, RL_LOCAL_COUNT, 1), &hourly, 7, NOW, &state);
    rl_local_move(to, from, NOW, &live);
    is_int(live, LEASES + 1, "a table with leases is moved");
    table = to;
    is_int(peek(to, key_of(to, RL_LOCAL_COUNT, 1), &hourly, NOW).cur, 7, "with its counts");
    ok(key_of(to, RL_LOCAL_SNAPSHOT, 1) == snapshot, "and the keys of its snapshots");
    for (int i = 0; i < LEASES; i++)
        moved += spend_all(lease_key(i), NOW + 1);
    is_int(moved, 0, "no lease can be spent in the new table");
    is_int(grant(lease_key(1), 3, NOW, 500), 0, "which has leases again after the next grant");
    is_int(spend_all(lease_key(1), NOW + 1), 3, "of its own units");
    table = from;
    for (int i = 0; i < LEASES; i++)
        left += spend_all(lease_key(i), NOW + 1);
    is_int(left, 5 * LEASES, "the units are spent in the old one");
    table = was;
    munmap(from, LARGE);
    munmap(to, 2 * LARGE);
}

/* Fills the table with keys that are denied, which evict all others. */
static void evict_all(int first)
{
    static const rl_limit once = LIMIT(RL_FIXED_WINDOW, 1, HOUR);
    rl_local_stats stats;
    rl_state state;

    rl_local_read_stats(table, &stats);
    for (int i = 0; i < 4 * (int)stats.capacity; i++)
        charge(table, key_of(table, RL_LOCAL_COUNT, first + i), &once, 1, NOW, &state);
}

static void test_eviction(void)
{
    rl_local *was = table;
    uint64_t key, serial;

    table = make_table(RL_LOCAL_MIN_SIZE);
    key = lease_key(1);
    grant(key, 10, NOW, 500);
    spend(key, 2, NOW + 2);
    serial = spent.serial;
    evict_all(1000);
    ok(!line_of(table, RL_LOCAL_MIN_SIZE, key) && !spend(key, 1, NOW + 2),
       "leases that were evicted cannot be spent");
    rl_local_lease_return(table, key, serial, 1);
    ok(!line_of(table, RL_LOCAL_MIN_SIZE, key), "nor does a return bring them back");
    munmap(table, RL_LOCAL_MIN_SIZE);

    table = make_table(RL_LOCAL_MIN_SIZE);
    grant(key, 10, NOW, 500);
    claim_until(lease_key(2), NOW, NOW - 1, NOW + 900);
    claim_until(lease_key(2), NOW, NOW - 1, NOW + 900);
    for (int i = 0; i < 20000; i++) {
        rl_state state;

        charge(table, key_of(table, RL_LOCAL_COUNT, i), &hourly, 1, NOW, &state);
    }
    ok(spend(key, 1, NOW + 2), "leases outlast counts of a few units");
    is_int(claim_until(lease_key(2), NOW + 2, NOW - 1, NOW + 900), 0, "and so do claims");
    munmap(table, RL_LOCAL_MIN_SIZE);
    table = was;
}

/*
 * An entry in which all generations come up, each with leases of the same ms, and so with serials
 * that differ in their generation only. The table has few keys, of which each but one denies.
 */
static void test_generations(void)
{
    enum { TENURES = 2 * 4096 + 3 };
    rl_local *was = table;
    uint64_t key, *line, serials[4] = {0};
    int wrong = 0;

    table = make_table(RL_LOCAL_MIN_SIZE);
    key = lease_key(1);
    grant(key, 3, NOW, 500);
    line = line_of(table, RL_LOCAL_MIN_SIZE, key);
    for (int i = 0; i < TENURES; i++) {
        /* The tenure ends, as an eviction would end it, and leaves its words. */
        *line = *line & UINT64_MAX << 52;
        wrong += spend(key, 1, NOW + 2);
        if (i % 5 == 0)
            wrong += grant(key, 3, NOW, 500) != 0 || line_of(table, RL_LOCAL_MIN_SIZE, key) != line;
        else
            claim_until(key, NOW, NOW - 1, NOW + 100);
        for (int j = 0; j < 4; j++)
            rl_local_lease_return(table, key, serials[j], 1);
        wrong += spend_all(key, NOW + 2) != (i % 5 ? 0 : 3);
        serials[i % 4] = spent.serial ? spent.serial : serials[i % 4];
    }
    is_int(wrong, 0, "%d tenures of an entry: none finds a lease or a claim of an earlier one",
           TENURES);
    munmap(table, RL_LOCAL_MIN_SIZE);
    table = was;
}

/* --- Against a list of leases -------------------------------------------------------------- */

typedef struct {
    uint64_t serial;
    int64_t left, size, expires_ms;
} listed;

/* Random grants, spends and returns in an order of time, with clocks that differ by a few ms. */
static int64_t run(rng *r, uint64_t key, long steps)
{
    listed list[2] = {{0}}, old = {0};
    int64_t host_ms = NOW, wrong = 0;

    for (long n = 0; n < steps && !wrong; n++) {
        int64_t units = rng_scaled(r, 1, 100), life_ms = rng_scaled(r, 0, 1000), late_ms, lost;
        int place = -1, best = -1;

        host_ms += rng_one_in(r, 20) ? rng_between(r, 0, 1500) : rng_between(r, 0, 20);
        for (int i = 0; i < 2; i++) {
            if (place < 0 && (list[i].left == 0 || list[i].expires_ms <= host_ms))
                place = i;
        }
        switch (rng_next(r) % 8) {
        case 0:
            late_ms = rng_scaled(r, 0, 100);
            lost = rl_local_lease_grant(table, key, &(rl_lease_grant){units, host_ms - late_ms,
                                                                      life_ms, host_ms, 1});
            if (late_ms >= life_ms || place < 0) {
                wrong += lost != units;
                break;
            }
            wrong += lost != list[place].left;
            old = list[place];
            list[place] = (listed){0, units, units, host_ms - late_ms + life_ms};
            break;
        case 1:
            place = rng_one_in(r, 2);
            if (list[place].serial && list[place].left + units <= list[place].size) {
                rl_local_lease_return(table, key, list[place].serial, units);
                list[place].left += units;
            }
            rl_local_lease_return(table, key, old.serial, 1);
            break;
        default:
            units = rng_between(r, 1, 10);
            for (int i = 0; i < 2; i++) {
                if (list[i].left >= units && host_ms < list[i].expires_ms
                    && (best < 0 || list[i].expires_ms < list[best].expires_ms))
                    best = i;
            }
            if (spend(key, units, host_ms) != (best >= 0)) {
                wrong++;
            }
            else if (best >= 0) {
                listed *other = &list[!best];
                int is_live = other->left > 0 && host_ms < other->expires_ms;

                list[best].left -= units;
                wrong += list[best].serial && spent.serial != list[best].serial;
                list[best].serial = spent.serial;
                wrong += spent.left != list[best].left + (is_live ? other->left : 0);
                wrong += spent.refill != (!(is_live && other->left >= units)
                                          && 2 * list[best].left <= list[best].size);
            }
        }
    }
    return wrong;
}

static void test_model(void)
{
    rng r = {rng_seed(31)};
    long rounds = rng_rounds("RL_ROUNDS", 200000) / 100, wrong = 0;

    for (long n = 0; n < rounds && !wrong; n++)
        wrong += run(&r, lease_key(100000 + (int)n), 300);
    is_int(wrong, 0, "%ld random traces: units, order, losses and serials are those of a list",
           rounds);
}

int main(void)
{
    table = make_table(SIZE);
    test_spending();
    test_expiry();
    test_two_leases();
    test_late_grants();
    test_returns();
    test_serials();
    test_claims();
    test_first_demand();
    test_demand();
    test_growth();
    test_keys();
    test_move();
    test_eviction();
    test_generations();
    test_model();
    return done_testing();
}
