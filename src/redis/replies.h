/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire: small questions about replies and hosts that come from the network.
 *
 * Pure, inline, for the rooms beside it that read what a cluster or a sentinel says.
 */
#ifndef RL_WIRE_H
#define RL_WIRE_H

#include <string.h>

#include <hiredis.h>

#define RL_HOST_SIZE 254 /* bytes of a host, with the NUL */

/* An array of at least so many elements. */
static inline int rl_wire_is_array(const redisReply *reply, size_t least)
{
    return reply && reply->type == REDIS_REPLY_ARRAY && reply->elements >= least;
}

static inline int rl_wire_is_text(const redisReply *reply)
{
    return reply && (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS);
}

/* A name, or an address in numbers, IPv6 without brackets: of what else a line is made, nothing. */
static inline int rl_wire_is_host(const char *host)
{
    size_t length = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789.-_:%");

    return length > 0 && length < RL_HOST_SIZE && !host[length];
}

/*
 * A whole number from 0 to high, of digits alone, with *text moved behind it; -1 if none stands
 * there.
 */
static inline int rl_wire_number(const char **text, int high)
{
    int n = 0;

    if (**text < '0' || **text > '9')
        return -1;
    while (**text >= '0' && **text <= '9' && n <= high)
        n = n * 10 + *(*text)++ - '0';
    return n <= high ? n : -1;
}

#endif
