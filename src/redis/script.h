/* SPDX-License-Identifier: Apache-2.0 */
/*
 * script: what is said to Redis, and what comes back.
 *
 * Builds the commands that run decide.lua, or decide_plain.lua where that is enough, and reads
 * their replies. Nothing here does I/O; everything may be called from any thread.
 */
#ifndef RL_SCRIPT_H
#define RL_SCRIPT_H

#include <hiredis.h>

#include "core/limiter.h"

#define RL_SCRIPT_SHA 40 /* hex digits of a script's name */
#define RL_ASKS_MAX 64   /* rules in one call */

/* decide.lua does everything, decide_plain.lua what most calls need. */
enum { RL_SCRIPT_FULL, RL_SCRIPT_PLAIN, RL_SCRIPTS };

/* Their sources, to be loaded with SCRIPT LOAD. */
extern const char *const rl_script_sources[RL_SCRIPTS];

/* The names EVALSHA knows them by: their SHA-1 in hex. */
typedef struct {
    char sha[RL_SCRIPTS][RL_SCRIPT_SHA + 1];
} rl_script_names;

/* What an ask is for. */
typedef enum {
    RL_ASK_DECIDE,
    RL_ASK_GIVE_BACK,      /* what was charged at a position */
    RL_ASK_SETTLE,         /* what became pending in a slot: it is not charged */
    RL_ASK_SETTLE_CHARGED, /* it is */
    RL_ASK_PROLONG         /* what is pending in a slot: see rl_limiter_prolong() */
} rl_ask_kind;

/* What Redis holds for an identity in place of a rule's quota. */
typedef enum {
    RL_OVERRIDE_NONE,
    RL_OVERRIDE_QUOTA,
    RL_OVERRIDE_UNLIMITED,
    /* These are ignored: */
    RL_OVERRIDE_GARBAGE,    /* neither a quota, nor a tier, nor unlimited */
    RL_OVERRIDE_WRONG_TYPE, /* the key is not a hash */
    RL_OVERRIDE_REFUSED,    /* Redis refuses HGET, most likely to this user */
    RL_OVERRIDES
} rl_override;

/* One rule of a call. */
typedef struct {
    const char *key;          /* the whole Redis key */
    const char *override_key; /* of the hash of overrides; NULL in all asks of a call, or in none */
    const char *tiers;        /* with it: the rule's name, then name, quota (or unlimited) and
                                 burst of each tier, with a blank behind each word */
    rl_limit *limit;          /* in: the rule's; out: with the override's quota and burst */
    rl_ask_kind kind;
    int64_t cost;
    int shadow;
    int has_block_or_pending; /* a rule of this counter has block= or charge-on=: the full script */
    int64_t position; /* for all kinds but decide: see rl_limiter_position() */
    int answered;     /* out: the rest says what Redis reports, before the charge, if there was one */
    int64_t now; /* the tick that counts, by Redis's clock */
    rl_state state;
    rl_override override;
} rl_ask;

void rl_script_name(rl_script_names *names);

/* Whether a decision is one for decide_plain.lua. */
int rl_script_is_plain(const rl_ask *asks, int n, int peek);

/*
 * Makes the command that decides over n asks (1 to RL_ASKS_MAX), those that are not shadow rules
 * first; with peek set it only reports, and charges nothing. Asks that prolong, which must be said
 * to be shadow rules, are done and reported likewise. Returns the bytes, to be freed with
 * redisFreeCommand(), and their number; NULL without memory.
 */
char *rl_script_decide(const rl_script_names *names, const rl_ask *asks, int n, int peek,
                       int *length);

/* Makes the command that gives back or settles n asks, as their kinds say. The same ownership. */
char *rl_script_undo(const rl_script_names *names, const rl_ask *asks, int n, int *length);

/*
 * Reads the reply to rl_script_decide() into asks, which must be as they were then. Returns 1 if
 * all live rules admit (and so were charged, unless the caller only looked), 0 if a rule denied,
 * -1 if the reply is not what the script says: an error, or garbage.
 */
int rl_script_read(const redisReply *reply, rl_ask *asks, int n);

#endif
