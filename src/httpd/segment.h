/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment: shared memory that outlives a configuration.
 *
 * A segment is anonymous memory that httpd's parent maps and all children forked afterwards share.
 * The parent finds it again by its name each time the configuration is read, so its contents
 * survive graceful restarts. It must not contain pointers, because the module may be loaded at
 * another address after a restart.
 *
 * Each process has its own mapping. When the parent replaces a segment, it unmaps its mapping;
 * children of earlier generations keep theirs, and with it the memory, until they end.
 *
 * Only the parent calls these functions, while it reads its configuration.
 */
#ifndef RL_SEGMENT_H
#define RL_SEGMENT_H

#include <apr_shm.h>

/* Kept over reloads: another version of the module has to have the same members. */
typedef struct {
    void *base;      /* aligned to a cache line; NULL: no memory */
    apr_size_t size; /* bytes */
    unsigned layout; /* version of the contents */
    apr_shm_t *shm;
} rl_segment;

/* The segment that is kept under a name; its base is NULL if nothing is kept yet. */
rl_segment *rl_segment_kept(const char *name);

/* Maps a segment of size bytes, zeroed, for as long as the pool process lives. */
apr_status_t rl_segment_map(rl_segment *segment, unsigned layout, apr_size_t size,
                            apr_pool_t *process);

/* Unmaps a segment that is not kept. */
void rl_segment_unmap(rl_segment *segment);

/* Keeps fresh in place of what is kept, which is unmapped. */
void rl_segment_replace(rl_segment *kept, const rl_segment *fresh);

#endif
