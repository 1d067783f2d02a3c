/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots: which node of a Redis Cluster holds a key.
 *
 * The table is an array of indexes, 32 KB. Callers of any thread read it to find the node, and its
 * breaker, of a slot; one owner writes it. A reply is checked as a whole before any of it is used,
 * because a table replaced by halves would misdirect requests until the next refresh.
 *
 * Nodes come and go, and get new addresses where a scheduler restarts them. So the index of a node
 * without slots is given to a new node, but only when all indexes have been used, and in turn:
 * calls may still be under way to a node that an ASK has just named.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "redis/slots.h"

/* A thread that reads an index also sees its node. */
#define load(p) atomic_load_explicit((p), memory_order_acquire)
#define store(p, v) atomic_store_explicit((p), (v), memory_order_release)

/* --- Keys --------------------------------------------------------------------------------- */

/* CRC-16/XMODEM: polynomial 0x1021, from 0, most significant bit first. */
static unsigned crc16(const unsigned char *s, size_t length)
{
    unsigned crc = 0;

    while (length-- > 0) {
        /* eight steps at once: the polynomial's bits 12, 5 and 0 make these three shifts */
        unsigned x = (crc >> 8 ^ *s++) & 0xff;

        x ^= x >> 4;
        crc = (crc << 8 ^ x << 12 ^ x << 5 ^ x) & 0xffff;
    }
    return crc;
}

int rl_slots_of_key(const char *key, size_t length)
{
    const char *open = memchr(key, '{', length);
    const char *close = open ? memchr(open, '}', length - (size_t)(open - key)) : NULL;

    if (close && close > open + 1) {
        key = open + 1;
        length = (size_t)(close - key);
    }
    return (int)(crc16((const unsigned char *)key, length) % RL_SLOTS);
}

/* --- The table ---------------------------------------------------------------------------- */

void rl_slots_init(rl_slots *slots)
{
    memset(slots, 0, sizeof(*slots));
    slots->last = -1;
    for (int i = 0; i < RL_SLOTS; i++)
        store(&slots->owner[i], RL_SLOTS_NOBODY);
}

int rl_slots_owner(const rl_slots *slots, int slot)
{
    return load(&slots->owner[slot]);
}

static int find(const rl_slots *slots, const char *host, int port)
{
    for (int i = 0; i < slots->count; i++) {
        if (slots->nodes[i].port == port && !strcasecmp(slots->nodes[i].host, host))
            return i;
    }
    return RL_SLOTS_NOBODY;
}

/* An index for a new node. */
static int vacancy(rl_slots *slots)
{
    if (slots->count < RL_SLOTS_NODES)
        return slots->count++;
    for (int i = 1; i <= RL_SLOTS_NODES; i++) {
        int index = (slots->last + i) % RL_SLOTS_NODES;

        if (slots->nodes[index].slots == 0)
            return slots->last = index;
    }
    return RL_SLOTS_NOBODY;
}

int rl_slots_add(rl_slots *slots, const char *host, int port)
{
    int index;

    if (!rl_reply_is_host(host) || port < 1 || port > 65535)
        return RL_SLOTS_NOBODY;
    index = find(slots, host, port);
    if (index != RL_SLOTS_NOBODY)
        return index;
    index = vacancy(slots);
    if (index != RL_SLOTS_NOBODY) {
        rl_slots_node *node = &slots->nodes[index];

        memcpy(node->host, host, strlen(host) + 1);
        node->port = port;
        node->slots = 0;
        if (++slots->serial == 0)
            slots->serial = 1;
        node->serial = slots->serial;
    }
    return index;
}

void rl_slots_move(rl_slots *slots, int slot, int node)
{
    int before = load(&slots->owner[slot]);

    if (before != RL_SLOTS_NOBODY)
        slots->nodes[before].slots--;
    store(&slots->owner[slot], (int16_t)node);
    if (node != RL_SLOTS_NOBODY)
        slots->nodes[node].slots++;
}

/* --- CLUSTER SLOTS ------------------------------------------------------------------------ */

static int is_number(const redisReply *reply, long long low, long long high)
{
    return reply && reply->type == REDIS_REPLY_INTEGER && reply->integer >= low
           && reply->integer <= high;
}

/* A node: host, port, since Redis 4.0 its id, since 7.0 a list of names and values. */
static int is_node(const redisReply *node)
{
    return rl_reply_is_array(node, 2)
           && (node->element[0]->type == REDIS_REPLY_NIL || rl_reply_is_text(node->element[0]))
           && is_number(node->element[1], 0, 65535);
}

/* A range: first slot, last slot, primary, replicas. */
static int is_range(const redisReply *range)
{
    return rl_reply_is_array(range, 3) && is_number(range->element[0], 0, RL_SLOTS - 1)
           && is_number(range->element[1], range->element[0]->integer, RL_SLOTS - 1)
           && is_node(range->element[2]);
}

/* The address of a node whose host is "?", from that list. */
static const char *address_beside(const redisReply *node)
{
    const redisReply *more = node->elements > 3 ? node->element[3] : NULL;

    for (size_t i = 0; rl_reply_is_array(more, i + 2); i += 2) {
        if (rl_reply_is_text(more->element[i]) && !strcasecmp(more->element[i]->str, "ip")
            && rl_reply_is_text(more->element[i + 1]))
            return more->element[i + 1]->str;
    }
    return "";
}

/* An empty host means the host that was asked, and "?" a name that is not known. */
static const char *host_of(const redisReply *node, const char *asked)
{
    const char *host = rl_reply_is_text(node->element[0]) ? node->element[0]->str : "";

    if (!*host)
        return asked;
    return strcmp(host, "?") ? host : address_beside(node);
}

static int take_range(rl_slots *slots, const redisReply *range, const char *asked)
{
    const redisReply *primary = range->element[2];
    int node = rl_slots_add(slots, host_of(primary, asked), (int)primary->element[1]->integer);
    int last = (int)range->element[1]->integer, taken = 0;

    if (node == RL_SLOTS_NOBODY)
        return 0;
    for (int slot = (int)range->element[0]->integer; slot <= last; slot++, taken++)
        rl_slots_move(slots, slot, node);
    return taken;
}

int rl_slots_read(rl_slots *slots, const redisReply *reply, const char *asked)
{
    int taken = 0;
    long long told = 0;

    if (!rl_reply_is_array(reply, 0))
        return -1;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *range = reply->element[i];

        if (!is_range(range))
            return -1;
        told += range->element[1]->integer - range->element[0]->integer + 1;
        if (told > RL_SLOTS)
            return -1; /* a slot is given twice, and reading might take very long */
    }
    for (size_t i = 0; i < reply->elements; i++)
        taken += take_range(slots, reply->element[i], asked);
    return taken;
}

/* --- MOVED and ASK ------------------------------------------------------------------------ */

rl_redirect rl_slots_read_redirect(const char *error, const char *asked)
{
    static const rl_redirect none;
    rl_redirect to = none;
    const char *colon, *port;
    size_t length;

    if (!strncmp(error, "MOVED ", 6))
        to.kind = RL_REDIRECT_MOVED, error += 6;
    else if (!strncmp(error, "ASK ", 4))
        to.kind = RL_REDIRECT_ASK, error += 4;
    else
        return none;
    to.slot = rl_reply_number(&error, RL_SLOTS - 1);
    if (to.slot < 0 || *error++ != ' ' || !(colon = strrchr(error, ':')))
        return none;
    port = colon + 1;
    to.port = rl_reply_number(&port, 65535);
    length = (size_t)(colon - error);
    if (to.port < 1 || *port || length >= sizeof(to.host))
        return none;
    memcpy(to.host, error, length);
    if (length == 0 && strlen(asked) < sizeof(to.host))
        memcpy(to.host, asked, strlen(asked));
    return rl_reply_is_host(to.host) ? to : none;
}
