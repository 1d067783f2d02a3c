/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_denied: the identities that are denied most, in bounded shared memory.
 *
 * The status page and the log line that ends a flood need the text of an identity when none of its
 * requests is at hand. The size of the table is fixed, whatever clients send: a newcomer takes the
 * place of the identity in its set that had the fewest denials in the last minute, and only if the
 * newcomer has more.
 *
 * All functions except rl_top_denied_init() may be called from any thread of any process at any
 * time; none blocks, allocates or makes a system call. host_ms is rl_local_clock().
 */
#ifndef RL_TOP_DENIED_H
#define RL_TOP_DENIED_H

#include <stddef.h>
#include <stdint.h>

#include "core/limiter.h"

#define RL_DENIED_MAX 512 /* identities */

typedef struct rl_top_denied rl_top_denied;

/*
 * What is known of a denied identity. To be zeroed before it is filled in; texts are cut to what
 * fits. It is read from memory that other processes write, so a reader gets it only if its numbers
 * are within their ranges and its texts end.
 */
typedef struct {
    char identity[168]; /* as rl_identity_text() returns it: contains no secret */
    char rule[72];
    char address[48];   /* of the request that was reported last */
    char limit[32];     /* QUOTA/WINDOW as written */
    int64_t quota;
    int64_t window_ms;
    uint32_t algorithm; /* rl_algorithm */
    uint32_t source;    /* rl_source */
    uint32_t shadow;    /* 1: a shadow rule would have denied it */
    uint32_t log;       /* number of the violation log for its lines; 0: the error log */
} rl_top_denied_details;

typedef struct {
    uint64_t key;
    rl_top_denied_details details;
    uint64_t denials;     /* since it was entered */
    uint64_t last_minute; /* of the last sixty seconds, approximately */
    int64_t since_ms;     /* host_ms when it was entered */
    int64_t last_ms;      /* and of its latest denial */
} rl_top_denied_entry;

/* Bytes that the table needs. */
size_t rl_top_denied_size(void);

/* Makes a table in zeroed memory, before any other process uses it. */
rl_top_denied *rl_top_denied_init(void *memory);

/* The table that an earlier rl_top_denied_init() made there; NULL if it does not fit this code. */
rl_top_denied *rl_top_denied_attach(void *memory);

/* Counts a denial if key, which is a key of the local tier, is in the table. */
void rl_top_denied_count(rl_top_denied *table, uint64_t key, int64_t host_ms);

/*
 * Enters a key that was denied so many times since the last report, unless all identities in its
 * set had more denials in the last minute. If the key is in the table, replaces what is known of
 * it, and counts nothing.
 */
void rl_top_denied_enter(rl_top_denied *table, uint64_t key, const rl_top_denied_details *details,
                         uint32_t denials, int64_t host_ms);

/*
 * Reads place i, 0 to RL_DENIED_MAX - 1. Returns 0 if it is free, is being written, or was not
 * written completely; in the last case it also frees the place.
 */
int rl_top_denied_read(rl_top_denied *table, int i, int64_t host_ms, rl_top_denied_entry *entry);

#endif
