/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node without an address waits to be given one, and does not spin meanwhile.
 */
#include <apr_general.h>

#include "redis/node.h"
#include "tap.h"

#define CONNECT_MS 100

static rl_breakers breakers;

static void ignore(void *context, rl_log_level level, const char *text)
{
    (void)context;
    (void)level;
    (void)text;
}

/* While no sentinel knows the server's address, the node is ticked now and then. */
static void test_unknown_place(apr_pool_t *pool)
{
    rl_node_options options = {.timeout_ms = 25, .connect_ms = CONNECT_MS, .failures = 5,
                               .retry = {50, 2000}, .in_flight = 8, .by_sentinel = 1, .threaded = 1,
                               .breakers = &breakers, .logger = {ignore, NULL}};
    rl_node *node = rl_node_create(pool, &options, "unknown", NULL);
    int64_t now_us = rl_link_clock(), due_us;
    int spins = 0;
    short events;

    for (int i = 0; i < 20; i++, now_us += CONNECT_MS * 1000 / 4) {
        rl_node_tick(node, now_us);
        rl_node_wait(node, now_us, &events, &due_us);
        spins += due_us <= now_us;
    }
    is_int(spins, 0, "a node without an address does not spin");
}

int main(void)
{
    apr_pool_t *pool;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    test_unknown_place(pool);
    apr_pool_destroy(pool);
    return done_testing();
}
