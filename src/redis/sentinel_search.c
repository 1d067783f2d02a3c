/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_search: the search for the primary of a Redis Sentinel deployment.
 *
 * Follows "Guidelines for Redis clients with support for Redis Sentinel". A reply is text from the
 * network, so host and port are checked before they are used.
 */
#include <string.h>
#include <strings.h>

#include "redis/sentinel_search.h"

void rl_sentinel_search_init(rl_sentinel_search *search, int count, unsigned first)
{
    memset(search, 0, sizeof(*search));
    search->count = count;
    search->at = (int)(first % (unsigned)count);
}

void rl_sentinel_search_begin(rl_sentinel_search *search)
{
    search->asked = 0;
    search->state = RL_SEARCH_ASK;
}

static int read_address(rl_sentinel_search *search, const redisReply *reply)
{
    const char *text;
    int port;

    if (!rl_reply_is_array(reply, 2) || reply->elements > 2 || !rl_reply_is_text(reply->element[0])
        || !rl_reply_is_text(reply->element[1]) || !rl_reply_is_host(reply->element[0]->str))
        return 0;
    text = reply->element[1]->str;
    port = rl_reply_number(&text, 65535);
    if (port < 1 || *text)
        return 0;
    memcpy(search->host, reply->element[0]->str, strlen(reply->element[0]->str) + 1);
    search->port = port;
    return 1;
}

static rl_search_state ask_next(rl_sentinel_search *search)
{
    search->at = (search->at + 1) % search->count;
    return ++search->asked < search->count ? RL_SEARCH_ASK : RL_SEARCH_FAILED;
}

rl_search_state rl_sentinel_search_take(rl_sentinel_search *search, const redisReply *reply)
{
    if (search->state == RL_SEARCH_ASK)
        search->state = read_address(search, reply) ? RL_SEARCH_CHECK : ask_next(search);
    else if (search->state == RL_SEARCH_CHECK)
        search->state = rl_sentinel_search_is_primary(reply) ? RL_SEARCH_FOUND : ask_next(search);
    return search->state;
}

int rl_sentinel_search_is_primary(const redisReply *reply)
{
    return rl_reply_is_array(reply, 1) && rl_reply_is_text(reply->element[0])
           && !strcmp(reply->element[0]->str, "master");
}

static int is_word(const redisReply *reply, const char *word)
{
    return rl_reply_is_text(reply) && !strcasecmp(reply->str, word);
}

int rl_sentinel_search_is_switch(const redisReply *message, const char *name)
{
    size_t length = strlen(name);

    /* "message", the channel, then name, old host, old port, new host, new port in one text */
    return rl_reply_is_array(message, 3) && is_word(message->element[0], "message")
           && is_word(message->element[1], "+switch-master")
           && rl_reply_is_text(message->element[2])
           && !strncmp(message->element[2]->str, name, length)
           && message->element[2]->str[length] == ' ';
}
