/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads make calls through one client, one after the other and at once, while replies come
 * late, the server dies and comes back, and the client is stopped: every call gets its own reply or
 * none, none is charged twice, and all end. Also run under TSan.
 */
#include <apr_general.h>
#include <apr_strings.h>
#include <pthread.h>
#include <sys/wait.h>

#include "client.h"
#include "redis.h"
#include "tap.h"

#define THREADS 16
#define BASE 1000000 /* what each thread's own counter begins with, times its number */

static const rl_limit widest = {.algorithm = RL_FIXED_WINDOW, .quota = RL_COUNT_MAX,
                                .burst = RL_COUNT_MAX, .window_ms = RL_WINDOW_MAX_MS};

static rl_client *client;
static atomic_int go_on, mixed_up, answered, failed, lost_count;

static rl_client *make_client(apr_pool_t *pool, int threaded)
{
    memset(&client_breakers, 0, sizeof(client_breakers));
    return client_of(pool, apr_pstrcat(pool, "unix://", socket_path, NULL), threaded, 1000, 1000,
                     (rl_breaker_options){10, 50});
}

/* One decision, with a deadline in µs. *cur: the count before it. */
static rl_failure decide(const char *key, int64_t quota, int64_t cost, int64_t within_us,
                         int *charged, int64_t *cur)
{
    rl_limit limit = widest;
    rl_ask ask = {.key = key, .limit = &limit, .cost = cost};
    rl_failure failure;

    limit.quota = quota;
    failure = rl_client_decide(client, &ask, 1, 0, rl_link_clock() + within_us, charged);
    *cur = ask.state.cur;
    return failure;
}

static void key_of(char key[64], const char *name, int number)
{
    snprintf(key, 64, "rl:{%s}:%d:fixed-window:31d", name, number);
}

/* Waits until Redis decides. */
static int decides(void)
{
    int charged;
    int64_t cur;

    for (int i = 0; i < 3000; i++) {
        if (decide("rl:{ready}", RL_COUNT_MAX, 0, 100000, &charged, &cur) == RL_ANSWERED)
            return 1;
        rl_client_probe(client);
        usleep(10000);
    }
    return 0;
}

static void run_threads(void *(*run)(void *), pthread_t threads[THREADS])
{
    atomic_store(&go_on, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, run, (void *)(intptr_t)(i + 1));
}

static void join_threads(pthread_t threads[THREADS])
{
    atomic_store(&go_on, 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

/* --- Exactness ---------------------------------------------------------------------------- */

static atomic_int admitted, unanswered;

static void *spend(void *number)
{
    int charged;
    int64_t cur;

    (void)number;
    for (int i = 0; i < 200; i++) {
        if (decide("rl:{shared}", 1000, 1, 10000000, &charged, &cur) != RL_ANSWERED)
            atomic_fetch_add(&unanswered, 1);
        else if (charged)
            atomic_fetch_add(&admitted, 1);
    }
    return NULL;
}

static void test_exact(void)
{
    pthread_t threads[THREADS];
    int charged, alone = 0;
    int64_t cur;

    ok(decides(), "Redis decides");
    for (int i = 0; i < 500; i++)
        alone += decide("rl:{alone}", 300, 1, 10000000, &charged, &cur) == RL_ANSWERED && charged;
    is_int(alone, 300, "one caller alone is admitted to the quota");
    run_threads(spend, threads);
    join_threads(threads);
    is_int(unanswered, 0, "%d threads at once are all answered", THREADS);
    is_int(admitted, 1000, "and admitted to the quota together");
    for (int i = 0; i < 100; i++)
        alone += decide("rl:{alone too}", 50, 1, 10000000, &charged, &cur) == RL_ANSWERED
            && charged;
    is_int(alone, 350, "then one alone again");
    ok(strstr(ask("INFO clients"), "connected_clients:2\r"),
       "all over one connection, beside ours");
}

/* --- Late replies ------------------------------------------------------------------------- */

/* Each thread has its own counter, and deadlines that many replies miss. */
static void *miss_deadlines(void *number)
{
    int n = (int)(intptr_t)number, charged;
    unsigned seed = (unsigned)n;
    char key[64];
    int64_t cur;

    key_of(key, "own", n);
    while (atomic_load(&go_on)) {
        seed = seed * 1103515245 + 12345;
        if (decide(key, RL_COUNT_MAX, 1, seed >> 16 & 1 ? 1000000 : seed >> 16 & 1023, &charged,
                   &cur) != RL_ANSWERED) {
            atomic_fetch_add(&failed, 1);
            continue;
        }
        atomic_fetch_add(&answered, 1);
        /* A server that was killed has lost the bases. */
        if (cur >= BASE ? cur / BASE != n : !atomic_load(&lost_count))
            atomic_fetch_add(&mixed_up, 1);
    }
    return NULL;
}

static void make_bases(void)
{
    int charged;
    int64_t cur;

    ask("FLUSHALL");
    for (int n = 1; n <= THREADS; n++) {
        char key[64];

        key_of(key, "own", n);
        decide(key, RL_COUNT_MAX, (int64_t)n * BASE, 10000000, &charged, &cur);
    }
}

/* Lets the threads run until so many more calls have been answered. */
static int work(int calls)
{
    int enough = atomic_load(&answered) + calls;

    for (int i = 0; i < 6000 && atomic_load(&answered) < enough; i++)
        usleep(10000);
    return atomic_load(&answered) >= enough;
}

static void test_late(void)
{
    pthread_t threads[THREADS];

    make_bases();
    run_threads(miss_deadlines, threads);
    ok(work(2000), "with deadlines that many miss others are answered");
    for (int i = 0; i < 5; i++) {
        kill(server, SIGSTOP);
        usleep(50000); /* what is asked meanwhile is late */
        kill(server, SIGCONT);
        ok(work(500), "after a stop too");
    }
    join_threads(threads);
    ok(failed > 0, "some were late");
    is_int(mixed_up, 0, "and no reply went to another call");
}

/* --- A server that dies ------------------------------------------------------------------- */

static void test_killed(void)
{
    pthread_t threads[THREADS];

    ok(decides(), "Redis decides again");
    make_bases();
    atomic_store(&lost_count, 1);
    run_threads(miss_deadlines, threads);
    for (int i = 0; i < 4; i++) {
        work(200);
        end_redis(SIGKILL);
        usleep(20000); /* some connect in vain */
        if (!run_redis())
            break;
        ok(work(200), "Redis is killed and comes back: it decides again");
    }
    join_threads(threads);
    is_int(mixed_up, 0, "and no reply went to another call");
    ok(decides(), "and still does");
}

/* --- Calls that no thread waits for ------------------------------------------------------- */

enum { POSTS = 64 };

static rl_limit leased = {.algorithm = RL_FIXED_WINDOW, .quota = RL_COUNT_MAX / 10,
                          .burst = RL_COUNT_MAX / 10, .window_ms = RL_WINDOW_MAX_MS,
                          .lease_ms = RL_LEASE_MAX_MS};

/* What came of a call that was posted. */
typedef struct {
    atomic_int ends;
    int answered;
    int64_t units, count;
} posting;

static posting postings[THREADS * POSTS];

static void on_end(void *data, rl_ask *ask, rl_failure failure)
{
    posting *p = data;

    p->answered = ask->answered && failure == RL_ANSWERED;
    p->units = ask->leased;
    p->count = ask->state.cur;
    atomic_fetch_add(&p->ends, 1);
}

/* Posts a call for so many units; returns whether it was. */
static int post(const char *key, int64_t wanted, posting *p)
{
    char copy[64];
    rl_ask ask = {.key = copy, .limit = &leased, .wanted = wanted};
    int is_posted;

    snprintf(copy, sizeof(copy), "%s", key);
    memset(p, 0, sizeof(*p));
    is_posted = rl_client_post(client, &ask, on_end, p);
    memset(copy, '?', sizeof(copy) - 1); /* the call has a copy of what it needs */
    memset(&ask, 0, sizeof(ask));
    return is_posted;
}

/* Posts n calls; returns how many were. */
static int post_all(const char *key, posting *p, int n)
{
    int posted = 0;

    for (int i = 0; i < n; i++)
        posted += post(key, 1 + i % 7, &p[i]);
    return posted;
}

/* Waits until so many of n calls have ended; returns how many ends there were. */
static int ends_of(const posting *p, int n, int enough)
{
    int ends = 0;

    for (int i = 0; i < 3000 && (i == 0 || ends < enough); i++) {
        ends = 0;
        for (int j = 0; j < n; j++)
            ends += atomic_load(&p[j].ends);
        if (ends < enough)
            usleep(10000);
    }
    return ends;
}

/* Waits until Redis decides each time: after a failure it gets more and more of the calls. */
static int is_well(void)
{
    int good = 0, charged;
    int64_t cur;

    for (int i = 0; i < 3000 && good < 100; i++) {
        good = decide("rl:{ready}", RL_COUNT_MAX, 0, 100000, &charged, &cur) == RL_ANSWERED
            ? good + 1 : 0;
        usleep(good ? 100 : 10000);
    }
    return good == 100;
}

static int64_t count_of(const char *key)
{
    int charged;
    int64_t cur = -1;

    return decide(key, RL_COUNT_MAX, 0, 10000000, &charged, &cur) == RL_ANSWERED ? cur : -1;
}

/* All of a thread's calls are for one counter, as are those of the other threads. */
static void *post_many(void *number)
{
    posting *mine = &postings[POSTS * ((intptr_t)number - 1)];
    int charged;
    int64_t cur;

    for (int i = 0; i < POSTS; i++) {
        while (!post("rl:{posted together}", 1 + i % 7, &mine[i]))
            usleep(1000); /* too many are under way */
        if (i % 4 == 0)
            decide("rl:{beside posts}", RL_COUNT_MAX, 1, 10000000, &charged, &cur);
    }
    return NULL;
}

static void test_posts(void)
{
    pthread_t threads[THREADS];
    posting one;
    int64_t units = 0;
    int wrong = 0;

    ok(is_well() && rl_client_has_thread(client) && post("rl:{posted}", 50, &one),
       "a call is posted");
    is_int(ends_of(&one, 1, 1), 1, "its end is called");
    ok(one.answered && one.units == 50 && one.count == 0, "with what Redis replied");
    is_int(count_of("rl:{posted}"), 50, "which has charged the lease");
    run_threads(post_many, threads);
    join_threads(threads);
    is_int(ends_of(postings, THREADS * POSTS, THREADS * POSTS), THREADS * POSTS,
           "%d threads post, and each call ends", THREADS);
    usleep(50000);
    for (int i = 0; i < THREADS * POSTS; i++) {
        wrong += atomic_load(&postings[i].ends) != 1 || !postings[i].answered
            || postings[i].units != 1 + i % POSTS % 7;
        units += postings[i].units;
    }
    is_int(wrong, 0, "once, with its own reply");
    is_int(count_of("rl:{posted together}"), units, "nothing was charged twice");
}

/* Redis refuses the script, then it does not reply until more calls are under way than can be. */
static void test_refused_posts(void)
{
    enum { MANY = 8192 };
    static posting many[MANY];
    int posted = 0, wrong = 0;
    posting one;

    ask("CONFIG SET maxmemory 1");
    ok(post("rl:{refused}", 5, &one) && ends_of(&one, 1, 1) == 1 && !one.answered,
       "a call that Redis refuses ends without an answer");
    ask("CONFIG SET maxmemory 0");
    ok(is_well(), "Redis decides again");
    kill(server, SIGSTOP);
    while (posted < MANY && post("rl:{too many}", 1, &many[posted]))
        posted++;
    ok(posted > 0 && posted < MANY, "a call too many is not posted (after %d)", posted);
    usleep(20000);
    kill(server, SIGCONT);
    is_int(ends_of(many, posted, posted), posted, "the others end");
    for (int i = 0; i <= posted && i < MANY; i++)
        wrong += atomic_load(&many[i].ends) != (i < posted);
    is_int(wrong, 0, "once, and the one that was not posted does not");
    ok(is_well() && post("rl:{refused}", 5, &one) && ends_of(&one, 1, 1) == 1 && one.answered,
       "then calls are posted again");
}

static void test_lost_posts(void)
{
    int posted, wrong = 0, ends;

    is_well();
    kill(server, SIGSTOP);
    posted = post_all("rl:{lost}", postings, 10);
    usleep(20000);
    end_redis(SIGKILL);
    ends = ends_of(postings, 10, posted);
    ok(posted == 10 && ends == 10, "10 calls end with the connection (%d)", ends);
    for (int i = 0; i < 10; i++)
        wrong += postings[i].answered || atomic_load(&postings[i].ends) != 1;
    is_int(wrong, 0, "once, without an answer");
    posted = post_all("rl:{lost}", postings, 10);
    ends = ends_of(postings, 10, posted);
    is_int(ends, posted, "while Redis is down each call that is posted ends, too (%d)", posted);
    run_redis();
    ok(is_well(), "Redis comes back");
    is_int(count_of("rl:{lost}"), 0, "and none of them is sent again");
}

/* --- The end ------------------------------------------------------------------------------ */

static void *insist(void *number)
{
    char key[64];
    int charged;
    int64_t cur;

    key_of(key, "end", (int)(intptr_t)number);
    while (atomic_load(&go_on))
        decide(key, RL_COUNT_MAX, 1, 60000000, &charged, &cur);
    return NULL;
}

static void test_stop(void)
{
    pthread_t threads[THREADS];
    int charged, posted, wrong = 0;
    posting late;
    int64_t cur;

    kill(server, SIGSTOP); /* so that calls are in flight */
    run_threads(insist, threads);
    usleep(50000);
    posted = post_all("rl:{at the end}", postings, 10);
    rl_client_stop(client);
    is_int(ends_of(postings, 10, 0), posted, "posted calls end when the client is stopped (%d)",
           posted);
    for (int i = 0; i < 10; i++)
        wrong += postings[i].answered || atomic_load(&postings[i].ends) > 1;
    is_int(wrong, 0, "once, without an answer");
    ok(!post("rl:{late}", 1, &late), "a client that was stopped posts nothing");
    ok(decide("rl:{late}", 1, 1, 1000000, &charged, &cur) != RL_ANSWERED,
       "a client that was stopped does not decide");
    join_threads(threads);
    ok(1, "callers that waited returned long before their deadlines");
    kill(server, SIGCONT);
}

static void test_one_thread(apr_pool_t *pool)
{
    int charged, good = 0, good_too = 0;
    posting one;
    int64_t cur;

    client = make_client(pool, 0);
    ok(client && decides(), "without a thread of its own: Redis decides");
    for (int i = 0; i < 500; i++)
        good += decide("rl:{one}", 300, 1, 10000000, &charged, &cur) == RL_ANSWERED && charged;
    is_int(good, 300, "a caller is admitted to the quota");
    ok(!rl_client_has_thread(client) && !post("rl:{one}", 5, &one) && one.ends == 0,
       "no call is posted where no thread would read its reply");
    end_redis(SIGKILL);
    for (int i = 0; i < 20; i++)
        good_too += decide("rl:{one}", 300, 1, 100000, &charged, &cur) == RL_ANSWERED;
    is_int(good_too, 0, "no call is answered while Redis is down");
    run_redis();
    ok(decides(), "it comes back, and decides");
    rl_client_stop(client);
}

/* Redis accepts a connection but does not reply: only one caller waits for that. */
static void test_undo_waits(apr_pool_t *pool)
{
    rl_limit limit = widest;
    rl_ask ask = {.key = "rl:{undo}", .limit = &limit, .cost = 1, .kind = RL_ASK_GIVE_BACK};
    int64_t began_us, cur;
    int charged;

    kill(server, SIGSTOP);
    client = make_client(pool, 0);
    began_us = rl_link_clock();
    rl_client_undo(client, &ask, 1, began_us + 50000);
    ok(rl_link_clock() - began_us >= 50000, "giving back waits for a connection");
    ok(rl_link_clock() - began_us < 900000, "until its deadline");
    is_int(decide("rl:{undo}", 1, 1, 1000000, &charged, &cur), RL_FAILED_DOWN,
           "and the next caller does not wait for it again");
    kill(server, SIGCONT);
    rl_client_stop(client);
}

/* --- A fork ------------------------------------------------------------------------------- */

#define FORKED 4

/* In a forked process: how often it was admitted. */
static int spend_in_process(apr_pool_t *pool)
{
    int charged, good = 0;
    int64_t cur;

    rl_client_abandon(client);
    client = make_client(pool, 0);
    for (int i = 0; i < 100; i++)
        good += decide("rl:{forked}", 250, 1, 10000000, &charged, &cur) == RL_ANSWERED && charged;
    return good;
}

/* Processes forked from one that is connected, as mpm-itk's would be. */
static void test_fork(apr_pool_t *pool)
{
    int charged, status, good = 0;
    pid_t children[FORKED];
    int64_t cur;

    client = make_client(pool, 0);
    ok(client && decides(), "a process is connected, and forks");
    for (int i = 0; i < FORKED; i++) {
        children[i] = fork();
        if (children[i] == 0)
            _exit(spend_in_process(pool));
    }
    for (int i = 0; i < 100; i++) {
        if (decide("rl:{parent}", 1000, 1, 10000000, &charged, &cur) != RL_ANSWERED || cur != i)
            break;
        good++;
    }
    is_int(good, 100, "each of its calls gets its own reply meanwhile");
    good = 0;
    for (int i = 0; i < FORKED; i++) {
        waitpid(children[i], &status, 0);
        good += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
    }
    is_int(good, 250, "the forked processes together are admitted to their quota");
    rl_client_stop(client);
}

int main(void)
{
    static apr_pool_t *pool; /* static: what lies in it is held to the end */

    alarm(1800); /* a busy machine takes minutes */
    apr_initialize();
    apr_pool_create(&pool, NULL);
    if (!start_redis()) {
        printf("1..0 # SKIP no redis-server\n");
        return 0;
    }
    client = make_client(pool, 1);
    ok(client != NULL, "a client is made");
    test_exact();
    test_late();
    test_killed();
    test_posts();
    test_refused_posts();
    test_lost_posts();
    test_stop();
    test_one_thread(pool);
    test_undo_waits(pool);
    test_fork(pool);
    return done_testing();
}
