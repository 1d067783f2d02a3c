/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel: where the primary of a Redis Sentinel deployment is.
 *
 * The protocol is that of "Guidelines for Redis clients with support for Redis Sentinel". Whatever
 * a sentinel says is text from the network: a host must look like one and a port must be one
 * before anybody connects there.
 */
#include <string.h>
#include <strings.h>

#include "redis/sentinel_search.h"

void rl_sentinel_init(rl_sentinel *sentinel, int count, unsigned first)
{
    memset(sentinel, 0, sizeof(*sentinel));
    sentinel->count = count;
    sentinel->at = (int)(first % (unsigned)count);
}

void rl_sentinel_search(rl_sentinel *sentinel)
{
    sentinel->asked = 0;
    sentinel->step = RL_SENTINEL_ASK;
}

static int read_address(rl_sentinel *sentinel, const redisReply *reply)
{
    const char *text;
    int port;

    if (!rl_wire_is_array(reply, 2) || reply->elements > 2 || !rl_wire_is_text(reply->element[0])
        || !rl_wire_is_text(reply->element[1]) || !rl_wire_is_host(reply->element[0]->str))
        return 0;
    text = reply->element[1]->str;
    port = rl_wire_number(&text, 65535);
    if (port < 1 || *text)
        return 0;
    memcpy(sentinel->host, reply->element[0]->str, strlen(reply->element[0]->str) + 1);
    sentinel->port = port;
    return 1;
}

static rl_sentinel_step ask_next(rl_sentinel *sentinel)
{
    sentinel->at = (sentinel->at + 1) % sentinel->count;
    return ++sentinel->asked < sentinel->count ? RL_SENTINEL_ASK : RL_SENTINEL_FAILED;
}

rl_sentinel_step rl_sentinel_take(rl_sentinel *sentinel, const redisReply *reply)
{
    if (sentinel->step == RL_SENTINEL_ASK)
        sentinel->step = read_address(sentinel, reply) ? RL_SENTINEL_CHECK : ask_next(sentinel);
    else if (sentinel->step == RL_SENTINEL_CHECK)
        sentinel->step = rl_sentinel_is_primary(reply) ? RL_SENTINEL_FOUND : ask_next(sentinel);
    return sentinel->step;
}

int rl_sentinel_is_primary(const redisReply *reply)
{
    return rl_wire_is_array(reply, 1) && rl_wire_is_text(reply->element[0])
           && !strcmp(reply->element[0]->str, "master");
}

static int is_word(const redisReply *reply, const char *word)
{
    return rl_wire_is_text(reply) && !strcasecmp(reply->str, word);
}

int rl_sentinel_is_switch(const redisReply *message, const char *name)
{
    size_t length = strlen(name);

    /* "message", the channel, then name, old host, old port, new host, new port in one text */
    return rl_wire_is_array(message, 3) && is_word(message->element[0], "message")
           && is_word(message->element[1], "+switch-master") && rl_wire_is_text(message->element[2])
           && !strncmp(message->element[2]->str, name, length)
           && message->element[2]->str[length] == ' ';
}
