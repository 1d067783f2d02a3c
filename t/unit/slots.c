/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which node of a cluster holds a key: the slots of the specification's examples, tables from
 * CLUSTER SLOTS of all versions, redirections, and replies that are not valid.
 */
#include <stdlib.h>

#include "redis/slots.h"
#include "replies.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PRIMARY(host, port) "*3\r\n" host ":" port "\r\n$2\r\nid\r\n"
#define RANGE(first, last, node) "*3\r\n:" first "\r\n:" last "\r\n" node
#define HOST_A "$10\r\n192.0.2.10\r\n"
#define HOST_B "$10\r\n192.0.2.11\r\n"

static rl_slots table;

static int slot_of(const char *key)
{
    return rl_slots_of_key(key, strlen(key));
}

/* host:port of a slot's owner, "-" for none. */
static const char *owner(int slot)
{
    static char text[RL_HOST_SIZE + 8];
    int node = rl_slots_owner(&table, slot);

    if (node == RL_SLOTS_NOBODY)
        return "-";
    snprintf(text, sizeof(text), "%s:%d", table.nodes[node].host, table.nodes[node].port);
    return text;
}

static void test_keys(void)
{
    is_int(slot_of("123456789"), 0x31c3, "the check value of CRC-16/XMODEM");
    is_int(slot_of(""), 0, "an empty key");
    is_int(slot_of("foo"), 12182, "a key");
    is_int(slot_of("{user1000}.following"), slot_of("user1000"), "only the tag counts");
    is_int(slot_of("{user1000}.followers"), slot_of("{user1000}.following"),
           "so keys of one tag share a slot");
    is_int(slot_of("foo{}{bar}"), 8363, "with an empty tag the whole key counts");
    is_int(slot_of("foo{{bar}}zap"), slot_of("{bar"), "a tag begins at the first brace");
    is_int(slot_of("foo{bar}{zap}"), slot_of("bar"), "and only the first tag counts");
    ok(slot_of("foo{bar") != slot_of("bar"), "a tag without an end does not count");
    is_int(slot_of("rl:{ip:192.0.2.1}:login:sliding-window:1m"),
           slot_of("rl:{ip:192.0.2.1}:site:fixed-window:1h"), "all rules of a client share a slot");
    is_int(rl_slots_of_key("{a\0b}c", 6), rl_slots_of_key("a\0b", 3), "keys may hold NUL bytes");
}

static void test_table(void)
{
    rl_slots_init(&table);
    is_str(owner(0), "-", "at first no slot has an owner");
    is_int(rl_slots_read(&table, reply_of("*2\r\n" RANGE("0", "8191", PRIMARY(HOST_A, "7000"))
                                              RANGE("8192", "16383", PRIMARY(HOST_B, "7001"))),
                         "192.0.2.9"), RL_SLOTS, "two nodes own all");
    is_str(owner(0), "192.0.2.10:7000", "the first slot");
    is_str(owner(8191), "192.0.2.10:7000", "the last of the first node");
    is_str(owner(8192), "192.0.2.11:7001", "the first of the second");
    is_str(owner(16383), "192.0.2.11:7001", "the last slot");
    is_int(table.nodes[0].slots, 8192, "the slots of a node are counted");
    rl_slots_move(&table, 5, rl_slots_add(&table, "192.0.2.11", 7001));
    is_str(owner(5), "192.0.2.11:7001", "MOVED corrects a slot");
    is_str(owner(4), "192.0.2.10:7000", "and no other");
    is_int(table.nodes[0].slots, 8191, "the node has one less");
    is_int(rl_slots_read(&table, reply_of("*1\r\n" RANGE("100", "200", PRIMARY(HOST_B, "7001"))),
                         ""), 101, "a table with holes");
    is_str(owner(150), "192.0.2.11:7001", "changes the slots it lists");
    is_str(owner(99), "192.0.2.10:7000", "and no others");
    is_int(table.count, 2, "no node is there twice");
}

static const struct {
    const char *story;
    const char *bytes;
    const char *owner; /* of slot 7 */
} dialects[] = {
    {"with replicas and metadata",
     "*1\r\n*4\r\n:0\r\n:9\r\n*4\r\n" HOST_A ":7000\r\n$2\r\nid\r\n"
     "*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n"
     "*4\r\n" HOST_B ":7001\r\n$2\r\nid\r\n*0\r\n", "192.0.2.10:7000"},
    {"of before 4.0", "*1\r\n" RANGE("7", "7", "*2\r\n" HOST_A ":7000\r\n"), "192.0.2.10:7000"},
    {"with a name", "*1\r\n" RANGE("0", "9", PRIMARY("$9\r\nredis-0.a\r\n", "1")), "redis-0.a:1"},
    {"with IPv6",
     "*1\r\n" RANGE("0", "9", PRIMARY("$11\r\n2001:db8::1\r\n", "1")), "2001:db8::1:1"},
    {"with no host: the one asked",
     "*1\r\n" RANGE("0", "9", PRIMARY("$-1\r\n", "7000")), "asked:7000"},
    {"with an empty host: the same", "*1\r\n" RANGE("0", "9", PRIMARY("$0\r\n\r\n", "7000")),
     "asked:7000"},
    {"with an unknown name, and an address beside it",
     "*1\r\n*3\r\n:0\r\n:9\r\n*4\r\n$1\r\n?\r\n:7000\r\n$2\r\nid\r\n*2\r\n$2\r\nip\r\n" HOST_A,
     "192.0.2.10:7000"},
    {"with an unknown name: nobody", "*1\r\n" RANGE("0", "9", PRIMARY("$1\r\n?\r\n", "7000")), "-"},
    {"with port 0: nobody", "*1\r\n" RANGE("0", "9", PRIMARY(HOST_A, "0")), "-"},
    {"with a host that is none: nobody",
     "*1\r\n" RANGE("0", "9", PRIMARY("$3\r\na b\r\n", "1")), "-"},
    {"of a cluster that is none yet", "*0\r\n", "-"},
};

static void test_dialects(void)
{
    for (size_t i = 0; i < COUNT(dialects); i++) {
        rl_slots_init(&table);
        ok(rl_slots_read(&table, reply_of(dialects[i].bytes), "asked") >= 0, "a table %s",
           dialects[i].story);
        is_str(owner(7), dialects[i].owner, "... is understood");
    }
}

static const char *const garbage[] = {
    "+OK\r\n", ":1\r\n", "$-1\r\n", "*-1\r\n", "-ERR no\r\n", "*1\r\n:1\r\n", "*1\r\n*0\r\n",
    "*1\r\n*2\r\n:0\r\n:9\r\n", "*1\r\n" RANGE("-1", "9", PRIMARY(HOST_A, "1")),
    "*1\r\n" RANGE("0", "16384", PRIMARY(HOST_A, "1")),
    "*1\r\n" RANGE("9", "8", PRIMARY(HOST_A, "1")), "*1\r\n" RANGE("0", "9", "$1\r\nx\r\n"),
    "*1\r\n" RANGE("0", "9", "*1\r\n" HOST_A), "*1\r\n" RANGE("0", "9", PRIMARY(":5\r\n", "1")),
    "*1\r\n" RANGE("0", "9", PRIMARY(HOST_A, "65536")),
    "*1\r\n" RANGE("0", "9", PRIMARY(HOST_A, "-1")),
    "*2\r\n" RANGE("0", "9", PRIMARY(HOST_A, "1")) RANGE("10", "99999", PRIMARY(HOST_B, "1")),
    "*2\r\n" RANGE("0", "16383", PRIMARY(HOST_A, "1")) RANGE("7", "7", PRIMARY(HOST_B, "1")),
};

static void test_garbage(void)
{
    rl_slots_init(&table);
    for (size_t i = 0; i < COUNT(garbage); i++)
        is_int(rl_slots_read(&table, reply_of(garbage[i]), "asked"), -1, "garbage %zu", i);
    is_int(rl_slots_read(&table, NULL, "asked"), -1, "no reply");
    is_int(table.count, 0, "none of it changes the table");
}

static const struct {
    const char *text;
    rl_redirect_kind kind;
    int slot;
    const char *host;
    int port;
} redirects[] = {
    {"MOVED 3999 127.0.0.1:6381", RL_REDIRECT_MOVED, 3999, "127.0.0.1", 6381},
    {"ASK 0 redis-1.example:1", RL_REDIRECT_ASK, 0, "redis-1.example", 1},
    {"MOVED 16383 :6380", RL_REDIRECT_MOVED, 16383, "asked", 6380},
    {"ASK 5 2001:db8::1:65535", RL_REDIRECT_ASK, 5, "2001:db8::1", 65535},
    {"MOVED 5 ?:6380", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 16384 a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 99999999999999 a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED -1 a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED x a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 ", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a:", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a:0", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a:65536", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a:1x", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED 1 a b:1", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED", RL_REDIRECT_NONE, 0, "", 0},
    {"MOVED ", RL_REDIRECT_NONE, 0, "", 0},
    {"ASKING 1 a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"ERR MOVED 1 a:1", RL_REDIRECT_NONE, 0, "", 0},
    {"TRYAGAIN Multiple keys request during rehashing of slot", RL_REDIRECT_NONE, 0, "", 0},
    {"", RL_REDIRECT_NONE, 0, "", 0},
};

static void test_redirects(void)
{
    char longest[400] = "MOVED 1 ";

    for (size_t i = 0; i < COUNT(redirects); i++) {
        rl_redirect to = rl_slots_read_redirect(redirects[i].text, "asked");

        is_int(to.kind, redirects[i].kind, "\"%s\"", redirects[i].text);
        if (to.kind != RL_REDIRECT_NONE) {
            is_int(to.slot, redirects[i].slot, "... its slot");
            is_str(to.host, redirects[i].host, "... its host");
            is_int(to.port, redirects[i].port, "... its port");
        }
    }
    memset(longest + 8, 'a', 253);
    strcpy(longest + 8 + 253, ":1");
    is_int(rl_slots_read_redirect(longest, "").kind, RL_REDIRECT_MOVED, "the longest host");
    strcpy(longest + 8 + 253, "a:1");
    is_int(rl_slots_read_redirect(longest, "").kind, RL_REDIRECT_NONE, "a longer one is refused");
}

/* Clusters whose nodes keep getting new addresses. */
static void test_turnover(void)
{
    uint32_t serial;
    int held = 1, live, node;
    char host[32];

    rl_slots_init(&table);
    live = rl_slots_add(&table, "live", 1);
    rl_slots_move(&table, 0, live);
    serial = table.nodes[live].serial;
    for (int i = 0; i < 10 * RL_SLOTS_NODES; i++) {
        snprintf(host, sizeof(host), "node-%d", i);
        node = rl_slots_add(&table, host, 1);
        held &= node != RL_SLOTS_NOBODY && node != live;
        held &= rl_slots_add(&table, host, 1) == node;
    }
    ok(held, "there is always room for a new node when old ones have no slots");
    is_int(table.nodes[live].serial, serial, "never at the index of one that has slots");
    ok(serial && table.nodes[node].serial != serial, "each has its own serial");
    for (int i = 0; i < RL_SLOTS_NODES; i++) {
        if (table.nodes[i].slots == 0)
            rl_slots_move(&table, 1 + i, i);
    }
    is_int(rl_slots_add(&table, "one-more", 1), RL_SLOTS_NOBODY, "but not when all have some");
    is_int(rl_slots_read(&table, reply_of("*1\r\n" RANGE("0", "9", PRIMARY(HOST_A, "7000"))), ""),
           0, "a table with one more is no garbage");
    is_str(owner(0), "live:1", "and its slots stay as they were");
}

int main(void)
{
    test_keys();
    test_table();
    test_dialects();
    test_garbage();
    test_redirects();
    test_turnover();
    return done_testing();
}
