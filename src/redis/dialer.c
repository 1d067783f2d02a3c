/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dialer: where a node connects next, and when.
 *
 * A round begins with a new lookup of the name. Meanwhile it tries the addresses already known, the
 * one that worked last first, and fails when none is left. It waits for the resolver only while it
 * knows no address, at most as long as a connection may take. If a later lookup finds no address,
 * the known ones stay. If a name has the addresses of several servers, that of a replica is tried
 * last.
 *
 * Pauses double from pause_min_ms to pause_max_ms, and start short again once a call was answered.
 * So a server that accepts connections and closes them at once is not flooded, although each
 * attempt to connect succeeds.
 */
#include <string.h>

#include <apr_strings.h>

#include "redis/dialer.h"

#define IDLE_CLOSE_US 1000000 /* Redis's shortest timeout: what ends sooner was not idle */
#define AWAY_US 1000000       /* without a tick: failures of the round are then out of date */

struct rl_dialer {
    rl_dialer_options options;
    const rl_endpoint *at;
    rl_lookup *lookup;     /* under way; NULL: none */
    rl_address addresses[RL_ADDRESSES_MAX];
    int address_count;
    int address;           /* the next one to try */
    rl_address here;       /* connected to last */
    int stale;             /* the addresses are not tried until the resolver has answered */
    int in_round;
    int outdated;          /* there was no tick for AWAY_US since the last attempt */
    int64_t ticked_us;
    int waiting;           /* the round waits for the resolver, or for an endpoint */
    int64_t wait_until_us;
    int64_t retry_at_us;
    int64_t connected_us;
    int64_t pause_until_us; /* for paused_at, which closed its last connection at once */
    const rl_endpoint *paused_at;
    int64_t pause_ms;      /* the next pause */
};

rl_dialer *rl_dialer_create(apr_pool_t *pool, const rl_dialer_options *options,
                            const rl_endpoint *at)
{
    rl_dialer *d = apr_pcalloc(pool, sizeof(*d));

    d->options = *options;
    d->at = at;
    d->pause_ms = options->pause_min_ms;
    return d;
}

const rl_endpoint *rl_dialer_endpoint(const rl_dialer *d)
{
    return d->at;
}

/* --- Addresses ---------------------------------------------------------------------------- */

static void begin_resolve(rl_dialer *d)
{
    if (!d->at)
        return;
    if (d->at->path || rl_resolver_is_address(d->at->host)) {
        apr_cpystrn(d->addresses[0].text, d->at->path ? "" : d->at->host, RL_ADDRESS_SIZE);
        d->address_count = 1;
        d->stale = 0;
    }
    else if (!d->lookup) {
        d->lookup = rl_resolver_look_up(d->options.resolver, d->at->host);
    }
}

static void end_lookup(rl_dialer *d)
{
    if (d->lookup)
        rl_lookup_end(d->lookup);
    d->lookup = NULL;
}

/* The index of an address in the list; -1: it is not there. */
static int find(const rl_dialer *d, const rl_address *address)
{
    for (int i = 0; i < d->address_count; i++) {
        if (!strcmp(d->addresses[i].text, address->text))
            return i;
    }
    return -1;
}

/*
 * An answer without addresses, or without a new one, leaves the list and its order as they are. One
 * with a new address replaces the list, and the round starts it from the beginning.
 */
static void take_addresses(rl_dialer *d)
{
    rl_address addresses[RL_ADDRESSES_MAX];
    int count = d->lookup ? rl_lookup_read(d->lookup, addresses) : -1, known = 0;

    if (count < 0)
        return;
    end_lookup(d);
    for (int i = 0; i < count; i++)
        known += find(d, &addresses[i]) >= 0;
    d->stale = d->stale && count == 0;
    if (known == count && count <= d->address_count)
        return;
    memcpy(d->addresses, addresses, sizeof(addresses));
    d->address_count = count;
    d->address = 0;
}

/* Moves an address to another place in the list; those between the two keep their order. */
static void move_address(rl_dialer *d, int from, int to)
{
    rl_address moved = d->addresses[from];
    int step = from < to ? 1 : -1;

    for (int i = from; i != to; i += step)
        d->addresses[i] = d->addresses[i + step];
    d->addresses[to] = moved;
}

void rl_dialer_demote(rl_dialer *d)
{
    int i = find(d, &d->here);

    if (i >= 0)
        move_address(d, i, d->address_count - 1);
}

/* --- A round of attempts ------------------------------------------------------------------ */

void rl_dialer_tick(rl_dialer *d, int64_t now_us)
{
    d->outdated |= !d->options.threaded && now_us > d->ticked_us + AWAY_US;
    d->ticked_us = now_us;
    take_addresses(d);
}

int64_t rl_dialer_due(const rl_dialer *d, int is_probe)
{
    if (is_probe || d->at != d->paused_at || d->pause_until_us < d->retry_at_us)
        return d->retry_at_us;
    return d->pause_until_us;
}

static int is_none_left(const rl_dialer *d)
{
    return d->address >= d->address_count;
}

int rl_dialer_begin_round(rl_dialer *d, int64_t now_us)
{
    if (d->in_round && !(d->outdated && is_none_left(d)))
        return 0;
    d->in_round = 1;
    d->outdated = 0;
    d->address = 0;
    begin_resolve(d);
    take_addresses(d);
    d->wait_until_us = now_us + d->options.connect_ms * 1000;
    return 1;
}

rl_dial rl_dialer_next(rl_dialer *d, int64_t now_us, const char **address)
{
    d->waiting = !d->at || (d->lookup && (is_none_left(d) || d->stale)
                            && now_us < d->wait_until_us);
    if (d->waiting)
        return RL_DIAL_WAIT;
    if (!is_none_left(d)) {
        d->outdated = 0;
        *address = d->addresses[d->address++].text;
        return RL_DIAL_ADDRESS;
    }
    *address = d->address_count > 0 ? NULL : d->lookup ? "its name was not resolved in time"
                                                         : "its name has no address";
    return RL_DIAL_FAILED;
}

int rl_dialer_is_dialing(const rl_dialer *d)
{
    return d->in_round;
}

void rl_dialer_end_round(rl_dialer *d)
{
    d->in_round = d->waiting = 0;
}

void rl_dialer_retry_at(rl_dialer *d, int64_t at_us)
{
    d->retry_at_us = at_us;
}

static void lengthen_pause(rl_dialer *d)
{
    d->pause_ms *= 2;
    if (d->pause_ms > d->options.pause_max_ms)
        d->pause_ms = d->options.pause_max_ms;
}

void rl_dialer_failed(rl_dialer *d, int64_t now_us, int at_once)
{
    rl_dialer_end_round(d);
    lengthen_pause(d);
    d->retry_at_us = now_us + (at_once ? 0 : d->pause_ms * 1000);
}

void rl_dialer_connected(rl_dialer *d, int64_t now_us)
{
    rl_dialer_end_round(d);
    d->connected_us = now_us;
    if (d->address < 1)
        return; /* the list is newer than the connection */
    d->here = d->addresses[d->address - 1];
    move_address(d, d->address - 1, 0);
}

int rl_dialer_lost(rl_dialer *d, int was_proven, int64_t now_us)
{
    if (was_proven)
        d->pause_ms = d->options.pause_min_ms;
    if (was_proven || now_us >= d->connected_us + IDLE_CLOSE_US)
        return 0;
    d->paused_at = d->at;
    d->pause_until_us = now_us + d->pause_ms * 1000;
    lengthen_pause(d);
    return 1;
}

/* --- Other endpoints ---------------------------------------------------------------------- */

void rl_dialer_move(rl_dialer *d, const rl_endpoint *at)
{
    end_lookup(d);
    d->stale = 1;
    d->in_round = 0;
    d->retry_at_us = 0;
    d->at = at;
}

void rl_dialer_forget(rl_dialer *d)
{
    d->at = NULL;
    d->address_count = d->in_round = 0;
}

void rl_dialer_invalidate(rl_dialer *d)
{
    d->stale = 1;
}

void rl_dialer_stop(rl_dialer *d)
{
    end_lookup(d);
    rl_dialer_end_round(d);
}

void rl_dialer_restart(rl_dialer *d, int64_t now_us)
{
    d->retry_at_us = now_us;
    d->pause_ms = d->options.pause_min_ms;
}

/* --- Waiting ------------------------------------------------------------------------------ */

int rl_dialer_is_resolving(const rl_dialer *d)
{
    return d->lookup != NULL;
}

int rl_dialer_wait(const rl_dialer *d)
{
    return d->lookup ? rl_lookup_wait(d->lookup) : -1;
}

int64_t rl_dialer_waits_until(const rl_dialer *d)
{
    if (!d->waiting)
        return 0;
    return d->at ? d->wait_until_us : INT64_MAX;
}
