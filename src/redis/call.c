/*
 * call: a command on its way to Redis, and who waits for the reply.
 *
 * The state is decided by one exchange, so that a reply and a deadline that meet agree on who lets
 * go of the slot. The semaphore only wakes: it is posted after the exchange, and waited for by whoever
 * learns from the exchange that it will be.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "call.h"

struct rl_calls {
    pthread_mutex_t lock;
    rl_call *free;
};

rl_calls *rl_calls_create(apr_pool_t *pool, int count)
{
    rl_calls *calls = apr_pcalloc(pool, sizeof(*calls));
    rl_call *slots = apr_pcalloc(pool, sizeof(*slots) * (size_t)count);

    for (int i = 0; i < count; i++) {
        if (sem_init(&slots[i].done, 0, 0))
            return NULL;
        slots[i].next = calls->free;
        calls->free = &slots[i];
    }
    return pthread_mutex_init(&calls->lock, NULL) ? NULL : calls;
}

rl_call *rl_call_make(rl_calls *calls, rl_node *node, int awaited, char *command, int length)
{
    rl_call *call;

    pthread_mutex_lock(&calls->lock);
    call = calls->free;
    if (call)
        calls->free = call->next;
    pthread_mutex_unlock(&calls->lock);
    if (!call) {
        redisFreeCommand(command);
        return NULL;
    }
    atomic_store_explicit(&call->state, awaited ? RL_CALL_PENDING : RL_CALL_ABANDONED,
                          memory_order_relaxed);
    call->awaited = awaited;
    call->tries = call->slot = call->ask = 0;
    call->node = node;
    call->command = command;
    call->length = length;
    call->reply = NULL;
    return call;
}

void rl_call_release(rl_calls *calls, rl_call *call)
{
    redisFreeCommand(call->command);
    if (call->reply)
        freeReplyObject(call->reply);
    pthread_mutex_lock(&calls->lock);
    call->next = calls->free;
    calls->free = call;
    pthread_mutex_unlock(&calls->lock);
}

void rl_call_complete(rl_calls *calls, rl_call *call, redisReply *reply)
{
    call->reply = reply;
    if (atomic_exchange(&call->state, RL_CALL_DONE) == RL_CALL_ABANDONED)
        rl_call_release(calls, call);
    else
        sem_post(&call->done);
}

/* Leaves a call that is still pending to its carrier. Returns 1 if it is done instead. */
static int abandon(rl_call *call)
{
    int pending = RL_CALL_PENDING;

    return !atomic_compare_exchange_strong(&call->state, &pending, RL_CALL_ABANDONED);
}

int rl_call_wait(rl_call *call, int64_t deadline_us)
{
    struct timespec until = {deadline_us / 1000000, deadline_us % 1000000 * 1000};

    while (sem_clockwait(&call->done, CLOCK_MONOTONIC, &until)) {
        if (errno == EINTR)
            continue;
        if (!abandon(call))
            return 0;
        until.tv_sec++; /* it is done, and about to be posted */
    }
    return 1;
}

int rl_call_is_pending(const rl_call *call)
{
    return atomic_load(&call->state) == RL_CALL_PENDING;
}

int rl_call_is_forsaken(const rl_call *call)
{
    return call->awaited && atomic_load(&call->state) == RL_CALL_ABANDONED;
}

void rl_call_clear(rl_call_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

void rl_call_append(rl_call_list *list, rl_call *call)
{
    call->next = NULL;
    *list->end = call;
    list->end = &call->next;
}
