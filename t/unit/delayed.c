/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The places of delayed requests: never more than allowed are taken, however many threads try at
 * once, and each ends by itself. Time is an argument, so nothing here waits.
 */
#include <pthread.h>

#include "shm/delayed.h"
#include "table.h"
#include "tap.h"

#define THREADS 6

static rl_delayed *make_delayed(void)
{
    return shared_memory(rl_delayed_size());
}

static void test_places(void)
{
    rl_delayed *delayed = make_delayed();

    ok(!rl_delayed_has_room(delayed, 5000, 0) && !rl_delayed_take(delayed, 5000, 1000, 0),
       "if no place is allowed, none is taken");
    ok(rl_delayed_take(delayed, 5000, 1000, 2) && rl_delayed_has_room(delayed, 5000, 2)
           && rl_delayed_take(delayed, 5000, 300, 2), "two places, taken");
    ok(!rl_delayed_has_room(delayed, 5000, 2) && !rl_delayed_take(delayed, 5000, 1000, 2),
       "a third is not");
    ok(!rl_delayed_has_room(delayed, 5299, 2), "a place is taken until its end");
    ok(rl_delayed_has_room(delayed, 5400, 2) && !rl_delayed_has_room(delayed, 5400, 1),
       "and free afterwards");
    ok(!rl_delayed_has_room(delayed, 5999, 1), "so is the other one");
    ok(rl_delayed_has_room(delayed, 6100, 1), "though neither was given back");
}

/* The ring turns every 12.8 s. */
static void test_turns(void)
{
    rl_delayed *delayed = make_delayed();
    int wrong = 0;

    for (int64_t t = 0; t < 100000; t += 700) {
        wrong += !rl_delayed_take(delayed, t, 10000, 15);
        wrong += !rl_delayed_has_room(delayed, t + 24000, 1);
    }
    is_int(wrong, 0, "no place is left when the ring has turned");
}

enum { ROUNDS = 5000 };

static _Atomic int taken[ROUNDS];
static pthread_barrier_t together;
static rl_delayed *shared_ring;

/* Each round begins when the places of the round before have ended. */
static void *take(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&together);
        taken[i] += rl_delayed_take(shared_ring, 1000000 + i * 1000, 500, 3);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];
    int more = 0, fewer = 0;

    shared_ring = make_delayed();
    pthread_barrier_init(&together, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, take, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < ROUNDS; i++) {
        more += taken[i] > 3;
        fewer += taken[i] < 3;
    }
    is_int(more, 0, "%d threads take 3 places at once: no more than these are taken", THREADS);
    is_int(fewer, 0, "and no fewer");
}

int main(void)
{
    test_places();
    test_turns();
    test_threads();
    return done_testing();
}
