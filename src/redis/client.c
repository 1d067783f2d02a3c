/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client: how the requests of one child ask Redis.
 *
 * A caller makes a call (call.h), queues it, wakes who has the lead if he sleeps, and waits for the
 * call until its deadline. Who has the lead carries it: he sends all that is queued at once,
 * without waiting for more: while one batch is on its way the next gathers by itself. What belongs
 * to whom:
 *
 * - The lock guards the queue, who has the lead, and whether he sleeps. It is never held over a
 *   system call.
 * - Nodes, what is held back for them, and the counts of what is out belong to the lead. The lead
 *   changes hands under the lock alone, so what its last holder did is seen by the next one.
 * - The lead is free only while nothing is queued, held back or in flight, and every node is up
 *   with nothing to do. A caller takes it with his call, in the same step. The I/O thread parks
 *   then: it waits for a connection to be closed by the other side, which it can see without
 *   reading, and for its time to look at everything.
 * - A caller gives the lead back as soon as his call is done or his deadline has come, to nobody if
 *   all that holds again, else to the I/O thread. Callers who came together lately say that more
 *   will: then the I/O thread keeps the lead until so many calls have come alone.
 *
 * Where there is no I/O thread the lead is never free, but the one caller's. Nobody looks at the
 * nodes between its requests: what comes then is found by the next one.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_thread_proc.h>

#include "redis/client.h"
#include "redis/call.h"
#include "redis/cross_slot.h"
#include "redis/probe.h"
#include "redis/servers.h"

#define IN_FLIGHT 1024
#define GREETINGS_MAX (4 + RL_SCRIPTS)
#define CALM 32 /* calls that came alone before callers may lead again */

typedef enum { LEAD_FREE, LEAD_THREAD, LEAD_CALLER } lead;

struct rl_client {
    rl_client_options options;
    apr_pool_t *pool;
    rl_calls *calls;
    rl_script_names names;
    rl_greeting greetings[GREETINGS_MAX];
    int greeting_count;
    rl_greeting sign_of_life;

    pthread_mutex_t lock; /* for what follows, up to stopped */
    rl_call_list queue;
    lead lead;
    int sleeping;      /* who has the lead is to be woken if there is something new */
    int thread_wants;  /* the I/O thread is to have the lead next */
    int stopped;

    atomic_int stopping;
    int wake_fd[LEAD_CALLER + 1]; /* who sleeps with the lead waits for his */
    apr_thread_t *thread;

    /* the lead's */
    rl_servers *servers;
    rl_call_list held; /* calls for nodes that requests may wait for */
    int out;        /* calls in flight */
    int alone;      /* calls in a row that were alone in flight, up to CALM */
};

/* --- Calls -------------------------------------------------------------------------------- */

static void wake(rl_client *client, lead who)
{
    eventfd_write(client->wake_fd[who], 1);
}

/*
 * Makes a call and queues it; NULL, and the command is freed, if there are too many. If leads is
 * not NULL somebody waits for the call, and if the lead is free he has it now, and *leads is 1.
 */
static rl_call *enqueue(rl_client *client, rl_node *node, int slot, char *command, int length,
                        int *leads)
{
    rl_call *call = rl_call_make(client->calls, node, leads != NULL, command, length);
    lead sleeper = LEAD_FREE;
    int stopped;

    if (!call)
        return NULL;
    call->slot = slot;
    pthread_mutex_lock(&client->lock);
    stopped = client->stopped;
    if (!stopped) {
        rl_call_append(&client->queue, call);
        if (client->lead == LEAD_FREE) {
            client->lead = leads ? LEAD_CALLER : LEAD_THREAD;
            client->sleeping = !leads; /* it is parked */
            if (leads)
                *leads = 1;
        }
        if (client->sleeping)
            sleeper = client->lead;
        client->sleeping = 0;
    }
    pthread_mutex_unlock(&client->lock);
    if (sleeper != LEAD_FREE)
        wake(client, sleeper);
    if (!stopped)
        return call;
    rl_call_release(client->calls, call);
    return NULL;
}

/* Counts, holds back or completes a call as its next step says. */
static void go_on(rl_client *client, rl_call *call, rl_call_next next, redisReply *reply)
{
    client->out += next == RL_CALL_GOES;
    if (next == RL_CALL_WAITS)
        rl_call_append(&client->held, call);
    if (next == RL_CALL_ENDS)
        rl_call_complete(client->calls, call, reply);
    else if (reply)
        freeReplyObject(reply);
}

/* A node's answer to a call. */
static void on_reply(void *data, redisReply *reply)
{
    rl_call *call = data;
    rl_client *client = call->owner;
    rl_call_next next = RL_CALL_ENDS;

    client->out--;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        next = rl_servers_refused(client->servers, call, reply->str);
    go_on(client, call, next, reply);
}

/* The connection ended before anything of a call was sent: there is a new one soon. */
static void on_unsent(void *data)
{
    rl_call *call = data;
    rl_client *client = call->owner;

    client->out--;
    go_on(client, call, call->unsent++ || rl_call_is_forsaken(call) ? RL_CALL_ENDS
                                                                    : RL_CALL_WAITS, NULL);
}

/* --- The lead ----------------------------------------------------------------------------- */

/* Sends a list of calls. What waits for a connection is held back, what cannot be sent is lost. */
static void send_list(rl_client *client, rl_call *call)
{
    for (rl_call *next; call; call = next) {
        next = call->next;
        if (rl_call_is_forsaken(call))
            rl_call_complete(client->calls, call, NULL);
        else
            go_on(client, call, rl_servers_send(client->servers, call), NULL);
    }
}

static void send_queued(rl_client *client)
{
    rl_call *held = client->held.first, *queued;
    int before = client->out;

    rl_call_clear(&client->held);
    pthread_mutex_lock(&client->lock);
    queued = client->queue.first;
    rl_call_clear(&client->queue);
    pthread_mutex_unlock(&client->lock);
    send_list(client, held);
    send_list(client, queued);
    if (client->out > 1)
        client->alone = 0;
    else if (client->out > before && client->alone < CALM)
        client->alone++;
}

/* One look at everything that is due; what there is to send leaves at once. */
static void look(rl_client *client, int64_t now_us)
{
    rl_servers_look(client->servers, now_us);
    send_queued(client);
    rl_servers_step(client->servers, NULL, 0, now_us);
    rl_call_wake(client->calls);
}

/* What is waited for: nodes, then the sentinel, at last a wake-up. */
typedef struct {
    struct pollfd fds[RL_SERVERS_FDS + 1];
    int nodes, count;
} waiting;

/* Makes ready to wait. Returns for how long, until until_us at the latest. */
static int64_t gather(rl_client *client, int wake_fd, int64_t until_us, waiting *w)
{
    int others;

    w->nodes = rl_servers_wait(client->servers, w->fds, &others, &until_us);
    w->count = w->nodes + others + 1;
    w->fds[w->count - 1] = (struct pollfd){wake_fd, POLLIN, 0};
    return until_us - rl_link_clock();
}

/* Returns what woke it: a wake-up or nothing of it. */
static int wait_for(struct pollfd *fds, int count, int64_t wait_us)
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
    return fds[count - 1].revents ? eventfd_read(fds[count - 1].fd, &ignored) == 0 : 0;
}

/* Waits for the nodes, at most until until_us, and lets them move on. */
static void wait_and_step(rl_client *client, int wake_fd, int64_t until_us)
{
    waiting w;
    int64_t wait_us = gather(client, wake_fd, until_us, &w);

    wait_for(w.fds, w.count, wait_us);
    rl_servers_step(client->servers, w.fds, w.nodes, rl_link_clock());
    rl_call_wake(client->calls);
}

/* Goes to sleep only if nothing is queued; who queues later must wake it. */
static int may_sleep(rl_client *client)
{
    int sleeps;

    pthread_mutex_lock(&client->lock);
    sleeps = !client->queue.first;
    client->sleeping = sleeps && client->options.threaded; /* else nobody could wake it */
    pthread_mutex_unlock(&client->lock);
    return sleeps;
}

/* Whether there is nothing to do until another call comes. */
static int is_settled(const rl_client *client)
{
    return !client->out && !client->held.first && client->alone == CALM
        && rl_servers_is_settled(client->servers);
}

/* Gives the lead away: to nobody, or to the thread. Returns 1 if it is free. */
static int leave(rl_client *client)
{
    int settled = is_settled(client), handed_over;

    pthread_mutex_lock(&client->lock);
    settled = settled && !client->queue.first && !client->thread_wants;
    handed_over = !settled && client->lead == LEAD_CALLER;
    client->lead = settled ? LEAD_FREE : LEAD_THREAD;
    client->sleeping = 0;
    pthread_mutex_unlock(&client->lock);
    if (handed_over)
        wake(client, LEAD_THREAD);
    return settled;
}

/* --- The I/O thread ----------------------------------------------------------------------- */

/* Takes the lead unless a caller has it, who will then hand it over. */
static int take_lead(rl_client *client)
{
    int taken;

    pthread_mutex_lock(&client->lock);
    taken = client->lead != LEAD_CALLER;
    if (taken)
        client->lead = LEAD_THREAD;
    client->thread_wants = !taken;
    client->sleeping = taken ? 0 : client->sleeping;
    pthread_mutex_unlock(&client->lock);
    return taken;
}

static void wait_for_lead(rl_client *client)
{
    struct pollfd woken = {client->wake_fd[LEAD_THREAD], POLLIN, 0};

    wait_for(&woken, 1, 1000000);
}

/*
 * Gives the lead away if it can and waits without it: for the other side to close a connection,
 * but not for replies, which are a caller's. Returns 1 if a connection has news.
 */
static int park(rl_client *client)
{
    waiting w;
    int64_t wait_us = gather(client, client->wake_fd[LEAD_THREAD], INT64_MAX, &w);

    for (int i = 0; i < w.nodes; i++)
        w.fds[i].events = POLLRDHUP;
    if (!leave(client))
        return 0;
    wait_for(w.fds, w.count, wait_us);
    for (int i = 0; i < w.count - 1; i++) {
        if (w.fds[i].revents)
            return 1;
    }
    return 0;
}

static void run(rl_client *client)
{
    int wake_fd = client->wake_fd[LEAD_THREAD], news = 0;
    int64_t now_us;

    while (!atomic_load(&client->stopping)) {
        if (!take_lead(client)) {
            wait_for_lead(client);
            continue;
        }
        now_us = rl_link_clock();
        rl_servers_probe(client->servers, now_us);
        look(client, now_us);
        if (!news && is_settled(client)) {
            news = park(client);
            continue;
        }
        wait_and_step(client, wake_fd, !news && may_sleep(client) ? INT64_MAX : 0);
        news = 0;
    }
}

/* With the lead, for the last time. */
static void close_all(rl_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->stopped = 1;
    pthread_mutex_unlock(&client->lock);
    rl_servers_close(client->servers, "the server stops");
    send_queued(client); /* to nobody: who waits still is told */
    rl_call_wake(client->calls);
}

static void *APR_THREAD_FUNC live(apr_thread_t *thread, void *data)
{
    (void)thread;
    run(data);
    while (!take_lead(data)) /* a caller who has it gives it away soon */
        wait_for_lead(data);
    close_all(data);
    return NULL;
}

static int start_thread(rl_client *client)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = apr_thread_create(&client->thread, NULL, live, client, client->pool) != APR_SUCCESS;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

/* --- Callers ------------------------------------------------------------------------------ */

/* With the lead: does what the I/O thread does until the call is done or its deadline has come. */
static void lead_until_done(rl_client *client, const rl_call *call, int64_t deadline_us)
{
    while (!atomic_load_explicit(&client->stopping, memory_order_relaxed)) {
        int64_t now_us = rl_link_clock();

        if (!rl_call_is_pending(call) || now_us >= deadline_us)
            break;
        look(client, now_us);
        if (rl_call_is_pending(call))
            wait_and_step(client, client->wake_fd[LEAD_CALLER],
                          may_sleep(client) ? deadline_us : 0);
    }
    if (client->options.threaded)
        leave(client);
    else if (call->node)
        rl_node_hurry(call->node);
}

static rl_failure read_call(const rl_call *call, rl_ask *asks, int n, int *admitted)
{
    if (!call->reply)
        return RL_FAILED_LOST;
    if (call->reply->type == REDIS_REPLY_ERROR)
        return RL_FAILED_REFUSED;
    *admitted = rl_script_read(call->reply, asks, n);
    return *admitted < 0 ? RL_FAILED_GARBAGE : RL_ANSWERED;
}

/* Whether the keys of a call lie at both ends of a slot's move. */
static int is_split(const redisReply *reply)
{
    return reply && reply->type == REDIS_REPLY_ERROR
        && rl_error_of(reply->str) == RL_ERROR_TRYAGAIN;
}

/* One thread, no I/O thread: see what the nodes have been through since the last request. */
static void catch_up(rl_client *client)
{
    wait_and_step(client, -1, 0);
    look(client, rl_link_clock());
}

/*
 * One thread, no I/O thread: sends what is queued, because this child's next request may be long in
 * coming. A connection that was idle is asked for a sign of life first.
 */
static void send_now(rl_client *client, int64_t deadline_us)
{
    int waited = 0;

    catch_up(client);
    while (client->held.first && rl_link_clock() < deadline_us) {
        wait_and_step(client, -1, deadline_us);
        look(client, rl_link_clock());
        waited = 1;
    }
    for (rl_call *call = client->held.first; waited && call; call = call->next) {
        if (call->node)
            rl_node_hurry(call->node);
        else
            rl_servers_hurry_all(client->servers);
    }
}

void rl_client_probe(rl_client *client)
{
    int64_t now_us, until_us;
    int probing;

    if (client->options.threaded || !rl_servers_is_any_open(client->servers))
        return;
    now_us = rl_link_clock();
    until_us = now_us + client->options.timeout_ms * 1000;
    do {
        probing = rl_servers_probe(client->servers, now_us);
        look(client, now_us);
        if (probing)
            wait_and_step(client, -1, until_us);
        now_us = rl_link_clock();
    } while (probing && now_us < until_us);
}

/* Probes do what calls do: in these ways. */
static void note_ways(rl_client *client, unsigned ways)
{
    _Atomic uint64_t *known = &client->options.breakers->ways;

    if (ways & ~atomic_load_explicit(known, memory_order_relaxed))
        atomic_fetch_or(known, ways);
}

/* One call, of one slot. *split: see rl_cross_slot_calls. */
static rl_failure decide(rl_client *client, int slot, rl_ask *asks, int n, int peek,
                         int64_t deadline_us, int *admitted, int *split)
{
    int length, leads = !client->options.threaded;
    rl_failure failure;
    rl_node *node;
    char *command;
    rl_call *call;

    failure = rl_servers_route(client->servers, slot, &node);
    if (failure != RL_ANSWERED)
        return failure;
    note_ways(client, rl_probe_ways(asks, n, peek));
    command = rl_script_decide(&client->names, asks, n, peek, &length);
    call = command ? enqueue(client, node, slot, command, length, &leads) : NULL;
    if (!call)
        return RL_FAILED_BUSY;
    if (leads)
        lead_until_done(client, call, deadline_us);
    failure = RL_FAILED_LATE;
    if (rl_call_wait(call, deadline_us)) {
        node = call->node;
        *split = is_split(call->reply);
        failure = read_call(call, asks, n, admitted);
        rl_call_release(client->calls, call);
    }
    if (!node && failure == RL_FAILED_LATE)
        rl_servers_hurry_all(client->servers);
    if (node && !*split && rl_node_count(node, failure) && client->options.threaded)
        wake(client, LEAD_THREAD);
    return failure;
}

static void undo(rl_client *client, int slot, const rl_ask *asks, int n)
{
    rl_node *node;
    int length;
    char *command;

    if (rl_servers_route(client->servers, slot, &node) != RL_ANSWERED)
        return;
    note_ways(client, rl_probe_ways(asks, n, 1)); /* by the full script, as a peek */
    command = rl_script_undo(&client->names, asks, n, &length);
    if (command)
        enqueue(client, node, slot, command, length, NULL);
}

/* --- Calls of several slots --------------------------------------------------------------- */

typedef struct {
    rl_client *client;
    int64_t deadline_us; /* of all calls together */
} chain;

static rl_failure decide_slot(void *context, int slot, rl_ask *asks, int n, int peek,
                              int *admitted, int *split)
{
    const chain *c = context;

    return decide(c->client, slot, asks, n, peek, c->deadline_us, admitted, split);
}

static void undo_slot(void *context, int slot, const rl_ask *asks, int n)
{
    undo(((const chain *)context)->client, slot, asks, n);
}

/* --- The door ----------------------------------------------------------------------------- */

rl_failure rl_client_decide(rl_client *client, rl_ask *asks, int n, int peek,
                            int64_t deadline_us, int *admitted)
{
    chain c = {client, deadline_us};
    rl_cross_slot_calls calls = {decide_slot, undo_slot, &c};
    rl_failure failure;
    int ignored = 0;

    if (!client->options.threaded)
        catch_up(client);
    if (!rl_servers_is_cluster(client->servers)) {
        failure = decide(client, 0, asks, n, peek, deadline_us, admitted, &ignored);
        for (int i = 0; i < n; i++)
            asks[i].answered = failure == RL_ANSWERED;
        return failure;
    }
    failure = rl_cross_slot_decide(&calls, asks, n, peek, admitted);
    if (!client->options.threaded && client->queue.first)
        catch_up(client); /* what was given back */
    return failure;
}

void rl_client_undo(rl_client *client, const rl_ask *asks, int n, int64_t deadline_us)
{
    chain c = {client, 0};
    rl_cross_slot_calls calls = {decide_slot, undo_slot, &c};

    if (rl_servers_is_cluster(client->servers))
        rl_cross_slot_undo(&calls, asks, n);
    else
        undo(client, 0, asks, n);
    if (!client->options.threaded)
        send_now(client, deadline_us);
}

/* --- Life --------------------------------------------------------------------------------- */

static void add_greeting(rl_client *client, rl_greeting greeting)
{
    client->greetings[client->greeting_count++] = greeting;
}

static void make_greetings(rl_client *client)
{
    const rl_client_options *o = &client->options;
    const char *select[] = {"SELECT", apr_itoa(client->pool, o->url->db)};

    if (o->credentials)
        add_greeting(client, rl_greeting_auth(o->credentials));
    add_greeting(client, rl_greeting_hello());
    add_greeting(client, rl_greeting_set_name(client->pool));
    if (o->url->db)
        add_greeting(client, rl_greeting_make(client->pool, "SELECT", 2, select));
    for (int i = 0; i < RL_SCRIPTS; i++) {
        const char *load[] = {"SCRIPT", "LOAD", rl_script_sources[i]};

        add_greeting(client, rl_greeting_make(client->pool, "SCRIPT LOAD", 3, load));
    }
    /* Changes nothing, and each user may. */
    client->sign_of_life = rl_greeting_make(client->pool, "SELECT", 2, select);
}

static char *make_probe(void *data, const char *tag, unsigned turn, int *length)
{
    const rl_client *client = data;
    unsigned ways = (unsigned)atomic_load(&client->options.breakers->ways);

    return rl_probe_make(&client->names, client->options.prefix, tag, ways, turn, length);
}

static void make_servers(rl_client *client)
{
    const rl_client_options *o = &client->options;
    rl_node_options options = {.timeout_ms = o->timeout_ms, .connect_ms = o->connect_ms,
                               .failures = o->failures, .retry = o->retry,
                               .greetings = client->greetings,
                               .greeting_count = client->greeting_count,
                               .loading_count = RL_SCRIPTS,
                               .tls = o->tls, .in_flight = IN_FLIGHT,
                               .sign_of_life = &client->sign_of_life,
                               .threaded = o->threaded, .probe = {make_probe, client},
                               .sentinel_credentials = o->sentinel_credentials,
                               .breakers = o->breakers, .logger = o->logger};

    client->servers = rl_servers_create(client->pool, o->url, &options);
}

rl_client *rl_client_create(apr_pool_t *pool, const rl_client_options *options)
{
    static const rl_command command = {.kind = RL_REPLY_TEXT, .on_reply = on_reply,
                                       .on_unsent = on_unsent};
    rl_client *client = apr_pcalloc(pool, sizeof(*client));
    int threaded = options->threaded;

    client->options = *options;
    client->pool = pool;
    client->lead = threaded ? LEAD_THREAD : LEAD_CALLER;
    client->alone = CALM;
    rl_script_name(&client->names);
    for (int i = LEAD_FREE; i <= LEAD_CALLER; i++) {
        client->wake_fd[i] = i && threaded ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
        if (i && threaded && client->wake_fd[i] < 0)
            return NULL;
    }
    client->calls = rl_calls_create(pool, IN_FLIGHT, &command, client);
    if (!client->calls || pthread_mutex_init(&client->lock, NULL))
        return NULL;
    rl_call_clear(&client->queue);
    rl_call_clear(&client->held);
    make_greetings(client);
    make_servers(client);
    if (!threaded)
        look(client, rl_link_clock()); /* begins to look the name up and to connect */
    else if (!start_thread(client))
        return NULL;
    return client;
}

void rl_client_stop(rl_client *client)
{
    apr_status_t ignored;

    if (!client->thread) {
        close_all(client);
        return;
    }
    atomic_store(&client->stopping, 1);
    wake(client, LEAD_CALLER);
    wake(client, LEAD_THREAD);
    apr_thread_join(&ignored, client->thread);
}

void rl_client_abandon(rl_client *client)
{
    if (!client->thread)
        rl_servers_close(client->servers, "the process was forked");
}
