/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of the local tier for tests, in memory shared with forked children. Its seed is fixed,
 * the test sets its clock, and its keys are numbers.
 */
#ifndef TABLE_H
#define TABLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shm/local.h"
#include "states.h"

#define UNUSED __attribute__((unused))

#define BASE INT64_C(1699999200000) /* the wall clock at host_ms 0: a full hour */
#define HOUR INT64_C(3600000)
#define MINUTE INT64_C(60000)

/* Zeroed memory, shared with children forked later. Exits if there is none. */
UNUSED static void *shared_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

UNUSED static rl_local *make_table(size_t size)
{
    static const unsigned char seed[RL_LOCAL_SEED] = "sixteen bytes...";

    return rl_local_init(shared_memory(size), size, seed, BASE + rl_local_clock());
}

UNUSED static uint64_t key_of(const rl_local *table, rl_local_kind kind, int number)
{
    return rl_local_key(table, kind, 1, &number, sizeof(number));
}

/*
 * The cache line of a key's entry, or NULL, for tests that damage the memory. The entry's first
 * word holds a counter in its upper 12 bits and, below them, bits 12 to 62 of the key.
 */
UNUSED static uint64_t *line_of(rl_local *table, size_t size, uint64_t key)
{
    for (uint64_t *line = (uint64_t *)table; (char *)line < (char *)table + size; line += 8) {
        if ((*line & (UINT64_MAX >> 12)) == (key & ~(UINT64_C(1) << 63)) >> 12)
            return line;
    }
    return NULL;
}

/* Charges at host_ms; the wall clock is BASE ahead of it. *state: the count before the charge. */
UNUSED static int charge(rl_local *table, uint64_t key, const rl_limit *limit, int64_t cost,
                         int64_t host_ms, rl_state *state)
{
    rl_view view = {.now = (BASE + host_ms) * rl_limiter_ticks(limit)};
    int charged = rl_local_charge(table, key, limit, cost, host_ms, &view);

    *state = view.state;
    return charged;
}

/*
 * Stores a reply, of a counter without an override, that was received 1 ms after it was asked for.
 */
UNUSED static void store_reply(rl_local *table, uint64_t key, const rl_limit *limit,
                               const rl_state *state, int64_t redis_now, int64_t sent_ms)
{
    rl_local_reply reply = {state, redis_now, 0, sent_ms, sent_ms + 1};

    rl_local_snapshot_store(table, key, limit, &reply);
}

/*
 * Checks the snapshot for a rule of this limit, and revalidates a stale denial if that is allowed.
 */
UNUSED static rl_snapshot_verdict check_of(rl_local *table, uint64_t key, const rl_limit *rule,
                                           int64_t cost, int64_t host_ms, rl_view *view)
{
    rl_limit limit = *rule;
    rl_snapshot_verdict verdict;

    verdict = rl_local_snapshot_check(table, key, &limit, cost, host_ms, view);
    return verdict == RL_SNAPSHOT_STALE && !rl_local_snapshot_revalidate(table, key, host_ms, 1)
        ? RL_SNAPSHOT_DENIES : verdict;
}

/* The state of a count at host_ms. */
UNUSED static rl_state peek(rl_local *table, uint64_t key, const rl_limit *limit,
                            int64_t host_ms)
{
    rl_view view = {.now = (BASE + host_ms) * rl_limiter_ticks(limit)};

    rl_local_peek(table, key, limit, &view);
    return view.state;
}

#endif
