/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker: keeps requests from a server of Redis that does not answer.
 *
 * Each server has one breaker, in memory that all children share, so that all know what one of them
 * has found. Breakers lie in a table of fixed size, found by the names of the servers. All
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
    _Atomic uint64_t claim_until; /* ms: when the owner of the probe loses its claim */
    _Atomic uint64_t backoff_ms;
    _Atomic uint64_t probes;      /* answered in time, in a row; RAMPING: requests */
    _Atomic uint64_t opened;      /* how often it opened */
    _Alignas(64) rl_logger_pace pace; /* of breaker_log.c */
    _Atomic int logged;               /* likewise: the line of the last opening was written */
} rl_breaker;

typedef struct {
    int64_t retry_min_ms;
    int64_t retry_max_ms;
} rl_breaker_options;

/* Whether a request may be sent to Redis: always when closed, sometimes when ramping. */
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
 * Opens it at once, for errors that the next call would meet as well. The first probe is due after
 * next_ms, or up to half of that sooner. Returns 1 if it was not open.
 */
int rl_breaker_open(rl_breaker *b, int64_t next_ms, int64_t now_ms);

/*
 * While open: returns 1 if a probe is due and the caller is now its only owner, for lasts_ms. The
 * owner reports with rl_breaker_probed(). The claim of an owner that dies ends after lasts_ms.
 */
int rl_breaker_claim_probe(rl_breaker *b, int64_t lasts_ms, int64_t now_ms);

/*
 * Whether it is open, but no child has probed for longer than the longest pause between two probes,
 * because there were no requests: the state is out of date.
 */
int rl_breaker_is_stale(const rl_breaker *b, const rl_breaker_options *options, int64_t now_ms);

/* The reason why it is open may be gone, as when the node has moved: the next probe is due now. */
void rl_breaker_probe_now(rl_breaker *b, const rl_breaker_options *options, int64_t now_ms);

/* Closes it and clears its failures: nothing uses the node any more, or it answered a request. */
void rl_breaker_reset(rl_breaker *b);

/*
 * Reports a probe. Three in a row that were answered in time close the breaker, ramping up over
 * half a second. Returns 1 if this one did.
 */
int rl_breaker_probed(rl_breaker *b, const rl_breaker_options *options, int in_time,
                      int64_t now_ms);

rl_breaker_state rl_breaker_read(const rl_breaker *b);

/* --- The table ---------------------------------------------------------------------------- */

#define RL_BREAKERS 256    /* breakers; when all are in use, further nodes share them */
#define RL_BREAKER_NAME 56 /* bytes of a name that are kept for pages, with the NUL */

/* In shared memory, zeroed at first: empty. */
typedef struct {
    _Alignas(64) _Atomic uint64_t errors[RL_ERROR_KINDS]; /* error replies of any node, by kind */
    _Atomic uint64_t ways; /* of calls that were made, to any node: see rl_probe_ways() */
    _Alignas(64) struct {
        _Atomic uint64_t id; /* hash of the node's name; 0: free */
        _Atomic char name[RL_BREAKER_NAME];
        rl_breaker breaker;
    } nodes[RL_BREAKERS];
} rl_breakers;

/* How many probes in a row were answered in time since it opened: less than three. */
unsigned rl_breaker_good_probes(const rl_breaker *b);

/* The breaker of the node of this name. */
rl_breaker *rl_breaker_of(rl_breakers *all, const char *name);

/* The i-th of the breakers in use, and its node's name; NULL if fewer are in use. */
rl_breaker *rl_breaker_at(rl_breakers *all, int i, char name[RL_BREAKER_NAME]);

#endif
