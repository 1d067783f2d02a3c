/* SPDX-License-Identifier: Apache-2.0 */
/*
 * components: one row for each component of key=.
 *
 * A row holds everything about a component except how a request's value is found, which needs httpd
 * and is a case of value_of() in decide/identity.c.
 */
#ifndef RL_COMPONENTS_H
#define RL_COMPONENTS_H

/* Their numbers are part of every identity: a new one stands last. */
typedef enum {
    RL_KEY_IP,
    RL_KEY_USER,
    RL_KEY_HEADER,
    RL_KEY_COOKIE,
    RL_KEY_ENV,
    RL_KEY_METHOD,
    RL_KEY_HOST,
    RL_KEY_PATH,
    RL_KEY_SERVER,
    RL_KEY_EXPR, /* any text with %{...} */
    RL_KEY_COMPONENTS
} rl_key_component;

typedef enum {
    RL_KEY_NO_ARGUMENT,
    RL_KEY_MAY_HAVE_NUMBER, /* as path:2 */
    RL_KEY_HAS_NAME         /* as header:X-Api-Key */
} rl_key_argument;

typedef struct {
    const char *name; /* as in key=; NULL: an expression */

    rl_key_argument argument;
    char separator;        /* before the argument */
    const char *example;   /* of an argument */
    int number_max;        /* of a number, which is 1 at least */
    unsigned is_token : 1; /* the name has to be a token of RFC 9110 §5.6.2 */
    unsigned any_case : 1; /* the name means the same in any case */

    /* When its value is known, which decides the phases of a rule. */
    unsigned is_user : 1;        /* only after authentication */
    unsigned is_set_by_auth : 1; /* authentication may set it */
    unsigned is_path : 1;        /* not in phase=early */

    /* What it tells of clients. */
    unsigned tells_clients : 1;   /* it differs between clients that send the same request */
    unsigned is_inventable : 1;   /* a client can send any value */
    unsigned is_always_there : 1; /* every request has a value */
    unsigned is_anchor : 1;       /* a client cannot get another value by what it sends */
    unsigned may_be_secret : 1;   /* its value appears only as a digest in Redis, logs and pages */
} rl_key_row;

extern const rl_key_row rl_key_rows[RL_KEY_COMPONENTS];

#endif
