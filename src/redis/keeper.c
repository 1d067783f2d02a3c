/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper: keeps the pending units of requests under way pending.
 *
 * The thread runs several times in a period and prolongs all units that are due: those of this host
 * with the lock held, those in Redis by calls without it. During a call only the thread may free
 * the entries that the call is about. A call that fails is repeated at the next run; there are
 * about seven runs before the units become a charge.
 *
 * A request that ends during a call settles its units by the period it knows. That is right
 * whichever of the two Redis runs first: see rl_limiter_settle().
 *
 * In a child without threads (prefork) httpd handles SIGTERM by destroying the pools inside the
 * signal handler and ending the process. The interrupted thread may hold the keeper's lock, or that
 * of malloc. So from then on requests do not take the lock, and stop() waits only for a moment for
 * the keeper's thread, while it works. The keeper, its entries and its thread's client lie outside
 * those pools.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <apr_ring.h>
#include <apr_thread_proc.h>
#include <apr_time.h>

#include "redis/keeper.h"
#include "redis/link.h"

#define BATCH 16            /* units in one call, so that no call takes long in Redis */
#define RUNS 4              /* of the thread, in prolong_ms */
#define DEADLINE_US 1000000 /* of a call: no request waits for it */
#define STOP_WAIT_MS 100    /* for the thread, which cannot be joined */

struct rl_kept {
    APR_RING_ENTRY(rl_kept) link;
    rl_keeper *keeper;
    rl_keeper_units units;
    int64_t since_ms; /* when they were put into their period */
    int is_called;    /* a call about it is under way: it is the thread's */
    int is_removed;   /* meanwhile, by its request */
    char redis_key[];
};

APR_RING_HEAD(ring, rl_kept);

struct rl_keeper {
    rl_keeper_options options;
    pthread_mutex_t lock; /* for the rings, their entries, and the start of the thread */
    struct ring here, in_redis;
    int is_started;
    apr_thread_t *thread;
    apr_pool_t *thread_pool;
    int wake_fd;          /* wakes the thread; -1: not threaded */
    atomic_int stopping;
    atomic_int working;

    /* the thread's */
    rl_client *client;
    apr_pool_t *client_pool; /* of the thread's own client; NULL: none now */
};

/* Units that are prolonged together. */
typedef struct {
    rl_kept *kept[BATCH];
    int ask_of[BATCH];
    int count;
    rl_ask asks[BATCH];
    rl_limit limits[BATCH];
    int ask_count;
} call;

/* --- Prolonging --------------------------------------------------------------------------- */

static int is_due(const rl_keeper *k, const rl_kept *kept, int64_t now_ms)
{
    return kept->units.period != RL_PERIOD_GONE && now_ms - kept->since_ms >= k->options.prolong_ms;
}

static void are_in(rl_kept *kept, int64_t period, int64_t since_ms)
{
    kept->units.period = period;
    kept->since_ms = since_ms;
}

static void prolong_here(rl_keeper *k, int64_t now_ms)
{
    const rl_kept *end = APR_RING_SENTINEL(&k->here, rl_kept, link);
    rl_kept *kept;

    pthread_mutex_lock(&k->lock);
    for (kept = APR_RING_FIRST(&k->here); kept != end; kept = APR_RING_NEXT(kept, link)) {
        const rl_keeper_units *u = &kept->units;
        rl_local_units units = {u->period, u->cost, now_ms, 0};

        units.now = rl_local_now(k->options.local, u->clock, now_ms) * rl_limiter_ticks(&u->limit);
        if (is_due(k, kept, now_ms))
            are_in(kept, rl_local_prolong(k->options.local, u->key, &u->limit, &units), now_ms);
    }
    pthread_mutex_unlock(&k->lock);
}

/* Takes out all units in Redis that are due. */
static void take_due(rl_keeper *k, int64_t now_ms, struct ring *due)
{
    const rl_kept *end = APR_RING_SENTINEL(&k->in_redis, rl_kept, link);
    rl_kept *kept, *next;

    pthread_mutex_lock(&k->lock);
    for (kept = APR_RING_FIRST(&k->in_redis); kept != end; kept = next) {
        next = APR_RING_NEXT(kept, link);
        if (!is_due(k, kept, now_ms))
            continue;
        kept->is_called = 1;
        APR_RING_REMOVE(kept, link);
        APR_RING_INSERT_TAIL(due, kept, rl_kept, link);
    }
    pthread_mutex_unlock(&k->lock);
}

/* Units under one key are one ask, because a call must not have a key twice: see decide.lua. */
static int ask_about(call *c, const rl_keeper_units *u)
{
    for (int i = 0; i < c->ask_count; i++) {
        if (strcmp(c->asks[i].key, u->redis_key))
            continue;
        if (c->asks[i].position != u->period)
            return -1;
        c->asks[i].cost += u->cost;
        return i;
    }
    c->limits[c->ask_count] = u->limit;
    c->asks[c->ask_count] = (rl_ask){.key = u->redis_key, .limit = &c->limits[c->ask_count],
                                     .kind = RL_ASK_PROLONG, .cost = u->cost,
                                     .position = u->period, .shadow = 1};
    return c->ask_count++;
}

/* Fills a call with as many units as fit. */
static void fill(call *c, struct ring *due)
{
    c->count = c->ask_count = 0;
    while (c->count < BATCH && !APR_RING_EMPTY(due, rl_kept, link)) {
        rl_kept *kept = APR_RING_FIRST(due);
        int ask = ask_about(c, &kept->units);

        if (ask < 0)
            break;
        APR_RING_REMOVE(kept, link);
        c->ask_of[c->count] = ask;
        c->kept[c->count++] = kept;
    }
}

/* Puts the units of a call back. */
static void finish(rl_keeper *k, int64_t now_ms, call *c)
{
    pthread_mutex_lock(&k->lock);
    for (int i = 0; i < c->count; i++) {
        rl_kept *kept = c->kept[i];
        rl_ask *ask = &c->asks[c->ask_of[i]];

        kept->is_called = 0;
        if (ask->answered)
            are_in(kept, rl_limiter_prolong(&ask->state, kept->units.period, 0), now_ms);
        if (kept->is_removed)
            free(kept);
        else
            APR_RING_INSERT_TAIL(&k->in_redis, kept, rl_kept, link);
    }
    pthread_mutex_unlock(&k->lock);
}

/* --- The thread --------------------------------------------------------------------------- */

static rl_client *client_of(rl_keeper *k)
{
    if (k->client || !k->options.make_client)
        return k->client;
    if (apr_pool_create_unmanaged(&k->client_pool) == APR_SUCCESS)
        k->client = k->options.make_client(k->options.context, k->client_pool);
    return k->client;
}

/* Closes the thread's own connection: the next slow request may not come for long. */
static void let_go_of_client(rl_keeper *k)
{
    if (!k->client_pool)
        return;
    if (k->client)
        rl_client_stop(k->client);
    apr_pool_destroy(k->client_pool);
    k->client = NULL;
    k->client_pool = NULL;
}

static void prolong_in_redis(rl_keeper *k, int64_t now_ms)
{
    struct ring due;
    int ignored;
    call c;

    APR_RING_INIT(&due, rl_kept, link);
    take_due(k, now_ms, &due);
    while (!APR_RING_EMPTY(&due, rl_kept, link)) {
        rl_client *client = client_of(k);

        fill(&c, &due);
        if (client && !atomic_load(&k->stopping))
            rl_client_decide(client, c.asks, c.ask_count, 0, rl_link_clock() + DEADLINE_US,
                             &ignored);
        finish(k, now_ms, &c);
    }
}

static int is_any_in_redis(rl_keeper *k)
{
    int found;

    pthread_mutex_lock(&k->lock);
    found = !APR_RING_EMPTY(&k->in_redis, rl_kept, link);
    pthread_mutex_unlock(&k->lock);
    return found;
}

static void work(rl_keeper *k)
{
    int64_t now_ms = rl_local_clock();

    prolong_here(k, now_ms);
    prolong_in_redis(k, now_ms);
    if (k->client_pool && !is_any_in_redis(k))
        let_go_of_client(k);
}

static void *APR_THREAD_FUNC live(apr_thread_t *thread, void *data)
{
    rl_keeper *k = data;
    struct pollfd woken = {k->wake_fd, POLLIN, 0};

    (void)thread;
    while (!atomic_load(&k->stopping)) {
        poll(&woken, 1, (int)(k->options.prolong_ms / RUNS));
        atomic_store(&k->working, 1);
        if (!atomic_load(&k->stopping))
            work(k);
        atomic_store(&k->working, 0);
    }
    return NULL;
}

static int start_thread(rl_keeper *k)
{
    return apr_pool_create_unmanaged(&k->thread_pool) == APR_SUCCESS
        && apr_thread_create(&k->thread, NULL, live, k, k->thread_pool) == APR_SUCCESS
        && (k->options.threaded || apr_thread_detach(k->thread) == APR_SUCCESS);
}

/* Called with the lock held, once in a process, whether or not it succeeds. */
static void start(rl_keeper *k)
{
    sigset_t all, before;

    k->is_started = 1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!start_thread(k))
        rl_logger_say(&k->options.logger, RL_LOG_ERROR, "no thread for rules with charge-on=: "
                      "responses that take longer than a minute are charged");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void join(rl_keeper *k)
{
    apr_status_t ignored;

    eventfd_write(k->wake_fd, 1);
    if (k->thread)
        apr_thread_join(&ignored, k->thread);
    if (k->thread_pool)
        apr_pool_destroy(k->thread_pool);
    close(k->wake_fd);
}

static apr_status_t stop(void *data)
{
    rl_keeper *k = data;

    atomic_store(&k->stopping, 1);
    if (k->options.threaded)
        join(k);
    else
        for (int ms = 0; atomic_load(&k->working) && ms < STOP_WAIT_MS; ms++)
            apr_sleep(1000);
    return APR_SUCCESS;
}

/* --- For requests ------------------------------------------------------------------------- */

rl_keeper *rl_keeper_create(apr_pool_t *pool, const rl_keeper_options *options)
{
    apr_pool_t *lasting = pool;
    rl_keeper *k;

    if (!options->threaded && apr_pool_create_unmanaged(&lasting) != APR_SUCCESS)
        return NULL;
    k = apr_pcalloc(lasting, sizeof(*k));
    k->options = *options;
    k->client = options->client;
    k->wake_fd = options->threaded ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
    if ((options->threaded && k->wake_fd < 0) || pthread_mutex_init(&k->lock, NULL))
        return NULL;
    APR_RING_INIT(&k->here, rl_kept, link);
    APR_RING_INIT(&k->in_redis, rl_kept, link);
    apr_pool_pre_cleanup_register(pool, k, stop);
    return k;
}

rl_kept *rl_keeper_add(rl_keeper *k, const rl_keeper_units *units, int64_t host_ms)
{
    size_t size = units->redis_key ? strlen(units->redis_key) + 1 : 0;
    rl_kept *kept = malloc(sizeof(*kept) + size);

    if (!kept)
        return NULL;
    kept->keeper = k;
    kept->units = *units;
    kept->is_called = kept->is_removed = 0;
    are_in(kept, units->period, host_ms);
    if (size)
        kept->units.redis_key = memcpy(kept->redis_key, units->redis_key, size);
    pthread_mutex_lock(&k->lock);
    APR_RING_INSERT_TAIL(size ? &k->in_redis : &k->here, kept, rl_kept, link);
    if (!k->is_started)
        start(k);
    pthread_mutex_unlock(&k->lock);
    return kept;
}

int64_t rl_keeper_remove(rl_kept *kept)
{
    rl_keeper *k = kept->keeper;
    int64_t period;

    if (!k->options.threaded && atomic_load(&k->stopping))
        return kept->units.period;
    pthread_mutex_lock(&k->lock);
    period = kept->units.period;
    kept->is_removed = 1;
    if (!kept->is_called) {
        APR_RING_REMOVE(kept, link);
        free(kept);
    }
    pthread_mutex_unlock(&k->lock);
    return period;
}
