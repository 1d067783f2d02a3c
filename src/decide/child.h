/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child: the Redis client and the keeper of one child process.
 *
 * A client does not survive a fork in usable form: both processes would read replies from one
 * socket, and the I/O thread exists in the parent alone. mpm-itk forks for each connection. So a
 * forked process only notes that it has no client, and makes one when it first decides.
 *
 * The hooks call this room: rl_child_init() in child_init, the others while requests are served.
 */
#ifndef RL_CHILD_H
#define RL_CHILD_H

#include <signal.h>

#include "decide/context.h"

/* Whether this process should have a client and has none that it may use. Only child.c sets it. */
extern volatile sig_atomic_t rl_child_needs_client;

/*
 * Makes the client and the keeper that the configuration asks for, in the pool of the child. Where
 * the I/O thread cannot be made it logs that this child counts alone.
 */
void rl_child_init(apr_pool_t *pchild, server_rec *main_server, rl_context *context);

/* rl_child_ready() where there is something to do. */
void rl_child_make_client(server_rec *s, rl_context *context);

/* Makes a client in a process that needs one; before whatever may ask Redis. */
static inline void rl_child_ready(server_rec *s, rl_context *context)
{
    if (rl_child_needs_client)
        rl_child_make_client(s, context);
}

/*
 * After the response: where there is no I/O thread, probes a Redis that has failed. Any thread; may
 * wait for Redis as long as a request may.
 */
static inline void rl_child_probe(const rl_context *context)
{
    if (context->client && !rl_child_needs_client)
        rl_client_probe(context->client);
}

#endif
