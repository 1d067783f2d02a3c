/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page: what server-status shows of the module, and how it looks to people.
 *
 * Between status, which gathers what there is and prints it for programs, and the HTML.
 */
#ifndef RL_PAGE_H
#define RL_PAGE_H

#include "decide/decide.h"

/* All that a page is made of. */
typedef struct {
    request_rec *r;
    const rl_context *context;
    int64_t host_ms;
    rl_top_denied_entry *denied; /* the most denied first; none without ExtendedStatus */
    int denied_count;
    rl_stats_counts *start;  /* counted since the start */
    rl_stats_counts *recent; /* in the last recent_ms */
    int64_t recent_ms;       /* 0: not known, and recent is since the start */
    const char *span;        /* "in the last minute" */
    rl_local_stats local;
} rl_page;

/* What is told of a rule. */
typedef enum {
    RL_COLUMN_REQUESTS,
    RL_COLUMN_PASSED,
    RL_COLUMN_DENIED,
    RL_COLUMN_SHADOWED,
    RL_COLUMN_EXEMPT,
    RL_COLUMN_FROM_MEMORY,
    RL_COLUMN_ASKED,
    RL_COLUMN_FALLBACK,
    RL_COLUMNS
} rl_column;

typedef struct {
    const char *name;  /* in ?auto */
    const char *title; /* in HTML */
    int verdict;       /* rl_verdict that is counted, or -1 for any */
    int source;        /* rl_source, or -1 */
    int recent;        /* shown for the last minute, too */
} rl_page_column;

extern const rl_page_column rl_page_columns[RL_COLUMNS];

/* The value of a column in a rule's row, and over all rules. */
uint64_t rl_page_value(const rl_stats_counts *counts, int row, rl_column column);
uint64_t rl_page_total(const rl_page *page, const rl_stats_counts *counts, rl_column column);

/* Prints the section; without shared memory there is nothing else to show. */
void rl_page_print(rl_page *page);
void rl_page_print_no_memory(request_rec *r);

#endif
