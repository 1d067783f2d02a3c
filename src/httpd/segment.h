/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment: shared memory that outlives a configuration.
 *
 * A segment is anonymous memory that httpd's parent maps and all children forked afterwards share.
 * It belongs to the process and is found again by its name each time the configuration is read, so
 * what lies in it survives graceful restarts. It holds no pointers: the module may be loaded at
 * another address by then.
 *
 * A mapping belongs to each process by itself. When the parent replaces a segment it unmaps its
 * own mapping; children of earlier generations keep theirs, and with it the memory, until they end.
 *
 * Only the parent calls these functions, while it reads its configuration.
 */
#ifndef RL_SEGMENT_H
#define RL_SEGMENT_H

#include <apr_shm.h>

/* Retained as it is over reloads: another version of the module must find the same members. */
typedef struct {
    void *base;      /* aligned to a cache line; NULL: there is none */
    apr_size_t size; /* bytes */
    unsigned layout; /* version of what lies in it */
    apr_shm_t *shm;
} rl_segment;

/* The segment kept under a name; one without a base if there is none yet. */
rl_segment *rl_segment_kept(const char *name);

/* Maps a segment of size bytes, zeroed. */
apr_status_t rl_segment_map(rl_segment *segment, unsigned layout, apr_size_t size,
                            apr_pool_t *process);

/* Unmaps a segment that was never kept. */
void rl_segment_unmap(rl_segment *segment);

/* Keeps fresh in the place of what was kept, which the parent unmaps. */
void rl_segment_replace(rl_segment *kept, const rl_segment *fresh);

#endif
