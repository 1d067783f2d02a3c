/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What children share besides the local tier: the places of delayed requests, the most denied
 * identities, the statistics, and the breaker.
 */
#include "explore.h"
#include "redis/breaker.h"
#include "shm/delayed.h"
#include "shm/stats.h"
#include "shm/top_denied.h"

#define NOW INT64_C(1000000)

static _Alignas(64) char memory[3 << 20];
static char image[sizeof(memory)];

/* --- Delayed requests --- */

static rl_delayed *const delayed = (rl_delayed *)memory;
static int places, refused;

static void none_delayed(void)
{
    memset(memory, 0, rl_delayed_size());
    places = refused = 0;
}

static void takes_a_place(void)
{
    if (rl_delayed_take(delayed, NOW, 500, 1))
        places++;
    else
        refused++;
}

/* One of two places is taken. */
static void one_delayed(void)
{
    none_delayed();
    rl_delayed_take(delayed, NOW, 300, 1);
}

static void takes_one_of_two(void)
{
    places += rl_delayed_take(delayed, NOW, 500, 2);
}

/* How many places are free if so many may be taken. */
static int free_of(int most)
{
    int n = 0;

    while (rl_delayed_take(delayed, NOW, 500, most))
        n++;
    return n;
}

static const char *one_place(int dead)
{
    if (places > 1)
        return "two threads have the last place";
    return free_of(3) >= 3 - places - dead ? NULL : "a place is leaked";
}

static const char *two_places(int dead)
{
    if (places > 1)
        return "three threads have two places";
    return free_of(3) >= 3 - 1 - places - dead ? NULL : "a place is leaked";
}

/* --- The most denied --- */

static rl_top_denied *const most_denied = (rl_top_denied *)memory;
static int strangers;

static uint64_t denied_key(int number)
{
    return UINT64_C(1) << 63 | (uint64_t)number;
}

static void enter(int number, int64_t host_ms)
{
    rl_top_denied_details who;

    memset(&who, 0, sizeof(who));
    snprintf(who.identity, sizeof(who.identity), "ip:192.0.2.%d", number);
    snprintf(who.limit, sizeof(who.limit), "%d/1h", number);
    who.quota = number;
    rl_top_denied_enter(most_denied, denied_key(number), &who, 5, host_ms);
}

/* A set in which seven places have identities with more denials than the newcomers. */
static void make_denied(void)
{
    static int made;

    if (!made++) {
        memset(memory, 0, rl_top_denied_size());
        rl_top_denied_init(memory);
        for (int i = 1; i <= 7; i++) {
            enter(i, NOW);
            for (int n = 0; n < 20; n++)
                rl_top_denied_count(most_denied, denied_key(i), NOW);
        }
        memcpy(image, memory, rl_top_denied_size());
    }
    memcpy(memory, image, rl_top_denied_size());
    strangers = 0;
}

static void read_all(int64_t host_ms)
{
    rl_top_denied_entry entry;

    for (int i = 0; i < 8; i++) {
        char identity[32];

        if (!rl_top_denied_read(most_denied, i, host_ms, &entry))
            continue;
        snprintf(identity, sizeof(identity), "ip:192.0.2.%" PRIu64, entry.key & 0xff);
        strangers += strcmp(identity, entry.details.identity) != 0
            || entry.details.quota != (int64_t)(entry.key & 0xff);
    }
}

static void enters_eight(void)
{
    enter(8, NOW);
}

static void enters_nine(void)
{
    enter(9, NOW);
}

static void enters_late(void)
{
    enter(9, NOW + 4000);
}

static void counts_eight(void)
{
    rl_top_denied_count(most_denied, denied_key(8), NOW);
}

static void reads_all(void)
{
    read_all(NOW);
}

static const char *right_names(int dead)
{
    rl_top_denied_entry entry;
    int found = 0;

    (void)dead;
    read_all(NOW);
    if (strangers)
        return "an identity is read for another key";
    enter(10, NOW + 4000); /* a claim of a dead thread may be replaced by then */
    for (int i = 0; i < 8; i++)
        found += rl_top_denied_read(most_denied, i, NOW + 4000, &entry) != 0;
    return found >= 7 ? NULL : "a place is lost";
}

/* --- Statistics --- */

static rl_stats *const stats = (rl_stats *)memory;
static int absurd;

static void make_stats(void)
{
    memset(memory, 0, rl_stats_size());
    rl_stats_init(memory);
    rl_stats_row(stats, "login");
    for (int i = 0; i < 5; i++)
        rl_stats_count(stats, 0, RL_PASSED, RL_SOURCE_LOCAL);
    for (int i = 0; i < 8; i++)
        rl_stats_keep(stats, NOW - 64500 + i * 9000); /* the first is the one of a minute ago */
    absurd = 0;
}

static void counts(void)
{
    rl_stats_count(stats, 0, RL_PASSED, RL_SOURCE_LOCAL);
}

static void keeps(void)
{
    rl_stats_keep(stats, NOW + 8000);
}

static void reads_recent(void)
{
    static rl_stats_counts recent;
    uint64_t passed;

    rl_stats_read(stats, &recent);
    rl_stats_recent(stats, NOW, &recent);
    passed = rl_stats_of_verdict(&recent, 0, RL_PASSED);
    absurd += passed > 7;
}

static const char *all_counted(int dead)
{
    static rl_stats_counts counts_now;
    uint64_t passed;

    rl_stats_read(stats, &counts_now);
    passed = rl_stats_of_verdict(&counts_now, 0, RL_PASSED);
    return passed <= 7 && passed + (uint64_t)dead >= 7 ? NULL : "a count is lost";
}

static const char *sane(int dead)
{
    (void)dead;
    return absurd ? "more was counted in a minute than ever before" : NULL;
}

/* --- The breaker --- */

static rl_breaker *const breaker = (rl_breaker *)memory;
static const rl_breaker_options options = {50, 2000};
static int opened, owners, allowed;

static void closed(void)
{
    memset(memory, 0, sizeof(rl_breaker));
    opened = owners = allowed = 0;
}

static void open_and_due(void)
{
    closed();
    rl_breaker_open(breaker, 50, NOW - 1000);
}

/* After it was opened and closed again. */
static void closed_again(void)
{
    closed();
    breaker->probes = 3;
}

static void about_to_close(void)
{
    open_and_due();
    rl_breaker_probed(breaker, &options, 1, NOW - 200);
    rl_breaker_probed(breaker, &options, 1, NOW - 100);
}

static void opens(void)
{
    opened += rl_breaker_open(breaker, 50, NOW);
}

static void claims_probe(void)
{
    owners += rl_breaker_claim_probe(breaker, 25, NOW);
}

static void probe_succeeds(void)
{
    rl_breaker_probed(breaker, &options, 1, NOW);
}

/* The caller's clock was read just before that of the probe. */
static void may_ask(void)
{
    for (int i = 0; i < 16; i++)
        allowed += rl_breaker_allows(breaker, NOW - 1);
}

static void fails_to_reconnect(void)
{
    opened += rl_breaker_count_reconnect(breaker, &options, 0, NOW);
}

static const char *opened_once(int dead)
{
    if (opened > 1 || (!dead && opened != 1))
        return "it was not opened by exactly one caller";
    if (breaker->state != RL_BREAKER_OPEN)
        return dead ? NULL : "it is not open";
    rl_breaker_probed(breaker, &options, 0, NOW);
    if (rl_breaker_claim_probe(breaker, 25, NOW + 20))
        return "there is no pause after a failed probe";
    rl_breaker_probed(breaker, &options, 1, NOW + 200);
    return breaker->state == RL_BREAKER_OPEN ? NULL : "a single probe closes it";
}

static const char *one_owner(int dead)
{
    if (owners > 1)
        return "a probe has two owners";
    return owners == 1 || dead ? NULL : "a probe has no owner";
}

static const char *ramps(int dead)
{
    (void)dead;
    if (breaker->state == RL_BREAKER_CLOSED)
        return "the ramp ended at once";
    return allowed <= 3 ? NULL : "more than an eighth may ask at first";
}

static const scene scenes[] = {
    {"delayed: three take the last place", none_delayed, one_place,
     {takes_a_place, takes_a_place, takes_a_place}, 1, 0, 0},
    {"delayed: two take the last place, one dies", none_delayed, one_place,
     {takes_a_place, takes_a_place}, 0, 1, 0},
    {"delayed: two take the last of two places", one_delayed, two_places,
     {takes_one_of_two, takes_one_of_two}, 1, 0, 0},

    {"most denied: two enter at once, one reads", make_denied, right_names,
     {enters_eight, enters_nine, reads_all}, 1, 0, 0},
    {"most denied: one enters and dies, one enters later", make_denied, right_names,
     {enters_eight, enters_late}, 1, 1, 0},
    {"most denied: a place is taken while another counts in it, at random",
     make_denied, right_names, {enters_late, enters_eight, counts_eight}, 0, 1, 20000},

    {"statistics: two count, one reads", make_stats, all_counted,
     {counts, counts, reads_recent}, 1, 0, 0},
    {"statistics: two count, one dies", make_stats, all_counted, {counts, counts}, 1, 1, 0},
    {"statistics: the past is kept while it is read", make_stats, sane,
     {counts, reads_recent, keeps}, 1, 0, 0},
    {"statistics: the past is kept while it is read, at random", make_stats, sane,
     {counts, reads_recent, keeps}, 0, 1, 20000},

    {"breaker: three open it", closed, opened_once, {opens, opens, opens}, 2, 0, 0},
    {"breaker: the thread that opens it dies", closed_again, opened_once, {opens}, 0, 1, 0},
    {"breaker: the thread that opens it dies, another opens it", closed_again, opened_once,
     {opens, opens}, 1, 1, 0},
    {"breaker: two fail to reconnect", closed, opened_once,
     {fails_to_reconnect, fails_to_reconnect}, 3, 0, 0},
    {"breaker: three claim the probe", open_and_due, one_owner,
     {claims_probe, claims_probe, claims_probe}, 3, 0, 0},
    {"breaker: the closing probe, and a request from just before", about_to_close, ramps,
     {probe_succeeds, may_ask}, 3, 0, 0},
};

int main(int argc, char **argv)
{
    return explore_scenes(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
}
