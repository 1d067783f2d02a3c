/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_html: server-status for people. Called by status.c alone, with what it has gathered.
 */
#ifndef RL_STATUS_HTML_H
#define RL_STATUS_HTML_H

#include "observe/status_columns.h"

/* All that a page is made of. */
typedef struct {
    request_rec *r;
    int64_t host_ms;
    rl_figures start;   /* counted since the start */
    rl_figures recent;  /* in the last recent_ms */
    int64_t recent_ms;  /* 0: not known, and recent is since the start */
    const char *span;   /* "in the last minute" */
    rl_top_denied_entry *denied; /* the most denied first; none without ExtendedStatus */
    int denied_count;
} rl_status_page;

/* Prints the section of the module. Fills in denied and denied_count. */
void rl_status_html_print(rl_status_page *page);

/* The section where there is no shared memory, which is all there is to show then. */
void rl_status_html_print_no_memory(request_rec *r);

#endif
