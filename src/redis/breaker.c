/* SPDX-License-Identifier: Apache-2.0 */
/*
 * breaker: keeps requests from a server of Redis that does not answer.
 *
 * Closed, it lets all requests through. Open, it lets none through, and one owner at a time probes;
 * a claim ends by itself, so a dead owner blocks nothing. After three good probes it ramps: for
 * half a second it lets a growing share of requests through, so that a Redis that has just come
 * back does not get them all at once. Then it is closed.
 *
 * Every field is an independent atomic. Races between them shift a probe or a count by one, which
 * is harmless. Opening must happen once, and is a compare-and-swap.
 */
#include <stddef.h>

#include "redis/breaker.h"
#include "core/atomics.h"

#define RAMP_MS 500
#define RAMP_STEPS 8
#define PROBES_TO_CLOSE 3
#define RECONNECTS_TO_OPEN 2
#define CALLS_TO_JUDGE 20

_Static_assert(offsetof(rl_breaker, pace) == 64, "what each call reads is one cache line");
_Static_assert(sizeof(((rl_breakers *)0)->nodes[0]) == 192, "an entry is three cache lines");

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* From half of ms to all of it, so that hosts that lost Redis together do not probe together. */
static uint64_t jittered(uint64_t ms, int64_t now_ms)
{
    uint64_t noise = ((uint64_t)now_ms * UINT64_C(0x9e3779b97f4a7c15)) >> 40;

    return ms - (ms / 2) * (noise & 0xff) / 256;
}

rl_breaker_state rl_breaker_read(const rl_breaker *b)
{
    return (rl_breaker_state)(load(&b->state) & 0xff);
}

int rl_breaker_allows(rl_breaker *b, int64_t now_ms)
{
    uint64_t state = load(&b->state), share;
    int64_t age;

    if (state == RL_BREAKER_CLOSED)
        return 1;
    if ((state & 0xff) == RL_BREAKER_OPEN)
        return 0;
    age = now_ms - (int64_t)(state >> 8); /* below 0: the clock was read before the last probe's */
    if (age >= RAMP_MS) {
        swap(&b->state, &state, RL_BREAKER_CLOSED);
        return 1;
    }
    share = age > 0 ? 1 + (uint64_t)age * RAMP_STEPS / RAMP_MS : 1;
    return add(&b->probes, 1) % RAMP_STEPS < share;
}

/* The state comes last: a process that dies on the way leaves the breaker closed. */
int rl_breaker_open(rl_breaker *b, int64_t next_ms, int64_t now_ms)
{
    uint64_t state = load(&b->state);

    if ((state & 0xff) == RL_BREAKER_OPEN)
        return 0;
    store(&b->backoff_ms, (uint64_t)next_ms);
    store(&b->probe_at, (uint64_t)now_ms + jittered((uint64_t)next_ms, now_ms));
    store(&b->claim_until, 0);
    store(&b->probes, 0);
    do {
        if ((state & 0xff) == RL_BREAKER_OPEN)
            return 0;
    } while (!swap(&b->state, &state, RL_BREAKER_OPEN));
    add(&b->opened, 1);
    return 1;
}

int rl_breaker_count(rl_breaker *b, const rl_breaker_options *options, rl_failure failure,
                     int64_t now_ms)
{
    uint64_t second = (uint64_t)now_ms / 1000 << 32;
    uint64_t recent = load(&b->recent), next, calls, failures;

    do {
        next = recent >> 32 << 32 == second ? recent : second;
        calls = next >> 16 & 0xffff;
        failures = next & 0xffff;
        if (calls == 0xffff) /* halve both: the share stays */
            calls /= 2, failures /= 2;
        calls++;
        failures += failure != RL_ANSWERED;
        next = second | calls << 16 | failures;
    } while (!swap(&b->recent, &recent, next));
    if (failure == RL_ANSWERED || calls < CALLS_TO_JUDGE || failures * 2 <= calls)
        return 0;
    return rl_breaker_open(b, options->retry_min_ms, now_ms);
}

int rl_breaker_count_reconnect(rl_breaker *b, const rl_breaker_options *options, int connected,
                               int64_t now_ms)
{
    if (connected) {
        store(&b->reconnects, 0);
        return 0;
    }
    if (add(&b->reconnects, 1) + 1 < RECONNECTS_TO_OPEN)
        return 0;
    return rl_breaker_open(b, options->retry_min_ms, now_ms);
}

int rl_breaker_claim_probe(rl_breaker *b, int64_t lasts_ms, int64_t now_ms)
{
    uint64_t until = load(&b->claim_until);

    if (rl_breaker_read(b) != RL_BREAKER_OPEN || (uint64_t)now_ms < load(&b->probe_at)
        || (uint64_t)now_ms < until)
        return 0;
    return swap(&b->claim_until, &until, (uint64_t)(now_ms + lasts_ms));
}

int rl_breaker_probed(rl_breaker *b, const rl_breaker_options *options, int in_time,
                      int64_t now_ms)
{
    uint64_t backoff = load(&b->backoff_ms), open = RL_BREAKER_OPEN;
    int closes = 0;

    if (!in_time) {
        backoff = least(backoff * 2, (uint64_t)options->retry_max_ms);
        store(&b->probes, 0);
    }
    else if (add(&b->probes, 1) + 1 < PROBES_TO_CLOSE) {
        backoff = (uint64_t)options->retry_min_ms;
    }
    else {
        store(&b->reconnects, 0);
        store(&b->recent, 0);
        closes = swap(&b->state, &open, (uint64_t)now_ms << 8 | RL_BREAKER_RAMPING);
    }
    store(&b->backoff_ms, backoff);
    store(&b->probe_at, (uint64_t)now_ms + jittered(backoff, now_ms));
    store(&b->claim_until, 0);
    return closes;
}

int rl_breaker_is_stale(const rl_breaker *b, const rl_breaker_options *options, int64_t now_ms)
{
    uint64_t due = load(&b->probe_at), until = load(&b->claim_until);

    return rl_breaker_read(b) == RL_BREAKER_OPEN
        && (uint64_t)now_ms > (due > until ? due : until) + (uint64_t)options->retry_max_ms;
}

unsigned rl_breaker_good_probes(const rl_breaker *b)
{
    return (unsigned)load(&b->probes);
}

void rl_breaker_probe_now(rl_breaker *b, const rl_breaker_options *options, int64_t now_ms)
{
    store(&b->backoff_ms, (uint64_t)options->retry_min_ms);
    store(&b->probe_at, (uint64_t)now_ms);
}

void rl_breaker_reset(rl_breaker *b)
{
    store(&b->reconnects, 0);
    store(&b->recent, 0);
    store(&b->state, RL_BREAKER_CLOSED);
}

/* --- The table ---------------------------------------------------------------------------- */

/* FNV-1a, but never 0. */
static uint64_t id_of(const char *name)
{
    uint64_t id = UINT64_C(0xcbf29ce484222325);

    for (; *name; name++)
        id = (id ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return id ? id : 1;
}

/*
 * Entries are taken from the first on and never given back. The process that takes one then writes
 * the name; if it dies before, pages show the node without a name.
 */
rl_breaker *rl_breaker_of(rl_breakers *all, const char *name)
{
    uint64_t id = id_of(name);

    for (int i = 0; i < RL_BREAKERS; i++) {
        uint64_t found = 0;

        if (swap(&all->nodes[i].id, &found, id)) {
            for (int n = 0; n < RL_BREAKER_NAME - 1 && name[n]; n++)
                store(&all->nodes[i].name[n], name[n]);
            found = id;
        }
        if (found == id)
            return &all->nodes[i].breaker;
    }
    return &all->nodes[id % RL_BREAKERS].breaker;
}

rl_breaker *rl_breaker_at(rl_breakers *all, int i, char name[RL_BREAKER_NAME])
{
    if (i >= RL_BREAKERS || !load(&all->nodes[i].id))
        return NULL;
    for (int n = 0; n < RL_BREAKER_NAME; n++)
        name[n] = load(&all->nodes[i].name[n]);
    return &all->nodes[i].breaker;
}
