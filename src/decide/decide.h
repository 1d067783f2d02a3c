/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide: the flow of a decision.
 *
 * From a request and the rules of its section to a verdict: memory first, then one call to Redis
 * for all rules of the step, then the counts of this host. What was decided is kept with the
 * request chain, so that redirects and error documents neither charge again nor lose it.
 *
 * Thread-safe: all state is the request's own or in rooms that are.
 */
#ifndef RL_DECIDE_H
#define RL_DECIDE_H

#include <httpd.h>

#include "config/config.h"
#include "decide/context.h"
#include "decide/evaluate.h"
#include "decide/identity.h"

/* What one rule said of one request. Lives as long as the request. */
typedef struct rl_outcome {
    const rl_rule *rule;
    rl_limit limit;        /* as it was applied: of a tier, an override, a host in fallback */
    rl_identity identity;
    const char *identity_text; /* once it was needed */
    rl_source source;
    rl_local_kind kind;    /* of the entry in the local tier that decides, or remembers */
    uint64_t key;          /* of that entry */
    uint64_t counter;      /* the key before there was a fallback: tells counters apart */
    const char *redis_key; /* NULL: Redis was not asked */
    int64_t cost;          /* 0: the chain has charged this counter already */
    int64_t now;           /* tick that the state is of */
    rl_state state;        /* with the charge, if it was charged */
    int64_t position;      /* where it was charged: see rl_limiter_position() */
    rl_state *seed;        /* in fallback: what Redis last said, this host's share of it */
    int64_t lag_ms;        /* the state may be older than now by so much */
    int64_t hold_ms;       /* the request is to be held for so long */
    int shadow;
    int exempt;            /* the rule does not limit this client: nothing else is set */
    int denies;
    int charged;           /* or pending, and then not settled yet */
    rl_kept *kept;         /* while it is pending; knows better than position where */
    int renews;            /* memory denies, and this request is to ask whether Redis still does */
    const rl_limit *remembered; /* then: the limit with which memory denies */
    int starts_block;      /* or for Redis to start a block */
    int open;              /* Redis did not answer, and the rule does not count by itself */
    int closes;            /* and says on-failure=closed */
    struct rl_outcome *next;
} rl_outcome;

/* What is known of a chain of requests: the initial one and all it was redirected to. */
typedef struct {
    rl_outcome *first;   /* in the order of evaluation */
    rl_outcome **end;
    rl_outcome *denial;  /* the one that a client has to wait for the longest */
    rl_outcome *shadow;  /* one that would have denied */
    int replied;         /* headers and notes were set before */
    const rl_section *section; /* where the last decision was made */
    const char *uri;     /* for what path */
    rl_phase phase;      /* and for rules up to which phase */
    rl_terms terms;      /* of the request that is decided over */
    int64_t waited_us;   /* for Redis: before the response, and again after it */
    int fallback;        /* Redis did not answer */
    int on_response;     /* something is pending until the response is known */
    rl_outcome *closed;  /* Redis did not answer, and this rule says on-failure=closed */
} rl_chain;

/* The chain a request belongs to, or NULL if nothing was decided yet. */
rl_chain *rl_decide_chain(const request_rec *r);

/*
 * Whether there may be rules up to a phase that r has not been decided over: cheap, and most
 * often no.
 */
int rl_decide_is_due(const request_rec *r, rl_phase phase);

/*
 * Decides over the rules up to a phase that hold for r and have not been charged in its chain.
 * Returns DECLINED if there is none, OK if the request may pass, else the status to deny it with.
 * Unless DECLINED, the chain says more.
 */
int rl_decide(request_rec *r, const rl_context *context, rl_phase phase);

/*
 * Looks how the rules that hold for r stand, all phases together, and charges nothing: a chain of
 * its own in the request's pool, with an outcome for each; not what rl_decide_chain() finds. NULL
 * if there are none.
 */
rl_chain *rl_decide_look(request_rec *r, const rl_context *context);

/*
 * Settles what the chain of a request has pending, now that the response is known: to be called
 * once for the initial request, when it has been answered. Never waits.
 */
void rl_decide_settle(request_rec *r, const rl_context *context);

/* The text of an outcome's identity, made when it is first asked for. */
const char *rl_decide_identity_text(rl_chain *chain, rl_outcome *outcome);

/* ms after which the client may try again, from now on; RL_NEVER if waiting does not help. */
int64_t rl_decide_retry_after(const rl_outcome *outcome);

#endif
