/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots: which node of a Redis Cluster holds a key.
 *
 * A key belongs to one of 16,384 slots and a slot to one primary (Redis Cluster specification,
 * "Key distribution model"). The table here says which, as far as the cluster has told: by its
 * answer to CLUSTER SLOTS, and by MOVED, which corrects one slot. ASK corrects nothing.
 *
 * Nodes are known by host and port and stand at an index from 0 to RL_SLOTS_NODES - 1. A node that
 * no slot belongs to any more may have to give its index to a new one; its serial changes then.
 *
 * No I/O. Not thread-safe but for rl_slots_of_key() and rl_slots_owner(), which any thread may
 * call while the table's one owner changes it.
 */
#ifndef RL_SLOTS_H
#define RL_SLOTS_H

#include <stddef.h>
#include <stdint.h>

#include <hiredis.h>

#include "redis/replies.h"

#define RL_SLOTS 16384
#define RL_SLOTS_NODES 256   /* primaries, and nodes that slots are on their way to */
#define RL_SLOTS_NOBODY (-1)

typedef struct {
    char host[RL_HOST_SIZE]; /* a name or an address in numbers, IPv6 without brackets */
    int port;
    uint32_t serial;          /* other nodes at the same index had others; never 0 */
    int slots;                /* how many belong to it */
} rl_slots_node;

typedef struct {
    _Atomic int16_t owner[RL_SLOTS]; /* index of a node, or RL_SLOTS_NOBODY */
    rl_slots_node nodes[RL_SLOTS_NODES];
    int count;                       /* nodes in use, from the first */
    int last;                        /* index that was given away last */
    uint32_t serial;
} rl_slots;

typedef enum { RL_REDIRECT_NONE, RL_REDIRECT_MOVED, RL_REDIRECT_ASK } rl_redirect_kind;

/* MOVED or ASK: where a slot is to be asked for. */
typedef struct {
    rl_redirect_kind kind;
    int slot;
    char host[RL_HOST_SIZE];
    int port;
} rl_redirect;

/* The slot of a key: of what stands between its first '{' and the next '}' if that is anything. */
int rl_slots_of_key(const char *key, size_t length);

/* An empty table: every slot is nobody's. */
void rl_slots_init(rl_slots *slots);

/* The index of the slot's owner, or RL_SLOTS_NOBODY. */
int rl_slots_owner(const rl_slots *slots, int slot);

/*
 * The index of a node, which is added if it is new. RL_SLOTS_NOBODY if there is no room, or if host
 * is none, or port is not 1 to 65535.
 */
int rl_slots_add(rl_slots *slots, const char *host, int port);

/* Says that a slot belongs to the node at an index, as MOVED does. */
void rl_slots_move(rl_slots *slots, int slot, int node);

/*
 * Takes over a reply to CLUSTER SLOTS. asked is the host that it came from: it stands for a host
 * that the reply leaves out. Slots that the reply does not mention, or whose node it does not
 * know, stay as they were. Returns how many slots it gave owners, or -1 if it is garbage, and then
 * nothing has changed.
 */
int rl_slots_read(rl_slots *slots, const redisReply *reply, const char *asked);

/*
 * Reads the text of an error, which came from the host asked. kind is RL_REDIRECT_NONE if it is
 * neither MOVED nor ASK, or says nothing of use.
 */
rl_redirect rl_slots_read_redirect(const char *error, const char *asked);

#endif
