/*
 * stats: counters and histograms in shared memory.
 *
 * The histogram has eight buckets for each doubling, in the way of HdrHistogram: a value's bucket
 * is its highest set bit and the three bits below it, so counting costs a shift and an add, and a
 * quantile is known to 1/8 of its value.
 */
#include <stdatomic.h>
#include <string.h>

#include "stats.h"

#define MAGIC UINT64_C(0x31544154534c5252) /* "RRLSTAT1", little endian */
#define BUCKETS (8 * 32)

struct rl_stats {
    uint64_t magic;
    uint64_t size;
    _Alignas(64) _Atomic uint64_t redis[RL_FAILURES];
    _Atomic uint64_t waits[BUCKETS];
    _Alignas(64) rl_stats_rule rows[RL_STATS_ROWS];
};

const char *const rl_source_names[RL_SOURCES] = {"local", "lease", "redis", "fallback"};
const char *const rl_failure_names[RL_FAILURES] = {
    "answered", "open", "down", "busy", "late", "lost", "refused", "garbage"
};

#define load(p) atomic_load_explicit((p), memory_order_relaxed)
#define add(p) atomic_fetch_add_explicit((p), 1, memory_order_relaxed)

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

    while (i < RL_STATS_ROWS - 1 && stats->rows[i].name[0] && strcmp(stats->rows[i].name, name))
        i++;
    if (!stats->rows[i].name[0])
        strncpy(stats->rows[i].name, i < RL_STATS_ROWS - 1 ? name : "(others)",
                sizeof(stats->rows[i].name) - 1);
    return i;
}

void rl_stats_count(rl_stats *stats, int row, rl_verdict verdict, rl_source source)
{
    add(&stats->rows[row].requests);
    add(&stats->rows[row].verdicts[verdict]);
    add(&stats->rows[row].sources[source]);
}

void rl_stats_count_vetoed(rl_stats *stats, int row, rl_source source)
{
    add(&stats->rows[row].requests);
    add(&stats->rows[row].sources[source]);
}

static int bucket_of(uint64_t us)
{
    int shift;

    if (us < 8)
        return (int)us;
    shift = 60 - __builtin_clzll(us);
    if (shift >= BUCKETS / 8 - 1)
        return BUCKETS - 1;
    return shift * 8 + (int)(us >> shift);
}

/* The largest value of a bucket. */
static int64_t bucket_end(int bucket)
{
    int shift = bucket / 8 - 1;

    return bucket < 16 ? bucket : ((int64_t)(bucket % 8 + 8 + 1) << shift) - 1;
}

void rl_stats_count_redis(rl_stats *stats, rl_failure failure, int64_t waited_us)
{
    add(&stats->redis[failure]);
    add(&stats->waits[bucket_of(waited_us > 0 ? (uint64_t)waited_us : 0)]);
}

const rl_stats_rule *rl_stats_read_row(const rl_stats *stats, int row)
{
    return row < RL_STATS_ROWS && stats->rows[row].name[0] ? &stats->rows[row] : NULL;
}

uint64_t rl_stats_read_redis(const rl_stats *stats, rl_failure failure)
{
    return load(&stats->redis[failure]);
}

int64_t rl_stats_quantile(const rl_stats *stats, int per_mille)
{
    uint64_t total = 0, seen = 0, wanted;

    for (int i = 0; i < BUCKETS; i++)
        total += load(&stats->waits[i]);
    wanted = (total * (uint64_t)per_mille + 999) / 1000;
    for (int i = 0; i < BUCKETS && total; i++) {
        seen += load(&stats->waits[i]);
        if (seen >= wanted)
            return bucket_end(i);
    }
    return 0;
}
