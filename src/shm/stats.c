/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats: counters and histograms in shared memory.
 *
 * The waits for Redis are counted twice: by fixed bounds, for programs that draw histograms, and,
 * for quantiles, in eight buckets for each doubling, as HdrHistogram does. A value's bucket is
 * given by its highest set bit and the three bits below it, so counting costs a shift and an add,
 * and a quantile is known to 1/8 of its value.
 *
 *   µs            bucket
 *   0 to 15       the same number
 *   16 to 31      16 to 23, each of 2 µs
 *   32 to 63      24 to 31, each of 4 µs
 *   ...           eight buckets for each doubling; the last takes all longer waits
 *
 * Copies of the counters are kept in a ring, so that a page can show the last minute at no cost to
 * requests. The time of a copy is 0 while it is written.
 */
#include <string.h>

#include "shm/stats.h"
#include "core/atomics.h"

#define MAGIC UINT64_C(0x33544154534c5252) /* "RRLSTAT3", little endian */
#define NAME_SIZE 72
#define KEPT 8
#define KEEP_EVERY_MS 9000
#define RECENT_MS 60000

typedef struct {
    rl_count at_ms; /* host_ms when it was made; 0: there is none, or it is being written */
    rl_stats_counts counts;
} kept;

struct rl_stats {
    uint64_t magic;
    uint64_t size;
    char names[RL_STATS_ROWS][NAME_SIZE]; /* of the rows; "" after the last */
    _Alignas(64) rl_stats_counts now;
    kept past[KEPT];
};

const char *const rl_source_names[RL_SOURCES] = {"local", "lease", "redis", "fallback"};
const char *const rl_verdict_names[RL_VERDICTS] = {"pass", "deny", "shadow", "exempt", "veto"};

const int64_t rl_stats_bounds_us[RL_STATS_BOUNDS] = {
    50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000
};

size_t rl_stats_size(void)
{
    return sizeof(rl_stats);
}

rl_stats *rl_stats_init(void *memory)
{
    rl_stats *stats = memory;

    stats->size = sizeof(*stats);
    stats->magic = MAGIC;
    return stats;
}

rl_stats *rl_stats_attach(void *memory)
{
    rl_stats *stats = memory;

    return stats->magic == MAGIC && stats->size == sizeof(*stats) ? stats : NULL;
}

int rl_stats_row(rl_stats *stats, const char *name)
{
    int i = 0;

    while (i < RL_STATS_ROWS - 1 && stats->names[i][0] && strcmp(stats->names[i], name))
        i++;
    if (!stats->names[i][0])
        strncpy(stats->names[i], i < RL_STATS_ROWS - 1 ? name : "(others)", NAME_SIZE - 1);
    return i;
}

const char *rl_stats_name(const rl_stats *stats, int row)
{
    return row < RL_STATS_ROWS && stats->names[row][0] ? stats->names[row] : NULL;
}

/* --- Counting ----------------------------------------------------------------------------- */

void rl_stats_count(rl_stats *stats, int row, rl_verdict verdict, rl_source source)
{
    add(&stats->now.rows[row][verdict][source], 1);
}

void rl_stats_count_log(rl_stats *stats, rl_log_fate fate)
{
    add(&stats->now.log[fate], 1);
}

void rl_stats_count_lease(rl_stats *stats, rl_lease_count what, int64_t units)
{
    if (units > 0)
        add(&stats->now.lease[what], (uint64_t)units);
}

static int bucket_of(uint64_t us)
{
    int shift;

    if (us < 8)
        return (int)us;
    shift = 60 - __builtin_clzll(us);
    if (shift >= RL_STATS_BUCKETS / 8 - 1)
        return RL_STATS_BUCKETS - 1;
    return shift * 8 + (int)(us >> shift);
}

/* The largest value of a bucket. */
static int64_t bucket_end(int bucket)
{
    int shift = bucket / 8 - 1;

    return bucket < 16 ? bucket : ((int64_t)(bucket % 8 + 8 + 1) << shift) - 1;
}

/*
 * If the breaker is open or too many calls are in flight, nothing is sent and nothing waited for.
 */
static int was_sent(rl_failure failure, int64_t waited_us)
{
    return failure == RL_ANSWERED || failure > RL_FAILED_BUSY
        || (failure == RL_FAILED_DOWN && waited_us > rl_stats_bounds_us[0]);
}

void rl_stats_count_redis(rl_stats *stats, rl_failure failure, int64_t waited_us)
{
    uint64_t us = waited_us > 0 ? (uint64_t)waited_us : 0;
    int bound = 0;

    add(&stats->now.redis[failure], 1);
    if (!was_sent(failure, waited_us))
        return;
    while (bound < RL_STATS_BOUNDS && (int64_t)us > rl_stats_bounds_us[bound])
        bound++;
    add(&stats->now.waited_us, us);
    add(&stats->now.waits[bucket_of(us)], 1);
    add(&stats->now.bounded[bound], 1);
}

/* --- Reading ------------------------------------------------------------------------------ */

/* How many words of the counters are in use: all except the rows without a rule. */
static size_t words_of(const rl_stats *stats)
{
    size_t row = 0;

    while (row < RL_STATS_ROWS && stats->names[row][0])
        row++;
    return (offsetof(rl_stats_counts, rows) + row * sizeof(stats->now.rows[0])) / sizeof(rl_count);
}

static void copy(rl_stats_counts *to, const rl_stats_counts *from, size_t words)
{
    rl_count *target = (rl_count *)to;
    const rl_count *source = (const rl_count *)from;

    for (size_t i = 0; i < words; i++)
        store(&target[i], load(&source[i]));
}

void rl_stats_read(const rl_stats *stats, rl_stats_counts *counts)
{
    memset((void *)counts, 0, sizeof(*counts));
    copy(counts, &stats->now, words_of(stats));
}

void rl_stats_keep(rl_stats *stats, int64_t host_ms)
{
    kept *oldest = &stats->past[0];
    int64_t latest_ms = 0;

    for (int i = 0; i < KEPT; i++) {
        int64_t at_ms = (int64_t)load(&stats->past[i].at_ms);

        if (at_ms < (int64_t)load(&oldest->at_ms))
            oldest = &stats->past[i];
        if (at_ms > latest_ms)
            latest_ms = at_ms;
    }
    if (latest_ms && host_ms - latest_ms < KEEP_EVERY_MS)
        return;
    store(&oldest->at_ms, 0);
    atomic_thread_fence(memory_order_release); /* pairs with the fence of rl_stats_recent() */
    copy(&oldest->counts, &stats->now, words_of(stats));
    store_release(&oldest->at_ms, (uint64_t)host_ms);
}

/* Whether a copy of one time serves better than that of another: see minute_ago(). */
static int is_better(int64_t at_ms, int64_t than_ms, int64_t minute_ago_ms)
{
    if (than_ms > minute_ago_ms)
        return at_ms < than_ms;
    return at_ms <= minute_ago_ms && at_ms > than_ms;
}

/* The latest copy that is at least a minute old; if there is none, the oldest. */
static const kept *minute_ago(const rl_stats *stats, int64_t host_ms, int64_t *at_ms)
{
    const kept *found = NULL;

    *at_ms = 0;
    for (int i = 0; i < KEPT; i++) {
        int64_t at = (int64_t)load_acquire(&stats->past[i].at_ms);

        if (at && (!found || is_better(at, *at_ms, host_ms - RECENT_MS))) {
            found = &stats->past[i];
            *at_ms = at;
        }
    }
    return found;
}

int64_t rl_stats_recent(const rl_stats *stats, int64_t host_ms, rl_stats_counts *counts)
{
    size_t words = words_of(stats);
    rl_count *target = (rl_count *)counts;
    int64_t at_ms;

    for (int tries = 0; tries < KEPT; tries++) {
        const kept *before = minute_ago(stats, host_ms, &at_ms);
        const rl_count *source;

        if (!before || at_ms >= host_ms)
            return 0;
        source = (const rl_count *)&before->counts;
        for (size_t i = 0; i < words; i++)
            store(&target[i], load(&target[i]) - load(&source[i]));
        atomic_thread_fence(memory_order_acquire);
        if ((int64_t)load(&before->at_ms) == at_ms)
            return host_ms - at_ms;
        for (size_t i = 0; i < words; i++) /* the copy was overwritten in between */
            store(&target[i], load(&((const rl_count *)&stats->now)[i]));
    }
    return 0;
}

uint64_t rl_stats_of_verdict(const rl_stats_counts *counts, int row, rl_verdict verdict)
{
    uint64_t sum = 0;

    for (int i = 0; i < RL_SOURCES; i++)
        sum += load(&counts->rows[row][verdict][i]);
    return sum;
}

uint64_t rl_stats_of_source(const rl_stats_counts *counts, int row, rl_source source)
{
    uint64_t sum = 0;

    for (int i = 0; i < RL_VERDICTS; i++)
        sum += load(&counts->rows[row][i][source]);
    return sum;
}

int64_t rl_stats_quantile(const rl_stats_counts *counts, int per_mille)
{
    uint64_t total = 0, seen = 0, wanted;

    for (int i = 0; i < RL_STATS_BUCKETS; i++)
        total += load(&counts->waits[i]);
    wanted = (total * (uint64_t)per_mille + 999) / 1000;
    for (int i = 0; i < RL_STATS_BUCKETS && total; i++) {
        seen += load(&counts->waits[i]);
        if (seen >= wanted)
            return bucket_end(i);
    }
    return 0;
}
