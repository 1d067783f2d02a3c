/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota_page: the quotas of the client that asks, as JSON.
 */
#ifndef RL_QUOTA_H
#define RL_QUOTA_H

#include "decide/decide.h"

#define RL_QUOTA_HANDLER "ratelimit-quota"

/* Whether a request is for the page, so that its rules are not charged. */
int rl_quota_is_page(request_rec *r);

/* Responds with the client's quotas under the rules of the section. What the handler returns. */
int rl_quota(request_rec *r, const rl_context *context);

#endif
