/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of another size, larger or smaller, gets the entries of the old one: counts, pending
 * units, blocks and snapshots, also while other processes still use the old one.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "table.h"
#include "tap.h"

#define MB (1024 * 1024)
#define CLIENTS 2000

static const rl_limit window = LIMIT(RL_SLIDING_WINDOW, 10, 3600000);
static const rl_limit bucket = LIMIT(RL_TOKEN_BUCKET, 10, 3600000);

/* A new table of this size with the entries of the other. */
static rl_local *moved(const rl_local *from, size_t size, uint64_t *held, uint64_t *live)
{
    rl_local *to = rl_local_init(shared_memory(size), size,
                                 (const unsigned char *)"another seed....", 12345);

    *held = rl_local_move(to, from, 0, live);
    return to;
}

/* Client i has used i % 11 of a window and of a bucket; every seventh is blocked. */
static void fill(rl_local *table)
{
    rl_limit blocking = window;
    rl_state state;

    blocking.block_ms = HOUR;
    for (int i = 0; i < CLIENTS; i++) {
        uint64_t key = key_of(table, RL_LOCAL_COUNT, i);

        if (i % 11)
            charge(table, key, &window, i % 11, 0, &state);
        if (i % 7 == 0)
            charge(table, key, &blocking, 11 - i % 11, 0, &state);
        charge(table, key_of(table, RL_LOCAL_FALLBACK, i), &bucket, 1 + i % 10, 0, &state);
    }
}

static int same_state(const rl_state *a, const rl_state *b)
{
    return !memcmp(a, b, sizeof(*a));
}

static void test_sizes(void)
{
    static const size_t sizes[][2] = {{4 * MB, 16 * MB}, {16 * MB, 4 * MB}, {16 * MB, 16 * MB},
                                      {5 * MB + 448, 3 * MB + 64}, {4 * MB, 2 * MB}};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        rl_local *from = make_table(sizes[i][0]), *to;
        uint64_t held, live;
        int wrong = 0;

        fill(from);
        to = moved(from, sizes[i][1], &held, &live);
        for (int k = 0; k < CLIENTS; k++) {
            uint64_t key = key_of(to, RL_LOCAL_COUNT, k), other = key_of(to, RL_LOCAL_FALLBACK, k);
            rl_state was = peek(from, key, &window, 5000), is = peek(to, key, &window, 5000);

            wrong += !same_state(&was, &is);
            was = peek(from, other, &bucket, 5000);
            is = peek(to, other, &bucket, 5000);
            wrong += !same_state(&was, &is);
        }
        is_int(wrong, 0, "from %zu to %zu bytes every count and block is as it was", sizes[i][0],
               sizes[i][1]);
        ok(live >= 2 * CLIENTS - CLIENTS / 11 - 1 && held == live, "all are reported as moved");
        munmap(from, sizes[i][0]);
        munmap(to, sizes[i][1]);
    }
}

/* In a moved table entries are charged, evicted and made as in any other. */
static void test_use(void)
{
    rl_local *from = make_table(4 * MB), *to;
    uint64_t held, live, key;
    rl_local_stats stats;
    rl_state state;
    int passed = 0;

    for (int i = 0; i < 3; i++)
        charge(from, key_of(from, RL_LOCAL_COUNT, 1), &window, 1, 0, &state);
    to = moved(from, 64 * 1024, &held, &live);
    key = key_of(to, RL_LOCAL_COUNT, 1);
    for (int i = 0; i < 20; i++)
        passed += charge(to, key, &window, 1, 1000, &state);
    is_int(passed, 7, "the rest of a quota is the same as before");
    for (int i = 100; i < 20000; i++)
        charge(to, key_of(to, RL_LOCAL_COUNT, i), &window, 1, 2000, &state);
    is_int(peek(to, key, &window, 3000).cur, 10, "a flood does not free a denied client");
    rl_local_read_stats(to, &stats);
    ok(stats.evictions > 0, "other entries are evicted");
    munmap(from, 4 * MB);
    munmap(to, 64 * 1024);
}

static void test_pending(void)
{
    rl_local *from = make_table(4 * MB), *to;
    rl_limit limit = window;
    uint64_t held, live, key = key_of(from, RL_LOCAL_COUNT, 1);
    rl_state state;
    int passed = 0;

    limit.on_response = 1;
    for (int i = 0; i < 4; i++)
        charge(from, key, &limit, 1, 0, &state);
    to = moved(from, 16 * MB, &held, &live);
    for (int i = 0; i < 20; i++)
        passed += charge(to, key, &limit, 1, 1000, &state);
    is_int(passed, 6, "pending units stay pending");
    munmap(from, 4 * MB);
    munmap(to, 16 * MB);
}

static void test_snapshots(void)
{
    rl_local *from = make_table(4 * MB), *to;
    uint64_t held, live, key = key_of(from, RL_LOCAL_SNAPSHOT, 1);
    rl_state state = WINDOW(BASE / HOUR, 0, 10);
    int64_t offset_ms = BASE + 5000;
    rl_view view;

    store_reply(from, key, &window, &state, BASE + 5000, 0);
    to = moved(from, 16 * MB, &held, &live);
    is_int(check_of(to, key, &window, 1, 500, &view), RL_SNAPSHOT_DENIES,
           "what Redis denied is denied without asking");
    is_int(check_of(to, key, &window, 1, 1500, &view), RL_SNAPSHOT_STALE,
           "and the snapshot becomes stale in time");
    is_int(rl_local_now(to, RL_CLOCK_REDIS, 0), offset_ms, "Redis's clock is moved");
    is_int(rl_local_now(to, RL_CLOCK_HOST, 0), rl_local_now(from, RL_CLOCK_HOST, 0),
           "so is the host's offset");
    munmap(from, 4 * MB);
    munmap(to, 16 * MB);
}

static void test_what_goes(void)
{
    rl_local *from = make_table(64 * 1024), *to;
    uint64_t held, live;
    rl_local_stats stats;
    rl_state state;

    for (int i = 0; i < 100; i++)
        charge(from, key_of(from, RL_LOCAL_COUNT, i), &window, 1, 0, &state);
    to = moved(from, 4 * MB, &held, &live);
    rl_local_read_stats(to, &stats);
    is_int(live, 100, "a small table has 100 live entries");
    is_int(held, 0, "their keys are unknown, so none is moved");
    is_int(stats.entries, 0, "the new table stays empty");
    munmap(to, 4 * MB);
    munmap(from, 64 * 1024);

    from = make_table(16 * MB);
    for (int i = 0; i < 50000; i++)
        charge(from, key_of(from, RL_LOCAL_COUNT, i), &window, i == 777 ? 10 : 1, 0, &state);
    to = moved(from, 2 * MB, &held, &live);
    rl_local_read_stats(to, &stats);
    ok(live > 49000 && held < 33000 && held == stats.entries,
       "of more entries than fit, as many as fit are moved: %llu",
       (unsigned long long)held);
    is_int(peek(to, key_of(to, RL_LOCAL_COUNT, 777), &window, 0).cur, 10,
           "denied clients first");
    munmap(to, 2 * MB);
    to = make_table(2 * MB);
    is_int(rl_local_move(to, from, 3 * HOUR, &live), 0, "expired entries are not moved");
    munmap(to, 2 * MB);
    munmap(from, 16 * MB);
}

/* Old children go on counting while the parent moves the table. */
static void test_while_in_use(void)
{
    rl_local *from = make_table(4 * MB);
    pid_t child[2];
    int wrong = 0;

    for (int c = 0; c < 2; c++) {
        child[c] = fork();
        if (child[c] == 0) {
            rl_state state;

            for (unsigned i = 0;; i++)
                charge(from, key_of(from, RL_LOCAL_COUNT, (int)(i % 40000)), &window, 1, 1, &state);
        }
    }
    for (int i = 0; i < 20; i++) {
        uint64_t held, live;
        rl_local *to = moved(from, 8 * MB, &held, &live);

        for (int k = 0; k < 40000; k++) {
            rl_state copy = peek(to, key_of(to, RL_LOCAL_COUNT, k), &window, 1);

            wrong += copy.cur > 10 || copy.prev || copy.blocked_until || copy.pending.cur;
        }
        munmap(to, 8 * MB);
    }
    for (int c = 0; c < 2; c++) {
        kill(child[c], SIGKILL);
        waitpid(child[c], NULL, 0);
    }
    is_int(wrong, 0, "no copy is of two counts");
    munmap(from, 4 * MB);
}

int main(void)
{
    test_sizes();
    test_use();
    test_pending();
    test_snapshots();
    test_what_goes();
    test_while_in_use();
    return done_testing();
}
