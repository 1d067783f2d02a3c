/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context: what all children of the host share, found again or made when the configuration is read.
 *
 * A reload must never end the server, although the system may have less memory than when the server
 * started. So where there is no memory for the local tier, a smaller one is made: it counts as
 * exactly, for fewer clients.
 */
#include <string.h>

#include <apr_hash.h>

#include <httpd.h>
#include <http_log.h>

#include "decide/context.h"
#include "httpd/segment.h"

APLOG_USE_MODULE(ratelimit_redis);

/*
 * Version of the layout of all shared memory. Raise it with each change of a layout: a new version
 * of the module, loaded by a reload, must not read the old one's memory.
 */
#define LAYOUT 4

#define NAME(of) "ratelimit_redis:segment:" of

static int is_usable(const rl_segment *segment)
{
    return segment->base && segment->layout == LAYOUT;
}

/* --- The local tier ----------------------------------------------------------------------- */

/*
 * Maps the wanted size, or else half of it, and so on. What it maps is larger than the at_least
 * bytes that there are already, unless wanted is smaller.
 */
static apr_status_t map_local(server_rec *s, apr_size_t wanted, apr_size_t at_least,
                              rl_segment *fresh)
{
    apr_size_t least = wanted > at_least ? at_least + 1 : RL_LOCAL_MIN_SIZE;
    apr_status_t first = APR_SUCCESS;

    for (apr_size_t size = wanted; size >= least; size /= 2) {
        apr_status_t status = rl_segment_map(fresh, LAYOUT, size, s->process->pool);

        if (status == APR_SUCCESS && size < wanted)
            ap_log_error(APLOG_MARK, APLOG_ERR, first, s, "ratelimit: no shared memory of %"
                         APR_SIZE_T_FMT " bytes (RateLimitSharedMemory): %" APR_SIZE_T_FMT
                         " bytes are used instead, with room for fewer counts", wanted, size);
        if (status == APR_SUCCESS)
            return status;
        if (size == wanted)
            first = status;
    }
    return first;
}

static rl_local *make_local(const rl_segment *segment)
{
    unsigned char seed[RL_LOCAL_SEED];

    apr_generate_random_bytes(seed, sizeof(seed));
    return rl_local_init(segment->base, segment->size, seed, apr_time_as_msec(apr_time_now()));
}

static void move_counts(server_rec *s, rl_local *to, const rl_segment *to_segment,
                        const rl_local *from, const rl_segment *from_segment)
{
    uint64_t live, moved = rl_local_move(to, from, rl_local_clock(), &live);

    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s, "ratelimit: RateLimitSharedMemory is %"
                 APR_SIZE_T_FMT " bytes now and was %" APR_SIZE_T_FMT ": %" APR_UINT64_T_FMT " of %"
                 APR_UINT64_T_FMT " counts, blocks and denials of this host were kept, the others "
                 "start at zero", to_segment->size, from_segment->size, moved, live);
}

/* The local tier: the existing one, or a new one if its size changes. */
static rl_local *share_local(server_rec *s, rl_context *context)
{
    apr_size_t wanted = context->settings->shared_memory;
    rl_segment *kept = rl_segment_kept(NAME("local")), fresh;
    rl_local *former = is_usable(kept) ? rl_local_attach(kept->base, kept->size) : NULL, *local;
    apr_status_t status;

    context->local_size = kept->size;
    if (former && kept->size == wanted)
        return former;
    status = map_local(s, wanted, former ? kept->size : 0, &fresh);
    if (status != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_ERR, status, s, "ratelimit: no shared memory of %"
                     APR_SIZE_T_FMT " bytes (RateLimitSharedMemory): %s", wanted,
                     former ? "what is there stays in use" : "nothing can be limited");
        return former;
    }
    local = make_local(&fresh);
    if (former)
        move_counts(s, local, &fresh, former, kept);
    else if (kept->base)
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s, "ratelimit: another version of the module "
                     "was here before: all counts and blocks of this host start at zero");
    rl_segment_replace(kept, &fresh);
    context->local_size = kept->size;
    return local;
}

/* --- The other segments, whose sizes are fixed -------------------------------------------- */

static void *share(server_rec *s, const char *name, apr_size_t size)
{
    rl_segment *kept = rl_segment_kept(name), fresh;
    apr_status_t status;

    if (is_usable(kept) && kept->size == size)
        return kept->base;
    status = rl_segment_map(&fresh, LAYOUT, size, s->process->pool);
    if (status != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, status, s, "ratelimit: no shared memory of %"
                     APR_SIZE_T_FMT " bytes: nothing can be limited", size);
        return NULL;
    }
    rl_segment_replace(kept, &fresh);
    return kept->base;
}

int rl_context_share(server_rec *s, rl_context *context)
{
    const rl_url *redis = context->settings->redis;
    void *stats = share(s, NAME("stats"), rl_stats_size());
    void *top_denied = stats ? share(s, NAME("top_denied"), rl_top_denied_size()) : NULL;
    void *delayed = top_denied ? share(s, NAME("delayed"), rl_delayed_size()) : NULL;
    void *breakers = delayed ? share(s, NAME("breakers"), sizeof(rl_breakers)) : NULL;
    rl_local *local = breakers ? share_local(s, context) : NULL;

    if (!local)
        return 0;
    context->stats = rl_stats_attach(stats);
    if (!context->stats)
        context->stats = rl_stats_init(stats);
    context->top_denied = rl_top_denied_attach(top_denied);
    if (!context->top_denied)
        context->top_denied = rl_top_denied_init(top_denied);
    context->delayed = delayed;
    context->breakers = breakers;
    if (redis && redis->kind == RL_URL_SINGLE)
        rl_breaker_of(breakers, redis->endpoints[0].name); /* so that pages show it at once */
    context->local = local;
    return 1;
}

/* --- Rows of the statistics --------------------------------------------------------------- */

/* The rules that are not off, one for each name. */
static apr_hash_t *by_name(const apr_array_header_t *rules, apr_pool_t *pool)
{
    apr_hash_t *names = apr_hash_make(pool);

    for (int i = 0; i < rules->nelts; i++) {
        const rl_rule *rule = APR_ARRAY_IDX(rules, i, rl_written_rule).rule;

        if (!rule->off)
            apr_hash_set(names, rule->name, APR_HASH_KEY_STRING, rule);
    }
    return names;
}

static void warn_of_names(server_rec *s, int level, unsigned sharing, unsigned names)
{
    ap_log_error(APLOG_MARK, level, 0, s, "ratelimit: %u of %u names of rules share the row "
                 "\"(others)\" of server-status and metrics, which have rows for %d names; names "
                 "of earlier configurations keep theirs until httpd is stopped", sharing, names,
                 RL_STATS_ROWS - 1);
}

void rl_context_give_rows(server_rec *s, const rl_context *context, const apr_array_header_t *rules,
                        apr_pool_t *scratch)
{
    apr_hash_t *sharing = apr_hash_make(scratch);

    for (int i = 0; i < rules->nelts; i++) {
        rl_rule *rule = APR_ARRAY_IDX(rules, i, rl_written_rule).rule;

        if (rule->off)
            continue;
        rule->row = rl_stats_row(context->stats, rule->name);
        if (rule->row == RL_STATS_ROWS - 1)
            apr_hash_set(sharing, rule->name, APR_HASH_KEY_STRING, rule);
    }
    if (apr_hash_count(sharing))
        warn_of_names(s, APLOG_WARNING, apr_hash_count(sharing),
                      apr_hash_count(by_name(rules, scratch)));
}

void rl_context_check_names(server_rec *s, const apr_array_header_t *rules, apr_pool_t *scratch)
{
    unsigned names = apr_hash_count(by_name(rules, scratch));

    if (names >= RL_STATS_ROWS)
        warn_of_names(s, APLOG_WARNING | APLOG_STARTUP, names - RL_STATS_ROWS + 1, names);
}

/* --- At httpd -t -------------------------------------------------------------------------- */

void rl_context_check_size(server_rec *s, apr_size_t size, apr_pool_t *scratch)
{
    rl_segment trial;
    apr_status_t status = rl_segment_map(&trial, LAYOUT, size, scratch);

    if (status == APR_SUCCESS)
        rl_segment_unmap(&trial);
    else
        ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, status, s, "ratelimit: this host "
                     "has no shared memory of %" APR_SIZE_T_FMT " bytes now; the server will use "
                     "less than RateLimitSharedMemory asks for", size);
}
