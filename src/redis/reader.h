/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: how large a reply may be, by what was asked.
 *
 * hiredis believes what a reply says of its own size: 0.14 allocates as many pointers as the header
 * of an array claims, and every version parses as many elements as come. So the functions that
 * hiredis makes objects with are replaced by ones that check first: what is too large, or nested
 * too deep, is refused at its header, before anything is allocated for it.
 *
 * One owner at a time, the link's. Works on every version of hiredis from 0.14 on.
 */
#ifndef RL_READER_H
#define RL_READER_H

#include <hiredis.h>

typedef enum {
    RL_REPLY_TEXT,  /* a text, a number, an error: what a decision and most greetings get */
    RL_REPLY_LIST,  /* ROLE, HELLO, and what sentinels say */
    RL_REPLY_TABLE, /* CLUSTER SLOTS */
    RL_REPLY_KINDS
} rl_reply_kind;

typedef struct {
    redisReplyObjectFunctions functions; /* hiredis's, with the checks in front */
    const redisReplyObjectFunctions *plain;
    rl_reply_kind kind;
    size_t bytes, elements; /* that this reply may still have */
    int refused;
} rl_reader;

/* Puts the checks into hiredis's reader, which the rl_reader must outlive. */
void rl_reader_attach(rl_reader *reader, redisReader *hiredis);

/* Says of what kind the next reply is. To be called before each redisGetReplyFromReader(). */
void rl_reader_expect(rl_reader *reader, rl_reply_kind kind);

/*
 * Why the reply cannot be what was asked for: one was refused while it was parsed, or so many bytes
 * have come of one that is not complete. NULL if it still can.
 */
const char *rl_reader_error(const rl_reader *reader, const redisReader *hiredis);

#endif
