/* SPDX-License-Identifier: Apache-2.0 */
/*
 * errors: what Redis says when it does not do what it was asked.
 *
 * One table: by what an error is known, what is to be done about it, what to tell the
 * administrator, and the name it is counted by. Pure.
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
    RL_DO_COUNT,      /* a failure as any other */
    RL_DO_RELOAD,     /* load the script and send the call again: it did not run */
    RL_DO_RETRY,      /* send the call again: it did not run, and may now */
    RL_DO_REDIRECT,   /* the cluster's other node has the key; where there is no cluster: OPEN */
    RL_DO_REDISCOVER, /* not the server that was looked for: connect anew to who is it now */
    RL_DO_OPEN        /* the next call would meet it too: open the breaker, for long */
} rl_error_action;

typedef struct {
    const char *prefix; /* of the text, with the blank behind it */
    const char *metric;
    rl_error_action action;
    const char *means;  /* what is wrong with Redis, and what to do: follows "it " in logs */
} rl_error;

extern const rl_error rl_errors[RL_ERROR_KINDS];

/*
 * The kind of an error by the text of its reply: by how it begins, or, where Redis wraps what a
 * script met into an error of its own, by how that begins.
 */
rl_error_kind rl_error_of(const char *text);

/*
 * What of an error may be logged: how many bytes, from its beginning. An error may repeat what it
 * was asked, and keys hold what clients sent.
 */
int rl_error_shown(const char *text);

#endif
