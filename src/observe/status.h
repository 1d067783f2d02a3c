/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status: the module's part of server-status.
 */
#ifndef RL_STATUS_H
#define RL_STATUS_H

#include "decide/context.h"

/* The status_hook of mod_status: a section in HTML, or with ?auto lines of "Name: number". */
int rl_status(request_rec *r, int flags, const rl_context *context);

#endif
