/*
 * load: how busy the server is, and who of its workers only waits.
 *
 * The held are a ring of counters, one for each tenth of a second in which a place ends. How many there
 * are is the sum of those from now on: nobody has to give a place up, so nobody can forget to. A
 * counter carries the tenth it is for, and one of a tenth long gone counts as zero. Two that take the
 * last place at the same time may both see too many, and both go without; never do both get it,
 * because each is counted before it looks.
 */
#include <stdatomic.h>

#include <ap_mpm.h>
#include <httpd.h>
#include <scoreboard.h>

#include "load.h"
#include "local.h"

#define COUNT_EVERY_MS 250
#define TENTH_MS 100
#define RING 128 /* tenths: more than the longest place */

struct rl_held {
    _Atomic uint64_t ring[RING]; /* tenth << 24 | places */
};

#define PLACES UINT64_C(0xffffff)
#define TENTH_SHIFT 24

/* --- Busy workers ------------------------------------------------------------------------- */

int rl_load_workers(void)
{
    int daemons = 0, threads = 0;

    ap_mpm_query(AP_MPMQ_MAX_DAEMONS, &daemons);
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    return daemons * (threads > 0 ? threads : 1);
}

static int is_busy(int status)
{
    return status != SERVER_DEAD && status != SERVER_STARTING && status != SERVER_READY
        && status != SERVER_IDLE_KILL;
}

static int count_busy(void)
{
    int daemons = 0, threads = 0, busy = 0;

    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &daemons);
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_THREADS, &threads);
    for (int i = 0; i < daemons; i++) {
        for (int j = 0; j < threads; j++)
            busy += is_busy(ap_get_scoreboard_worker_from_indexes(i, j)->status);
    }
    return busy;
}

int rl_load_percent(void)
{
    static _Atomic uint64_t known; /* when it is to be counted again << 8 | percent */
    uint64_t was = atomic_load_explicit(&known, memory_order_relaxed);
    uint64_t now_ms = (uint64_t)rl_local_clock();
    int workers;

    if (now_ms < was >> 8
        || !atomic_compare_exchange_strong(&known, &was,
                                           (now_ms + COUNT_EVERY_MS) << 8 | (was & 0xff)))
        return (int)(was & 0xff);
    workers = rl_load_workers();
    was = workers > 0 ? (uint64_t)(count_busy() * 100 / workers) : 0;
    if (was > 100)
        was = 100; /* those that finish after a reload are beyond the limit */
    atomic_store(&known, (now_ms + COUNT_EVERY_MS) << 8 | was);
    return (int)was;
}

/* --- Held requests ------------------------------------------------------------------------ */

size_t rl_held_size(void)
{
    return sizeof(rl_held);
}

/* Adds to the places that end in a tenth, or takes one off. */
static void add(rl_held *held, int64_t end, int n)
{
    _Atomic uint64_t *p = &held->ring[end % RING];
    uint64_t was = atomic_load(p), next;

    do {
        uint64_t places = was >> TENTH_SHIFT == (uint64_t)end ? was & PLACES : 0;

        if (n < 0 && places == 0)
            return;
        next = (uint64_t)end << TENTH_SHIFT | (places + (uint64_t)n);
    } while (!atomic_compare_exchange_weak(p, &was, next));
}

static int count_held(rl_held *held, int64_t now)
{
    uint64_t count = 0;

    for (int i = 0; i < RING; i++) {
        uint64_t there = atomic_load(&held->ring[i]);

        if ((int64_t)(there >> TENTH_SHIFT) >= now)
            count += there & PLACES;
    }
    return (int)count;
}

int rl_held_take(rl_held *held, int64_t host_ms, int64_t for_ms, int most, rl_hold *hold)
{
    hold->end = (host_ms + for_ms) / TENTH_MS;
    add(held, hold->end, 1);
    if (count_held(held, host_ms / TENTH_MS) <= most)
        return 1;
    add(held, hold->end, -1);
    hold->end = -1;
    return 0;
}

void rl_held_shorten(rl_held *held, int64_t host_ms, int64_t for_ms, rl_hold *hold)
{
    if (hold->end < 0)
        return;
    add(held, hold->end, -1);
    hold->end = for_ms > 0 ? (host_ms + for_ms) / TENTH_MS : -1;
    if (hold->end >= 0)
        add(held, hold->end, 1);
}
