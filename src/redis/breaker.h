/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker: whether it makes sense to ask a node of Redis at all.
 *
 * One breaker per node, in memory that all children share, so that what one learns all know. They
 * stand in a table of fixed size, found by the names of the nodes. All
 * functions may be called from any thread of any process; none blocks. Times are ms on a clock that
 * all processes of the host share and that never steps back: rl_link_clock() / 1000.
 */
#ifndef RL_BREAKER_H
#define RL_BREAKER_H

#include <stdint.h>

#include "core/failure.h"
#include "redis/errors.h"
#include "redis/logger.h"

typedef enum { RL_BREAKER_CLOSED, RL_BREAKER_OPEN, RL_BREAKER_RAMPING } rl_breaker_state;

/* In shared memory, zeroed at first: closed. */
typedef struct {
    _Atomic uint64_t state;       /* rl_breaker_state; RAMPING: since << 8 | state */
    _Atomic uint64_t recent;      /* second << 32 | calls << 16 | failures */
    _Atomic uint64_t reconnects;  /* failed in a row, of any links */
    _Atomic uint64_t probe_at;    /* ms: when the next probe is due */
    _Atomic uint64_t claim_until; /* ms: until when a probe has an owner */
    _Atomic uint64_t backoff_ms;
    _Atomic uint64_t probes;      /* that came back in time, in a row */
    _Atomic uint64_t opened;      /* how often it opened */
    _Alignas(64) rl_logger_pace pace; /* of breaker_log.c */
    _Atomic int logged;               /* likewise */
} rl_breaker;

typedef struct {
    int64_t retry_min_ms;
    int64_t retry_max_ms;
} rl_breaker_options;

/* May this request ask Redis? */
int rl_breaker_allows(rl_breaker *b, int64_t now_ms);

/*
 * Counts a call that was made. Opens when more than half of at least 20 calls in a second fail.
 * Returns 1 if this call opened it.
 */
int rl_breaker_count(rl_breaker *b, const rl_breaker_options *options, rl_failure failure,
                     int64_t now_ms);

/*
 * Counts an attempt to reconnect. Two failures in a row, of one link or of two, open it. Returns 1
 * if this one did.
 */
int rl_breaker_count_reconnect(rl_breaker *b, const rl_breaker_options *options, int connected,
                               int64_t now_ms);

/*
 * Opens it at once, for errors that the next call would meet too; next_ms is how long until the
 * first probe. Returns 1 if it was not open.
 */
int rl_breaker_open(rl_breaker *b, int64_t next_ms, int64_t now_ms);

/*
 * While open: 1 if a probe is due and the caller is now its only owner, for lasts_ms; it then
 * reports with rl_breaker_probed(). An owner that dies loses the claim when it ends.
 */
int rl_breaker_claim_probe(rl_breaker *b, int64_t lasts_ms, int64_t now_ms);

/*
 * Open, but nobody has looked after Redis for longer than the longest pause between two probes, as
 * no request came by: what was found then says nothing of now.
 */
int rl_breaker_is_stale(const rl_breaker *b, const rl_breaker_options *options, int64_t now_ms);

/* Open for a reason that is gone, as when the node has moved: the next probe is due at once. */
void rl_breaker_probe_now(rl_breaker *b, const rl_breaker_options *options, int64_t now_ms);

/* Closed as if nothing had been: nobody asks the node any more, or it has answered after long. */
void rl_breaker_reset(rl_breaker *b);

/* Three probes in time, one behind the other, close it, over half a second. Returns 1 then. */
int rl_breaker_probed(rl_breaker *b, const rl_breaker_options *options, int in_time,
                      int64_t now_ms);

rl_breaker_state rl_breaker_read(const rl_breaker *b);

/* --- The table ---------------------------------------------------------------------------- */

#define RL_BREAKERS 256   /* nodes with a breaker of their own; what is beyond shares with others */
#define RL_BREAKER_NAME 56 /* bytes of a name that are kept for people, with the NUL */

/* In shared memory, zeroed at first: empty. */
typedef struct {
    _Alignas(64) _Atomic uint64_t errors[RL_ERROR_KINDS]; /* that any node has answered */
    _Atomic uint64_t ways; /* in which calls were asked for, of any node: rl_probe_ways() */
    _Alignas(64) struct {
        _Atomic uint64_t id; /* of the node's name; 0: nobody's */
        _Atomic char name[RL_BREAKER_NAME];
        rl_breaker breaker;
    } nodes[RL_BREAKERS];
} rl_breakers;

/* How many probes have come back in time, in a row, since it opened: less than three. */
unsigned rl_breaker_good_probes(const rl_breaker *b);

/* The breaker of a node, the same for all who call it by the same name. */
rl_breaker *rl_breaker_of(rl_breakers *all, const char *name);

/* The i-th of the breakers in use, and its node's name; NULL if there are not so many. */
rl_breaker *rl_breaker_at(rl_breakers *all, int i, char name[RL_BREAKER_NAME]);

#endif
