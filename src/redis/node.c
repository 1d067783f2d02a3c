/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node: one server of Redis, as a child sees it.
 *
 * Here the connection is made and kept; node_failures.c decides what failures lead to.
 *
 * Only a call answered in time proves a connection. One that ends without that counts as not made:
 * if a server shakes hands and closes at once, the pauses between attempts grow until a call is
 * answered. While the breaker is open, only a child that has claimed a probe connects.
 */
#include <poll.h>

#include <apr_strings.h>

#include "redis/node_state.h"
#include "redis/breaker_log.h"

#define SILENT_DEADLINES 4
#define IDLE_MS 100 /* how often a link that is down looks at the breaker */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t now_ms(void)
{
    return rl_link_clock() / 1000;
}

const char *rl_node_name(const rl_node *node)
{
    return node->name;
}

int rl_node_is_open(const rl_node *node)
{
    return !node->suspended && rl_breaker_read(node->breaker) == RL_BREAKER_OPEN;
}

/* --- Connecting --------------------------------------------------------------------------- */

/*
 * Counts a lost connection. Where sentinels name the server, drops its address until they have been
 * asked again, and returns 1: the node has then failed only if none of them knows an address.
 */
static int forget_place(rl_node *node)
{
    node->losses++;
    if (!node->options.by_sentinel)
        return 0;
    rl_dialer_forget(node->dialer);
    return 1;
}

/* While the breaker is open it alone decides when to try again: the dialer adds no pause. */
void rl_node_fail(rl_node *node, const char *why, int64_t now_us)
{
    node->may_wait = 0;
    rl_prober_fail(&node->prober);
    if (rl_breaker_count_reconnect(node->breaker, &node->options.retry, 0, now_ms()))
        rl_node_say_opened(node, why);
    rl_dialer_failed(node->dialer, now_us, rl_node_is_open(node));
}

/* All addresses were tried, or none was found. */
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

static void connected(rl_node *node, int64_t now_us)
{
    rl_dialer_connected(node->dialer, now_us);
    node->wrong_role = RL_ERROR_OTHER;
    atomic_store(&node->failures, 0);
    atomic_store(&node->proven, 0);
    node->may_wait = 1;
    if (node->prober.is_probing)
        rl_prober_send(&node->prober, now_us);
}

/* The end of an idle connection is normal, and no warning. */
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

    if (!wrong_role) /* which is logged only if it opens the breaker */
        lost(node, now_us);
    forget_place(node);
    node->wrong_role = RL_ERROR_OTHER;
    node->may_wait = atomic_exchange(&node->failures, 0) == 0 && !wrong_role;
    if (!node->may_wait && !atomic_load(&node->proven)) {
        link_failed(node, now_us);
        return;
    }
    rl_dialer_retry_at(node->dialer, now_us);
    rl_prober_fail(&node->prober);
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
    if (node->suspended)
        return 0;
    if (rl_prober_claim(&node->prober, node->breaker, now_us)) {
        rl_dialer_retry_at(node->dialer, now_us);
        if (node->state == RL_LINK_READY)
            rl_prober_send(&node->prober, now_us);
    }
    rl_prober_tick(&node->prober, now_us);
    return node->prober.is_probing;
}

static void end_bad_connection(rl_node *node)
{
    char why[RL_NODE_WHY];

    if (node->wrong_role) {
        rl_dialer_demote(node->dialer);
        apr_snprintf(why, sizeof(why), "it %s", rl_errors[node->wrong_role].means);
        rl_node_move(node, node->options.by_sentinel ? NULL : rl_dialer_endpoint(node->dialer),
                     why);
    }
    else if (atomic_load(&node->failures) >= node->options.failures) {
        rl_link_close(node->link, rl_node_explain(node, "too many calls in a row failed", why));
    }
}

void rl_node_tick(rl_node *node, int64_t now_us)
{
    char why[RL_NODE_WHY];
    int open;

    if (node->suspended)
        return;
    if (atomic_load_explicit(&node->opened, memory_order_relaxed)
        && atomic_exchange(&node->opened, 0))
        rl_node_say_opened(node, rl_node_explain(node, "most calls fail", why));
    if (node->state == RL_LINK_READY && rl_link_read_state(node->link) == RL_LINK_READY)
        end_bad_connection(node);
    notice_change(node, now_us);
    rl_dialer_tick(node->dialer, now_us);
    open = rl_node_is_open(node);
    rl_node_say_opened_late(node);
    if (open && !node->prober.is_probing && node->state == RL_LINK_DOWN && !rl_node_may_try(node)) {
        rl_dialer_end_round(node->dialer); /* the next one is the next probe's */
        node->may_wait = 0;
    }
    else if (node->state == RL_LINK_DOWN
             && now_us >= rl_dialer_due(node->dialer, node->prober.is_probing)) {
        connect_next(node, now_us);
    }
    atomic_store(&node->accepting, node->state == RL_LINK_READY || rl_node_is_awaited(node));
}

/* --- The owner ---------------------------------------------------------------------------- */

static void on_probe_error(void *data, const char *text)
{
    rl_node_refused(data, rl_error_of(text), text);
}

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
    rl_prober_options prober = {.name = name, .maker = options->probe,
                                .timeout_ms = options->timeout_ms,
                                .connect_ms = options->connect_ms, .retry = options->retry,
                                .logger = options->logger, .on_error = on_probe_error,
                                .data = node};

    node->options = *options;
    node->name = name;
    node->dialer = rl_dialer_create(pool, &dialer, at);
    node->breaker = rl_breaker_of(options->breakers, name);
    node->link = prober.link = rl_link_create(pool, &link);
    rl_prober_init(&node->prober, &prober);
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
    return rl_link_in_flight(node->link) == 0 && !node->prober.is_probing;
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
        && !rl_node_is_open(node) && !node->wrong_role && !node->prober.is_probing
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

/* When to tick at the latest, without any event. */
static int64_t next_tick(const rl_node *node, int64_t now_us)
{
    int64_t idle_us = now_us + IDLE_MS * 1000, until_us = rl_dialer_waits_until(node->dialer);

    if (node->suspended)
        return INT64_MAX;
    if (node->prober.is_probing)
        return least(node->prober.until_us, idle_us);
    if (rl_node_is_open(node))
        return now_us + least(IDLE_MS, node->options.retry.retry_min_ms) * 1000;
    if (until_us)
        return least(until_us, idle_us);
    if (node->state == RL_LINK_DOWN || rl_link_read_state(node->link) != node->state)
        return least(rl_dialer_due(node->dialer, node->prober.is_probing), idle_us);
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

/* The server is not the one looked for. Leaving it does not count as a failure. */
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
    rl_prober_set_tag(&node->prober, tag);
}

void rl_node_suspend(rl_node *node)
{
    rl_dialer_stop(node->dialer);
    rl_prober_stop(&node->prober);
    node->suspended = 1;
    rl_link_close(node->link, "");
    node->state = RL_LINK_DOWN;
    node->checking = 0;
    rl_breaker_reset(node->breaker);
    rl_breaker_log_reset(node->breaker);
    *node->unlogged = '\0';
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
