/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialer: where a node connects next, and when.
 *
 * A host name may have several addresses. The dialer looks the name up again for each round of
 * attempts, orders the addresses, and spaces the attempts out after failures. It opens no
 * connection: the node (node.h) takes the next address, connects, and reports the result.
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
    int threaded;          /* 0: the owner runs only during requests */
    rl_resolver *resolver; /* the owner's */
} rl_dialer_options;

typedef enum { RL_DIAL_ADDRESS, RL_DIAL_WAIT, RL_DIAL_FAILED } rl_dial;

/* Makes a dialer for an endpoint; NULL: the endpoint is not known yet. options are copied. */
rl_dialer *rl_dialer_create(apr_pool_t *pool, const rl_dialer_options *options,
                            const rl_endpoint *at);

/* The endpoint, or NULL. */
const rl_endpoint *rl_dialer_endpoint(const rl_dialer *dialer);

/* Takes the resolver's answer if it has come. Call it before each wait. */
void rl_dialer_tick(rl_dialer *dialer, int64_t now_us);

/* --- A round of attempts ------------------------------------------------------------------ */

/* When the next attempt may be made. A probe of an open breaker does not wait for the pause. */
int64_t rl_dialer_due(const rl_dialer *dialer, int is_probe);

/* Begins a round unless one is under way. Returns 1 if it did. */
int rl_dialer_begin_round(rl_dialer *dialer, int64_t now_us);

/*
 * RL_DIAL_ADDRESS: *address is the next address of the round, valid until the next call.
 * RL_DIAL_WAIT: the resolver has not answered yet. RL_DIAL_FAILED: no address is left; *address is
 * then the reason for the log, or NULL if the error of the last attempt is.
 */
rl_dial rl_dialer_next(rl_dialer *dialer, int64_t now_us, const char **address);

/* Whether a round is under way. */
int rl_dialer_is_dialing(const rl_dialer *dialer);

/* Ends the round. */
void rl_dialer_end_round(rl_dialer *dialer);

/* Sets the time of the next attempt. */
void rl_dialer_retry_at(rl_dialer *dialer, int64_t at_us);

/* The round failed. The next one may begin after a pause, or at once if the caller paces it. */
void rl_dialer_failed(rl_dialer *dialer, int64_t now_us, int at_once);

/* The attempt at the address given last succeeded: that address is tried first next time. */
void rl_dialer_connected(rl_dialer *dialer, int64_t now_us);

/*
 * The connection ended. was_proven: a call was answered over it. Returns 1 if the server closed it
 * before it was of use: the next attempt at this endpoint then waits for a pause.
 */
int rl_dialer_lost(rl_dialer *dialer, int was_proven, int64_t now_us);

/* --- Other endpoints ---------------------------------------------------------------------- */

/* Sets another endpoint, or the same one again, without a pause; NULL: not known yet. */
void rl_dialer_move(rl_dialer *dialer, const rl_endpoint *at);

/* Drops the endpoint and its addresses. */
void rl_dialer_forget(rl_dialer *dialer);

/* The endpoint has changed in place: known addresses are not tried until it has been looked up. */
void rl_dialer_invalidate(rl_dialer *dialer);

/* The server at the address connected to last has another role: that address is tried last. */
void rl_dialer_demote(rl_dialer *dialer);

/* Ends the lookup and the round. */
void rl_dialer_stop(rl_dialer *dialer);

/* Begins again as if nothing had failed. */
void rl_dialer_restart(rl_dialer *dialer, int64_t now_us);

/* --- Waiting ------------------------------------------------------------------------------ */

/* Whether a lookup is under way. */
int rl_dialer_is_resolving(const rl_dialer *dialer);

/* A descriptor that becomes readable with its answer; -1: none. */
int rl_dialer_wait(const rl_dialer *dialer);

/*
 * When the round stops waiting for an address; INT64_MAX: it waits for an endpoint; 0: it does not
 * wait.
 */
int64_t rl_dialer_waits_until(const rl_dialer *dialer);

#endif
