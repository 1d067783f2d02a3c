/*
 * resolver: the addresses of a name, without waiting for them.
 *
 * The system's resolver may take many seconds and cannot be told to hurry. So each question is
 * asked by a short-lived thread of its own, in a server with one thread per process too, and
 * whoever asked looks in for the answer when he has time. A question and its answer belong to one
 * thread, which need not be the same all the time.
 */
#ifndef RL_RESOLVER_H
#define RL_RESOLVER_H

#define RL_ADDRESSES_MAX 16
#define RL_ADDRESS_SIZE 64

/* An address in numbers, with its scope if it has one. */
typedef struct {
    char text[RL_ADDRESS_SIZE];
} rl_address;

typedef struct rl_resolver rl_resolver;

/* Whether host is an address in numbers already, which needs no question. */
int rl_resolver_is_address(const char *host);

/* Begins to ask. NULL without memory, descriptors or threads. To be ended by rl_resolver_end(). */
rl_resolver *rl_resolver_begin(const char *host);

/* A descriptor that is readable once there is an answer. */
int rl_resolver_wait(const rl_resolver *resolver);

/*
 * The answer: how many addresses there are, at most RL_ADDRESSES_MAX, in the order to try them; 0
 * if the name has none; -1 if there is no answer yet.
 */
int rl_resolver_read(const rl_resolver *resolver, rl_address addresses[RL_ADDRESSES_MAX]);

/* Ends a question, answered or not. Never waits. */
void rl_resolver_end(rl_resolver *resolver);

#endif
