/*
 * stats: counters and histograms in shared memory.
 *
 * One block for all children of a host. Counters only grow, also over graceful restarts. Every
 * function but rl_stats_init() and rl_stats_row() may be called from any thread of any process;
 * none blocks. Reading while others count gives each counter as it was at some moment of the read.
 */
#ifndef RL_STATS_H
#define RL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "redis/breaker.h"

#define RL_STATS_ROWS 256 /* rules told apart by name; what is beyond shares the last row */

/* Where a decision came from. The names are those of the notes. */
typedef enum { RL_SOURCE_LOCAL, RL_SOURCE_LEASE, RL_SOURCE_REDIS, RL_SOURCE_FALLBACK,
               RL_SOURCES } rl_source;

/* What became of a request under one rule. */
typedef enum { RL_PASSED, RL_DENIED, RL_SHADOWED, RL_VERDICTS } rl_verdict;

typedef struct {
    char name[72]; /* of the rule; "" ends the rows */
    _Atomic uint64_t requests;
    _Atomic uint64_t verdicts[RL_VERDICTS];
    _Atomic uint64_t sources[RL_SOURCES];
} rl_stats_rule;

typedef struct rl_stats rl_stats;

extern const char *const rl_source_names[RL_SOURCES];
extern const char *const rl_failure_names[RL_FAILURES]; /* [RL_ANSWERED] is "answered" */

/* Bytes a block takes. */
size_t rl_stats_size(void);

/* Makes a block in zeroed memory; the block that is there already, or NULL if it does not fit. */
rl_stats *rl_stats_init(void *memory);
rl_stats *rl_stats_attach(void *memory);

/* The row of a rule's name, made if there is none. Only while nobody else is running. */
int rl_stats_row(rl_stats *stats, const char *name);

void rl_stats_count(rl_stats *stats, int row, rl_verdict verdict, rl_source source);

/* Counts a request that a rule would have admitted and another one denied. */
void rl_stats_count_vetoed(rl_stats *stats, int row, rl_source source);

/* Counts an attempt to have Redis decide, and the µs the request waited for it. */
void rl_stats_count_redis(rl_stats *stats, rl_failure failure, int64_t waited_us);

const rl_stats_rule *rl_stats_read_row(const rl_stats *stats, int row);
uint64_t rl_stats_read_redis(const rl_stats *stats, rl_failure failure);

/*
 * The wait in µs that the given share of requests, in 1/1000, did not exceed: 999 is p99.9. At
 * most 1/8 above the true value; 0 if nobody waited.
 */
int64_t rl_stats_quantile(const rl_stats *stats, int per_mille);

#endif
