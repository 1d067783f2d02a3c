/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delayed: how many requests of the host are being delayed.
 *
 * A ring of counters, one for each tenth of a second in which a place ends. The number of delayed
 * requests is the sum of the counters from now on, so no process has to give a place back, and one
 * that dies keeps none.
 *
 *  bits  meaning of a word of the ring
 *    40  the tenth that it counts for, by host_ms; one in the past counts as zero
 *    24  places that end in it
 *
 * A thread adds its place by a swap and then loads all counters, both sequentially consistent. So
 * two threads never both get the last place. Both may find one too many; each then takes its place
 * off again and retries as long as one is free.
 */
#include "shm/delayed.h"
#include "core/atomics.h"

#define TENTH_MS 100
#define RING 128 /* tenths: more than the longest place lasts */
#define TRIES 64 /* at most, when other threads take places at the same time */

struct rl_delayed {
    _Atomic uint64_t ring[RING];
};

#define PLACES UINT64_C(0xffffff)
#define TENTH_SHIFT 24

size_t rl_delayed_size(void)
{
    return sizeof(rl_delayed);
}

/* Adds n, 1 or -1, to the places that end in a tenth. */
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
