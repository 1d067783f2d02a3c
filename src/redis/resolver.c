/*
 * resolver: the addresses of a name, without waiting for them.
 *
 * A question is shared by the thread that asks the system and by its owner; the last one to let go
 * frees it. The thread is detached, for nobody may wait for its end: not a request, and not a
 * child that ends in the middle of it. So that this end does not take away the code the thread runs
 * in, the first question of a process pins the module. Children only ask, and never reload modules.
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

#include "resolver.h"

struct rl_resolver {
    atomic_int holders;
    atomic_int answered;
    int done_fd; /* readable once answered */
    int count;
    rl_address addresses[RL_ADDRESSES_MAX];
    char host[];
};

int rl_resolver_is_address(const char *host)
{
    struct in6_addr ignored;

    return inet_pton(AF_INET, host, &ignored) == 1 || inet_pton(AF_INET6, host, &ignored) == 1
        || strchr(host, '%'); /* a scope */
}

static void let_go(rl_resolver *r)
{
    if (atomic_fetch_sub(&r->holders, 1) > 1)
        return;
    close(r->done_fd);
    free(r);
}

static void *ask(void *data)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    rl_resolver *r = data;

    if (getaddrinfo(r->host, NULL, &hints, &found))
        found = NULL;
    for (struct addrinfo *a = found; a && r->count < RL_ADDRESSES_MAX; a = a->ai_next) {
        if (!getnameinfo(a->ai_addr, a->ai_addrlen, r->addresses[r->count].text, RL_ADDRESS_SIZE,
                         NULL, 0, NI_NUMERICHOST))
            r->count++;
    }
    if (found)
        freeaddrinfo(found);
    atomic_store(&r->answered, 1);
    eventfd_write(r->done_fd, 1);
    let_go(r);
    return NULL;
}

static int start(rl_resolver *r)
{
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    int started;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&thread, &detached, ask, r) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return started;
}

/* Keeps the library that holds this code; does nothing where that is the program itself. */
static void pin_code(void)
{
    Dl_info here;

    if (dladdr((void *)(uintptr_t)ask, &here))
        dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

rl_resolver *rl_resolver_begin(const char *host)
{
    static pthread_once_t pinned = PTHREAD_ONCE_INIT;
    size_t size = strlen(host) + 1;
    rl_resolver *r = calloc(1, sizeof(*r) + size);

    if (!r)
        return NULL;
    memcpy(r->host, host, size);
    atomic_init(&r->holders, 2);
    r->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_once(&pinned, pin_code);
    if (r->done_fd >= 0 && start(r))
        return r;
    if (r->done_fd >= 0)
        close(r->done_fd);
    free(r);
    return NULL;
}

int rl_resolver_wait(const rl_resolver *r)
{
    return r->done_fd;
}

int rl_resolver_read(const rl_resolver *r, rl_address addresses[RL_ADDRESSES_MAX])
{
    if (!atomic_load(&r->answered))
        return -1;
    memcpy(addresses, r->addresses, sizeof(r->addresses));
    return r->count;
}

void rl_resolver_end(rl_resolver *r)
{
    let_go(r);
}
