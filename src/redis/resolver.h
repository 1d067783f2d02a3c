/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolver: the addresses of names, without waiting for them.
 *
 * The system's resolver may take many seconds and cannot be given a deadline. So each question is
 * asked by a short-lived thread of its own, in a server with one thread per process too, and
 * whoever asked looks in for the answer when there is time. A name is never asked about twice at
 * the same time, and the system is asked RL_QUESTIONS_MAX questions at most at a time: when DNS
 * hangs, threads and descriptors are bounded by that, however often somebody gives up and asks
 * again. A question beyond that waits for its turn.
 *
 * A resolver and its questions have one owner at a time; the threads are not seen from outside.
 */
#ifndef RL_RESOLVER_H
#define RL_RESOLVER_H

#include <apr_pools.h>

#define RL_ADDRESSES_MAX 16
#define RL_ADDRESS_SIZE 64

/* An address in numbers, with its scope if it has one. */
typedef struct {
    char text[RL_ADDRESS_SIZE];
} rl_address;

#define RL_QUESTIONS_MAX 8 /* that the system is asked at a time by one resolver */

typedef struct rl_resolver rl_resolver;
typedef struct rl_question rl_question;

/* Whether host is an address in numbers already, which needs no question. */
int rl_resolver_is_address(const char *host);

rl_resolver *rl_resolver_create(apr_pool_t *pool);

/*
 * Asks about a name, or takes part in a question about it that is open, or whose answer came a
 * moment ago when nobody waited any more. NULL without memory. To be ended by rl_question_end().
 */
rl_question *rl_resolver_ask(rl_resolver *resolver, const char *host);

/* Lets go of all questions, answered or not. Never waits. */
void rl_resolver_close(rl_resolver *resolver);

/*
 * A descriptor that is readable once there is an answer; -1 as long as the question waits for its
 * turn, which rl_question_read() sees.
 */
int rl_question_wait(const rl_question *question);

/*
 * The answer: how many addresses there are, at most RL_ADDRESSES_MAX, in the order to try them; 0
 * if the name has none; -1 if there is no answer yet.
 */
int rl_question_read(rl_question *question, rl_address addresses[RL_ADDRESSES_MAX]);

/* Ends the part of whoever asked. Never waits. */
void rl_question_end(rl_question *question);

#endif
