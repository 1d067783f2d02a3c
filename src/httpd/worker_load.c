/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker_load: how many of httpd's workers are busy.
 *
 * The first request after a quarter of a second counts them; the others use its result.
 */
#include <stdatomic.h>

#include <ap_mpm.h>
#include <httpd.h>
#include <scoreboard.h>

#include "httpd/worker_load.h"
#include "shm/local.h"

#define COUNT_EVERY_MS 250

int rl_worker_load_workers(void)
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

int rl_worker_load_percent(void)
{
    static _Atomic uint64_t known; /* ms of the next count << 8 | percent */
    uint64_t was = atomic_load_explicit(&known, memory_order_relaxed);
    uint64_t now_ms = (uint64_t)rl_local_clock();
    int workers;

    if (now_ms < was >> 8
        || !atomic_compare_exchange_strong(&known, &was,
                                           (now_ms + COUNT_EVERY_MS) << 8 | (was & 0xff)))
        return (int)(was & 0xff);
    workers = rl_worker_load_workers();
    was = workers > 0 ? (uint64_t)(count_busy() * 100 / workers) : 0;
    if (was > 100)
        was = 100; /* workers that finish their requests after a reload are additional */
    atomic_store(&known, (now_ms + COUNT_EVERY_MS) << 8 | was);
    return (int)was;
}
