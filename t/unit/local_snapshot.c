/*
 * What the table remembers of Redis: a denial from memory is one that Redis would give, whatever
 * the network took; it is renewed by one request a second, within a budget; what is torn is
 * forgotten.
 */
#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE (4 * 1024 * 1024)

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, 10, 3600000);
static const rl_state full = WINDOW(BASE / HOUR, 0, 10), half_full = WINDOW(BASE / HOUR, 0, 5);

static int64_t now, lag;
static rl_state state;

static rl_recall recall(rl_local *table, uint64_t key, int64_t host_ms)
{
    return recall_of(table, key, &hourly, 1, host_ms, &now, &state, &lag);
}

static void test_remembering(rl_local *table)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 1);

    is_int(recall(table, key, 1000), RL_RECALL_UNKNOWN, "nothing is known at first");
    is_int(now, 0, "and is said so");
    rl_local_remember(table, key, &hourly, 0, &full, BASE, 1000, 1005);
    is_int(recall(table, key, 1005), RL_RECALL_DENY, "what Redis denied is denied");
    ok(state.index == full.index && state.prev == 0 && state.cur == 10, "with its state");
    ok(now >= BASE + 5 && now <= BASE + 7, "at the latest time it can be there");
    ok(lag >= 5 && lag <= 8, "and the lag between sending and the answer");
    rl_local_remember(table, key, &hourly, 0, &half_full, BASE, 990, 1006);
    is_int(recall(table, key, 1006), RL_RECALL_DENY, "an older answer does not replace a newer one");
    rl_local_remember(table, key, &hourly, 0, &half_full, BASE, 1006, 1007);
    is_int(recall(table, key, 1007), RL_RECALL_UNKNOWN, "a newer one does");
    is_int(state.cur, 5, "and is known, though it does not deny");
    is_int(recall_of(table, key, &hourly, 6, 1007, &now, &state, &lag), RL_RECALL_DENY,
           "nor is a dearer request asked for in vain");
    rl_local_remember(table, key, &hourly, 0, &full, BASE, 1008, 1008 + 100000);
    ok(recall(table, key, 1009) == RL_RECALL_DENY && state.cur == 10,
       "an answer after 100 s leaves the counts as they are");
}

static void test_renewal(rl_local *table)
{
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 2);
    int asks = 0;

    rl_local_remember(table, key, &hourly, 0, &full, BASE, 10000, 10001);
    is_int(recall(table, key, 10999), RL_RECALL_DENY, "for a second memory is enough");
    is_int(recall(table, key, 11000), RL_RECALL_ASK, "then one asks again");
    for (int i = 0; i < 100; i++)
        asks += recall(table, key, 11000 + i * 9) == RL_RECALL_ASK;
    is_int(asks, 0, "while the others are denied");
    is_int(recall(table, key, 12001), RL_RECALL_ASK, "if it never comes back, one more asks");
    rl_local_remember(table, key, &hourly, 0, &full, BASE + 2001, 12001, 12002);
    is_int(recall(table, key, 12500), RL_RECALL_DENY, "its answer serves for a second again");
}

static void test_budget(rl_local *table)
{
    enum { KEYS = 1500 };
    int asks = 0, denials = 0;

    for (int i = 0; i < KEYS; i++)
        rl_local_remember(table, key_of(table, RL_LOCAL_SNAPSHOT, 1000 + i), &hourly, 0, &full, BASE,
                          20000, 20001);
    for (int i = 0; i < KEYS; i++) {
        /* Some callers' clocks are still in the second before. */
        rl_recall said = recall(table, key_of(table, RL_LOCAL_SNAPSHOT, 1000 + i),
                                i > 0 && i % 100 == 0 ? 21999 : 22000);

        asks += said == RL_RECALL_ASK;
        denials += said == RL_RECALL_DENY;
    }
    is_int(asks, RL_RENEWALS_PER_SECOND, "1,000 renewals a second, and no more");
    is_int(denials, KEYS - RL_RENEWALS_PER_SECOND, "the others' denials stand");
    is_int(recall(table, key_of(table, RL_LOCAL_SNAPSHOT, 999 + KEYS), 23001), RL_RECALL_ASK,
           "the next second has its own");
}

static void test_torn(rl_local *table)
{
    enum { WORDS = 8 };
    uint64_t key = key_of(table, RL_LOCAL_SNAPSHOT, 3), *line, good[WORDS];
    int trusted = 0, forgotten = 0, stuck = 0;

    rl_local_remember(table, key, &hourly, 0, &full, BASE, 30000, 30001);
    line = line_of(table, SIZE, key);
    memcpy(good, line, sizeof(good));
    for (int word = 1; word < WORDS; word++) {
        for (int bit = 0; bit < 64; bit++) {
            line[word] ^= UINT64_C(1) << bit;
            recall(table, key, 30002);
            if (now == 0)
                forgotten++;
            else if (state.cur != full.cur || state.prev != full.prev || state.index != full.index
                     || lag > 4)
                trusted++;
            rl_local_remember(table, key, &hourly, 0, &full, BASE, 30000, 30001);
            stuck += recall(table, key, 30002) != RL_RECALL_DENY;
            memcpy(line, good, sizeof(good));
        }
    }
    is_int(trusted, 0, "a report with any bit of its memory flipped is not trusted");
    is_int(forgotten, 5 * 64 - 32, "it is forgotten, but for the bits that say when to ask again");
    is_int(stuck, 0, "and the next one is taken");
}

/*
 * A Redis that is exact, a host whose clock is another, requests that take their time. In µs.
 * Redis only admits, as other hosts ask; whenever memory denies, this Redis must, at that moment.
 */
static void test_conservative(rl_local *table)
{
    rng r = {rng_seed(9)};
    long rounds = rng_rounds("RL_ROUNDS", 200000), denials = 0, wrong = 0;
    int64_t us = 77777777777, offset_us = BASE * 1000 + 333;
    rl_limit limit = LIMIT(RL_SLIDING_WINDOW, 10, 1000);
    rl_state redis = WINDOW(0, 0, 0);
    uint64_t key = 0;

    for (long n = 0; n < rounds && !wrong; n++) {
        int64_t cost = rng_one_in(&r, 4) ? rng_between(&r, 1, 5) : 1, sent_us = us, redis_now;

        if (n % 100 == 0) {
            limit.algorithm = rng_one_in(&r, 3) ? RL_FIXED_WINDOW : RL_SLIDING_WINDOW;
            limit.window_ms = rng_scaled(&r, 100, 3000);
            limit.quota = rng_between(&r, 0, 20);
            redis = (rl_state)WINDOW(0, 0, 0);
            key = key_of(table, RL_LOCAL_SNAPSHOT, (int)(100000 + n));
        }
        us += rng_scaled(&r, 0, rng_one_in(&r, 10) ? 3 * limit.window_ms * 1000 : 30000);
        redis_now = rl_limiter_roll(&limit, &redis, (us + offset_us) / 1000);
        if (recall_of(table, key, &limit, cost, us / 1000, &now, &state, &lag)
            != RL_RECALL_UNKNOWN) {
            denials++;
            wrong += rl_limiter_admits(&limit, &redis, redis_now, cost);
        }
        sent_us = us;
        us += rng_scaled(&r, 0, 20000);
        redis_now = rl_limiter_roll(&limit, &redis, (us + offset_us) / 1000);
        if (rl_limiter_admits(&limit, &redis, redis_now, cost))
            redis.cur += cost;
        if (rng_one_in(&r, 2)) {
            rl_state reported = redis;

            us += rng_scaled(&r, 0, 20000);
            rl_local_remember(table, key, &limit, 0, &reported, redis_now, sent_us / 1000, us / 1000);
        }
    }
    ok(!wrong && denials > rounds / 10, "memory denies only what Redis would (%ld denials)",
       denials);
}

int main(void)
{
    rl_local *table = make_table(SIZE);

    test_remembering(table);
    test_renewal(table);
    test_budget(table);
    test_torn(table);
    test_conservative(table);
    return done_testing();
}
