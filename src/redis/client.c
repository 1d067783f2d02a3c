/*
 * client: how the requests of one child ask Redis.
 *
 * A call is a slot: the command, who waits for it, and the reply. Slots are made once and bound
 * what can be in flight. A caller fills a slot, queues it, wakes the I/O thread if that sleeps, and
 * waits on the slot's own semaphore until its deadline. If the deadline comes first the slot is
 * abandoned: its reply is still read, in order, and dropped, and only then is the slot free again.
 *
 * The I/O thread sends all that is queued at once, without waiting for more: while one batch is on
 * its way the next gathers by itself. It alone connects and, with the breaker's claim, probes.
 * Where there is no I/O thread the caller does the same steps in the same order. Nobody looks at the
 * link between its requests: what comes then is found by the next one.
 *
 * Failures climb a ladder: so many calls in a row that failed end the connection; a connection
 * that cannot be made again, or too many failures in a second, open the breaker for all children.
 * Only a call answered in time proves a connection: one that ends unproven was not made.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <apr_strings.h>
#include <apr_thread_proc.h>

#include "client.h"
#include "link.h"

#define IN_FLIGHT 1024
#define SILENT_DEADLINES 4
#define IDLE_MS 100 /* how often a link that is down looks at the breaker */

typedef enum { CALL_DECISION, CALL_GIVE_BACK, CALL_PROBE } call_kind;

/* A call leaves PENDING once: to whoever comes first, the reply or the caller's deadline. */
typedef enum { CALL_PENDING, CALL_DONE, CALL_ABANDONED } call_state;

typedef struct call {
    atomic_int state; /* call_state */
    sem_t done;       /* posted when it becomes CALL_DONE and somebody waits */
    int reloaded;     /* sent again after NOSCRIPT */
    call_kind kind;
    char *command;
    int length;
    redisReply *reply; /* NULL with done: lost */
    struct call *next;
} call;

struct rl_client {
    rl_client_options options;
    rl_link *link;
    apr_pool_t *pool;
    rl_script_names names;
    const char *probe_key;

    pthread_mutex_t lock; /* for what follows, up to accepting */
    call *calls;
    call *free;
    call *queue;
    call **queue_end;
    int sleeping;

    atomic_int accepting; /* calls may be queued: the link is up, or coming up for the first time */
    atomic_int failures;  /* in a row */
    atomic_int proven;    /* a call was answered since the link was last connected */
    atomic_int stopping;
    int wake_fd;
    apr_thread_t *thread;

    /* the owner's of the link */
    rl_link_state state; /* as last seen */
    int patient;         /* requests may wait for the connection that is being made */
    int64_t connect_at_us;
    int64_t backoff_ms;
    apr_pool_t *address_pool;
    apr_array_header_t *addresses;
    int address;
    int probing;
    const call *probe;   /* that is out; NULL: none yet */
    int64_t probe_until_us;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t now_ms(void)
{
    return rl_link_clock() / 1000;
}

static void say(rl_client *client, rl_log_level level, const char *format, ...)
{
    char text[320];
    va_list args;

    va_start(args, format);
    apr_vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    client->options.log(client->options.log_context, level, text);
}

static int is_open(const rl_client *client)
{
    return rl_breaker_read(client->options.breaker) == RL_BREAKER_OPEN;
}

static void say_opened(rl_client *client, const char *why)
{
    say(client, RL_LOG_ERROR, "Redis at %s: breaker open, on-failure decides until it answers "
        "again: %s", client->options.node->name, why);
}

/* --- Calls -------------------------------------------------------------------------------- */

static int make_calls(rl_client *client)
{
    client->calls = apr_pcalloc(client->pool, sizeof(call) * IN_FLIGHT);
    for (int i = 0; i < IN_FLIGHT; i++) {
        call *c = &client->calls[i];

        if (sem_init(&c->done, 0, 0))
            return 0;
        c->next = client->free;
        client->free = c;
    }
    client->queue_end = &client->queue;
    return pthread_mutex_init(&client->lock, NULL) == 0;
}

/* Takes a slot for a command and queues it; NULL, and the command is freed, if all are in use. */
static call *enqueue(rl_client *client, call_kind kind, char *command, int length)
{
    int wake = 0;
    call *c;

    pthread_mutex_lock(&client->lock);
    c = client->free;
    if (c) {
        client->free = c->next;
        c->reloaded = 0;
        atomic_store(&c->state, kind == CALL_DECISION ? CALL_PENDING : CALL_ABANDONED);
        c->kind = kind;
        c->command = command;
        c->length = length;
        c->reply = NULL;
        c->next = NULL;
        *client->queue_end = c;
        client->queue_end = &c->next;
        wake = client->sleeping;
        client->sleeping = 0;
    }
    pthread_mutex_unlock(&client->lock);
    if (!c)
        redisFreeCommand(command);
    if (wake)
        eventfd_write(client->wake_fd, 1);
    return c;
}

static void release(rl_client *client, call *c)
{
    redisFreeCommand(c->command);
    if (c->reply)
        freeReplyObject(c->reply);
    pthread_mutex_lock(&client->lock);
    c->next = client->free;
    client->free = c;
    pthread_mutex_unlock(&client->lock);
}

/* A call has got its reply, or lost it. Once it is done it is its caller's. */
static void complete(rl_client *client, call *c, redisReply *reply)
{
    c->reply = reply;
    if (atomic_exchange(&c->state, CALL_DONE) == CALL_ABANDONED)
        release(client, c);
    else if (client->options.threaded)
        sem_post(&c->done);
}

static void probed(rl_client *client, int in_time)
{
    client->probing = 0;
    client->probe = NULL;
    if (rl_breaker_probed(client->options.breaker, &client->options.retry, in_time, now_ms()))
        say(client, RL_LOG_NOTICE, "Redis at %s answers again: breaker closed",
            client->options.node->name);
}

static int is_error(const redisReply *reply, const char *prefix)
{
    return reply && reply->type == REDIS_REPLY_ERROR && strstr(reply->str, prefix);
}

/* Whether nobody waits for a decision any more: then it must not be charged either. */
static int is_forsaken(call *c)
{
    return c->kind == CALL_DECISION && atomic_load(&c->state) == CALL_ABANDONED;
}

/* The link's answer to a call. */
static void on_reply(void *owner, void *done, redisReply *reply)
{
    rl_client *client = owner;
    call *c = done;

    if (is_error(reply, "NOSCRIPT") && !c->reloaded && !is_forsaken(c)) {
        rl_link_reload(client->link);
        c->reloaded = 1;
        if (rl_link_send(client->link, c->command, c->length, c)) {
            freeReplyObject(reply);
            return;
        }
    }
    if (c == client->probe)
        probed(client, reply && reply->type == REDIS_REPLY_STRING);
    complete(client, c, reply);
}

/* Sends what is queued; what cannot be sent is lost. */
static void send_queued(rl_client *client)
{
    call *c, *next;

    pthread_mutex_lock(&client->lock);
    c = client->queue;
    client->queue = NULL;
    client->queue_end = &client->queue;
    pthread_mutex_unlock(&client->lock);
    for (; c; c = next) {
        next = c->next;
        if (is_forsaken(c) || !rl_link_send(client->link, c->command, c->length, c))
            complete(client, c, NULL);
    }
}

/* --- The link's life ---------------------------------------------------------------------- */

/* Errors that the next call would meet as well: asking again soon is of no use. */
static const struct {
    const char *says;
    const char *means;
} lasting[] = {
    {"OOM ", "its memory is full: raise maxmemory or give the limits an instance of their own"},
    {"MISCONF ", "it refuses writes because it cannot save to disk"},
    {"NOAUTH ", "it wants a password"},
    {"WRONGPASS ", "it does not accept the password"},
    {"NOPERM ", "its user may not run what is needed"},
    {"READONLY ", "it is a replica that takes no writes"},
    {"max number of clients", "it has no room for more clients: raise maxclients"},
};

static void open_if_lasting(rl_client *client, const char *error)
{
    for (size_t i = 0; i < sizeof(lasting) / sizeof(lasting[0]); i++) {
        if (strstr(error, lasting[i].says)
            && rl_breaker_open(client->options.breaker, client->options.retry.retry_max_ms,
                               now_ms())) {
            say_opened(client, lasting[i].means);
            return;
        }
    }
}

/*
 * Where there is no I/O thread a request would have to wait for the resolver: addresses are then
 * those that were found when the client was made.
 */
static void find_addresses(rl_client *client)
{
    client->address = 0;
    if (client->addresses && !client->options.threaded)
        return;
    apr_pool_clear(client->address_pool);
    client->addresses = rl_topology_resolve(client->address_pool, client->options.node);
}

/* Once the breaker is open, it alone says when to try again. */
static void link_failed(rl_client *client, const char *why, int64_t now_us)
{
    client->patient = 0;
    if (client->probing)
        probed(client, 0);
    open_if_lasting(client, why);
    if (rl_breaker_count_reconnect(client->options.breaker, &client->options.retry, 0, now_ms()))
        say_opened(client, why);
    client->backoff_ms = least(client->backoff_ms * 2, client->options.retry.retry_max_ms);
    client->connect_at_us = now_us;
    if (!is_open(client))
        client->connect_at_us += client->backoff_ms * 1000;
}

/* A connection was not made. It has failed when no address of the node is left to try. */
static void connect_failed(rl_client *client, int64_t now_us)
{
    if (client->address < client->addresses->nelts)
        client->connect_at_us = now_us;
    else
        link_failed(client, rl_link_error(client->link), now_us);
}

static void begin_connect(rl_client *client, int64_t now_us)
{
    if (!client->addresses || client->address >= client->addresses->nelts)
        find_addresses(client);
    if (client->addresses->nelts == 0) {
        link_failed(client, "its name has no address", now_us);
        return;
    }
    if (!client->options.threaded)
        client->patient = 1;
    do {
        rl_link_connect(client->link, client->options.node,
                        APR_ARRAY_IDX(client->addresses, client->address, const char *));
        client->address++;
        client->state = rl_link_read_state(client->link);
    } while (client->state == RL_LINK_DOWN && client->address < client->addresses->nelts);
    if (client->state == RL_LINK_DOWN)
        connect_failed(client, now_us);
}

static void begin_probe(rl_client *client, int64_t now_us)
{
    int64_t lasts_ms = client->options.connect_ms + client->options.timeout_ms;

    if (client->probing
        || !rl_breaker_claim_probe(client->options.breaker, 2 * lasts_ms, now_us / 1000))
        return;
    client->probing = 1;
    client->probe_until_us = now_us + lasts_ms * 1000;
    client->connect_at_us = now_us;
}

/* A decision that costs nothing, but writes: what a probe can do, requests can do as well. */
static void send_probe(rl_client *client, int64_t now_us)
{
    rl_limit limit = {.algorithm = RL_FIXED_WINDOW, .quota = 1, .window_ms = RL_WINDOW_MIN_MS};
    rl_ask ask = {.key = client->probe_key, .limit = &limit};
    int length;
    char *command = rl_script_decide(&client->names, &ask, 1, 0, &length);

    client->probe_until_us = now_us + client->options.timeout_ms * 1000;
    client->probe = command ? enqueue(client, CALL_PROBE, command, length) : NULL;
    if (!client->probe)
        probed(client, 0);
}

/* What the state of the link has become since the last look. */
static void notice_change(rl_client *client, int64_t now_us)
{
    rl_link_state was = client->state;

    client->state = rl_link_read_state(client->link);
    if (client->state == was)
        return;
    if (client->state == RL_LINK_READY) {
        atomic_store(&client->failures, 0);
        client->patient = 1;
        client->backoff_ms = client->options.retry.retry_min_ms;
        client->address--; /* this one is good: try it first again */
        atomic_store(&client->proven, 0);
        if (client->probing)
            send_probe(client, now_us);
    }
    else if (client->state == RL_LINK_DOWN && was == RL_LINK_READY) {
        client->patient = atomic_exchange(&client->failures, 0) == 0;
        say(client, RL_LOG_WARNING, "lost the connection to Redis at %s: %s",
            client->options.node->name, rl_link_error(client->link));
        if (!client->patient && !atomic_load(&client->proven)) {
            link_failed(client, rl_link_error(client->link), now_us);
            return;
        }
        client->connect_at_us = now_us;
        if (client->probing)
            probed(client, 0);
    }
    else if (client->state == RL_LINK_DOWN) {
        connect_failed(client, now_us);
    }
}

/* While the breaker is open: claims a probe that is due, sends it, and gives up on a late one. */
static void manage_probe(rl_client *client, int64_t now_us)
{
    int was_probing = client->probing;

    begin_probe(client, now_us);
    if (client->probing && !was_probing && client->state == RL_LINK_READY)
        send_probe(client, now_us);
    if (client->probing && now_us >= client->probe_until_us)
        probed(client, 0);
}

/* Whether requests wait for the connection that is being made. */
static int is_awaited(const rl_client *client)
{
    return client->state == RL_LINK_CONNECTING && client->patient;
}

/* One look at everything that is due. The owner calls it before it waits. */
static void manage(rl_client *client, int64_t now_us)
{
    if (client->state == RL_LINK_READY && rl_link_read_state(client->link) == RL_LINK_READY
        && atomic_load(&client->failures) >= client->options.failures)
        rl_link_close(client->link, "too many calls in a row failed");
    notice_change(client, now_us);
    if (client->state == RL_LINK_DOWN && now_us >= client->connect_at_us
        && (!is_open(client) || client->probing))
        begin_connect(client, now_us);
    atomic_store(&client->accepting, client->state == RL_LINK_READY || is_awaited(client));
    if (!is_awaited(client))
        send_queued(client);
}

/* Waits for the link, at most until until_us, and lets it move on. */
static void wait_and_step(rl_client *client, int64_t until_us)
{
    struct pollfd fds[2] = {{-1, 0, 0}, {client->wake_fd, POLLIN, 0}};
    int64_t now_us = rl_link_clock(), due_us, wait_us;
    eventfd_t ignored;
    struct timespec wait;

    fds[0].fd = rl_link_wait(client->link, &fds[0].events, &due_us);
    wait_us = least(due_us, until_us) - now_us;
    if (wait_us < 0)
        wait_us = 0;
    wait.tv_sec = wait_us / 1000000;
    wait.tv_nsec = wait_us % 1000000 * 1000;
    if (ppoll(fds, client->options.threaded ? 2 : 1, &wait, NULL) < 0)
        fds[0].revents = fds[1].revents = 0;
    if (fds[1].revents)
        eventfd_read(client->wake_fd, &ignored);
    rl_link_step(client->link, fds[0].revents, rl_link_clock());
}

/* --- The I/O thread ----------------------------------------------------------------------- */

/* Goes to sleep only if nothing is queued; who queues later must wake it. */
static int may_sleep(rl_client *client)
{
    int sleeps;

    pthread_mutex_lock(&client->lock);
    sleeps = client->sleeping = !client->queue || client->state == RL_LINK_CONNECTING;
    pthread_mutex_unlock(&client->lock);
    return sleeps;
}

/* When there is something to do even if nothing happens. */
static int64_t next_look(const rl_client *client, int64_t now_us)
{
    if (client->probing)
        return least(client->probe_until_us, now_us + IDLE_MS * 1000);
    if (is_open(client))
        return now_us + least(IDLE_MS, client->options.retry.retry_min_ms) * 1000;
    if (client->state == RL_LINK_DOWN)
        return least(client->connect_at_us, now_us + IDLE_MS * 1000);
    return now_us + 10 * IDLE_MS * 1000;
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *data)
{
    rl_client *client = data;

    (void)thread;
    while (!atomic_load(&client->stopping)) {
        int64_t now_us = rl_link_clock();

        if (is_open(client))
            manage_probe(client, now_us);
        manage(client, now_us);
        /* What manage() sent is flushed by a step that does not wait. */
        rl_link_step(client->link, 0, now_us);
        wait_and_step(client, may_sleep(client) ? next_look(client, now_us) : now_us);
    }
    atomic_store(&client->accepting, 0);
    rl_link_close(client->link, "the server stops");
    send_queued(client); /* to nobody: who waits still is told */
    return NULL;
}

static int start_thread(rl_client *client)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = apr_thread_create(&client->thread, NULL, run, client, client->pool) != APR_SUCCESS;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

/* --- The door ----------------------------------------------------------------------------- */

rl_client *rl_client_create(apr_pool_t *pool, const rl_client_options *options)
{
    rl_client *client = apr_pcalloc(pool, sizeof(*client));
    rl_link_options link = {options->connect_ms * 1000,
                            options->timeout_ms * SILENT_DEADLINES * 1000, options->node->db,
                            IN_FLIGHT, on_reply, client};

    client->options = *options;
    client->pool = pool;
    client->link = rl_link_create(pool, &link);
    client->wake_fd = options->threaded ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
    client->patient = 1;
    client->backoff_ms = options->retry.retry_min_ms;
    atomic_init(&client->accepting, 1);
    rl_script_name(&client->names);
    client->probe_key = apr_pstrcat(pool, options->prefix, ":{probe}:probe:fixed-window:100ms",
                                    NULL);
    apr_pool_create(&client->address_pool, pool);
    if (!make_calls(client))
        return NULL;
    if (!options->threaded)
        find_addresses(client);
    else if (client->wake_fd < 0 || !start_thread(client))
        return NULL;
    return client;
}

void rl_client_stop(rl_client *client)
{
    apr_status_t ignored;

    if (!client->thread)
        return;
    atomic_store(&client->stopping, 1);
    eventfd_write(client->wake_fd, 1);
    apr_thread_join(&ignored, client->thread);
}

/* Leaves a call that is still pending to the link. Returns 1 if it is done instead. */
static int abandon(call *c)
{
    int pending = CALL_PENDING;

    return !atomic_compare_exchange_strong(&c->state, &pending, CALL_ABANDONED);
}

/* Waits for the I/O thread to complete a call. Returns 0 if the deadline came first. */
static int wait_threaded(call *c, int64_t deadline_us)
{
    struct timespec until = {deadline_us / 1000000, deadline_us % 1000000 * 1000};

    while (sem_clockwait(&c->done, CLOCK_MONOTONIC, &until)) {
        if (errno == EINTR)
            continue;
        if (!abandon(c))
            return 0;
        until.tv_sec++; /* it is done, and about to be posted */
    }
    return 1;
}

/* The same, by doing what the I/O thread does. */
static int wait_stepping(rl_client *client, call *c, int64_t deadline_us)
{
    while (atomic_load(&c->state) != CALL_DONE && rl_link_clock() < deadline_us) {
        manage(client, rl_link_clock());
        if (atomic_load(&c->state) != CALL_DONE)
            wait_and_step(client, deadline_us);
    }
    if (client->state == RL_LINK_CONNECTING)
        client->patient = 0; /* one request has waited for this connection: that is enough */
    return abandon(c);
}

static rl_failure read_call(rl_client *client, const call *c, rl_ask *asks, int n, int *charged)
{
    if (!c->reply)
        return RL_FAILED_LOST;
    if (c->reply->type == REDIS_REPLY_ERROR) {
        open_if_lasting(client, c->reply->str);
        return RL_FAILED_REFUSED;
    }
    *charged = rl_script_read(c->reply, asks, n);
    return *charged < 0 ? RL_FAILED_GARBAGE : RL_ANSWERED;
}

static void count(rl_client *client, rl_failure failure)
{
    if (failure == RL_ANSWERED) {
        if (atomic_load_explicit(&client->failures, memory_order_relaxed))
            atomic_store(&client->failures, 0);
        if (!atomic_load_explicit(&client->proven, memory_order_relaxed)) {
            atomic_store(&client->proven, 1);
            rl_breaker_count_reconnect(client->options.breaker, &client->options.retry, 1,
                                       now_ms());
        }
    }
    else if (failure != RL_FAILED_LOST /* that link is gone already */
             && atomic_fetch_add(&client->failures, 1) + 1 == client->options.failures
             && client->options.threaded) {
        eventfd_write(client->wake_fd, 1);
    }
    if (rl_breaker_count(client->options.breaker, &client->options.retry, failure, now_ms()))
        say_opened(client, "most calls fail");
}

/* One thread, no I/O thread: see what the link has been through since the last request. */
static void catch_up(rl_client *client)
{
    wait_and_step(client, 0);
    manage(client, rl_link_clock());
}

void rl_client_probe(rl_client *client)
{
    int64_t until_us;

    if (client->options.threaded || !is_open(client))
        return;
    until_us = rl_link_clock() + client->options.timeout_ms * 1000;
    do {
        int64_t now_us = rl_link_clock();

        manage_probe(client, now_us);
        manage(client, now_us);
        if (client->probing)
            wait_and_step(client, least(client->probe_until_us, until_us));
    } while (client->probing && rl_link_clock() < until_us);
}

rl_failure rl_client_decide(rl_client *client, rl_ask *asks, int n, int look, int64_t deadline_us,
                            int *admitted)
{
    rl_failure failure = RL_FAILED_LATE;
    int length, done;
    char *command;
    call *c;

    if (!client->options.threaded)
        catch_up(client);
    if (!rl_breaker_allows(client->options.breaker, now_ms()))
        return RL_FAILED_OPEN;
    if (!atomic_load_explicit(&client->accepting, memory_order_relaxed))
        return RL_FAILED_DOWN;
    command = rl_script_decide(&client->names, asks, n, look, &length);
    c = command ? enqueue(client, CALL_DECISION, command, length) : NULL;
    if (!c)
        return RL_FAILED_BUSY;
    done = client->options.threaded ? wait_threaded(c, deadline_us)
                                    : wait_stepping(client, c, deadline_us);
    if (done) {
        failure = read_call(client, c, asks, n, admitted);
        release(client, c);
    }
    count(client, failure);
    return failure;
}

void rl_client_undo(rl_client *client, const rl_ask *asks, int n)
{
    int length;
    char *command;

    if (!atomic_load_explicit(&client->accepting, memory_order_relaxed))
        return;
    command = rl_script_undo(&client->names, asks, n, &length);
    if (command)
        enqueue(client, CALL_GIVE_BACK, command, length);
    if (!client->options.threaded) {
        catch_up(client);
        /* Out with it now: this child's next request may be long in coming. */
        rl_link_step(client->link, 0, rl_link_clock());
    }
}
