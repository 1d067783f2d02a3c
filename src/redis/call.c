/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call: a command on its way to Redis, and the caller that waits for its reply.
 *
 * If a reply and a deadline coincide, one exchange of the state decides between them, and with it
 * which side releases the call. The caller sleeps on the same word (futex(2)), so a wake-up that
 * comes too early or too late does no harm.
 *
 * Waking costs more than the rest of a call. So the leader, which completes many calls at once,
 * wakes only a few of the sleeping callers, and each of them wakes one more before it goes on. No
 * wake-up is lost: a caller that finds its call done wakes the next one, whatever woke it.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "redis/call.h"

#define CHAINS 4 /* of callers to wake, so that several processors start at once */

struct rl_calls {
    pthread_mutex_t lock;
    rl_call *free;
    rl_call *completed; /* the leader's, the latest first */
};

rl_calls *rl_calls_create(apr_pool_t *pool, int count, const rl_command *command, void *owner)
{
    rl_calls *calls = apr_pcalloc(pool, sizeof(*calls));
    rl_call *all = apr_pcalloc(pool, sizeof(*all) * (size_t)count);

    for (int i = 0; i < count; i++) {
        all[i].command = *command;
        all[i].command.data = &all[i];
        all[i].owner = owner;
        all[i].next = calls->free;
        calls->free = &all[i];
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
    call->tries = call->unsent = call->slot = call->ask = 0;
    call->node = node;
    call->command.bytes = command;
    call->command.length = length;
    call->reply = NULL;
    call->on_end = NULL;
    return call;
}

void rl_call_release(rl_calls *calls, rl_call *call)
{
    redisFreeCommand((char *)(uintptr_t)call->command.bytes);
    if (call->reply)
        freeReplyObject(call->reply);
    pthread_mutex_lock(&calls->lock);
    call->next = calls->free;
    calls->free = call;
    pthread_mutex_unlock(&calls->lock);
}

static void wake(rl_call *call)
{
    if (call)
        syscall(SYS_futex, &call->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void rl_call_complete(rl_calls *calls, rl_call *call, redisReply *reply)
{
    call->reply = reply;
    call->next = calls->completed;
    calls->completed = call;
}

/* From the latest to the earliest, so that each call has its next one before it is done. */
void rl_call_wake(rl_calls *calls)
{
    rl_call *chains[CHAINS] = {NULL};
    unsigned n = 0;
    int was;

    for (rl_call *call = calls->completed, *next; call; call = next) {
        next = call->next;
        call->next = chains[n % CHAINS];
        was = atomic_exchange(&call->state, RL_CALL_DONE);
        if (was == RL_CALL_ABANDONED) {
            if (call->on_end)
                call->on_end(call->data, call->reply);
            rl_call_release(calls, call);
        }
        else if (was == RL_CALL_ASLEEP)
            chains[n++ % CHAINS] = call;
    }
    calls->completed = NULL;
    for (int i = 0; i < CHAINS; i++)
        wake(chains[i]);
}

int rl_call_wait(rl_call *call, int64_t deadline_us)
{
    struct timespec until = {deadline_us / 1000000, deadline_us % 1000000 * 1000};
    int pending = RL_CALL_PENDING, asleep = RL_CALL_ASLEEP;

    if (!atomic_compare_exchange_strong(&call->state, &pending, RL_CALL_ASLEEP))
        return 1; /* it is done already, and in no chain */
    while (atomic_load(&call->state) == RL_CALL_ASLEEP) {
        if (syscall(SYS_futex, &call->state, FUTEX_WAIT_BITSET_PRIVATE, RL_CALL_ASLEEP, &until,
                    NULL, FUTEX_BITSET_MATCH_ANY) < 0
            && errno == ETIMEDOUT
            && atomic_compare_exchange_strong(&call->state, &asleep, RL_CALL_ABANDONED))
            return 0;
    }
    wake(call->next);
    return 1;
}

int rl_call_is_pending(const rl_call *call)
{
    return atomic_load(&call->state) == RL_CALL_PENDING;
}

int rl_call_is_cancelled(const rl_call *call)
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
