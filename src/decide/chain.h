/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: what was decided for a request and all requests that it was redirected to.
 *
 * A chain begins with the first request that rules are decided for and lives in that request's
 * pool. Redirects, subrequests and error documents find it through r->prev and r->main, so none of
 * them is charged again, and the last response shows what the first request was charged. A chain
 * has one outcome for each rule that applied, in the order of evaluation. Outcomes are never
 * removed.
 *
 * decide/ writes chains; response/ and observe/ read them. Not thread-safe: one thread serves a
 * request at a time.
 */
#ifndef RL_CHAIN_H
#define RL_CHAIN_H

#include <httpd.h>

#include "config/config.h"
#include "decide/context.h"
#include "decide/evaluate.h"
#include "decide/identity.h"
#include "redis/keeper.h"
#include "shm/local.h"
#include "shm/stats.h"

/* What one rule decided for one request, in that request's pool. */
typedef struct rl_outcome {
    const rl_rule *rule;
    rl_limit limit;        /* as applied: with the quota of a tier, an override or a fallback */
    rl_identity identity;
    const char *identity_text; /* NULL until it is needed: see rl_chain_identity_text() */
    rl_source source;
    rl_local_kind kind;    /* of the entry in the local tier: a count, or a snapshot of Redis */
    uint64_t key;          /* of that entry */
    uint64_t counter;      /* the key before any fallback: equal for outcomes of one counter */
    const char *redis_key; /* NULL: Redis was not asked */
    int64_t cost;          /* 0: the chain has charged this counter already */
    rl_view view;          /* of the counter; with the charge, if it was charged */
    int64_t position;      /* where it was charged: see rl_limiter_position() */
    int64_t delay_ms;      /* how long the rule delays the request */
    int shadow;
    int exempt;            /* unlimited, by a tier or an override: neither counts nor denies */
    int denies;
    int reported;          /* a denial that rl_violation_log() has logged */
    int charged;           /* charged, or pending and not settled yet */
    rl_kept *kept;         /* while pending: has the current position */
    int revalidates;       /* memory denies, and this request asks Redis whether it still does */
    const rl_limit *snapshot_limit; /* if so: the limit by which memory denies */
    int starts_block;      /* revalidates so that Redis starts the block */
    int dry;               /* revalidates because units of a leased counter may be free again */
    uint64_t lease_key;    /* of its leases in the local tier; 0: it has none */
    rl_lease lease;        /* what it spent: with RL_SOURCE_LEASE */
    int uncounted;         /* Redis did not answer, and on-failure= is open or closed */
    int fail_closed;       /* of a live rule: Redis did not answer, and on-failure= is closed */
    struct rl_outcome *next;
} rl_outcome;

typedef struct {
    rl_outcome *first;   /* in the order of evaluation */
    rl_outcome **end;
    rl_outcome *denial;  /* the denial with the longest wait */
    rl_outcome *shadow;  /* a shadow rule's outcome that would deny */
    int replied;         /* headers and notes have been set */
    const rl_section *section; /* where the last decision was made */
    const char *uri;     /* its path */
    rl_phase phase;      /* and the phase up to which rules were decided */
    rl_evaluation evaluation; /* of the request that is bound */
    int64_t waited_us;   /* for Redis; starts again at 0 after the response */
    int fallback;        /* Redis did not answer */
    int refills;         /* a lease is to be refilled */
    int on_response;     /* something is pending until the response is known */
    rl_outcome *closed;  /* an outcome that is fail_closed */
} rl_chain;

/* The chain that a request belongs to, or NULL if nothing was decided yet. */
static inline rl_chain *rl_chain_of(const request_rec *r)
{
    for (; r; r = r->prev ? r->prev : r->main) {
        rl_chain *chain = ap_get_module_config(r->request_config, &ratelimit_redis_module);

        if (chain)
            return chain;
    }
    return NULL;
}

/* An empty chain in the request's pool, which rl_chain_of() does not find. */
rl_chain *rl_chain_create(request_rec *r);

/* The chain that a request belongs to; begins one if there is none. */
rl_chain *rl_chain_begin(request_rec *r);

/* Sets the request of the chain and the section for which the next rules are evaluated. */
void rl_chain_bind_request(rl_chain *chain, request_rec *r, const rl_context *context,
                           const rl_section *section);

/* Whether the chain has an outcome of the rule. */
static inline int rl_chain_has(const rl_chain *chain, const rl_rule *rule)
{
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->rule == rule)
            return 1;
    }
    return 0;
}

/* Whether an outcome of the chain has charged the counter, or made it pending if on_response. */
static inline int rl_chain_is_charged(const rl_chain *chain, uint64_t counter, int on_response)
{
    for (const rl_outcome *o = chain->first; o; o = o->next) {
        if (o->counter == counter && o->charged && o->limit.on_response == on_response)
            return 1;
    }
    return 0;
}

static inline void rl_chain_add(rl_chain *chain, rl_outcome *outcome)
{
    *chain->end = outcome;
    chain->end = &outcome->next;
}

/* The text of an outcome's identity, in the pool of the request that is bound: see identity.h. */
const char *rl_chain_identity_text(rl_chain *chain, rl_outcome *outcome);

/* ms from now until the client may try again; RL_NEVER if waiting does not help. */
int64_t rl_outcome_retry_after(const rl_outcome *outcome);

#endif
