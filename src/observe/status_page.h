/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_page: what the two parts of the HTML in server-status share: their data, and the format of
 * numbers and texts.
 *
 * Used by status_summary.c and status_html.c for one request. Texts are in the request's pool.
 */
#ifndef RL_STATUS_PAGE_H
#define RL_STATUS_PAGE_H

#include "observe/status_columns.h"

typedef struct {
    request_rec *r;
    int64_t host_ms;
    rl_figures start;   /* counted since the start */
    rl_figures recent;  /* counted in the last recent_ms */
    int64_t recent_ms;  /* 0: not known, and recent is since the start */
    const char *span;   /* of recent, as in "in the last minute" */
    rl_top_denied_entry *denied; /* the most denied first; NULL without ExtendedStatus */
    int denied_count;
} rl_status_page;

/* 1,234,567 */
const char *rl_page_number(const rl_status_page *page, uint64_t n);

/* 12.3 ms; us is in µs. */
const char *rl_page_duration(const rl_status_page *page, int64_t us);

/* Text, with what is special in HTML escaped. */
const char *rl_page_escaped(const rl_status_page *page, const char *text);

/* The requests that Redis should have decided but did not. */
uint64_t rl_page_failures(const rl_stats_counts *counts);

#endif
