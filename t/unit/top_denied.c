/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The most denied identities: those that are denied much stay, whatever others come; a process that
 * dies while it writes blocks nothing; what is not complete is not believed. Time is an argument.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random.h"
#include "shm/top_denied.h"
#include "table.h"
#include "tap.h"

#define NOW INT64_C(600000000)
#define READY (UINT64_C(1) << 63)

static rl_top_denied *fresh(void)
{
    return rl_top_denied_init(shared_memory(rl_top_denied_size()));
}

/* Keys of one set: the table takes it from the bits above the lowest eight. */
static uint64_t key_in_set(int set, int number)
{
    return READY | (uint64_t)number << 32 | (uint64_t)set << 8;
}

static rl_top_denied_details who_is(uint64_t key)
{
    rl_top_denied_details who;

    memset(&who, 0, sizeof(who));
    snprintf(who.identity, sizeof(who.identity), "ip:%016" PRIx64, key);
    snprintf(who.rule, sizeof(who.rule), "rule-%016" PRIx64, key);
    who.quota = (int64_t)(key & INT64_MAX);
    return who;
}

static void enter(rl_top_denied *table, uint64_t key, uint32_t denials, int64_t now)
{
    rl_top_denied_details who = who_is(key);

    rl_top_denied_enter(table, key, &who, denials, now);
}

/* The entry of key; its key is 0 if there is none. */
static rl_top_denied_entry entry_of(rl_top_denied *table, uint64_t key, int64_t now)
{
    rl_top_denied_entry entry;

    for (int i = 0; i < RL_DENIED_MAX; i++) {
        if (rl_top_denied_read(table, i, now, &entry) && entry.key == key)
            return entry;
    }
    memset(&entry, 0, sizeof(entry));
    return entry;
}

static void test_counting(void)
{
    rl_top_denied *table = fresh();
    uint64_t key = key_in_set(1, 7);
    rl_top_denied_details who = who_is(key);
    rl_top_denied_entry entry;

    rl_top_denied_count(table, key, NOW);
    is_int(entry_of(table, key, NOW).key, 0, "a key that was not entered is not counted");
    enter(table, key, 1, NOW);
    for (int i = 0; i < 59; i++)
        rl_top_denied_count(table, key, NOW + i * 1000);
    entry = entry_of(table, key, NOW + 59000);
    is_int(entry.denials, 60, "each denial counts");
    is_int(entry.last_minute, 60, "all in the last minute");
    is_int(entry.last_ms, NOW + 58000, "the time of the last one is known");
    is_int(entry.since_ms, NOW, "and of the first");
    is_str(entry.details.identity, who.identity, "and the identity");
    is_int(entry_of(table, key, NOW + 90000).last_minute, 30,
           "half a minute later, about half of them");
    is_int(entry_of(table, key, NOW + 120000).last_minute, 0, "after another half none");
    rl_top_denied_count(table, key, NOW + 300000);
    is_int(entry_of(table, key, NOW + 300000).last_minute, 1,
           "a later denial counts alone in its minute");
    is_int(entry_of(table, key, NOW + 300000).denials, 61, "and in the sum");
    snprintf(who.address, sizeof(who.address), "203.0.113.9");
    rl_top_denied_enter(table, key, &who, 5, NOW + 300000);
    is_str(entry_of(table, key, NOW + 300000).details.address, "203.0.113.9",
           "entering it again replaces what is known");
    is_int(entry_of(table, key, NOW + 300000).denials, 61, "but counts nothing");
    ok(rl_top_denied_attach(table) == table, "another configuration finds the table");
    ok(!rl_top_denied_attach(shared_memory(rl_top_denied_size())), "and none in other memory");
}

static void test_the_heavy_stay(void)
{
    rl_top_denied *table = fresh();
    int kept = 0;

    for (int i = 0; i < 7; i++)
        enter(table, key_in_set(3, i), 100, NOW);
    for (int i = 1000; i < 20000; i++)
        enter(table, key_in_set(3, i), 1, NOW + i);
    for (int i = 0; i < 7; i++)
        kept += entry_of(table, key_in_set(3, i), NOW).key != 0;
    is_int(kept, 7, "a flood of newcomers does not replace identities with more denials");
    enter(table, key_in_set(3, 99), 50, NOW + 20000);
    ok(entry_of(table, key_in_set(3, 99), NOW).key, "a newcomer with more denials gets a place");
    enter(table, key_in_set(3, 100), 2, NOW + 20001);
    ok(!entry_of(table, key_in_set(3, 100), NOW).key, "one with fewer does not");
    enter(table, key_in_set(3, 100), 2, NOW + 200000);
    ok(entry_of(table, key_in_set(3, 100), NOW + 200000).key,
       "except when the others had none for two minutes");
}

/* --- Death -------------------------------------------------------------------------------- */

/* The place of a key in keys[], which is one cache line of each set. */
static _Atomic uint64_t *word_of(rl_top_denied *table, uint64_t key)
{
    uint64_t *end = (uint64_t *)((char *)table + rl_top_denied_size());

    for (uint64_t *w = (uint64_t *)table; w < end; w += 8) {
        if (*w == key)
            return (_Atomic uint64_t *)w;
    }
    return NULL;
}

static void test_torn(void)
{
    rl_top_denied *table = fresh();
    rl_top_denied_details who;
    uint64_t key = key_in_set(5, 1);
    _Atomic uint64_t *place;

    enter(table, key, 3, NOW);
    place = word_of(table, key);
    ok(place, "the first place of a set begins its line");
    *place = UINT64_C(1) << 62 | NOW / 1000;
    is_int(entry_of(table, key, NOW).key, 0, "a place that is being written is not read");
    for (int i = 2; i < 9; i++)
        enter(table, key_in_set(5, i), 3, NOW);
    enter(table, key_in_set(5, 20), 30, NOW + 1000);
    ok(*place >> 63 == 0, "nor given to another");
    enter(table, key_in_set(5, 21), 1, NOW + 4000);
    is_int(*place, key_in_set(5, 21), "until its claim is older than two seconds");

    *place = key; /* with the texts of another key */
    is_int(entry_of(table, key, NOW).key, 0,
           "texts that were written for another key are not believed");
    is_int(*place, 0, "their place is free again");
    who = who_is(key);
    rl_top_denied_enter(table, key, &who, 1, NOW + 5000);
    is_str(entry_of(table, key, NOW + 5000).details.identity, who.identity, "and can be taken");
    who.algorithm = RL_ALGORITHMS;
    rl_top_denied_enter(table, key, &who, 1, NOW + 5000);
    is_int(entry_of(table, key, NOW + 5000).key, 0, "nor is the number of an unknown algorithm");
    who.algorithm = 0;
    memset(who.rule, 'r', sizeof(who.rule));
    rl_top_denied_enter(table, key, &who, 1, NOW + 5000);
    is_int(entry_of(table, key, NOW + 5000).key, 0, "nor a text without an end");
}

static void hammer(rl_top_denied *table, unsigned seed)
{
    for (;;) {
        uint64_t key = key_in_set((int)(seed % 4), (int)(seed / 4 % 40));
        int64_t now = NOW + (int64_t)(seed % 7) * 3000;

        if (seed % 3)
            rl_top_denied_count(table, key, now);
        else
            enter(table, key, seed % 50 + 1, now);
        seed = seed * 1664525u + 1013904223u;
    }
}

/* Every entry that is read belongs to its key, whatever happened to its writers. */
static void test_killed_writers(void)
{
    rl_top_denied *table = fresh();
    int wrong = 0, read = 0;

    for (int round = 0; round < 150; round++) {
        pid_t pids[3];

        fflush(NULL);
        for (int i = 0; i < 3; i++) {
            pids[i] = fork();
            if (pids[i] == 0)
                hammer(table, (unsigned)(round * 3 + i) * 2654435761u);
        }
        for (int reads = 0; reads < 40; reads++) {
            for (int i = 0; i < RL_DENIED_MAX; i++) {
                rl_top_denied_entry entry;
                rl_top_denied_details who;

                if (!rl_top_denied_read(table, i, NOW, &entry))
                    continue;
                who = who_is(entry.key);
                read++;
                wrong += memcmp(&who, &entry.details, sizeof(who)) != 0;
            }
        }
        for (int i = 0; i < 3; i++) {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
        }
    }
    is_int(wrong, 0, "no entry is incomplete, in %d reads", read);
    ok(read > 1000, "enough was read");
    for (int i = 0; i < 8; i++)
        enter(table, key_in_set(2, 5000 + i), 1000000, NOW + 3600000);
    for (int i = 0; i < 8; i++)
        read += entry_of(table, key_in_set(2, 5000 + i), NOW + 3600000).key ? 1000000 : 0;
    is_int(read / 1000000, 8, "an hour later no place is lost");
}

/* --- Counts that were not reported -------------------------------------------------------- */

static void test_unreported(void)
{
    rl_local *table = make_table(RL_LOCAL_MIN_SIZE);
    uint64_t key = key_of(table, RL_LOCAL_COUNT, 1);

    is_int(rl_local_unreported(table, key, 50000, 10000), 0,
           "without a denial there is nothing to report");
    is_int(rl_local_report(table, key, 50000, 10000), 1, "the first denial is reported");
    for (int i = 0; i < 5; i++)
        is_int(rl_local_report(table, key, 51000, 10000), 0, "the next ones are not");
    is_int(rl_local_unreported(table, key, 60000, 10000), 0, "nor as unreported before it is time");
    is_int(rl_local_unreported(table, key, 61000, 10000), 5, "then their number is");
    is_int(rl_local_unreported(table, key, 80000, 10000), 0, "but only once");
    is_int(rl_local_report(table, key, 62000, 10000), 0, "it counts as a report");
    is_int(rl_local_report(table, key, 72000, 10000), 2, "all denials since are counted");
    rl_local_report(table, key, 72000, 10000);
    is_int(rl_local_unreported(table, key, 72000, -1), 1,
           "at the end of a child they are reported at once");
}

int main(void)
{
    test_counting();
    test_the_heavy_stay();
    test_torn();
    test_killed_writers();
    test_unreported();
    return done_testing();
}
