/* SPDX-License-Identifier: Apache-2.0 */
/*
 * script: the commands that run the scripts, and the replies to them.
 *
 * Formats calls of decide.lua, or of decide_plain.lua where that is enough, and reads their
 * replies. decide.lua draws the bytes of both. No I/O; every function may be called from any
 * thread.
 */
#ifndef RL_SCRIPT_H
#define RL_SCRIPT_H

#include <hiredis.h>

#include "core/limiter.h"

#define RL_SCRIPT_SHA 40 /* hex digits of a script's SHA-1 */
#define RL_ASKS_MAX 64   /* rules in one call */

/* decide.lua does everything, decide_plain.lua what most calls need. */
enum { RL_SCRIPT_FULL, RL_SCRIPT_PLAIN, RL_SCRIPTS };

/* Their sources, for SCRIPT LOAD. */
extern const char *const rl_script_sources[RL_SCRIPTS];

/* The names EVALSHA knows them by: their SHA-1 in hex. */
typedef struct {
    char sha[RL_SCRIPTS][RL_SCRIPT_SHA + 1];
} rl_script_names;

/* What an ask is for: the act of a record. */
typedef enum {
    RL_ASK_DECIDE,
    RL_ASK_GIVE_BACK,      /* a charge */
    RL_ASK_SETTLE,         /* pending units, which are not charged */
    RL_ASK_SETTLE_CHARGED, /* pending units, which are charged */
    RL_ASK_PROLONG         /* pending units: see rl_limiter_prolong() */
} rl_ask_kind;

/* What Redis holds for an identity in place of a rule's quota. */
typedef enum {
    RL_OVERRIDE_NONE,
    RL_OVERRIDE_QUOTA,
    RL_OVERRIDE_UNLIMITED,
    /* the rule's own quota stays in force: */
    RL_OVERRIDE_GARBAGE,    /* neither a quota, nor a tier, nor unlimited */
    RL_OVERRIDE_WRONG_TYPE, /* the key is not a hash */
    RL_OVERRIDE_REFUSED,    /* Redis refuses HGET: its user most likely lacks the right */
    RL_OVERRIDES
} rl_override;

/* One rule of a call. No two asks of a call have the same key: see decide.lua. */
typedef struct {
    const char *key;          /* the whole Redis key */
    const char *override_key; /* of the hash of overrides; NULL in all asks of a call, or in none */
    const char *tiers;        /* with it: the rule's name and its tiers, as decide.lua draws them */
    rl_limit *limit;          /* in: the rule's; out: with the override's quota and burst */
    rl_ask_kind kind;
    int64_t cost;
    int shadow;
    int has_block_or_pending; /* a rule of this counter has block= or charge-on=: the full script */
    int64_t position; /* of an earlier charge, for other kinds: see rl_limiter_position() */
    int64_t wanted;   /* units to lease beyond the cost; 0: none */
    int answered;     /* out: Redis has answered. What follows is as it was before the charge: */
    int64_t now;      /* out: the tick that the decision was made for, by Redis's clock */
    rl_state state;   /* out */
    rl_override override; /* out */
    int64_t leased;       /* out: units that were leased, and charged like the cost */
} rl_ask;

/* Computes the names. */
void rl_script_name(rl_script_names *names);

/* Whether decide_plain.lua can make a decision. */
int rl_script_is_plain(const rl_ask *asks, int n, int peek);

/*
 * Formats the command that decides over n asks (1 to RL_ASKS_MAX), live rules before shadow rules.
 * With peek set it charges nothing. Asks of kind RL_ASK_PROLONG may be among them, with shadow set.
 * Returns the bytes, which the caller frees with redisFreeCommand(), and sets *length; NULL without
 * memory.
 */
char *rl_script_decide(const rl_script_names *names, const rl_ask *asks, int n, int peek,
                       int *length);

/* Formats the command that gives back or settles n asks, by their kinds. Ownership as above. */
char *rl_script_undo(const rl_script_names *names, const rl_ask *asks, int n, int *length);

/*
 * Reads the reply to rl_script_decide() into asks, which must be unchanged since. Returns 1 if all
 * live rules admit (and were charged, unless it was a peek), 0 if one of them denies, -1 if the
 * reply is an error or cannot come from the script; then the asks' out members are undefined.
 */
int rl_script_read(const redisReply *reply, rl_ask *asks, int n);

#endif
