/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replies: small checks of a reply's parts: arrays, texts, hosts and numbers.
 *
 * Pure and inline, for the rooms that read replies of clusters and sentinels.
 */
#ifndef RL_REPLIES_H
#define RL_REPLIES_H

#include <string.h>

#include <hiredis.h>

#define RL_HOST_SIZE 254 /* bytes of a host, with the NUL */

/* Whether it is an array of at least so many elements. */
static inline int rl_reply_is_array(const redisReply *reply, size_t least)
{
    return reply && reply->type == REDIS_REPLY_ARRAY && reply->elements >= least;
}

static inline int rl_reply_is_text(const redisReply *reply)
{
    return reply && (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS);
}

/* Whether it has only characters of a host name or a numeric address, IPv6 without brackets. */
static inline int rl_reply_is_host(const char *host)
{
    size_t length = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789.-_:%");

    return length > 0 && length < RL_HOST_SIZE && !host[length];
}

/* Reads a whole number from 0 to high, digits only, and moves *text past it; -1 if none. */
static inline int rl_reply_number(const char **text, int high)
{
    int n = 0;

    if (**text < '0' || **text > '9')
        return -1;
    while (**text >= '0' && **text <= '9' && n <= high)
        n = n * 10 + *(*text)++ - '0';
    return n <= high ? n : -1;
}

#endif
