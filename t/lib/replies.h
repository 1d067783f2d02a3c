/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes hiredis replies from their bytes on the wire.
 */
#ifndef REPLIES_H
#define REPLIES_H

#include <hiredis.h>
#include <stdlib.h>
#include <string.h>

/* The parsed reply, valid until the next call; NULL if the bytes are not a complete reply. */
__attribute__((unused)) static redisReply *reply_of(const char *bytes)
{
    static redisReply *last;
    redisReader *reader = redisReaderCreate();
    void *reply = NULL;

    if (last)
        freeReplyObject(last);
    redisReaderFeed(reader, bytes, strlen(bytes));
    if (redisReaderGetReply(reader, &reply) != REDIS_OK)
        reply = NULL;
    redisReaderFree(reader);
    last = reply;
    return last;
}

#endif
