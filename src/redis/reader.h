/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: bounds the size of a reply, by the command it belongs to.
 *
 * hiredis trusts the sizes in a reply: 0.14 allocates as many pointers as the header of an array
 * claims, and every version parses as many elements as come. So the functions by which hiredis
 * makes objects are replaced by functions that check first: what is too large, or nested too deep,
 * is refused before anything is allocated for it.
 *
 * One owner at a time, the link's. Works with every version of hiredis from 0.14 on.
 */
#ifndef RL_READER_H
#define RL_READER_H

#include <hiredis.h>

typedef enum {
    RL_REPLY_TEXT,  /* a text, a number or an error: of decisions and most greetings */
    RL_REPLY_LIST,  /* of ROLE, of HELLO, and of sentinels */
    RL_REPLY_TABLE, /* of CLUSTER SLOTS */
    RL_REPLY_KINDS
} rl_reply_kind;

typedef struct {
    redisReplyObjectFunctions functions; /* those that check */
    const redisReplyObjectFunctions *plain; /* hiredis's own */
    rl_reply_kind kind;
    size_t bytes, elements; /* that the rest of this reply may have */
    int refused;
} rl_reader;

/* Makes hiredis's reader check. The rl_reader must outlive it. */
void rl_reader_attach(rl_reader *reader, redisReader *hiredis);

/* Sets the kind of the next reply. Call it before each redisGetReplyFromReader(). */
void rl_reader_expect(rl_reader *reader, rl_reply_kind kind);

/*
 * What is wrong with a reply, for logs: an object was refused, or too many bytes of an incomplete
 * reply have come. NULL if nothing is.
 */
const char *rl_reader_error(const rl_reader *reader, const redisReader *hiredis);

#endif
