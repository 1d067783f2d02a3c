/* SPDX-License-Identifier: Apache-2.0 */
/*
 * components: the components of key=, a row each.
 *
 * A row has everything about a component except how its value is found in a request: that needs
 * httpd and is a case of value_of() in decide/identity.c.
 */
#ifndef RL_COMPONENTS_H
#define RL_COMPONENTS_H

/* The numbers are part of keys in the local tier: one that changes loses its counts at a reload. */
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
    RL_KEY_EXPR, /* any text with %{...}; always the last one */
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
    int number_max;        /* a number is 1 to number_max */
    unsigned is_token : 1; /* the name is a token of RFC 9110 §5.6.2 */
    unsigned any_case : 1; /* the case of the name does not matter */

    /* When the value is known, which decides the phases that a rule can have. */
    unsigned is_user : 1;        /* known only after authentication */
    unsigned is_set_by_auth : 1; /* may be set by authentication */
    unsigned is_path : 1;        /* not known in phase=early */

    /* How it tells clients apart. */
    unsigned tells_clients : 1;   /* differs between clients that send the same request */
    unsigned is_inventable : 1;   /* clients can send any value */
    unsigned is_always_there : 1; /* every request has a value */
    unsigned is_anchor : 1;       /* nothing that a client sends changes its value */
    unsigned may_be_secret : 1;   /* in Redis, logs and pages only as a digest */
} rl_key_row;

extern const rl_key_row rl_key_rows[RL_KEY_COMPONENTS];

#endif
