/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node: one server of Redis in the life of a child.
 *
 * Failures climb a ladder: so many calls in a row that failed end the connection; a connection
 * that cannot be made again, or too many failures in a second, open the breaker for all children.
 * Only a call answered in time proves a connection: one that ends unproven was not made. So one that
 * shakes hands and is closed at once is made again after pauses that grow until a call was answered.
 * While the breaker is open only a child that has claimed a probe connects.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include "redis/node.h"
#include "redis/dialer.h"

#define SILENT_DEADLINES 4
#define REFUSAL_MS 3000 /* how long a refusal by Redis explains failures */
#define IDLE_MS 100     /* how often a link that is down looks at the breaker */

struct rl_node {
    rl_node_options options;
    const char *name;
    rl_breaker *_Atomic breaker;

    atomic_int accepting; /* calls may be made: the link is up, or coming up for the first time */
    atomic_int failures;  /* in a row */
    atomic_int proven;    /* a call was answered since the link was last connected */
    atomic_int opened;    /* by calls that failed: the owner is to say it, who knows more of it */
    _Atomic int64_t refusal; /* the last one: when, in ms, << 8 | rl_error_kind + 1; 0: none */
    atomic_int suspended; /* nobody needs the server */

    /* the owner's */
    rl_link *link;
    rl_logger_pace said_lost, said_late, said_refused;
    rl_link_state state; /* as last seen */
    rl_dialer *dialer;
    int checking;        /* the link is asked for a sign of life after it was idle */
    rl_error_kind wrong_role; /* why Redis is not the server looked for; RL_ERROR_OTHER: it is */
    int may_wait;        /* requests may wait for the connection that is being made */
    unsigned losses;     /* see rl_node_losses() */
    int trying;          /* the request under way was let through an open breaker */
    int probing;
    int probe_sent;
    int probe_good;      /* as far as replies to it have come */
    int probes_owed;     /* replies to probes that are to come */
    int64_t probe_until_us;
    char probe_tag[RL_PROBE_TAG];
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t now_ms(void)
{
    return rl_link_clock() / 1000;
}

/* Whoever sees the breaker closed after its opening was said says so: once, of all processes. */
static void say_closed(rl_node *node)
{
    if (atomic_exchange(&node->breaker->said_open, 0))
        rl_logger_say(&node->options.logger, RL_LOG_NOTICE,
                      "Redis at %s answers again: breaker closed", node->name);
}

static void say_opened(rl_node *node, const char *why)
{
    if (!rl_logger_say_at_pace(&node->options.logger, &node->breaker->pace, now_ms(), RL_LOG_ERROR,
                               "Redis at %s: breaker open, on-failure decides until it answers "
                               "again: %s", node->name, why))
        return;
    atomic_store(&node->breaker->said_open, 1);
    if (rl_breaker_read(node->breaker) != RL_BREAKER_OPEN) /* it was closed before this was said */
        say_closed(node);
}

/* --- Any thread --------------------------------------------------------------------------- */

const char *rl_node_name(const rl_node *node)
{
    return node->name;
}

int rl_node_is_open(const rl_node *node)
{
    return !node->suspended && rl_breaker_read(node->breaker) == RL_BREAKER_OPEN;
}

/*
 * A server with one thread per process looks after Redis only when requests come. The first ones
 * after a while without any do not fall back by what was found long ago: they try.
 */
static int may_try(const rl_node *node)
{
    return !node->options.threaded
        && rl_breaker_is_stale(node->breaker, &node->options.retry, now_ms());
}

rl_failure rl_node_allows(rl_node *node)
{
    if (!rl_breaker_allows(node->breaker, now_ms())) {
        if (!may_try(node))
            return RL_FAILED_OPEN;
        node->trying = 1;
    }
    return atomic_load_explicit(&node->accepting, memory_order_relaxed) ? RL_ANSWERED
                                                                        : RL_FAILED_DOWN;
}

/* Whoever tries next knows: Redis is back, or was looked after a moment ago. */
static void count_try(rl_node *node, rl_failure failure)
{
    node->trying = 0;
    if (rl_breaker_read(node->breaker) != RL_BREAKER_OPEN)
        return;
    if (failure == RL_ANSWERED) {
        rl_breaker_reset(node->breaker);
        say_closed(node);
    }
    else {
        rl_breaker_probed(node->breaker, &node->options.retry, 0, now_ms());
    }
}

#define WHY 240

/* Why calls fail: what Redis said lately, or why there is no connection, then what was seen. */
static const char *explain(const rl_node *node, const char *seen, char text[WHY])
{
    int64_t refusal = atomic_load(&node->refusal);

    if (refusal && now_ms() - (refusal >> 8) <= REFUSAL_MS)
        apr_snprintf(text, WHY, "it %s (%s)", rl_errors[(refusal & 0xff) - 1].means, seen);
    else if (node->state != RL_LINK_READY && *rl_link_error(node->link))
        apr_snprintf(text, WHY, "%s (%s)", rl_link_error(node->link), seen);
    else
        return seen;
    return text;
}

int rl_node_count(rl_node *node, rl_failure failure)
{
    int look = 0;

    if (node->trying)
        count_try(node, failure);
    if (failure == RL_ANSWERED) {
        if (atomic_load_explicit(&node->failures, memory_order_relaxed))
            atomic_store(&node->failures, 0);
        if (!atomic_load_explicit(&node->proven, memory_order_relaxed)) {
            atomic_store(&node->proven, 1);
            rl_breaker_count_reconnect(node->breaker, &node->options.retry, 1, now_ms());
        }
    }
    else if (failure != RL_FAILED_LOST) { /* that link is gone already */
        look = atomic_fetch_add(&node->failures, 1) + 1 == node->options.failures;
    }
    if (rl_breaker_count(node->breaker, &node->options.retry, failure, now_ms()))
        atomic_store(&node->opened, 1);
    /* An owner that sleeps with a good connection would be late for the probes. */
    return look || (failure != RL_ANSWERED && rl_node_is_open(node));
}

/* --- The ladder --------------------------------------------------------------------------- */

static void probed(rl_node *node, int in_time)
{
    node->probing = node->probe_sent = 0;
    if (rl_breaker_probed(node->breaker, &node->options.retry, in_time, now_ms()))
        say_closed(node);
}

/*
 * Counts a lost connection. Where sentinels name the server's place they are asked for it again, and
 * the node has failed only when none of them knows one. Returns 1 for such a node.
 */
static int forget_place(rl_node *node)
{
    node->losses++;
    if (!node->options.by_sentinel)
        return 0;
    rl_dialer_forget(node->dialer);
    return 1;
}

rl_error_action rl_node_refused(rl_node *node, rl_error_kind kind, const char *text)
{
    const rl_error *error = &rl_errors[kind];
    char why[WHY];

    apr_snprintf(why, sizeof(why), "it %s", error->means);
    atomic_fetch_add_explicit(&node->options.breakers->errors[kind], 1, memory_order_relaxed);
    if (kind == RL_ERROR_OTHER && text)
        rl_logger_say_at_pace(&node->options.logger, &node->said_refused, now_ms(), RL_LOG_WARNING,
                              "Redis at %s refuses what it is asked: %.*s", node->name,
                              rl_error_shown(text), text);
    atomic_store(&node->refusal, now_ms() << 8 | (kind + 1));
    if (error->action == RL_DO_RELOAD)
        rl_link_reload(node->link);
    else if (error->action == RL_DO_REDISCOVER && !node->options.in_cluster)
        node->wrong_role = kind;
    else if (error->action == RL_DO_OPEN
             && rl_breaker_open(node->breaker, node->options.retry.retry_max_ms, now_ms()))
        say_opened(node, why);
    return error->action;
}

/* Once the breaker is open, it alone says when to try again. */
void rl_node_fail(rl_node *node, const char *why, int64_t now_us)
{
    node->may_wait = 0;
    if (node->probing)
        probed(node, 0);
    if (rl_breaker_count_reconnect(node->breaker, &node->options.retry, 0, now_ms()))
        say_opened(node, why);
    rl_dialer_failed(node->dialer, now_us, rl_node_is_open(node));
}

/* No connection could be made. */
static void round_failed(rl_node *node, const char *why, int64_t now_us)
{
    rl_dialer_end_round(node->dialer);
    rl_dialer_retry_at(node->dialer, now_us);
    if (!forget_place(node))
        rl_node_fail(node, why, now_us);
}

static void link_failed(rl_node *node, int64_t now_us)
{
    if (rl_link_refusal(node->link) != RL_ERROR_KINDS)
        rl_node_refused(node, rl_link_refusal(node->link), NULL);
    round_failed(node, rl_link_error(node->link), now_us);
}

static void connect_next(rl_node *node, int64_t now_us)
{
    rl_dial next = RL_DIAL_ADDRESS;
    const char *address = NULL;

    if (rl_dialer_begin_round(node->dialer, now_us) && !node->options.threaded)
        node->may_wait = 1;
    while (node->state == RL_LINK_DOWN && next == RL_DIAL_ADDRESS) {
        next = rl_dialer_next(node->dialer, now_us, &address);
        if (next == RL_DIAL_ADDRESS) {
            rl_link_connect(node->link, rl_dialer_endpoint(node->dialer), address);
            node->state = rl_link_read_state(node->link);
        }
    }
    if (next == RL_DIAL_FAILED && address)
        round_failed(node, address, now_us);
    else if (next == RL_DIAL_FAILED)
        link_failed(node, now_us);
}

/*
 * The last reply to a probe has come. Whoever reads it may have been away since it was due, so it
 * is the clock that says if it came in time. Replies to an earlier probe say nothing of a later one.
 */
static void take_probe(rl_node *node)
{
    int64_t now_us = rl_link_clock();
    int good = node->probe_good;

    if (good && now_us >= node->probe_until_us)
        rl_logger_say_at_pace(&node->options.logger, &node->said_late, now_us / 1000,
                              RL_LOG_WARNING, "Redis at %s answers, but later than the %d ms "
                              "that RateLimitRedisTimeout allows", node->name,
                              (int)node->options.timeout_ms);
    if (node->probe_sent)
        probed(node, good && now_us < node->probe_until_us);
}

/* reply is NULL if the connection ended before it came, or before the probe was sent. */
static void take_probe_reply(void *data, redisReply *reply)
{
    rl_node *node = data;

    node->probes_owed--;
    if (!reply || reply->type != REDIS_REPLY_STRING)
        node->probe_good = 0;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        rl_node_refused(node, rl_error_of(reply->str), reply->str);
    if (node->probes_owed == 0)
        take_probe(node);
    if (reply)
        freeReplyObject(reply);
}

/* Twice: what a key is written with first is not what it is written with when it is there. */
static void send_probe(rl_node *node, int64_t now_us)
{
    const rl_probe_maker *maker = &node->options.probe;
    rl_command command = {.kind = RL_REPLY_TEXT, .on_reply = take_probe_reply, .data = node};
    char *probe = maker->make(maker->data, node->probe_tag, rl_breaker_good_probes(node->breaker),
                              &command.length);

    command.bytes = probe;
    node->probe_until_us = now_us + node->options.timeout_ms * 1000;
    node->probe_sent = node->probe_good = 1;
    for (int i = 0; i < 2 && node->probe_sent; i++) {
        node->probe_sent = probe && rl_link_send(node->link, &command);
        node->probes_owed += node->probe_sent;
    }
    redisFreeCommand(probe);
    if (!node->probe_sent)
        probed(node, 0);
}

static void connected(rl_node *node, int64_t now_us)
{
    rl_dialer_connected(node->dialer, now_us);
    node->wrong_role = RL_ERROR_OTHER;
    atomic_store(&node->failures, 0);
    atomic_store(&node->proven, 0);
    node->may_wait = 1;
    if (node->probing)
        send_probe(node, now_us);
}

/* The end of a connection that idled is as it should be. */
static void lost(rl_node *node, int64_t now_us)
{
    const char *why = rl_link_error(node->link);
    int too_soon = rl_dialer_lost(node->dialer, atomic_load(&node->proven), now_us);

    if (too_soon || !rl_link_was_idle(node->link))
        rl_logger_say_at_pace(&node->options.logger, &node->said_lost, now_us / 1000,
                              RL_LOG_WARNING, "lost the connection to Redis at %s: %s", node->name,
                              why);
    else
        rl_logger_say(&node->options.logger, RL_LOG_INFO, "lost the connection to Redis at %s: %s",
                      node->name, why);
}

static void disconnected(rl_node *node, int64_t now_us)
{
    int wrong_role = node->wrong_role != RL_ERROR_OTHER;

    if (!wrong_role) /* else the breaker says it, if there is no better server */
        lost(node, now_us);
    forget_place(node);
    node->wrong_role = RL_ERROR_OTHER;
    node->may_wait = atomic_exchange(&node->failures, 0) == 0 && !wrong_role;
    if (!node->may_wait && !atomic_load(&node->proven)) {
        link_failed(node, now_us);
        return;
    }
    rl_dialer_retry_at(node->dialer, now_us);
    if (node->probing)
        probed(node, 0);
}

/* Acts on a change of the link's state since the last tick. */
static void notice_change(rl_node *node, int64_t now_us)
{
    rl_link_state was = node->state;

    node->state = rl_link_read_state(node->link);
    if (node->state == was)
        return;
    if (was == RL_LINK_READY && node->state == RL_LINK_CONNECTING)
        node->checking = node->may_wait = 1;
    else if (node->state == RL_LINK_READY && !node->checking)
        connected(node, now_us);
    else if (node->state == RL_LINK_DOWN && (was == RL_LINK_READY || node->checking))
        disconnected(node, now_us);
    else if (node->state == RL_LINK_DOWN)
        rl_dialer_retry_at(node->dialer, now_us); /* the next address, or the end of the round */
    node->checking = node->state == RL_LINK_CONNECTING && node->checking;
}

int rl_node_probe(rl_node *node, int64_t now_us)
{
    int64_t lasts_ms = node->options.connect_ms + node->options.timeout_ms;

    if (node->suspended)
        return 0;
    if (!node->probing
        && rl_breaker_claim_probe(node->breaker, 2 * lasts_ms, now_us / 1000)) {
        node->probing = 1;
        node->probe_until_us = now_us + lasts_ms * 1000;
        rl_dialer_retry_at(node->dialer, now_us);
        if (node->state == RL_LINK_READY)
            send_probe(node, now_us);
    }
    if (node->probing && now_us >= node->probe_until_us)
        probed(node, 0);
    return node->probing;
}

static void end_bad_connection(rl_node *node)
{
    char why[WHY];

    if (node->wrong_role) {
        rl_dialer_demote(node->dialer);
        apr_snprintf(why, sizeof(why), "it %s", rl_errors[node->wrong_role].means);
        rl_node_move(node, node->options.by_sentinel ? NULL : rl_dialer_endpoint(node->dialer),
                     why);
    }
    else if (atomic_load(&node->failures) >= node->options.failures) {
        rl_link_close(node->link, explain(node, "too many calls in a row failed", why));
    }
}

void rl_node_tick(rl_node *node, int64_t now_us)
{
    char why[WHY];

    if (node->suspended)
        return;
    if (atomic_load_explicit(&node->opened, memory_order_relaxed)
        && atomic_exchange(&node->opened, 0))
        say_opened(node, explain(node, "most calls fail", why));
    if (node->state == RL_LINK_READY && rl_link_read_state(node->link) == RL_LINK_READY)
        end_bad_connection(node);
    notice_change(node, now_us);
    rl_dialer_tick(node->dialer, now_us);
    if (rl_node_is_open(node) && !node->probing && node->state == RL_LINK_DOWN && !may_try(node)) {
        rl_dialer_end_round(node->dialer); /* its end would be old news then */
        node->may_wait = 0;
    }
    else if (node->state == RL_LINK_DOWN
             && now_us >= rl_dialer_due(node->dialer, node->probing)) {
        connect_next(node, now_us);
    }
    atomic_store(&node->accepting, node->state == RL_LINK_READY || rl_node_is_awaited(node));
}

/* --- The owner ---------------------------------------------------------------------------- */

rl_node *rl_node_create(apr_pool_t *pool, const rl_node_options *options, const char *name,
                        const rl_endpoint *at)
{
    rl_node *node = apr_pcalloc(pool, sizeof(*node));
    rl_link_options link = {.connect_us = options->connect_ms * 1000,
                            .silent_us = options->timeout_ms * SILENT_DEADLINES * 1000,
                            .greetings = options->greetings,
                            .greeting_count = options->greeting_count,
                            .loading_count = options->loading_count, .tls = options->tls,
                            .sign_of_life = options->sign_of_life,
                            .check_us = options->timeout_ms * 1000 / 2,
                            .in_flight = options->in_flight};
    rl_dialer_options dialer = {.connect_ms = options->connect_ms,
                                .pause_min_ms = options->retry.retry_min_ms,
                                .pause_max_ms = options->retry.retry_max_ms,
                                .threaded = options->threaded, .resolver = options->resolver};

    node->options = *options;
    node->name = name;
    node->dialer = rl_dialer_create(pool, &dialer, at);
    node->breaker = rl_breaker_of(options->breakers, name);
    node->link = rl_link_create(pool, &link);
    rl_node_set_probe_tag(node, "probe");
    node->may_wait = 1;
    atomic_init(&node->accepting, 1);
    return node;
}

int rl_node_is_awaited(const rl_node *node)
{
    return node->may_wait && node->state != RL_LINK_READY
        && (rl_dialer_is_dialing(node->dialer) || node->state == RL_LINK_CONNECTING);
}

int rl_node_is_ready(const rl_node *node)
{
    return node->state == RL_LINK_READY && rl_link_read_state(node->link) == RL_LINK_READY;
}

int rl_node_is_idle(const rl_node *node)
{
    return rl_link_in_flight(node->link) == 0 && !node->probing;
}

unsigned rl_node_losses(const rl_node *node)
{
    return node->losses;
}

int rl_node_is_quiet(const rl_node *node)
{
    if (node->suspended)
        return 1;
    return node->state == RL_LINK_READY && rl_link_read_state(node->link) == RL_LINK_READY
        && !rl_node_is_open(node) && !node->wrong_role && !node->probing
        && !rl_dialer_is_resolving(node->dialer)
        && atomic_load(&node->failures) < node->options.failures;
}

void rl_node_stop_waiting(rl_node *node)
{
    if (node->state != RL_LINK_READY)
        node->may_wait = 0;
}

void rl_node_check_alive(rl_node *node)
{
    int64_t now_us;

    if (node->state != RL_LINK_READY || rl_link_in_flight(node->link) > 0)
        return;
    now_us = rl_link_clock();
    if (rl_link_read_state(node->link) != RL_LINK_READY || rl_link_check_alive(node->link, now_us))
        rl_node_tick(node, now_us);
}

int rl_node_send(rl_node *node, const rl_command *command)
{
    return rl_link_send(node->link, command);
}

/* When there is something to do even if nothing happens. */
static int64_t next_tick(const rl_node *node, int64_t now_us)
{
    int64_t idle_us = now_us + IDLE_MS * 1000, until_us = rl_dialer_waits_until(node->dialer);

    if (node->suspended)
        return INT64_MAX;
    if (node->probing)
        return least(node->probe_until_us, idle_us);
    if (rl_node_is_open(node))
        return now_us + least(IDLE_MS, node->options.retry.retry_min_ms) * 1000;
    if (until_us)
        return least(until_us, idle_us);
    if (node->state == RL_LINK_DOWN || rl_link_read_state(node->link) != node->state)
        return least(rl_dialer_due(node->dialer, node->probing), idle_us);
    return now_us + 10 * IDLE_MS * 1000;
}

int rl_node_wait(const rl_node *node, int64_t now_us, short *events, int64_t *due_us)
{
    int fd = rl_link_wait(node->link, events, due_us);

    *due_us = least(*due_us, next_tick(node, now_us));
    if (fd >= 0)
        return fd;
    *events = POLLIN;
    return rl_dialer_wait(node->dialer);
}

void rl_node_handle_io(rl_node *node, short revents, int64_t now_us)
{
    rl_link_handle_io(node->link, revents, now_us);
}

/* It is known that the connection is of no use, and why: that is no failure. */
static void leave_place(rl_node *node, const rl_endpoint *to, const char *why)
{
    if (node->state == RL_LINK_READY) {
        rl_logger_say(&node->options.logger, RL_LOG_WARNING, "left Redis at %s: %s", node->name,
                      why);
        atomic_store(&node->failures, 0);
        node->may_wait = 1;
    }
    node->wrong_role = RL_ERROR_OTHER;
    node->state = RL_LINK_DOWN;
    node->checking = 0;
    if (to)
        rl_breaker_probe_now(node->breaker, &node->options.retry, now_ms());
    else
        forget_place(node);
}

void rl_node_move(rl_node *node, const rl_endpoint *at, const char *why)
{
    rl_link_close(node->link, why);
    if (node->options.by_sentinel)
        leave_place(node, at, why);
    rl_dialer_move(node->dialer, at);
}

void rl_node_invalidate(rl_node *node)
{
    if (node->state == RL_LINK_READY || !rl_dialer_endpoint(node->dialer))
        return;
    rl_dialer_forget(node->dialer);
    rl_link_close(node->link, "another server is the primary now");
    node->state = RL_LINK_DOWN;
    node->checking = 0;
}

void rl_node_set_probe_tag(rl_node *node, const char *tag)
{
    apr_cpystrn(node->probe_tag, tag, sizeof(node->probe_tag));
}

void rl_node_suspend(rl_node *node)
{
    rl_dialer_stop(node->dialer);
    node->probing = node->probe_sent = 0;
    node->suspended = 1;
    rl_link_close(node->link, "");
    node->state = RL_LINK_DOWN;
    node->checking = 0;
    rl_breaker_reset(node->breaker);
    atomic_store(&node->breaker->said_open, 0);
}

void rl_node_replace(rl_node *node)
{
    rl_node_suspend(node);
    rl_dialer_invalidate(node->dialer);
    node->breaker = rl_breaker_of(node->options.breakers, node->name);
}

void rl_node_resume(rl_node *node, int64_t now_us)
{
    if (!node->suspended)
        return;
    node->suspended = 0;
    node->may_wait = 1;
    rl_dialer_restart(node->dialer, now_us);
    atomic_store(&node->failures, 0);
    rl_node_tick(node, now_us);
}

void rl_node_close(rl_node *node, const char *why)
{
    atomic_store(&node->accepting, 0);
    node->may_wait = 0;
    rl_dialer_stop(node->dialer);
    rl_link_close(node->link, why);
}
