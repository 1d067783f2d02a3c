/*
 * The places of held requests: never more than there may be, however many ask at once, and each ends
 * by itself. Time is an argument, so nothing here waits.
 */
#include <pthread.h>

#include "held.h"
#include "random.h"
#include "table.h"
#include "tap.h"

#define THREADS 6

static rl_held *make_held(void)
{
    return shared_memory(rl_held_size());
}

/* How many more places there are, of most, at host_ms; they are given up again. */
static int free_places(rl_held *held, int64_t host_ms, int most)
{
    rl_hold holds[64];
    int n = 0;

    while (n < 64 && rl_held_take(held, host_ms, 1000, most, &holds[n]))
        n++;
    for (int i = 0; i < n; i++)
        rl_held_shorten(held, host_ms, 0, &holds[i]);
    return n;
}

static void test_places(void)
{
    rl_held *held = make_held();
    rl_hold a, b, c;

    ok(!rl_held_take(held, 5000, 1000, 0, &a) && a.end < 0, "where nobody may be held, nobody is");
    ok(rl_held_take(held, 5000, 1000, 2, &a) && rl_held_take(held, 5000, 1000, 2, &b),
       "two places, taken");
    ok(!rl_held_take(held, 5000, 1000, 2, &c) && c.end < 0, "are all");
    rl_held_shorten(held, 5000, 0, &c);
    ok(!rl_held_take(held, 5000, 1000, 2, &c), "who has none gives none up");
    rl_held_shorten(held, 5050, 0, &b);
    is_int(free_places(held, 5050, 2), 1, "a place that is given up is free");
    rl_held_shorten(held, 5050, 0, &b);
    is_int(free_places(held, 5050, 2), 1, "and once");
    is_int(free_places(held, 5999, 2), 1, "the other is taken to its end");
    is_int(free_places(held, 6100, 2), 2, "and free behind it, though nobody gave it up");
    rl_held_shorten(held, 6100, 0, &a);
    is_int(free_places(held, 6100, 2), 2, "which changes nothing any more");
}

static void test_shorter(void)
{
    rl_held *held = make_held();
    rl_hold a;

    rl_held_take(held, 5000, 10000, 1, &a);
    rl_held_shorten(held, 5000, 300, &a);
    is_int(free_places(held, 5299, 1), 0, "a place that is shortened is taken until then");
    is_int(free_places(held, 5400, 1), 1, "and no longer");
}

/* The ring turns every 12.8 s. */
static void test_turns(void)
{
    rl_held *held = make_held();
    int wrong = 0;
    rl_hold a;

    for (int64_t t = 0; t < 100000; t += 700) {
        wrong += !rl_held_take(held, t, 10000, 15, &a);
        wrong += free_places(held, t + 10200, 15) != 15;
    }
    is_int(wrong, 0, "places that were never given up are gone when the ring has turned");
}

static _Atomic int held_now, too_many, taken;
static rl_held *shared_ring;

static void *take_and_give(void *number)
{
    rng r = {(uint64_t)(size_t)number};
    rl_hold hold;

    for (int i = 0; i < 50000; i++) {
        int64_t t = 1000000 + i % 50, for_ms = rng_between(&r, 200, 10000);

        if (!rl_held_take(shared_ring, t, for_ms, 3, &hold))
            continue;
        taken++;
        too_many += ++held_now > 3;
        if (rng_one_in(&r, 2))
            rl_held_shorten(shared_ring, t, rng_between(&r, 200, for_ms), &hold);
        held_now--;
        rl_held_shorten(shared_ring, t, 0, &hold);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];

    shared_ring = make_held();
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, take_and_give, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    is_int(too_many, 0, "%d threads take 3 places and give them up: never are more taken (%d times)",
           THREADS, taken);
    is_int(free_places(shared_ring, 1000049, 3), 3, "and all are free in the end");
}

int main(void)
{
    test_places();
    test_shorter();
    test_turns();
    test_threads();
    return done_testing();
}
