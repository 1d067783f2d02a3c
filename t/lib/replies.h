/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies of Redis from their text: what hiredis makes of these bytes. Freed by the next call and
 * at the end.
 */
#ifndef REPLIES_H
#define REPLIES_H

#include <hiredis.h>
#include <stdlib.h>
#include <string.h>

/* NULL if the bytes are no whole reply. */
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
