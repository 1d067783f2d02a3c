/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolver: the addresses of names, without waiting for them.
 *
 * A question is shared by the thread that asks the system and by the resolver; the last one to let
 * go frees it. The thread is detached, for nobody may wait for its end: not a request, and not a
 * child that ends in the middle of it. So that this end does not take away the code the thread runs
 * in, the first question of a process pins the module. Children only ask, and never reload modules.
 *
 * A question that nobody waits for any more stays in the list as long as its thread runs: whoever
 * asks next takes part in it. Its answer serves then, too, if it is not older than FRESH_US: else the
 * answers of a DNS slower than its callers wait would never be used.
 */
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "redis/resolver.h"
#include "redis/link.h"

#define FRESH_US 5000000

struct rl_question {
    rl_question *next;
    rl_resolver *resolver;
    int users;   /* who take part */
    int is_read; /* one of them has the answer */
    int done_fd; /* readable once answered; -1: the system is yet to be asked */

    /* shared with the thread that asks it */
    atomic_int holders;
    atomic_int answered;
    int64_t answered_us;
    int count;
    rl_address addresses[RL_ADDRESSES_MAX];
    char host[];
};

struct rl_resolver {
    rl_question *first;
};

rl_resolver *rl_resolver_create(apr_pool_t *pool)
{
    return apr_pcalloc(pool, sizeof(rl_resolver));
}

/* An IPv6 address, which may have a scope, as in fe80::1%eth0. */
static int is_ipv6(const char *host)
{
    size_t length = strcspn(host, "%");
    char address[INET6_ADDRSTRLEN] = "";
    struct in6_addr ignored;

    if (length >= sizeof(address) || (host[length] && !host[length + 1]))
        return 0;
    memcpy(address, host, length);
    return inet_pton(AF_INET6, address, &ignored) == 1;
}

int rl_resolver_is_address(const char *host)
{
    struct in_addr ignored;

    return inet_pton(AF_INET, host, &ignored) == 1 || is_ipv6(host);
}

static void let_go(rl_question *q)
{
    if (atomic_fetch_sub(&q->holders, 1) > 1)
        return;
    if (q->done_fd >= 0)
        close(q->done_fd);
    free(q);
}

static void *ask_system(void *data)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    rl_question *q = data;

    if (getaddrinfo(q->host, NULL, &hints, &found))
        found = NULL;
    for (struct addrinfo *a = found; a && q->count < RL_ADDRESSES_MAX; a = a->ai_next) {
        if (!getnameinfo(a->ai_addr, a->ai_addrlen, q->addresses[q->count].text, RL_ADDRESS_SIZE,
                         NULL, 0, NI_NUMERICHOST))
            q->count++;
    }
    if (found)
        freeaddrinfo(found);
    q->answered_us = rl_link_clock();
    atomic_store(&q->answered, 1);
    eventfd_write(q->done_fd, 1);
    let_go(q);
    return NULL;
}

static int start_thread(rl_question *q)
{
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    int started;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&thread, &detached, ask_system, q) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return started;
}

/* Keeps the library that holds this code; does nothing where that is the program itself. */
static void pin_code(void)
{
    Dl_info here;

    if (dladdr((void *)(uintptr_t)ask_system, &here))
        dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

static int is_open(const rl_question *q)
{
    return q->done_fd >= 0 && !atomic_load(&q->answered);
}

/* Asks the system, if there is room for one more question. Else that is tried again later. */
static void start(rl_question *q)
{
    static pthread_once_t pinned = PTHREAD_ONCE_INIT;
    int open = 0;

    for (const rl_question *other = q->resolver->first; other; other = other->next)
        open += is_open(other);
    if (open >= RL_QUESTIONS_MAX || (q->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return;
    pthread_once(&pinned, pin_code);
    atomic_store(&q->holders, 2);
    if (start_thread(q))
        return;
    atomic_store(&q->holders, 1);
    close(q->done_fd);
    q->done_fd = -1;
}

static rl_question *make_question(rl_resolver *resolver, const char *host)
{
    size_t size = strlen(host) + 1;
    rl_question *q = calloc(1, sizeof(*q) + size);

    if (!q)
        return NULL;
    memcpy(q->host, host, size);
    q->done_fd = -1;
    atomic_init(&q->holders, 1);
    q->resolver = resolver;
    q->next = resolver->first;
    resolver->first = q;
    start(q);
    return q;
}

/* Nobody takes part, and nobody will want the answer: it is read, old, or not even asked for. */
static int is_over(const rl_question *q)
{
    return q->users == 0 && !is_open(q)
        && (q->done_fd < 0 || q->is_read || rl_link_clock() - q->answered_us > FRESH_US);
}

static void sweep(rl_resolver *resolver)
{
    for (rl_question **at = &resolver->first; *at;) {
        rl_question *q = *at;

        if (is_over(q)) {
            *at = q->next;
            let_go(q);
        }
        else {
            at = &q->next;
        }
    }
}

rl_question *rl_resolver_ask(rl_resolver *resolver, const char *host)
{
    rl_question *q;

    sweep(resolver);
    for (q = resolver->first; q && (strcmp(q->host, host) || q->is_read);)
        q = q->next;
    if (!q)
        q = make_question(resolver, host);
    if (q)
        q->users++;
    return q;
}

void rl_resolver_close(rl_resolver *resolver)
{
    while (resolver->first) {
        rl_question *q = resolver->first;

        resolver->first = q->next;
        let_go(q);
    }
}

int rl_question_wait(const rl_question *q)
{
    return q->done_fd;
}

int rl_question_read(rl_question *q, rl_address addresses[RL_ADDRESSES_MAX])
{
    if (q->done_fd < 0)
        start(q);
    if (!atomic_load(&q->answered))
        return -1;
    q->is_read = 1;
    memcpy(addresses, q->addresses, sizeof(q->addresses));
    return q->count;
}

void rl_question_end(rl_question *q)
{
    q->users--;
    sweep(q->resolver);
}
