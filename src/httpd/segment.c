/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment: shared memory that outlives a configuration.
 *
 * Mappings belong to the process's pool, not to one below it: when httpd ends, its other pools are
 * destroyed first, and while they are, the parent still reads from segments what it has to log. The
 * cleanup that unmaps a segment is a function of APR, not of this module, which may be unloaded by
 * then.
 */
#include <httpd.h>
#include <http_config.h>

#include "httpd/segment.h"

#define LINE 64 /* bytes of a cache line */

rl_segment *rl_segment_kept(const char *name)
{
    rl_segment *kept = ap_retained_data_get(name);

    return kept ? kept : ap_retained_data_create(name, sizeof(*kept)); /* zeroed */
}

apr_status_t rl_segment_map(rl_segment *segment, unsigned layout, apr_size_t size,
                            apr_pool_t *process)
{
    apr_status_t status = apr_shm_create(&segment->shm, size + LINE, NULL, process);

    if (status != APR_SUCCESS)
        return status;
    segment->base = (void *)APR_ALIGN((apr_uintptr_t)apr_shm_baseaddr_get(segment->shm), LINE);
    segment->size = size;
    segment->layout = layout;
    return APR_SUCCESS;
}

void rl_segment_unmap(rl_segment *segment)
{
    apr_shm_destroy(segment->shm);
}

void rl_segment_replace(rl_segment *kept, const rl_segment *fresh)
{
    if (kept->base)
        rl_segment_unmap(kept);
    *kept = *fresh;
}
