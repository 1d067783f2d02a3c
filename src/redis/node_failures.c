/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_failures: what failures of calls and connections lead to.
 *
 * Failures climb a ladder. So many calls in a row that fail end the connection. A connection that
 * cannot be made again, too many failures in a second, or an error that the next call would meet as
 * well open the breaker for all children.
 */
#include <apr_strings.h>

#include "redis/node_state.h"
#include "redis/breaker_log.h"

#define REFUSAL_MS 3000 /* how long a refusal by Redis explains failures */

static int64_t now_ms(void)
{
    return rl_link_clock() / 1000;
}

void rl_node_say_opened(rl_node *node, const char *why)
{
    if (!rl_breaker_log_opened(node->breaker, &node->options.logger, node->name, why, now_ms())) {
        apr_cpystrn(node->unlogged, why, sizeof(node->unlogged));
        node->unlogged_opening = atomic_load(&node->breaker->opened);
    }
}

void rl_node_say_opened_late(rl_node *node)
{
    if (!*node->unlogged)
        return;
    if (!rl_node_is_open(node) || atomic_load(&node->breaker->opened) != node->unlogged_opening)
        rl_breaker_log_left_out(node->breaker);
    else if (!rl_breaker_log_opened(node->breaker, &node->options.logger, node->name,
                                    node->unlogged, now_ms()))
        return;
    *node->unlogged = '\0';
}

const char *rl_node_explain(const rl_node *node, const char *seen, char text[RL_NODE_WHY])
{
    int64_t refusal = atomic_load(&node->refusal);

    if (refusal && now_ms() - (refusal >> 8) <= REFUSAL_MS)
        apr_snprintf(text, RL_NODE_WHY, "it %s (%s)", rl_errors[(refusal & 0xff) - 1].means, seen);
    else if (node->state != RL_LINK_READY && *rl_link_error(node->link))
        apr_snprintf(text, RL_NODE_WHY, "%s (%s)", rl_link_error(node->link), seen);
    else
        return seen;
    return text;
}

/* --- Any thread --------------------------------------------------------------------------- */

/*
 * A child with one thread looks after Redis only while it handles requests. After a time without
 * any the breaker is out of date, so the first requests try Redis instead of falling back at once.
 */
int rl_node_may_try(const rl_node *node)
{
    return !node->options.threaded
        && rl_breaker_is_stale(node->breaker, &node->options.retry, now_ms());
}

rl_failure rl_node_allows(rl_node *node)
{
    if (!rl_breaker_allows(node->breaker, now_ms())) {
        if (!rl_node_may_try(node))
            return RL_FAILED_OPEN;
        node->trying = 1;
    }
    return atomic_load_explicit(&node->accepting, memory_order_relaxed) ? RL_ANSWERED
                                                                        : RL_FAILED_DOWN;
}

/* A try closes the breaker, or counts as a failed probe. */
static void count_try(rl_node *node, rl_failure failure)
{
    node->trying = 0;
    if (rl_breaker_read(node->breaker) != RL_BREAKER_OPEN)
        return;
    if (failure == RL_ANSWERED) {
        rl_breaker_reset(node->breaker);
        rl_breaker_log_closed(node->breaker, &node->options.logger, node->name);
    }
    else {
        rl_breaker_probed(node->breaker, &node->options.retry, 0, now_ms());
    }
}

int rl_node_count(rl_node *node, rl_failure failure)
{
    int is_due = 0;

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
    else if (failure != RL_FAILED_LOST) { /* that connection has ended already */
        is_due = atomic_fetch_add(&node->failures, 1) + 1 == node->options.failures;
    }
    if (rl_breaker_count(node->breaker, &node->options.retry, failure, now_ms()))
        atomic_store(&node->opened, 1);
    /* An owner that sleeps with a good connection would be late for the probes. */
    return is_due || (failure != RL_ANSWERED && rl_node_is_open(node));
}

/* --- The owner ---------------------------------------------------------------------------- */

rl_error_action rl_node_refused(rl_node *node, rl_error_kind kind, const char *text)
{
    const rl_error *error = &rl_errors[kind];
    char why[RL_NODE_WHY];

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
        rl_node_say_opened(node, why);
    return error->action;
}
