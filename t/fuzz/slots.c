/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as replies of a cluster or a sentinel, and as the text of an error. Aborts where
 * slots.h or sentinel_search.h does not keep what it promises.
 */
#include "redis/reader.h"
#include "redis/sentinel_search.h"
#include "redis/slots.h"

#include <stdlib.h>

static rl_slots table;

static void must(int holds)
{
    if (!holds)
        abort();
}

static void must_be_host(const char *host)
{
    must(*host && strlen(host) < RL_HOST_SIZE && !strpbrk(host, " \r\n\t\"'/"));
}

/* Every owner is a node in the table, and the slots of every node are counted right. */
static void must_be_sound(void)
{
    int slots[RL_SLOTS_NODES] = {0};

    must(table.count >= 0 && table.count <= RL_SLOTS_NODES);
    for (int i = 0; i < RL_SLOTS; i++) {
        int node = rl_slots_owner(&table, i);

        must(node >= RL_SLOTS_NOBODY && node < table.count);
        if (node >= 0)
            slots[node]++;
    }
    for (int i = 0; i < table.count; i++) {
        must(slots[i] == table.nodes[i].slots && table.nodes[i].serial);
        must(table.nodes[i].port > 0 && table.nodes[i].port < 65536);
        must_be_host(table.nodes[i].host);
    }
}

static void read_reply(const redisReply *reply)
{
    rl_sentinel_search search;
    int taken = rl_slots_read(&table, reply, "asked");

    must(taken >= -1);
    if (taken >= 0)
        must_be_sound();
    rl_sentinel_search_init(&search, 2, 1);
    rl_sentinel_search_begin(&search);
    if (rl_sentinel_search_take(&search, reply) == RL_SEARCH_CHECK) {
        must_be_host(search.host);
        must(search.port > 0 && search.port < 65536);
    }
    rl_sentinel_search_take(&search, reply);
    rl_sentinel_search_is_switch(reply, "main");
}

static void read_text(const char *text)
{
    rl_redirect to = rl_slots_read_redirect(text, "");
    int slot = rl_slots_of_key(text, strlen(text));

    must(slot >= 0 && slot < RL_SLOTS);
    if (to.kind == RL_REDIRECT_NONE)
        return;
    must(to.slot >= 0 && to.slot < RL_SLOTS && to.port > 0 && to.port < 65536);
    must_be_host(to.host);
    must(strstr(text, to.host) != NULL);
    slot = rl_slots_add(&table, to.host, to.port);
    if (slot != RL_SLOTS_NOBODY)
        rl_slots_move(&table, to.slot, slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    redisReader *reader = redisReaderCreate();
    rl_reader bounds;
    char *bytes = malloc(size + 1);
    void *reply;

    memcpy(bytes, data, size);
    bytes[size] = '\0';
    rl_slots_init(&table);
    read_text(bytes);
    rl_reader_attach(&bounds, reader);
    rl_reader_expect(&bounds, RL_REPLY_TABLE);
    redisReaderFeed(reader, bytes, size);
    while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply) {
        read_reply(reply);
        freeReplyObject(reply);
    }
    must_be_sound();
    redisReaderFree(reader);
    free(bytes);
    return 0;
}
