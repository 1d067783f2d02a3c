/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: bounds the size of a reply, by the command it belongs to.
 *
 * The elements of an array are subtracted from the reply's bound when its header is read, so nested
 * arrays share one bound. A text is made only when it is complete; until then its bytes are in
 * hiredis's buffer, which rl_reader_error() bounds.
 */
#include "redis/reader.h"

#define LINE 64 /* bytes of a header at most */

#if HIREDIS_MAJOR >= 1
typedef size_t count;
#else
typedef int count;
#endif

/*
 * The reply to a decision has at most 2,817 bytes, but an error may repeat the command. ROLE has
 * three texts for each replica, HELLO the arguments of each module. A cluster may have a range for
 * each slot, with a primary and two replicas in up to twenty elements.
 */
static const struct {
    size_t bytes, elements;
    int depth;
} bounds[RL_REPLY_KINDS] = {
    [RL_REPLY_TEXT] = {16384, 0, 0},
    [RL_REPLY_LIST] = {65536, 4096, 4},
    [RL_REPLY_TABLE] = {4 << 20, 20 * 16384, 4},
};

/* The reader of an object about to be made. A root object begins a new reply. */
static rl_reader *reader_of(const redisReadTask *task)
{
    rl_reader *reader = task->privdata;

    if (!task->parent) {
        reader->bytes = bounds[reader->kind].bytes;
        reader->elements = bounds[reader->kind].elements;
    }
    return reader;
}

static int take(size_t *left, size_t wanted)
{
    if (wanted > *left)
        return 0;
    *left -= wanted;
    return 1;
}

static int depth_of(const redisReadTask *task)
{
    int depth = 0;

    for (; task; task = task->parent)
        depth++;
    return depth;
}

static void *create_string(const redisReadTask *task, char *text, size_t length)
{
    rl_reader *reader = reader_of(task);

    if (take(&reader->bytes, length))
        return reader->plain->createString(task, text, length);
    reader->refused = 1;
    return NULL;
}

static void *create_array(const redisReadTask *task, count elements)
{
    rl_reader *reader = reader_of(task);

    /* A negative count, which hiredis 0.14 may pass, is too large as well. */
    if (depth_of(task) <= bounds[reader->kind].depth
        && take(&reader->elements, (size_t)elements))
        return reader->plain->createArray(task, elements);
    reader->refused = 1;
    return NULL;
}

void rl_reader_attach(rl_reader *reader, redisReader *hiredis)
{
    reader->plain = hiredis->fn;
    reader->functions = *hiredis->fn;
    reader->functions.createString = create_string;
    reader->functions.createArray = create_array;
    reader->refused = 0;
    hiredis->fn = &reader->functions;
    hiredis->privdata = reader;
}

void rl_reader_expect(rl_reader *reader, rl_reply_kind kind)
{
    reader->kind = kind;
}

const char *rl_reader_error(const rl_reader *reader, const redisReader *hiredis)
{
    if (reader->refused)
        return "it sent a reply that is too large for the command";
    return hiredis->len - hiredis->pos > bounds[reader->kind].bytes + LINE
        ? "it sent a reply without end" : NULL;
}
