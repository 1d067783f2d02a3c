/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots: which node of a Redis Cluster holds a key.
 *
 * A key belongs to one of 16,384 slots and a slot to one primary (Redis Cluster specification, "Key
 * distribution model"). This table has the owners of slots that the cluster has reported: by its
 * reply to CLUSTER SLOTS, and by MOVED, which corrects one slot. ASK corrects nothing.
 *
 * Nodes are identified by host and port, and have an index from 0 to RL_SLOTS_NODES - 1. The index
 * of a node without slots may be given to a new node, with another serial.
 *
 * No I/O. Not thread-safe, except rl_slots_of_key() and rl_slots_owner(), which any thread may call
 * while the table's one owner changes it.
 */
#ifndef RL_SLOTS_H
#define RL_SLOTS_H

#include <stddef.h>
#include <stdint.h>

#include <hiredis.h>

#include "redis/replies.h"

#define RL_SLOTS 16384
#define RL_SLOTS_NODES 256   /* primaries, and nodes that slots are being moved to */
#define RL_SLOTS_NOBODY (-1)

typedef struct {
    char host[RL_HOST_SIZE]; /* a name or a numeric address, IPv6 without brackets */
    int port;
    uint32_t serial;          /* differs from those of earlier nodes at this index; never 0 */
    int slots;                /* how many belong to it */
} rl_slots_node;

typedef struct {
    _Atomic int16_t owner[RL_SLOTS]; /* index of a node, or RL_SLOTS_NOBODY */
    rl_slots_node nodes[RL_SLOTS_NODES];
    int count;                       /* nodes in use, from the first */
    int last;                        /* the index that was last given to a new node */
    uint32_t serial;
} rl_slots;

typedef enum { RL_REDIRECT_NONE, RL_REDIRECT_MOVED, RL_REDIRECT_ASK } rl_redirect_kind;

/* MOVED or ASK: the node to send a call to. */
typedef struct {
    rl_redirect_kind kind;
    int slot;
    char host[RL_HOST_SIZE];
    int port;
} rl_redirect;

/* The slot of a key: of the text between its first '{' and the next '}', if there is any. */
int rl_slots_of_key(const char *key, size_t length);

/* Makes an empty table: no slot has an owner. */
void rl_slots_init(rl_slots *slots);

/* The index of the slot's owner, or RL_SLOTS_NOBODY. */
int rl_slots_owner(const rl_slots *slots, int slot);

/*
 * The index of a node, which is added if it is new. RL_SLOTS_NOBODY if there is no room, host is
 * not valid, or port is not 1 to 65535.
 */
int rl_slots_add(rl_slots *slots, const char *host, int port);

/* Gives a slot to the node at an index, as MOVED does. */
void rl_slots_move(rl_slots *slots, int slot, int node);

/*
 * Reads a reply to CLUSTER SLOTS into the table. asked, the host that it came from, is used where
 * the reply leaves a host out. Slots that the reply does not list, or whose node has no known
 * address, stay as they were. Returns how many slots got owners, or -1 if the reply is not valid;
 * nothing has changed then.
 */
int rl_slots_read(rl_slots *slots, const redisReply *reply, const char *asked);

/*
 * Reads the text of an error from the host asked. kind is RL_REDIRECT_NONE if it is neither MOVED
 * nor ASK, or is not valid.
 */
rl_redirect rl_slots_read_redirect(const char *error, const char *asked);

#endif
