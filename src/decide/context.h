/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context: what a child of httpd decides with.
 *
 * Most of it lies in memory that all children of the host share, found again or made when the
 * configuration is read: the local tier, the statistics, the most denied identities, the delayed
 * requests and the breakers. A reload keeps that memory, with the counts in it.
 *
 * httpd's parent calls the functions, before it forks: nothing else runs then.
 */
#ifndef RL_CONTEXT_H
#define RL_CONTEXT_H

#include <httpd.h>

#include "config/config.h"
#include "redis/breaker.h"
#include "redis/client.h"
#include "redis/keeper.h"
#include "rule/rule.h"
#include "shm/delayed.h"
#include "shm/local.h"
#include "shm/stats.h"
#include "shm/top_denied.h"

/* Set when the configuration is read; client and keeper when the child starts: see child.h. */
typedef struct {
    const rl_settings *settings;
    rl_local *local;       /* NULL: no shared memory, so nothing is limited */
    apr_size_t local_size; /* bytes */
    rl_stats *stats;
    rl_top_denied *top_denied;
    rl_delayed *delayed;
    rl_breakers *breakers; /* of the nodes of Redis */
    rl_client *client;     /* this child's; NULL: this host counts alone */
    rl_keeper *keeper;     /* NULL: no rule has charge-on=, or no descriptor was left */
} rl_context;

/*
 * Fills in the members that are shared memory; context->settings must be set. The local tier gets
 * the size of RateLimitSharedMemory, or the largest half, quarter, ... of it that the system
 * provides. If a reload changes its size, the counts move to the new one.
 *
 * Returns 1, or 0 with context->local NULL and an error logged if the system provides less than
 * the smallest size: then nothing can be limited.
 */
int rl_context_share(server_rec *s, rl_context *context);

/*
 * Sets the row of each rule in the statistics, one for each name. Names beyond RL_STATS_ROWS - 1
 * share the last row, and a warning is logged. rules: of rl_written_rule. Allocates in scratch.
 */
void rl_context_give_rows(server_rec *s, const rl_context *context, const apr_array_header_t *rules,
                          apr_pool_t *scratch);

/* At httpd -t: warns if the rules have more names than there are rows. */
void rl_context_check_names(server_rec *s, const apr_array_header_t *rules, apr_pool_t *scratch);

/* At httpd -t: warns if the system does not provide size bytes of shared memory now. */
void rl_context_check_size(server_rec *s, apr_size_t size, apr_pool_t *scratch);

#endif
