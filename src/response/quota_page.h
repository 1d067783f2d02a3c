/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota: a client's own quotas, as a page that programs read.
 */
#ifndef RL_QUOTA_H
#define RL_QUOTA_H

#include "decide/decide.h"

#define RL_QUOTA_HANDLER "ratelimit-quota"

/* Whether a request is for the page: its rules are to be looked at, not charged. */
int rl_quota_is_page(request_rec *r);

/* Answers with the quotas of whoever asks, under the rules that hold there. Charges nothing. */
int rl_quota(request_rec *r, const rl_context *context);

#endif
