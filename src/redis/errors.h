/* SPDX-License-Identifier: Apache-2.0 */
/*
 * errors: the error replies of Redis.
 *
 * One table has, for each kind of error, how its text begins, what is done about it, its
 * description in the log, and its name in the metrics. Pure.
 */
#ifndef RL_ERRORS_H
#define RL_ERRORS_H

typedef enum {
    RL_ERROR_OTHER,
    RL_ERROR_NOSCRIPT,
    RL_ERROR_TRYAGAIN,
    RL_ERROR_MOVED,
    RL_ERROR_ASK,
    RL_ERROR_CROSSSLOT,
    RL_ERROR_CLUSTERDOWN,
    RL_ERROR_READONLY,
    RL_ERROR_MASTERDOWN,
    RL_ERROR_LOADING,
    RL_ERROR_BUSY,
    RL_ERROR_OOM,
    RL_ERROR_MISCONF,
    RL_ERROR_NOREPLICAS,
    RL_ERROR_NOAUTH,
    RL_ERROR_WRONGPASS,
    RL_ERROR_NOPERM,
    RL_ERROR_MAXCLIENTS,
    RL_ERROR_NOCOMMAND,
    RL_ERROR_SYNTAX,
    RL_ERROR_KINDS
} rl_error_kind;

typedef enum {
    RL_DO_COUNT,      /* count it as a failure */
    RL_DO_RELOAD,     /* load the scripts and send the call again: it did not run */
    RL_DO_RETRY,      /* send the call again: it did not run, and may now */
    RL_DO_REDIRECT,   /* send the call to another node of the cluster; without a cluster: count */
    RL_DO_REDISCOVER, /* it is not the server looked for: find that one and connect again */
    RL_DO_OPEN        /* the next call would meet it as well: open the breaker, for long */
} rl_error_action;

typedef struct {
    const char *prefix; /* of the text, with the blank after it */
    const char *metric;
    rl_error_action action;
    const char *means;  /* what is wrong with Redis, and what to do: follows "it " in logs */
} rl_error;

extern const rl_error rl_errors[RL_ERROR_KINDS];

/*
 * The kind of an error, by how its text begins. If Redis has wrapped an error that a script met,
 * the inner one counts.
 */
rl_error_kind rl_error_of(const char *text);

/*
 * How many bytes of an error, from its beginning, may be logged. Errors may repeat the command, and
 * keys hold what clients sent.
 */
int rl_error_shown(const char *text);

#endif
