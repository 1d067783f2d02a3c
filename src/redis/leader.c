/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leader: which thread of a child does its I/O with Redis.
 *
 * The leader sends everything queued in one write and never waits for more: the next batch builds
 * up while this one is in flight.
 *
 * - The lock guards the queue, the lead, and whether the leader sleeps. It is never held during a
 *   system call.
 * - The nodes, the calls that wait for a connection, and the counts of calls in flight belong to
 *   the leader. The lead changes hands with the lock held, so each leader sees what the last did.
 * - The lead is free only while no call is queued, waiting or in flight, and every node is
 *   connected with nothing to do. A caller takes it in the same critical section that queues its
 *   call. The I/O thread idles then: it only polls for connections that Redis closes, which needs
 *   no reading, and for the next tick.
 * - A caller gives the lead up as soon as its call is done or its deadline has come. The lead is
 *   free if the conditions above are met again; otherwise it goes to the I/O thread. If calls came
 *   together recently, more are likely to: the I/O thread then leads until CALM calls have come
 *   alone.
 *
 * Without an I/O thread the one caller always leads. Nothing watches the nodes between its
 * requests; the next request finds what has happened.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include <apr_thread_proc.h>

#include "redis/leader.h"

#define CALM 32 /* calls that came alone before callers may lead again */

typedef enum { LEAD_FREE, LEAD_THREAD, LEAD_CALLER } lead;

struct rl_leader {
    apr_pool_t *pool;
    int threaded;
    rl_calls *calls;

    pthread_mutex_t lock; /* for what follows, up to stopped */
    rl_call_list queue;
    lead lead;
    int sleeping;     /* a caller that queues a call must wake the leader */
    int thread_wants; /* the I/O thread leads next */
    int stopped;

    atomic_int stopping;
    int wake_fd[LEAD_CALLER + 1]; /* polled by a leader that sleeps: one for each kind */
    apr_thread_t *thread;

    /* the leader's */
    rl_servers *servers;
    rl_call_list waiting; /* for a connection */
    int out;              /* calls in flight */
    int alone;            /* calls in a row that were alone in flight, up to CALM */
};

/* --- Calls -------------------------------------------------------------------------------- */

static void wake(rl_leader *l, lead leader)
{
    eventfd_write(l->wake_fd[leader], 1);
}

void rl_leader_wake(rl_leader *l)
{
    if (l->threaded)
        wake(l, LEAD_THREAD);
}

/* Returns the call; NULL, and releases it, if the leader has stopped. */
static rl_call *enqueue(rl_leader *l, rl_call *call, int *leads)
{
    lead sleeper = LEAD_FREE;
    int stopped;

    if (leads)
        *leads = !l->threaded;
    pthread_mutex_lock(&l->lock);
    stopped = l->stopped;
    if (!stopped) {
        rl_call_append(&l->queue, call);
        if (l->lead == LEAD_FREE) {
            l->lead = leads ? LEAD_CALLER : LEAD_THREAD;
            l->sleeping = !leads; /* the I/O thread idles */
            if (leads)
                *leads = 1;
        }
        if (l->sleeping)
            sleeper = l->lead;
        l->sleeping = 0;
    }
    pthread_mutex_unlock(&l->lock);
    if (sleeper != LEAD_FREE)
        wake(l, sleeper);
    if (!stopped)
        return call;
    rl_call_release(l->calls, call);
    return NULL;
}

rl_call *rl_leader_enqueue(rl_leader *l, rl_node *node, int slot, char *command, int length,
                           int *leads)
{
    rl_call *call = rl_call_make(l->calls, node, leads != NULL, command, length);

    if (!call)
        return NULL;
    call->slot = slot;
    return enqueue(l, call, leads);
}

int rl_leader_post(rl_leader *l, rl_node *node, const rl_post *post)
{
    rl_call *call = rl_call_make(l->calls, node, 0, post->command, post->length);

    if (!call)
        return 0;
    call->slot = post->slot;
    call->on_end = post->on_end;
    call->data = post->data;
    return enqueue(l, call, NULL) != NULL;
}

void rl_leader_release(rl_leader *l, rl_call *call)
{
    rl_call_release(l->calls, call);
}

/* Counts a call as in flight, keeps it until there is a connection, or completes it. */
static void go_on(rl_leader *l, rl_call *call, rl_call_next next, redisReply *reply)
{
    l->out += next == RL_CALL_GOES;
    if (next == RL_CALL_WAITS)
        rl_call_append(&l->waiting, call);
    if (next == RL_CALL_ENDS)
        rl_call_complete(l->calls, call, reply);
    else if (reply)
        freeReplyObject(reply);
}

static void on_reply(void *data, redisReply *reply)
{
    rl_call *call = data;
    rl_leader *l = call->owner;
    rl_call_next next = RL_CALL_ENDS;

    l->out--;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        next = rl_servers_refused(l->servers, call, reply->str);
    go_on(l, call, next, reply);
}

/* The call did not run: it waits for the next connection, but only once. */
static void on_unsent(void *data)
{
    rl_call *call = data;
    rl_leader *l = call->owner;

    l->out--;
    go_on(l, call, call->unsent++ || rl_call_is_cancelled(call) ? RL_CALL_ENDS : RL_CALL_WAITS,
          NULL);
}

/* --- Leading ------------------------------------------------------------------------------ */

static void send_list(rl_leader *l, rl_call *call)
{
    for (rl_call *next; call; call = next) {
        next = call->next;
        if (rl_call_is_cancelled(call))
            rl_call_complete(l->calls, call, NULL);
        else
            go_on(l, call, rl_servers_send(l->servers, call), NULL);
    }
}

static void send_all(rl_leader *l)
{
    rl_call *waiting = l->waiting.first, *queued;
    int before = l->out;

    rl_call_clear(&l->waiting);
    pthread_mutex_lock(&l->lock);
    queued = l->queue.first;
    rl_call_clear(&l->queue);
    pthread_mutex_unlock(&l->lock);
    send_list(l, waiting);
    send_list(l, queued);
    if (l->out > 1)
        l->alone = 0;
    else if (l->out > before && l->alone < CALM)
        l->alone++;
}

/* Does what is due, and sends what is queued. */
static void tick(rl_leader *l, int64_t now_us)
{
    rl_servers_tick(l->servers, now_us);
    send_all(l);
    rl_servers_handle_io(l->servers, NULL, 0, now_us);
    rl_call_wake(l->calls);
}

/* The descriptors of nodes, then that of the sentinel, last the one that wakes the leader. */
typedef struct {
    struct pollfd fds[RL_SERVERS_FDS + 1];
    int nodes, count;
} poll_set;

/* Fills the set. Returns how long to wait, at most until until_us. */
static int64_t gather(rl_leader *l, int wake_fd, int64_t until_us, poll_set *set)
{
    int others;

    set->nodes = rl_servers_wait(l->servers, set->fds, &others, &until_us);
    set->count = set->nodes + others + 1;
    set->fds[set->count - 1] = (struct pollfd){wake_fd, POLLIN, 0};
    return until_us - rl_link_clock();
}

static void wait_for(struct pollfd *fds, int count, int64_t wait_us)
{
    struct timespec wait = {0, 0};
    eventfd_t ignored;

    if (wait_us > 0) {
        wait.tv_sec = wait_us / 1000000;
        wait.tv_nsec = wait_us % 1000000 * 1000;
    }
    if (ppoll(fds, (nfds_t)count, &wait, NULL) < 0) {
        for (int i = 0; i < count; i++)
            fds[i].revents = 0;
    }
    if (fds[count - 1].revents)
        eventfd_read(fds[count - 1].fd, &ignored);
}

/* Waits for I/O, until until_us at most, and does it. */
static void wait_and_handle_io(rl_leader *l, int wake_fd, int64_t until_us)
{
    poll_set set;
    int64_t wait_us = gather(l, wake_fd, until_us, &set);

    wait_for(set.fds, set.count, wait_us);
    rl_servers_handle_io(l->servers, set.fds, set.nodes, rl_link_clock());
    rl_call_wake(l->calls);
}

/* The leader sleeps only if nothing is queued. A caller that queues a call then wakes it. */
static int may_sleep(rl_leader *l)
{
    int sleeps;

    pthread_mutex_lock(&l->lock);
    sleeps = !l->queue.first;
    l->sleeping = sleeps && l->threaded; /* otherwise there is no other thread to wake it */
    pthread_mutex_unlock(&l->lock);
    return sleeps;
}

/* Nothing is to be done until another call comes. */
static int is_quiet(const rl_leader *l)
{
    return !l->out && !l->waiting.first && l->alone == CALM && rl_servers_is_quiet(l->servers);
}

/* Gives the lead up: to nobody or to the I/O thread. Returns 1 if the lead is free now. */
static int leave(rl_leader *l)
{
    int quiet = is_quiet(l), handed_over;

    pthread_mutex_lock(&l->lock);
    quiet = quiet && !l->queue.first && !l->thread_wants;
    handed_over = !quiet && l->lead == LEAD_CALLER;
    l->lead = quiet ? LEAD_FREE : LEAD_THREAD;
    l->sleeping = 0;
    pthread_mutex_unlock(&l->lock);
    if (handed_over)
        wake(l, LEAD_THREAD);
    return quiet;
}

/* --- The I/O thread ----------------------------------------------------------------------- */

/* Takes the lead unless a caller has it, which then hands it over when it is done. */
static int take_lead(rl_leader *l)
{
    int taken;

    pthread_mutex_lock(&l->lock);
    taken = l->lead != LEAD_CALLER;
    if (taken)
        l->lead = LEAD_THREAD;
    l->thread_wants = !taken;
    l->sleeping = taken ? 0 : l->sleeping;
    pthread_mutex_unlock(&l->lock);
    return taken;
}

static void wait_for_lead(rl_leader *l)
{
    struct pollfd woken = {l->wake_fd[LEAD_THREAD], POLLIN, 0};

    wait_for(&woken, 1, 1000000);
}

/*
 * Gives the lead up if possible, and then waits for Redis to close a connection, but not for
 * replies, which belong to a caller. Returns 1 if something happened to a connection.
 */
static int idle(rl_leader *l)
{
    poll_set set;
    int64_t wait_us = gather(l, l->wake_fd[LEAD_THREAD], INT64_MAX, &set);

    for (int i = 0; i < set.nodes; i++)
        set.fds[i].events = POLLRDHUP;
    if (!leave(l))
        return 0;
    wait_for(set.fds, set.count, wait_us);
    for (int i = 0; i < set.count - 1; i++) {
        if (set.fds[i].revents)
            return 1;
    }
    return 0;
}

static void run(rl_leader *l)
{
    int wake_fd = l->wake_fd[LEAD_THREAD], news = 0;
    int64_t now_us;

    while (!atomic_load(&l->stopping)) {
        if (!take_lead(l)) {
            wait_for_lead(l);
            continue;
        }
        now_us = rl_link_clock();
        rl_servers_probe(l->servers, now_us);
        tick(l, now_us);
        if (!news && is_quiet(l)) {
            news = idle(l);
            continue;
        }
        wait_and_handle_io(l, wake_fd, !news && may_sleep(l) ? INT64_MAX : 0);
        news = 0;
    }
}

static void end_list(rl_leader *l, rl_call *call)
{
    for (rl_call *next; call; call = next) {
        next = call->next;
        rl_call_complete(l->calls, call, NULL);
    }
}

/*
 * The leader's last act: closes all connections. Calls that were not sent end as lost. Sending them
 * would connect again.
 */
static void close_all(rl_leader *l)
{
    rl_call *queued;

    pthread_mutex_lock(&l->lock);
    l->stopped = 1;
    queued = l->queue.first;
    rl_call_clear(&l->queue);
    pthread_mutex_unlock(&l->lock);
    rl_servers_close(l->servers, "the server stops");
    end_list(l, l->waiting.first);
    rl_call_clear(&l->waiting);
    end_list(l, queued);
    rl_call_wake(l->calls);
}

static void *APR_THREAD_FUNC live(apr_thread_t *thread, void *data)
{
    (void)thread;
    run(data);
    while (!take_lead(data)) /* a caller that has it gives it up soon */
        wait_for_lead(data);
    close_all(data);
    return NULL;
}

static int start_thread(rl_leader *l)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = apr_thread_create(&l->thread, NULL, live, l, l->pool) != APR_SUCCESS;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

/* --- Callers ------------------------------------------------------------------------------ */

/* Leads until the call is done or its deadline has come. */
static void lead_until_done(rl_leader *l, const rl_call *call, int64_t deadline_us)
{
    while (!atomic_load_explicit(&l->stopping, memory_order_relaxed)) {
        int64_t now_us = rl_link_clock();

        if (!rl_call_is_pending(call) || now_us >= deadline_us)
            break;
        tick(l, now_us);
        if (rl_call_is_pending(call))
            wait_and_handle_io(l, l->wake_fd[LEAD_CALLER], may_sleep(l) ? deadline_us : 0);
    }
    if (l->threaded)
        leave(l);
    else if (call->node)
        rl_node_stop_waiting(call->node);
}

int rl_leader_wait(rl_leader *l, rl_call *call, int leads, int64_t deadline_us)
{
    if (leads)
        lead_until_done(l, call, deadline_us);
    return rl_call_wait(call, deadline_us);
}

void rl_leader_catch_up(rl_leader *l)
{
    wait_and_handle_io(l, -1, 0);
    tick(l, rl_link_clock());
}

void rl_leader_send_queued(rl_leader *l)
{
    if (l->queue.first) /* one thread: no lock */
        rl_leader_catch_up(l);
}

void rl_leader_flush(rl_leader *l, int64_t deadline_us)
{
    int waited = 0;

    rl_leader_catch_up(l);
    while (l->waiting.first && rl_link_clock() < deadline_us) {
        wait_and_handle_io(l, -1, deadline_us);
        tick(l, rl_link_clock());
        waited = 1;
    }
    for (rl_call *call = l->waiting.first; waited && call; call = call->next) {
        if (call->node)
            rl_node_stop_waiting(call->node);
        else
            rl_servers_stop_waiting(l->servers);
    }
}

void rl_leader_probe(rl_leader *l, int64_t timeout_us)
{
    int64_t now_us, until_us;
    int probing;

    if (!rl_servers_is_any_open(l->servers))
        return;
    now_us = rl_link_clock();
    until_us = now_us + timeout_us;
    do {
        probing = rl_servers_probe(l->servers, now_us);
        tick(l, now_us);
        if (probing)
            wait_and_handle_io(l, -1, until_us);
        now_us = rl_link_clock();
    } while (probing && now_us < until_us);
}

/* --- Life --------------------------------------------------------------------------------- */

rl_leader *rl_leader_create(apr_pool_t *pool, rl_servers *servers, int threaded)
{
    static const rl_command command = {.kind = RL_REPLY_TEXT, .on_reply = on_reply,
                                       .on_unsent = on_unsent};
    rl_leader *l = apr_pcalloc(pool, sizeof(*l));

    l->pool = pool;
    l->threaded = threaded;
    l->servers = servers;
    l->lead = threaded ? LEAD_THREAD : LEAD_CALLER;
    l->alone = CALM;
    for (int i = LEAD_FREE; i <= LEAD_CALLER; i++) {
        l->wake_fd[i] = i && threaded ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
        if (i && threaded && l->wake_fd[i] < 0)
            return NULL;
    }
    l->calls = rl_calls_create(pool, RL_LEADER_IN_FLIGHT, &command, l);
    if (!l->calls || pthread_mutex_init(&l->lock, NULL))
        return NULL;
    rl_call_clear(&l->queue);
    rl_call_clear(&l->waiting);
    if (!threaded)
        tick(l, rl_link_clock()); /* begins to resolve the name and to connect */
    else if (!start_thread(l))
        return NULL;
    return l;
}

void rl_leader_stop(rl_leader *l)
{
    apr_status_t ignored;

    if (!l->thread) {
        close_all(l);
        return;
    }
    atomic_store(&l->stopping, 1);
    wake(l, LEAD_CALLER);
    wake(l, LEAD_THREAD);
    apr_thread_join(&ignored, l->thread);
}

void rl_leader_abandon(rl_leader *l)
{
    if (!l->thread)
        rl_servers_close(l->servers, "the process was forked");
}
