/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies with false sizes: what is too large, too deep or without end is refused as early as
 * possible, and real replies of Redis are read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redis/reader.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* How a reader of replies of a kind ends: with a reply, with an error, or waiting for more. */
typedef enum { READ, REFUSED, WAITS } outcome;

typedef struct {
    redisReader *hiredis;
    rl_reader reader;
} source;

static void open_source(source *s, rl_reply_kind kind)
{
    s->hiredis = redisReaderCreate();
    rl_reader_attach(&s->reader, s->hiredis);
    rl_reader_expect(&s->reader, kind);
}

static outcome feed(source *s, const char *bytes, size_t length)
{
    void *reply = NULL;
    int parsed;

    redisReaderFeed(s->hiredis, bytes, length);
    parsed = redisReaderGetReply(s->hiredis, &reply) == REDIS_OK;
    if (reply) {
        freeReplyObject(reply);
        return READ;
    }
    if (rl_reader_error(&s->reader, s->hiredis))
        return REFUSED;
    return parsed ? WAITS : REFUSED;
}

static outcome read_bytes(rl_reply_kind kind, const char *bytes)
{
    source s;
    outcome fate;

    open_source(&s, kind);
    fate = feed(&s, bytes, strlen(bytes));
    redisReaderFree(s.hiredis);
    return fate;
}

/* The same bytes repeatedly: how many were fed before the end. */
static size_t read_for_ever(rl_reply_kind kind, const char *head, const char *again, outcome *fate)
{
    size_t length = strlen(again), fed = strlen(head);
    char block[4096];
    source s;

    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = again[i % length];
    open_source(&s, kind);
    *fate = feed(&s, head, fed);
    while (*fate == WAITS && fed < (64 << 20)) {
        *fate = feed(&s, block, sizeof(block) / length * length);
        fed += sizeof(block) / length * length;
    }
    redisReaderFree(s.hiredis);
    return fed;
}

static const struct {
    rl_reply_kind kind;
    const char *bytes;
    outcome fate;
    const char *what;
} replies[] = {
    {RL_REPLY_TEXT, "$3\r\nabc\r\n", READ, "a text"},
    {RL_REPLY_TEXT, "+OK\r\n", READ, "a status"},
    {RL_REPLY_TEXT, "-ERR no\r\n", READ, "an error"},
    {RL_REPLY_TEXT, ":1\r\n", READ, "a number"},
    {RL_REPLY_TEXT, "$-1\r\n", READ, "nil"},
    {RL_REPLY_TEXT, "*-1\r\n", READ, "nil in place of an array"},
    {RL_REPLY_TEXT, "*0\r\n", REFUSED, "an empty array in place of a text"},
    {RL_REPLY_TEXT, "*1\r\n", REFUSED, "an array in place of a text, at its header"},
    {RL_REPLY_TEXT, "*2147483647\r\n", REFUSED, "one of 2,147,483,647 elements"},
    {RL_REPLY_TEXT, "$2147483647\r\nx", WAITS, "a long text that has begun"},
    {RL_REPLY_LIST, "*3\r\n$6\r\nmaster\r\n:5\r\n*1\r\n*3\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n5\r\n",
     READ, "the role of a primary with a replica"},
    {RL_REPLY_LIST, "*4096\r\n", WAITS, "as many elements as a list may have"},
    {RL_REPLY_LIST, "*4097\r\n", REFUSED, "one more"},
    {RL_REPLY_LIST, "*2147483647\r\n", REFUSED, "a list of 2,147,483,647"},
    {RL_REPLY_LIST, "*2\r\n*2000\r\n", WAITS, "half of them in a list inside"},
    {RL_REPLY_LIST, "*2\r\n*5000\r\n", REFUSED, "all of them and more inside"},
    {RL_REPLY_LIST, "*2\r\n:1\r\n*2147483647\r\n", REFUSED, "2,147,483,647 inside"},
    {RL_REPLY_LIST, "*1\r\n*1\r\n*1\r\n*1\r\n", WAITS, "a list four deep"},
    {RL_REPLY_LIST, "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", REFUSED, "five deep"},
    {RL_REPLY_LIST, "*1\r\n*2147483647\r\n", REFUSED, "2,147,483,647 as the first inside"},
    {RL_REPLY_TABLE, "*1\r\n*4\r\n:0\r\n:9\r\n*4\r\n$1\r\na\r\n:1\r\n$1\r\ni\r\n*2\r\n$1\r\nh\r\n"
     "$1\r\nb\r\n*2\r\n$1\r\nb\r\n:1\r\n", READ, "a table of slots"},
    {RL_REPLY_TABLE, "*327680\r\n", WAITS, "as many elements as a table may have"},
    {RL_REPLY_TABLE, "*327681\r\n", REFUSED, "one more than that"},
    {RL_REPLY_TABLE, "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", REFUSED, "a table five deep"},
};

static void test_claims(void)
{
    for (size_t i = 0; i < COUNT(replies); i++)
        is_int(read_bytes(replies[i].kind, replies[i].bytes), replies[i].fate, "%s",
               replies[i].what);
}

/* All lists of a reply share its bound. */
static void test_sums(void)
{
    outcome fate;
    size_t fed = read_for_ever(RL_REPLY_LIST, "*2000\r\n", "*100\r\n", &fate);

    ok(fate == REFUSED && fed < 8192, "lists within lists share one bound");
    fed = read_for_ever(RL_REPLY_LIST, "*4000\r\n", "$20\r\n01234567890123456789\r\n", &fate);
    ok(fate == REFUSED && fed < 200000, "so do the texts of a list");
    fed = read_for_ever(RL_REPLY_TABLE, "*50000000\r\n", ":1\r\n", &fate);
    ok(fate == REFUSED && fed < 8192, "50,000,000 numbers are refused before the first");
}

static void test_endless(void)
{
    outcome fate;
    size_t fed = read_for_ever(RL_REPLY_TEXT, "$2147483647\r\n", "x", &fate);

    ok(fate == REFUSED && fed <= 16384 + 8192, "a text without end is refused early");
    fed = read_for_ever(RL_REPLY_TEXT, "-ERR ", "x", &fate);
    ok(fate == REFUSED && fed <= 16384 + 8192, "and an error without end");
    fed = read_for_ever(RL_REPLY_LIST, "*3\r\n$9\r\n", "x", &fate);
    ok(fate == REFUSED && fed <= 65536 + 8192, "and a text in a list");
}

/* Each reply has the whole bound. */
static void test_next(void)
{
    int read = 0;
    source s;

    open_source(&s, RL_REPLY_LIST);
    for (int i = 0; i < 5000; i++)
        read += feed(&s, "*2\r\n$1\r\na\r\n$1\r\nb\r\n", 18) == READ;
    is_int(read, 5000, "each reply has the whole bound");
    rl_reader_expect(&s.reader, RL_REPLY_TEXT);
    is_int(feed(&s, "*2\r\n", 4), REFUSED, "and that of its own kind");
    redisReaderFree(s.hiredis);
}

int main(void)
{
    test_claims();
    test_sums();
    test_endless();
    test_next();
    return done_testing();
}
