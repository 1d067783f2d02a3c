/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context: what all children of the host share, found again or made when the configuration is read.
 *
 * Only httpd's parent calls this, before it forks.
 */
#ifndef RL_CONTEXT_H
#define RL_CONTEXT_H

#include <httpd.h>

#include "decide/decide.h"

/*
 * Fills in all of context but the client; its settings must be there. The local tier is as large as
 * RateLimitSharedMemory says, or as the system allows. Where a reload changes its size it starts
 * with the counts of the one before.
 *
 * Returns 0, with context->local NULL and an error logged, if not even the least memory is to be had:
 * then nothing can be limited.
 */
int rl_context_share(server_rec *s, rl_context *context);

/*
 * Gives each rule the row of its name in the statistics, and warns if there are not enough: those
 * names that are left share the last one. rules: of rl_written_rule.
 */
void rl_context_give_rows(server_rec *s, const rl_context *context, const apr_array_header_t *rules,
                        apr_pool_t *scratch);

/* Warns, at httpd -t, if there are more names than rows. */
void rl_context_check_names(server_rec *s, const apr_array_header_t *rules, apr_pool_t *scratch);

/* Warns, at httpd -t, of a size that this system is not likely to give. */
void rl_context_check_size(server_rec *s, apr_size_t size, apr_pool_t *scratch);

#endif
