/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of the local tier with only one set, for scenes, so that all keys compete for its ways.
 * The clock does not run: each call gives the time.
 */
#ifndef SET_H
#define SET_H

#include "shm/local_table.h"
#include "states.h"

#define BASE INT64_C(1699999200000) /* the wall clock at host_ms 0: a full hour */
#define HOUR INT64_C(3600000)
#define MINUTE INT64_C(60000)
#define NOW INT64_C(100000) /* host_ms during a scene */
#define QUOTA 3
#define SIZE (sizeof(rl_local) + WAYS * sizeof(entry))

static _Alignas(64) char memory[SIZE], image[SIZE];
static rl_local *const table = (rl_local *)memory;
static entry *const set = (entry *)(memory + sizeof(rl_local));

static const rl_limit fixed = LIMIT(RL_FIXED_WINDOW, QUOTA, HOUR);
static const rl_limit half_full = LIMIT(RL_FIXED_WINDOW, 20, HOUR);
static const rl_limit second = LIMIT(RL_FIXED_WINDOW, 20, 1000);

/* Keys with different fingerprints. Those from FILLERS on only fill the set. */
enum { ALICE = 1, BOB, CAROL, FILLERS = 10 };

__attribute__((unused)) static uint64_t key_of(int number)
{
    return KEY_BIT | (uint64_t)number << FINGERPRINT_SHIFT;
}

__attribute__((unused)) static int charge(int number, const rl_limit *limit, int64_t cost,
                                          int64_t host_ms)
{
    rl_view view = {.now = (BASE + host_ms) * rl_limiter_ticks(limit)};

    return rl_local_charge(table, key_of(number), limit, cost, host_ms, &view);
}

__attribute__((unused)) static rl_state peek(int number, const rl_limit *limit, int64_t host_ms)
{
    rl_view view = {.now = (BASE + host_ms) * rl_limiter_ticks(limit)};

    rl_local_peek(table, key_of(number), limit, &view);
    return view.state;
}

/* Stores what Redis reported, in a reply that was received 1 ms after it was asked for. */
__attribute__((unused)) static void store_reply(int number, const rl_limit *limit,
                                                const rl_state *state, int64_t redis_now,
                                                int64_t sent_ms)
{
    rl_local_reply reply = {state, redis_now, 0, sent_ms, sent_ms + 1};

    rl_local_snapshot_store(table, key_of(number), limit, &reply);
}

/* Takes what is left of a quota, up to 10 units; returns the number taken. */
__attribute__((unused)) static int take_rest(int number, const rl_limit *limit, int64_t host_ms)
{
    int taken = 0;

    while (taken < 10 && charge(number, limit, 1, host_ms))
        taken++;
    return taken;
}

/* Makes a table with a number of fillers, each half full and last used at used_at_ms; saves it. */
__attribute__((unused)) static void make_set(int fillers, int64_t used_at_ms)
{
    static const unsigned char seed[RL_LOCAL_SEED] = "sixteen bytes...";

    memset(memory, 0, SIZE);
    rl_local_init(memory, SIZE, seed, BASE + rl_local_clock());
    for (int i = 0; i < fillers; i++)
        charge(FILLERS + i, &half_full, 10, used_at_ms);
    memcpy(image, memory, SIZE);
}

__attribute__((unused)) static void restore_set(void)
{
    memcpy(memory, image, SIZE);
}

/* The number of entries of a key that are ready; there should never be more than one. */
__attribute__((unused)) static int ready(int number)
{
    uint64_t fingerprint = key_of(number) >> FINGERPRINT_SHIFT & FINGERPRINT;
    int n = 0;

    for (int i = 0; i < WAYS; i++)
        n += (set[i].owner & VALUE) == fingerprint;
    return n;
}

/* The number of entries of any key that are being made. */
__attribute__((unused)) static int being_made(void)
{
    int n = 0;

    for (int i = 0; i < WAYS; i++)
        n += (set[i].owner & BEING_MADE) != 0;
    return n;
}

#endif
