/*
 * held: who of the workers only waits.
 *
 * The held are a ring of counters, one for each tenth of a second in which a place ends. How many
 * there are is the sum of those from now on: nobody has to give a place up, so nobody can forget
 * to. A counter carries the tenth it is for, and one of a tenth long gone counts as zero. Two
 * that take the last place at the same time may both see too many, and both go without; never do
 * both get it, because each is counted before it looks.
 */
#include "atomics.h"
#include "held.h"

#define TENTH_MS 100
#define RING 128 /* tenths: more than the longest place */

struct rl_held {
    _Atomic uint64_t ring[RING]; /* tenth << 24 | places */
};

#define PLACES UINT64_C(0xffffff)
#define TENTH_SHIFT 24

size_t rl_held_size(void)
{
    return sizeof(rl_held);
}

/* Adds to the places that end in a tenth, or takes one off. */
static void add_places(rl_held *held, int64_t end, int n)
{
    _Atomic uint64_t *p = &held->ring[end % RING];
    uint64_t was = load(p), next;

    do {
        uint64_t places = was >> TENTH_SHIFT == (uint64_t)end ? was & PLACES : 0;

        if (n < 0 && places == 0)
            return;
        next = (uint64_t)end << TENTH_SHIFT | (places + (uint64_t)n);
    } while (!swap(p, &was, next));
}

/* From the latest end to the earliest: a place that moves meanwhile is still to come. */
static int count_held(rl_held *held, int64_t now)
{
    uint64_t count = 0;

    for (int64_t end = now + RING - 1; end >= now; end--) {
        uint64_t there = load_seq_cst(&held->ring[end % RING]);

        if ((int64_t)(there >> TENTH_SHIFT) >= now)
            count += there & PLACES;
    }
    return (int)count;
}

int rl_held_take(rl_held *held, int64_t host_ms, int64_t for_ms, int most, rl_hold *hold)
{
    hold->end = (host_ms + for_ms) / TENTH_MS;
    add_places(held, hold->end, 1);
    if (count_held(held, host_ms / TENTH_MS) <= most)
        return 1;
    add_places(held, hold->end, -1);
    hold->end = -1;
    return 0;
}

/* Counted in its new place before it leaves the old one. */
void rl_held_shorten(rl_held *held, int64_t host_ms, int64_t for_ms, rl_hold *hold)
{
    int64_t end = for_ms > 0 ? (host_ms + for_ms) / TENTH_MS : -1;

    if (hold->end < 0)
        return;
    if (end >= 0)
        add_places(held, end, 1);
    add_places(held, hold->end, -1);
    hold->end = end;
}
