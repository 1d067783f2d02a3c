/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status_text: server-status?auto, for programs. A line is a name without blanks, a colon and a
 * number, which counts since the start.
 */
#ifndef RL_STATUS_TEXT_H
#define RL_STATUS_TEXT_H

#include "observe/status_columns.h"

/* Prints all figures of the host and of each rule. */
void rl_status_text_print(request_rec *r, const rl_figures *figures);

#endif
