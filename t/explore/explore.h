/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An explorer of schedules. The threads of a scene are coroutines of one process. Before each of
 * its atomic accesses a thread may be preempted by another thread, or may die. The explorer runs a
 * scene once for every schedule with at most the scene's number of preemptions and deaths, and
 * calls the scene's check after each run. A race that would show once in years shows here every
 * time, and the schedule that leads to it is printed access by access.
 *
 * Only orders of accesses are explored, as a sequentially consistent machine would run them. That
 * reordering by the processor does no harm is explained at the accesses themselves, not tested
 * here.
 *
 * EXPLORE_RANDOM=N adds N random schedules to each scene, with up to SWITCHES preemptions each.
 */
#ifndef EXPLORE_H
#define EXPLORE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "random.h"
#include "tap.h"

#define THREADS 3
#define STACK (256 * 1024)
#define ACCESSES 8000 /* a run with more accesses counts as one that never ends */
#define SWITCHES 12   /* preemptions and deaths of a schedule, at most */

typedef struct {
    const char *promise;
    void (*begin)(void);            /* sets up the memory before each run */
    const char *(*broken)(int dead); /* NULL, or what is wrong; dead: how many threads died */
    void (*threads[THREADS])(void);
    int preemptions;
    int deaths;
    long random;                    /* if not 0, tries this many random schedules instead of all */
} scene;

/* Before access number `at` the running thread is preempted by thread `to`, or it dies. */
typedef struct {
    int at, to, dies;
} turn;

static struct {
    const scene *scene;
    ucontext_t home, threads[THREADS];
    char *stacks[THREADS];
    int count;
    int running, over[THREADS], died;

    int order[THREADS];  /* in which threads begin, and go on when the running one ends */
    turn plan[SWITCHES];
    int planned, taken;

    int accesses;        /* so far in this run */
    unsigned char who[ACCESSES], ready[ACCESSES];
    const char *file[ACCESSES];
    int line[ACCESSES];

    int inside, endless;
    long runs, broken;
    rng random;
} x;

static void go_on_with(int thread)
{
    int was = x.running;

    x.running = thread;
    swapcontext(&x.threads[was], thread < 0 ? &x.home : &x.threads[thread]);
}

/* The first thread, in the order of this run, that has not ended; -1 if all have. */
static int next_thread(void)
{
    for (int i = 0; i < x.count; i++) {
        if (!x.over[x.order[i]])
            return x.order[i];
    }
    return -1;
}

void explore_point(const char *file, int line)
{
    int at = x.accesses;
    turn t;

    if (!x.inside)
        return;
    if (at == ACCESSES) {
        x.endless = 1;
        go_on_with(-1);
    }
    x.accesses++;
    x.who[at] = (unsigned char)x.running;
    x.ready[at] = 0;
    for (int i = 0; i < x.count; i++)
        x.ready[at] |= (unsigned char)(!x.over[i] << i);
    x.file[at] = file;
    x.line[at] = line;
    if (x.taken == x.planned || x.plan[x.taken].at != at)
        return;
    t = x.plan[x.taken++];
    if (t.dies) {
        x.over[x.running] = 1;
        x.died++;
        go_on_with(t.to >= 0 && !x.over[t.to] ? t.to : next_thread());
    }
    else if (!x.over[t.to] && t.to != x.running) {
        go_on_with(t.to);
    }
}

static void run_thread(void)
{
    x.scene->threads[x.running]();
    x.over[x.running] = 1;
    go_on_with(next_thread());
}

static void print_schedule(const char *what)
{
    int from = 0;

    diag("%s: %s", x.scene->promise, what);
    for (int at = 1; at <= x.accesses; at++) {
        int last = at == x.accesses;

        if (!last && x.who[at] == x.who[at - 1])
            continue;
        diag("  thread %d: %d accesses%s%s:%d", x.who[from], at - from,
             last ? ", the last at " : ", stopped before ", x.file[at - 1], x.line[at - 1]);
        from = at;
    }
    for (int i = 0; i < x.planned; i++) {
        if (x.plan[i].dies)
            diag("  thread %d died before access %d", x.who[x.plan[i].at], x.plan[i].at);
    }
}

/* Runs the scene by the plan. Returns 1 if its check finds nothing wrong. */
static int run_once(void)
{
    const char *what;

    x.scene->begin();
    x.accesses = x.taken = x.died = x.endless = 0;
    for (int i = 0; i < x.count; i++) {
        x.over[i] = 0;
        getcontext(&x.threads[i]);
        x.threads[i].uc_stack.ss_sp = x.stacks[i];
        x.threads[i].uc_stack.ss_size = STACK;
        x.threads[i].uc_link = NULL;
        makecontext(&x.threads[i], run_thread, 0);
    }
    x.inside = 1;
    x.running = x.order[0];
    swapcontext(&x.home, &x.threads[x.running]);
    x.inside = 0;
    x.runs++;
    what = x.endless ? "does not come to an end" : x.scene->broken(x.died);
    if (what && x.broken++ == 0)
        print_schedule(what);
    return !what;
}

/* Runs all schedules that begin with the plan and add up to that many preemptions and deaths. */
static void explore_from(int from, int preemptions, int deaths)
{
    unsigned char *who, *ready;
    int accesses;

    run_once();
    if ((preemptions == 0 && deaths == 0) || x.planned == SWITCHES || x.broken)
        return;
    accesses = x.accesses;
    who = malloc(2 * (size_t)accesses + 2);
    ready = who + accesses + 1;
    memcpy(who, x.who, (size_t)accesses);
    memcpy(ready, x.ready, (size_t)accesses);
    for (int at = from; at < accesses && !x.broken; at++) {
        int others = ready[at] & ~(1 << who[at]);

        for (int to = 0; to < x.count; to++) {
            if (!(others >> to & 1))
                continue;
            if (preemptions > 0) {
                x.plan[x.planned++] = (turn){at, to, 0};
                explore_from(at + 1, preemptions - 1, deaths);
                x.planned--;
            }
            if (deaths > 0) {
                x.plan[x.planned++] = (turn){at, to, 1};
                explore_from(at + 1, preemptions, deaths - 1);
                x.planned--;
            }
        }
        if (!others && deaths > 0) {
            x.plan[x.planned++] = (turn){at, -1, 1};
            explore_from(at + 1, preemptions, deaths - 1);
            x.planned--;
        }
    }
    free(who);
}

/* Calls the function for each order in which the threads may begin. */
static void explore_orders(int placed, void (*explore_order)(void))
{
    if (placed == x.count)
        explore_order();
    for (int i = placed; i < x.count && !x.broken; i++) {
        int swapped = x.order[placed];

        x.order[placed] = x.order[i];
        x.order[i] = swapped;
        explore_orders(placed + 1, explore_order);
        x.order[i] = x.order[placed];
        x.order[placed] = swapped;
    }
}

static void explore_all(void)
{
    explore_from(0, x.scene->preemptions, x.scene->deaths);
}

static int earlier(const void *a, const void *b)
{
    return ((const turn *)a)->at - ((const turn *)b)->at;
}

static void explore_at_random(long runs)
{
    int accesses = 64;

    for (long n = 0; n < runs && !x.broken; n++) {
        int deaths = x.scene->deaths;

        for (int i = x.count - 1; i > 0; i--) {
            int j = (int)rng_between(&x.random, 0, i), swapped = x.order[i];

            x.order[i] = x.order[j];
            x.order[j] = swapped;
        }
        x.planned = (int)rng_between(&x.random, 1, SWITCHES);
        for (int i = 0; i < x.planned; i++)
            x.plan[i] = (turn){(int)rng_between(&x.random, 0, accesses - 1),
                               (int)rng_between(&x.random, 0, x.count - 1),
                               deaths > 0 && rng_one_in(&x.random, SWITCHES) && deaths--};
        qsort(x.plan, (size_t)x.planned, sizeof(turn), earlier);
        run_once();
        if (x.accesses > accesses)
            accesses = x.accesses;
    }
}

static void explore(const scene *s)
{
    long at_random = s->random + rng_rounds("EXPLORE_RANDOM", 0);

    x.scene = s;
    x.runs = x.broken = 0;
    x.planned = 0;
    x.random = (rng){rng_seed(17)};
    for (x.count = 0; x.count < THREADS && s->threads[x.count]; x.count++) {
        x.order[x.count] = x.count;
        if (!x.stacks[x.count])
            x.stacks[x.count] = malloc(STACK);
    }
    if (!s->random)
        explore_orders(0, explore_all);
    explore_at_random(at_random);
    ok(!x.broken, "%s (%ld schedules, %ld of them random)", s->promise, x.runs, at_random);
}

/* Explores the scenes whose promise contains the argument of the program, or all without one. */
static int explore_scenes(const scene *scenes, int count, int argc, char **argv)
{
    for (int i = 0; i < count; i++) {
        if (argc < 2 || strstr(scenes[i].promise, argv[1]))
            explore(&scenes[i]);
    }
    return done_testing();
}

#endif
