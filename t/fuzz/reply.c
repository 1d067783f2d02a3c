/*
 * Any bytes from a Redis: raw through hiredis's reader, or as the text of one reply. What is
 * believed of it goes through the limiter. Aborts where a promise of script.h does not hold.
 */
#include "redis/script.h"

#include <stdlib.h>
#include <string.h>

static void must(int holds)
{
    if (!holds)
        abort();
}

static void must_decide(const rl_ask *ask)
{
    const rl_limit *limit = ask->limit;
    rl_state state = ask->state;
    int64_t now, wait;

    must(ask->now >= 0 && ask->now < INT64_C(1) << 47);
    must(state.prev >= 0 && state.prev <= RL_COUNT_MAX);
    must(state.cur >= 0 && state.cur <= RL_COUNT_MAX);
    now = rl_limiter_roll(limit, &state, ask->now);
    must(now == ask->now && state.index == ask->state.index);
    wait = rl_limiter_retry_after(limit, &state, now, ask->cost);
    must(wait == RL_NEVER || (wait >= 0 && wait <= 2 * limit->window_ms));
    must((wait == 0) == rl_limiter_admits(limit, &state, now, ask->cost));
    must(rl_limiter_remaining(limit, &state, now) <= limit->quota);
    must(rl_limiter_reset(limit, &state, now) >= 0);
    rl_limiter_next_unit(limit, &state, now);
}

static void read_reply(const redisReply *reply, int n)
{
    static const rl_limit limits[] = {
        {RL_SLIDING_WINDOW, 10, 60000},
        {RL_FIXED_WINDOW, RL_COUNT_MAX, RL_WINDOW_MIN_MS},
        {RL_SLIDING_WINDOW, RL_PRODUCT_MAX / RL_WINDOW_MAX_MS, RL_WINDOW_MAX_MS}};
    rl_ask asks[RL_ASKS_MAX];
    int said;

    for (int i = 0; i < n; i++)
        asks[i] = (rl_ask){"k", &limits[i % 3], i % 5 ? i : RL_COUNT_MAX, 0, 0, {0, 0, 0}};
    said = rl_script_read(reply, asks, n);
    must(said >= -1 && said <= 1);
    for (int i = 0; said >= 0 && i < n; i++)
        must_decide(&asks[i]);
}

/* An array of a million is hiredis's affair, and one of a billion the allocator's. */
static int is_huge(const char *bytes, size_t size)
{
    for (size_t i = 0; i + 6 < size; i++) {
        if (bytes[i] == '*' && strspn(bytes + i + 1, "+-0123456789") > 4)
            return 1;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    redisReader *reader = redisReaderCreate();
    char *bytes, head[32];
    void *reply;

    if (size > 1) {
        int n = data[0] % (RL_ASKS_MAX + 1);

        bytes = malloc(size);
        memcpy(bytes, data + 1, size - 1);
        bytes[--size] = '\0';
        if (data[0] & 0x80) {
            snprintf(head, sizeof(head), "$%zu\r\n", size);
            redisReaderFeed(reader, head, strlen(head));
            redisReaderFeed(reader, bytes, size);
            redisReaderFeed(reader, "\r\n", 2);
        }
        else if (!is_huge(bytes, size)) {
            redisReaderFeed(reader, bytes, size);
        }
        while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply) {
            read_reply(reply, n);
            freeReplyObject(reply);
        }
        free(bytes);
    }
    redisReaderFree(reader);
    return 0;
}
