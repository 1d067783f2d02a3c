/*
 * script: what is said to Redis, and what comes back.
 *
 * Builds the commands that run decide.lua and reads its replies. Nothing here does I/O.
 */
#ifndef RL_SCRIPT_H
#define RL_SCRIPT_H

#include <hiredis.h>

#include "limiter.h"

#define RL_SCRIPT_SHA 40 /* hex digits of a script's name */
#define RL_ASKS_MAX 64   /* rules in one call */

/* One rule of a decision. */
typedef struct {
    const char *key; /* the whole Redis key */
    const rl_limit *limit;
    int64_t cost;
    int shadow;
    /* what Redis reports, before the charge, if there was one */
    int64_t now; /* the time that counts, ms since the epoch by Redis's clock */
    rl_state state;
} rl_ask;

/* The source of decide.lua. */
extern const char *const rl_script_source;

/* The name EVALSHA knows it by: its SHA-1 in hex, with a NUL. */
void rl_script_name(char name[RL_SCRIPT_SHA + 1]);

/*
 * Makes the command that decides over n asks (1 to RL_ASKS_MAX), those that are not shadow rules
 * first. Returns the bytes, to be freed with redisFreeCommand(), and their number; NULL without
 * memory.
 */
char *rl_script_decide(const char *sha, const rl_ask *asks, int n, int *length);

/*
 * Makes the command that gives back what n asks charged, in the windows of their states. The same
 * ownership.
 */
char *rl_script_give_back(const char *sha, const rl_ask *asks, int n, int *length);

/*
 * Reads the reply to rl_script_decide() into asks. Returns 1 if all was charged, 0 if a rule
 * denied, -1 if the reply is not what the script says: an error, or garbage.
 */
int rl_script_read(const redisReply *reply, rl_ask *asks, int n);

#endif
