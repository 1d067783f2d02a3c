/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_summary: the sentences above the tables of server-status.
 *
 * They are for an operator who looks for the cause of an incident: whether requests are denied, and
 * by which rule; whether Redis answers; whether shared memory and logs are large enough. Where
 * something is wrong, the sentence ends with what to do.
 */
#ifndef RL_STATUS_SUMMARY_H
#define RL_STATUS_SUMMARY_H

#include "observe/status_page.h"

void rl_status_summary_print(const rl_status_page *page);

#endif
