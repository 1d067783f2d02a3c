/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide_step: one step of a decision, as its parts see it.
 *
 * Private to decide.c, which collects rules and comes to a verdict, and ask_redis.c, which asks
 * Redis and gives back.
 */
#ifndef RL_DECIDE_STEP_H
#define RL_DECIDE_STEP_H

#include "decide/decide.h"

/* One step: some rules of one request. */
typedef struct {
    request_rec *r;
    const rl_context *context;
    rl_chain *chain;
    rl_outcome *outcomes[RL_ASKS_MAX];
    int count;
    int shadows;      /* among them */
    int look;         /* nothing is charged */
    int64_t host_ms;
    int64_t delay_ms; /* the longest that a rule among them may hold the request */
    int no_place;     /* there was none free among the held, and no rule may hold it */
    rl_ask asks[RL_ASKS_MAX];
    rl_outcome *asked[RL_ASKS_MAX];
    int ask_count;
} rl_step;

/* ms in ticks of an outcome's limit. */
int64_t rl_step_ticks(const rl_outcome *o, int64_t ms);

/* The key of an outcome's entry in the local tier. */
uint64_t rl_step_key(const rl_step *s, const rl_outcome *o);

/* Sets whether the state denies. */
void rl_step_judge(rl_outcome *o);

/* Whether a live rule denies. */
int rl_step_is_denied(const rl_step *s);

/* Denies by what memory says. */
void rl_step_deny_from_memory(rl_outcome *o);

/* Charges an outcome's state, as the count itself was charged, and keeps what that meant. */
void rl_step_mark_charged(rl_outcome *o);

/* Which clock the local tier counts by, where it decides an outcome. */
rl_clock rl_step_clock(const rl_outcome *o);

/*
 * Asks Redis about the outcomes that it decides; where it does not answer, on-failure says more.
 * Where memory has denied already only shadow rules are asked about, which nobody vetoes.
 */
void rl_step_ask_redis(rl_step *s);

/* Keeps what the step has made pending, for as long as the request lives. */
void rl_step_keep(rl_step *s);

/* Takes back what live rules were charged in this step and in earlier ones of the chain. */
void rl_step_give_back(rl_step *s);

/* Settles what the chain has pending: the response has this status. */
void rl_step_settle(rl_step *s, int status);

#endif
