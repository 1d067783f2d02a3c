/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_denied: who is denied the most right now, in bounded shared memory.
 *
 * For the status page, and for the line that ends a flood when its client has gone away: both need
 * the text of an identity when no request of it is at hand. The table is as large as it is,
 * whatever clients send: a newcomer takes the place of the one in its set that was denied least in
 * the last minute, and only if that was less often than the newcomer.
 *
 * All functions but rl_top_denied_init() may be called from any thread of any process at any time;
 * none blocks, allocates or calls the system. host_ms is rl_local_clock().
 */
#ifndef RL_TOP_DENIED_H
#define RL_TOP_DENIED_H

#include <stddef.h>
#include <stdint.h>

#include "core/limiter.h"

#define RL_DENIED_MAX 512 /* identities */

typedef struct rl_top_denied rl_top_denied;

/* Who it is. Texts are shortened to what fits. Zeroed before it is filled in. */
typedef struct {
    char identity[168]; /* as rl_identity_text() gives it: holds no secret */
    char rule[72];
    char address[48];   /* of the request that was reported last */
    char limit[32];     /* QUOTA/WINDOW as written */
    int64_t quota;
    int64_t window_ms;
    uint32_t algorithm; /* rl_algorithm */
    uint32_t source;    /* rl_source */
    uint32_t shadow;    /* would be denied, by a shadow rule */
    uint32_t log;       /* the violation log that has its lines; 0: the error log */
} rl_top_denied_key;

typedef struct {
    uint64_t key;
    rl_top_denied_key who;
    uint64_t denials;     /* since it is in the table */
    uint64_t last_minute; /* the like for the sixty seconds before, about */
    int64_t since_ms;     /* on the host's clock */
    int64_t last_ms;
} rl_top_denied_entry;

/* Bytes the table takes. */
size_t rl_top_denied_size(void);

/* Makes a table in zeroed memory; the table that is there already, or NULL if it does not fit. */
rl_top_denied *rl_top_denied_init(void *memory);
rl_top_denied *rl_top_denied_attach(void *memory);

/* Counts a denial of key, the key of an entry of the local tier, if it is in the table. */
void rl_top_denied_count(rl_top_denied *table, uint64_t key, int64_t host_ms);

/*
 * Brings key into the table, if it is not there and was denied often enough: so many times since
 * this was last said. Renews what is known of it if it is there.
 */
void rl_top_denied_enter(rl_top_denied *table, uint64_t key, const rl_top_denied_key *who,
                         uint32_t denials, int64_t host_ms);

/* Reads place i of RL_DENIED_MAX. Returns 0 if nobody is there. */
int rl_top_denied_read(rl_top_denied *table, int i, int64_t host_ms, rl_top_denied_entry *entry);

#endif
