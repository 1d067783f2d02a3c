/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: what was decided over a request and all requests that it was redirected to.
 *
 * A chain begins with the first request that is decided over and lives in that request's pool; its
 * redirects, subrequests and error documents find it through r->prev and r->main. So none of them
 * is charged again, and the response to the last of them shows what the first was charged. A chain
 * has one outcome for each rule that applied, in the order of evaluation; an outcome is never
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

/* What one rule decided over one request, in that request's pool. */
typedef struct rl_outcome {
    const rl_rule *rule;
    rl_limit limit;        /* as it was applied: of a tier, an override, a host in fallback */
    rl_identity identity;
    const char *identity_text; /* NULL until it is needed: see rl_chain_identity_text() */
    rl_source source;
    rl_local_kind kind;    /* of the entry in the local tier that decides, or remembers */
    uint64_t key;          /* of that entry */
    uint64_t counter;      /* the key before there was a fallback: tells counters apart */
    const char *redis_key; /* NULL: Redis was not asked */
    int64_t cost;          /* 0: the chain has charged this counter already */
    int64_t now;           /* tick that the state is of */
    rl_state state;        /* with the charge, if it was charged */
    int64_t position;      /* where it was charged: see rl_limiter_position() */
    rl_state *seed;        /* in fallback: what Redis last reported, this host's share of it */
    int64_t lag_ms;        /* the state may be older than now by so much */
    int64_t delay_ms;      /* how long the rule delays the request */
    int shadow;
    int exempt;            /* the rule does not limit this client: nothing else is set */
    int denies;
    int reported;          /* denies, and has been logged by rl_violation_log() */
    int charged;           /* or pending, and then not settled yet */
    rl_kept *kept;         /* while it is pending; knows better than position where */
    int revalidates;       /* memory denies, and this request is to ask whether Redis still does */
    const rl_limit *remembered; /* then: the limit with which memory denies */
    int starts_block;      /* or for Redis to start a block */
    int uncounted;         /* Redis did not answer, and the rule does not count by itself */
    int fail_closed;       /* and says on-failure=closed */
    struct rl_outcome *next;
} rl_outcome;

typedef struct {
    rl_outcome *first;   /* in the order of evaluation */
    rl_outcome **end;
    rl_outcome *denial;  /* the one that a client has to wait for the longest */
    rl_outcome *shadow;  /* one that would have denied */
    int replied;         /* headers and notes were set before */
    const rl_section *section; /* where the last decision was made */
    const char *uri;     /* for what path */
    rl_phase phase;      /* and for rules up to which phase */
    rl_evaluation evaluation; /* of the request that is decided over */
    int64_t waited_us;   /* for Redis: before the response, and again after it */
    int fallback;        /* Redis did not answer */
    int on_response;     /* something is pending until the response is known */
    rl_outcome *closed;  /* Redis did not answer, and this rule says on-failure=closed */
} rl_chain;

/* The chain a request belongs to, or NULL if nothing was decided yet. */
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

/* The chain a request belongs to; begun with this request if there is none. */
rl_chain *rl_chain_begin(request_rec *r);

/* Sets the request, of the chain, and the section that the next rules are evaluated for. */
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
