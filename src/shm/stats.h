/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats: counters and histograms in shared memory.
 *
 * One block for all children of a host. Counters only grow, also over graceful restarts. Every
 * function may be called from any thread of any process and none blocks, but for rl_stats_init()
 * and rl_stats_row(), which are for times when nobody else runs, and rl_stats_keep(), which is
 * for one process alone, httpd's parent. Reading while others count gives each counter as it was
 * at some moment of the read.
 *
 * A request under one rule is one atomic add, to the counter of its verdict and source. What a page
 * shows, as how many requests there were, is sums of these.
 */
#ifndef RL_STATS_H
#define RL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "core/failure.h"

#define RL_STATS_ROWS 256     /* rules told apart by name; what is beyond shares the last row */
#define RL_STATS_BUCKETS 256  /* of waits, for quantiles */
#define RL_STATS_BOUNDS 14    /* of waits, for rl_stats_bounds_us */

/* Where a decision came from. The names are those of the notes. */
typedef enum { RL_SOURCE_LOCAL, RL_SOURCE_LEASE, RL_SOURCE_REDIS, RL_SOURCE_FALLBACK,
               RL_SOURCES } rl_source;

/* What became of a request under one rule. */
typedef enum {
    RL_PASSED,
    RL_DENIED,
    RL_SHADOWED, /* a shadow rule would have denied it */
    RL_EXEMPT,   /* the rule does not limit this client */
    RL_VETOED,   /* the rule would have admitted it, but another one denied: not charged */
    RL_VERDICTS
} rl_verdict;

/* What becomes of a line of the violation log. */
typedef enum { RL_LOG_WRITTEN, RL_LOG_LOST, RL_LOG_FATES } rl_log_fate;

typedef _Atomic uint64_t rl_count;

/* All counters, as they grow in shared memory or as they were read. */
typedef struct {
    rl_count redis[RL_FAILURES];            /* attempts to have Redis decide */
    rl_count waited_us;                     /* what requests waited in all of them that were sent */
    rl_count waits[RL_STATS_BUCKETS];       /* the same, one by one: see rl_stats_quantile() */
    rl_count bounded[RL_STATS_BOUNDS + 1];  /* and by rl_stats_bounds_us; the last are beyond */
    rl_count log[RL_LOG_FATES];
    rl_count rows[RL_STATS_ROWS][RL_VERDICTS][RL_SOURCES];
} rl_stats_counts;

typedef struct rl_stats rl_stats;

extern const char *const rl_source_names[RL_SOURCES];
extern const char *const rl_verdict_names[RL_VERDICTS];
extern const int64_t rl_stats_bounds_us[RL_STATS_BOUNDS]; /* growing, inclusive */

/* Bytes a block takes. */
size_t rl_stats_size(void);

/* Makes a block in zeroed memory; the block that is there already, or NULL if it does not fit. */
rl_stats *rl_stats_init(void *memory);
rl_stats *rl_stats_attach(void *memory);

/* The row of a rule's name, made if there is none. Only while nobody else is running. */
int rl_stats_row(rl_stats *stats, const char *name);

void rl_stats_count(rl_stats *stats, int row, rl_verdict verdict, rl_source source);

/* Counts an attempt to have Redis decide, and the µs the request waited for it. */
void rl_stats_count_redis(rl_stats *stats, rl_failure failure, int64_t waited_us);

void rl_stats_count_log(rl_stats *stats, rl_log_fate fate);

/* The name of a row's rule; NULL behind the last row. */
const char *rl_stats_name(const rl_stats *stats, int row);

/* Copies all counters. */
void rl_stats_read(const rl_stats *stats, rl_stats_counts *counts);

/*
 * Keeps what is counted now, so that it can be told later what was counted since. To be called
 * every ten seconds or so, and as soon as the block is there; sooner calls do nothing.
 */
void rl_stats_keep(rl_stats *stats, int64_t host_ms);

/*
 * Takes off counts what had been counted a minute before, or what was kept first where that is not
 * as long ago. Returns how many ms that was before host_ms; 0 if nothing was kept, and then counts
 * stay as they are.
 */
int64_t rl_stats_recent(const rl_stats *stats, int64_t host_ms, rl_stats_counts *counts);

/* A rule's requests with this verdict, whatever the source, and the other way round. */
uint64_t rl_stats_of_verdict(const rl_stats_counts *counts, int row, rl_verdict verdict);
uint64_t rl_stats_of_source(const rl_stats_counts *counts, int row, rl_source source);

/*
 * The wait in µs that the given share of the requests that asked Redis, in 1/1000, did not exceed:
 * 999 is p99.9. At most 1/8 above the true value; 0 if nobody asked.
 */
int64_t rl_stats_quantile(const rl_stats_counts *counts, int per_mille);

#endif
