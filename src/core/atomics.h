/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomics: access to memory that threads and processes share.
 *
 *  macro                        memory order
 *  load, store, add, exchange   relaxed: for a word that matters alone
 *  load_acquire                 acquire: what the writer wrote before its store_release or swap is
 *                               visible afterwards
 *  store_release                release
 *  load_seq_cst, swap           sequentially consistent: of two threads that each swap one word and
 *                               then load the other's, at least one sees the other's swap
 *
 * RL_BEFORE_ACCESS() is where the explorer in t/explore may schedule another thread; otherwise it
 * does nothing.
 */
#ifndef RL_ATOMICS_H
#define RL_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

#ifndef RL_BEFORE_ACCESS
#define RL_BEFORE_ACCESS() ((void)0)
#endif

#define load(p) (RL_BEFORE_ACCESS(), atomic_load_explicit((p), memory_order_relaxed))
#define load_acquire(p) (RL_BEFORE_ACCESS(), atomic_load_explicit((p), memory_order_acquire))
#define load_seq_cst(p) (RL_BEFORE_ACCESS(), atomic_load((p)))
#define store(p, v) (RL_BEFORE_ACCESS(), atomic_store_explicit((p), (v), memory_order_relaxed))
#define store_release(p, v) \
    (RL_BEFORE_ACCESS(), atomic_store_explicit((p), (v), memory_order_release))

/* Relaxed; they return the value before. */
#define add(p, n) (RL_BEFORE_ACCESS(), atomic_fetch_add_explicit((p), (n), memory_order_relaxed))
#define exchange(p, v) \
    (RL_BEFORE_ACCESS(), atomic_exchange_explicit((p), (v), memory_order_relaxed))

/* Compare and swap; if it fails, *expected becomes the value that was found. */
#define swap(p, expected, desired) \
    (RL_BEFORE_ACCESS(), atomic_compare_exchange_strong((p), (expected), (desired)))

/* Two words that are swapped as one, the first in the lower half; aligned to 16 bytes. */
typedef unsigned __int128 rl_pair __attribute__((may_alias));

static inline rl_pair pair_of(uint64_t first, uint64_t second)
{
    return (rl_pair)second << 64 | first;
}

static inline uint64_t first_of(rl_pair p)
{
    return (uint64_t)p;
}

static inline uint64_t second_of(rl_pair p)
{
    return (uint64_t)(p >> 64);
}

/* Compilers for arm64 have it, although not all define the macro. */
#if !defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16) && !defined(__aarch64__)
#error "the local tier needs a 16-byte compare and swap: x86-64 built with -mcx16, or arm64"
#endif

/*
 * Sequentially consistent like swap(), and a full barrier: no later load is made before it. On
 * x86-64 the instruction itself is a full barrier; on arm64 a later load could overtake its store.
 */
static inline int swap_pair(_Atomic uint64_t *w, rl_pair expected, rl_pair desired)
{
    int swapped;

    RL_BEFORE_ACCESS();
    swapped = __sync_bool_compare_and_swap((rl_pair *)w, expected, desired);
#ifndef __x86_64__
    atomic_thread_fence(memory_order_seq_cst);
#endif
    return swapped;
}

#endif
