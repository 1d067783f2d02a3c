/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialer: where a node connects next, and when.
 *
 * A host name may have several addresses. The dialer resolves the name again for each round of
 * attempts, orders the addresses, and spaces the attempts out after failures. It opens no
 * connection: the node (node.h) asks for the next address, connects, and reports what came of it.
 *
 * One owner at a time, the node's. Nothing here waits. Times are µs on rl_link_clock().
 */
#ifndef RL_DIALER_H
#define RL_DIALER_H

#include <apr_pools.h>

#include "redis/resolver.h"
#include "redis/url.h"

typedef struct rl_dialer rl_dialer;

typedef struct {
    int64_t connect_ms;    /* how long a round without a known address waits for the resolver */
    int64_t pause_min_ms;  /* between two attempts; doubles with each failure */
    int64_t pause_max_ms;
    int threaded;          /* 0: the owner comes by only when requests do */
    rl_resolver *resolver; /* the owner's */
} rl_dialer_options;

typedef enum { RL_DIAL_ADDRESS, RL_DIAL_WAIT, RL_DIAL_FAILED } rl_dial;

/* Makes a dialer for an endpoint; NULL: the endpoint is not known yet. options are copied. */
rl_dialer *rl_dialer_create(apr_pool_t *pool, const rl_dialer_options *options,
                            const rl_endpoint *at);

/* The endpoint, or NULL. */
const rl_endpoint *rl_dialer_endpoint(const rl_dialer *dialer);

/* Takes the resolver's answer if it has come. To be called before each wait. */
void rl_dialer_tick(rl_dialer *dialer, int64_t now_us);

/* --- A round of attempts ------------------------------------------------------------------ */

/* When the next attempt may be made. A probe of an open breaker does not keep the pause. */
int64_t rl_dialer_due(const rl_dialer *dialer, int is_probe);

/* Begins a round unless one is under way. Returns 1 if it did. */
int rl_dialer_begin_round(rl_dialer *dialer, int64_t now_us);

/*
 * The next address of the round in *address, valid until the next call. RL_DIAL_WAIT: the resolver
 * may know more soon. RL_DIAL_FAILED: none is left; *address is then why, NULL if addresses were
 * tried and the last attempt's error says more.
 */
rl_dial rl_dialer_next(rl_dialer *dialer, int64_t now_us, const char **address);

/* A round is under way. */
int rl_dialer_is_dialing(const rl_dialer *dialer);

/* Ends the round; the next attempt may follow at once. */
void rl_dialer_end_round(rl_dialer *dialer);
void rl_dialer_retry_at(rl_dialer *dialer, int64_t at_us);

/* The round failed: the next one follows after a pause, or at once if the caller paces it. */
void rl_dialer_failed(rl_dialer *dialer, int64_t now_us, int at_once);

/* The attempt at the address given last succeeded: that address is tried first next time. */
void rl_dialer_connected(rl_dialer *dialer, int64_t now_us);

/*
 * The connection ended; was_proven if a call was answered over it. Returns 1 if the server closed
 * it too soon to be of use: the next attempt at this endpoint then waits for a pause.
 */
int rl_dialer_lost(rl_dialer *dialer, int was_proven, int64_t now_us);

/* --- Other endpoints ---------------------------------------------------------------------- */

/* Goes to another endpoint, or to the same one anew, without a pause; NULL: not known yet. */
void rl_dialer_move(rl_dialer *dialer, const rl_endpoint *at);

/* The endpoint is not known any more. */
void rl_dialer_forget(rl_dialer *dialer);

/* The endpoint has changed in place: its known addresses are not tried before new ones came. */
void rl_dialer_invalidate(rl_dialer *dialer);

/* The address connected to last is that of a server in another role: it is tried last. */
void rl_dialer_demote(rl_dialer *dialer);

/* Stops resolving, and begins anew as if nothing had failed. */
void rl_dialer_stop(rl_dialer *dialer);
void rl_dialer_restart(rl_dialer *dialer, int64_t now_us);

/* --- Waiting ------------------------------------------------------------------------------ */

/* The resolver was asked and has not answered. */
int rl_dialer_is_resolving(const rl_dialer *dialer);

/* A descriptor that is readable once it has; -1: none. */
int rl_dialer_wait(const rl_dialer *dialer);

/* Until when the round waits for an address; INT64_MAX: for an endpoint; 0: it does not wait. */
int64_t rl_dialer_waits_until(const rl_dialer *dialer);

#endif
