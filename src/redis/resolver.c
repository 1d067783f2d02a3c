/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolver: looks up the addresses of host names without blocking its caller.
 *
 * A lookup is shared by its thread and the resolver; whichever releases it last frees it. The
 * thread is detached, since neither a request nor a child that ends may wait for it. A child that
 * ends unloads the module, so the first lookup of a process pins the code that its thread runs in.
 * Children never reload modules, so this leaks nothing.
 *
 * A lookup that no caller uses any more stays in the list while its thread runs, and the next
 * caller of the same name joins it. An answer that came meanwhile serves for FRESH_US. Otherwise
 * the answers of a DNS that is slower than its callers wait would never be used.
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

struct rl_lookup {
    rl_lookup *next;
    rl_resolver *resolver;
    int users;   /* callers that have not ended it */
    int is_read; /* a caller has the answer */
    int done_fd; /* readable once answered; -1: not started yet */

    /* shared with its thread */
    atomic_int holders;
    atomic_int answered;
    int64_t answered_us;
    int count;
    rl_address addresses[RL_ADDRESSES_MAX];
    char host[];
};

struct rl_resolver {
    rl_lookup *first;
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

static void let_go(rl_lookup *l)
{
    if (atomic_fetch_sub(&l->holders, 1) > 1)
        return;
    if (l->done_fd >= 0)
        close(l->done_fd);
    free(l);
}

static void *ask_system(void *data)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    rl_lookup *l = data;

    if (getaddrinfo(l->host, NULL, &hints, &found))
        found = NULL;
    for (struct addrinfo *a = found; a && l->count < RL_ADDRESSES_MAX; a = a->ai_next) {
        if (!getnameinfo(a->ai_addr, a->ai_addrlen, l->addresses[l->count].text, RL_ADDRESS_SIZE,
                         NULL, 0, NI_NUMERICHOST))
            l->count++;
    }
    if (found)
        freeaddrinfo(found);
    l->answered_us = rl_link_clock();
    atomic_store(&l->answered, 1);
    eventfd_write(l->done_fd, 1);
    let_go(l);
    return NULL;
}

static int start_thread(rl_lookup *l)
{
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    int started;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&thread, &detached, ask_system, l) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return started;
}

/* Keeps the library with this code loaded. Does nothing if the code is in the program itself. */
static void pin_code(void)
{
    Dl_info here;

    if (dladdr((void *)(uintptr_t)ask_system, &here))
        dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

static int is_open(const rl_lookup *l)
{
    return l->done_fd >= 0 && !atomic_load(&l->answered);
}

/* Starts its thread if there is room for one more. Otherwise rl_lookup_read() tries again. */
static void start(rl_lookup *l)
{
    static pthread_once_t pinned = PTHREAD_ONCE_INIT;
    int open = 0;

    for (const rl_lookup *other = l->resolver->first; other; other = other->next)
        open += is_open(other);
    if (open >= RL_LOOKUPS_MAX || (l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return;
    pthread_once(&pinned, pin_code);
    atomic_store(&l->holders, 2);
    if (start_thread(l))
        return;
    atomic_store(&l->holders, 1);
    close(l->done_fd);
    l->done_fd = -1;
}

static rl_lookup *make_lookup(rl_resolver *resolver, const char *host)
{
    size_t size = strlen(host) + 1;
    rl_lookup *l = calloc(1, sizeof(*l) + size);

    if (!l)
        return NULL;
    memcpy(l->host, host, size);
    l->done_fd = -1;
    atomic_init(&l->holders, 1);
    l->resolver = resolver;
    l->next = resolver->first;
    resolver->first = l;
    start(l);
    return l;
}

/* It has no users, and its answer is read, too old, or was never asked for. */
static int is_over(const rl_lookup *l)
{
    return l->users == 0 && !is_open(l)
        && (l->done_fd < 0 || l->is_read || rl_link_clock() - l->answered_us > FRESH_US);
}

static void sweep(rl_resolver *resolver)
{
    for (rl_lookup **at = &resolver->first; *at;) {
        rl_lookup *l = *at;

        if (is_over(l)) {
            *at = l->next;
            let_go(l);
        }
        else {
            at = &l->next;
        }
    }
}

rl_lookup *rl_resolver_look_up(rl_resolver *resolver, const char *host)
{
    rl_lookup *l;

    sweep(resolver);
    for (l = resolver->first; l && (strcmp(l->host, host) || l->is_read);)
        l = l->next;
    if (!l)
        l = make_lookup(resolver, host);
    if (l)
        l->users++;
    return l;
}

void rl_resolver_close(rl_resolver *resolver)
{
    while (resolver->first) {
        rl_lookup *l = resolver->first;

        resolver->first = l->next;
        let_go(l);
    }
}

int rl_lookup_wait(const rl_lookup *l)
{
    return l->done_fd;
}

int rl_lookup_read(rl_lookup *l, rl_address addresses[RL_ADDRESSES_MAX])
{
    if (l->done_fd < 0)
        start(l);
    if (!atomic_load(&l->answered))
        return -1;
    l->is_read = 1;
    memcpy(addresses, l->addresses, sizeof(l->addresses));
    return l->count;
}

void rl_lookup_end(rl_lookup *l)
{
    l->users--;
    sweep(l->resolver);
}
