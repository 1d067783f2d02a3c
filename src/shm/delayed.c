/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delayed: who of the workers only waits.
 *
 * The delayed requests are a ring of counters, one for each tenth of a second in which a place
 * ends. How many there are is the sum of those from now on: nobody has to give a place up, so
 * nobody can forget to. A counter carries the tenth it is for, and one of a tenth long gone counts
 * as zero. Each taker is counted before it looks, by a swap and then loads in the one order of all
 * swaps, so two never get the last place; both may see too many, and try again while there is a
 * place.
 */
#include "shm/delayed.h"
#include "core/atomics.h"

#define TENTH_MS 100
#define RING 128 /* tenths: more than the longest place */
#define TRIES 64 /* to take a place beside others */

struct rl_delayed {
    _Atomic uint64_t ring[RING]; /* tenth << 24 | places */
};

#define PLACES UINT64_C(0xffffff)
#define TENTH_SHIFT 24

size_t rl_delayed_size(void)
{
    return sizeof(rl_delayed);
}

/* Adds to the places that end in a tenth, or takes one off. */
static void add_places(rl_delayed *delayed, int64_t end, int n)
{
    _Atomic uint64_t *p = &delayed->ring[end % RING];
    uint64_t was = load(p), next;

    do {
        uint64_t places = was >> TENTH_SHIFT == (uint64_t)end ? was & PLACES : 0;

        if (n < 0 && places == 0)
            return;
        next = (uint64_t)end << TENTH_SHIFT | (places + (uint64_t)n);
    } while (!swap(p, &was, next));
}

static int count_delayed(rl_delayed *delayed, int64_t now)
{
    uint64_t count = 0;

    for (int64_t end = now + RING - 1; end >= now; end--) {
        uint64_t there = load_seq_cst(&delayed->ring[end % RING]);

        if ((int64_t)(there >> TENTH_SHIFT) >= now)
            count += there & PLACES;
    }
    return (int)count;
}

int rl_delayed_has_room(rl_delayed *delayed, int64_t host_ms, int most)
{
    return count_delayed(delayed, host_ms / TENTH_MS) < most;
}

int rl_delayed_take(rl_delayed *delayed, int64_t host_ms, int64_t for_ms, int most)
{
    int64_t end = (host_ms + for_ms) / TENTH_MS;

    for (int tries = 0; tries < TRIES && rl_delayed_has_room(delayed, host_ms, most); tries++) {
        add_places(delayed, end, 1);
        if (count_delayed(delayed, host_ms / TENTH_MS) <= most)
            return 1;
        add_places(delayed, end, -1);
    }
    return 0;
}
