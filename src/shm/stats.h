/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats: counters and histograms in shared memory.
 *
 * One block for all children of a host. Counters only grow, and survive graceful restarts. A
 * request under one rule costs one atomic add, to the counter of its verdict and source; pages show
 * sums of these counters.
 *
 * Every function may be called from any thread of any process, and none blocks, except
 * rl_stats_init() and rl_stats_row(), which nothing else may run beside, and rl_stats_keep(), which
 * only httpd's parent calls. If other threads count during a read, each counter is read as it was
 * at some moment of the read.
 */
#ifndef RL_STATS_H
#define RL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "core/failure.h"

#define RL_STATS_ROWS 256     /* names of rules; those beyond share the last row */
#define RL_STATS_BUCKETS 256  /* of waits, for quantiles */
#define RL_STATS_BOUNDS 14    /* of waits, for rl_stats_bounds_us */

/* Where a decision came from. The names are those of the notes. */
typedef enum { RL_SOURCE_LOCAL, RL_SOURCE_LEASE, RL_SOURCE_REDIS, RL_SOURCE_FALLBACK,
               RL_SOURCES } rl_source;

/* How a rule decided a request. */
typedef enum {
    RL_PASSED,
    RL_DENIED,
    RL_SHADOWED, /* a shadow rule would have denied it */
    RL_EXEMPT,   /* the rule does not limit this client */
    RL_VETOED,   /* the rule would have admitted it, but another one denied: not charged */
    RL_VERDICTS
} rl_verdict;

/* Whether a line of the violation log was written. */
typedef enum { RL_LOG_WRITTEN, RL_LOG_LOST, RL_LOG_FATES } rl_log_fate;

/* What happens to the units of leases; and how many leases there were. */
typedef enum { RL_LEASE_DEBITED, RL_LEASE_SPENT, RL_LEASE_LOST, RL_LEASE_REFILLS,
               RL_LEASE_COUNTS } rl_lease_count;

typedef _Atomic uint64_t rl_count;

/* All counters, as they grow in shared memory or as they were read. */
typedef struct {
    rl_count redis[RL_FAILURES];            /* attempts to have Redis decide */
    rl_count waited_us;                     /* sum of the waits of those that were sent */
    rl_count waits[RL_STATS_BUCKETS];       /* their number by wait: see rl_stats_quantile() */
    rl_count bounded[RL_STATS_BOUNDS + 1];  /* and by rl_stats_bounds_us; the last: longer waits */
    rl_count log[RL_LOG_FATES];
    rl_count lease[RL_LEASE_COUNTS];
    rl_count rows[RL_STATS_ROWS][RL_VERDICTS][RL_SOURCES];
} rl_stats_counts;

typedef struct rl_stats rl_stats;

extern const char *const rl_source_names[RL_SOURCES];
extern const char *const rl_verdict_names[RL_VERDICTS];
extern const int64_t rl_stats_bounds_us[RL_STATS_BOUNDS]; /* ascending, inclusive */

/* Bytes that a block needs. */
size_t rl_stats_size(void);

/* Makes a block in zeroed memory. */
rl_stats *rl_stats_init(void *memory);

/* The block that an earlier rl_stats_init() made there; NULL if it does not fit this code. */
rl_stats *rl_stats_attach(void *memory);

/* The row of a rule's name, added if there is none. */
int rl_stats_row(rl_stats *stats, const char *name);

void rl_stats_count(rl_stats *stats, int row, rl_verdict verdict, rl_source source);

/* Counts an attempt to have Redis decide, and the µs the request waited for it. */
void rl_stats_count_redis(rl_stats *stats, rl_failure failure, int64_t waited_us);

void rl_stats_count_lease(rl_stats *stats, rl_lease_count what, int64_t units);

void rl_stats_count_log(rl_stats *stats, rl_log_fate fate);

/* The name of a row's rule; NULL after the last row. */
const char *rl_stats_name(const rl_stats *stats, int row);

/* Copies all counters. */
void rl_stats_read(const rl_stats *stats, rl_stats_counts *counts);

/*
 * Keeps a copy of the counters, so that rl_stats_recent() can report what was counted since. To be
 * called once the block is made, and then about every ten seconds; calls in between do nothing.
 */
void rl_stats_keep(rl_stats *stats, int64_t host_ms);

/*
 * Subtracts from counts the copy kept a minute ago, or the oldest one if it is younger than that.
 * Returns the age of the copy in ms; 0 if there is none, and then leaves counts as they are.
 */
int64_t rl_stats_recent(const rl_stats *stats, int64_t host_ms, rl_stats_counts *counts);

/* A rule's requests with this verdict, from all sources. */
uint64_t rl_stats_of_verdict(const rl_stats_counts *counts, int row, rl_verdict verdict);

/* A rule's requests from this source, with all verdicts. */
uint64_t rl_stats_of_source(const rl_stats_counts *counts, int row, rl_source source);

/*
 * The wait in µs that per_mille/1000 of the requests that asked Redis did not exceed: 999 is
 * p99.9. At most 1/8 above the true value; 0 if no request asked.
 */
int64_t rl_stats_quantile(const rl_stats_counts *counts, int per_mille);

#endif
