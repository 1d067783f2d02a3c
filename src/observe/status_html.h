/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_html: the module's part of server-status for people.
 *
 * Called by status.c, which gathers the figures.
 */
#ifndef RL_STATUS_HTML_H
#define RL_STATUS_HTML_H

#include "observe/status_page.h"

/* Prints the section, with its heading. Fills in denied and denied_count. */
void rl_status_html_print(rl_status_page *page);

/* Prints the section of a host without shared memory, which has no figures. */
void rl_status_html_print_no_memory(request_rec *r);

#endif
