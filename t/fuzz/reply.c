/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes from Redis: raw through hiredis's reader, or as the text of one reply. States that are
 * accepted go through the limiter. Aborts where script.h does not keep what it promises.
 */
#include "redis/reader.h"
#include "redis/script.h"

#include <stdlib.h>
#include <string.h>

static void must(int holds)
{
    if (!holds)
        abort();
}

/* An accepted state can be counted with, and gives waits in range. */
static void must_decide(const rl_ask *ask)
{
    const rl_limit *limit = ask->limit;
    rl_state state = ask->state;
    int64_t now, wait;

    must(ask->now >= 0 && ask->now < (INT64_C(1) << 42) * rl_limiter_ticks(limit));
    must(rl_limiter_is_exact(limit));
    must(ask->override < RL_OVERRIDES);
    now = rl_limiter_roll(limit, &state, ask->now);
    must(now == ask->now);
    wait = rl_limiter_retry_after(limit, &state, now, ask->cost);
    must(wait >= 0 || wait == RL_NEVER);
    must(wait == 0 || !rl_limiter_admits(limit, &state, now, ask->cost));
    must(limit->algorithm == RL_SLIDING_LOG
         || (wait == 0) == rl_limiter_admits(limit, &state, now, ask->cost));
    must(rl_limiter_remaining(limit, &state, now) >= 0);
    must(rl_limiter_remaining(limit, &state, now) <= rl_limiter_capacity(limit));
    must(rl_limiter_reset(limit, &state, now) >= 0);
    if (rl_limiter_admits(limit, &state, now, ask->cost)) {
        int64_t held = rl_limiter_delay(limit, &state, ask->cost);

        must(held >= 0 && held <= limit->delay_ms);
    }
    must(ask->leased >= 0 && ask->leased <= ask->wanted);
    must(ask->leased == 0 || rl_limiter_admits(limit, &state, now, ask->cost + ask->leased));
    rl_limiter_next_unit(limit, &state, now);
    rl_limiter_charge(limit, &state, ask->cost);
    rl_limiter_give_back(limit, &state, rl_limiter_position(limit, &state, now), ask->cost);
}

#define KINDS 10

static void make_limits(rl_limit *limits, int n)
{
    static const rl_limit kinds[KINDS] = {
        {.algorithm = RL_SLIDING_WINDOW, .quota = 1000, .window_ms = 60000, .lease_ms = 1000},
        {.algorithm = RL_TOKEN_BUCKET, .quota = 1000, .window_ms = 60000, .lease_ms = 250},
        {.algorithm = RL_SLIDING_WINDOW, .quota = 10, .window_ms = 60000},
        {.algorithm = RL_FIXED_WINDOW, .quota = RL_COUNT_MAX, .window_ms = RL_WINDOW_MIN_MS},
        {.algorithm = RL_SLIDING_WINDOW, .quota = RL_PRODUCT_MAX / RL_WINDOW_MAX_MS,
         .window_ms = RL_WINDOW_MAX_MS},
        {.algorithm = RL_TOKEN_BUCKET, .quota = 100, .window_ms = 1000, .block_ms = 60000},
        {.algorithm = RL_LEAKY_BUCKET, .quota = 10, .window_ms = 60001, .delay_ms = 10000},
        {.algorithm = RL_SLIDING_LOG, .quota = RL_LOG_QUOTA_MAX, .window_ms = 60000},
        {.algorithm = RL_FIXED_WINDOW, .quota = 10, .window_ms = 60000, .on_response = 1},
        {.algorithm = RL_TOKEN_BUCKET, .quota = 0, .window_ms = RL_WINDOW_MAX_MS}};

    for (int i = 0; i < n; i++) {
        limits[i] = kinds[i % KINDS];
        limits[i].burst = limits[i].quota;
    }
}

/* The reply to n rules, of all kinds from kind number first on. */
static void read_reply(const redisReply *reply, int first, int n)
{
    rl_limit limits[RL_ASKS_MAX + KINDS];
    rl_ask asks[RL_ASKS_MAX];
    int said;

    make_limits(limits, n + KINDS);
    for (int i = 0; i < n; i++)
        asks[i] = (rl_ask){.key = "k", .limit = &limits[first + i],
                           .override_key = first % 2 ? "o" : NULL, .tiers = "t ",
                           .cost = i % 5 ? i : RL_COUNT_MAX,
                           .wanted = limits[first + i].lease_ms ? 100 * i + 50 : 0};
    said = rl_script_read(reply, asks, n);
    must(said >= -1 && said <= 1);
    for (int i = 0; said >= 0 && i < n; i++)
        must_decide(&asks[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    redisReader *reader = redisReaderCreate();
    rl_reader bounds;
    char *bytes, head[32];
    void *reply;

    rl_reader_attach(&bounds, reader);
    rl_reader_expect(&bounds, RL_REPLY_TEXT);
    if (size > 1) {
        int first = data[0] >> 4 & 7, n = 1 + data[0] % 16;

        bytes = malloc(size);
        memcpy(bytes, data + 1, size - 1);
        bytes[--size] = '\0';
        if (data[0] & 0x80) {
            snprintf(head, sizeof(head), "$%zu\r\n", size);
            redisReaderFeed(reader, head, strlen(head));
            redisReaderFeed(reader, bytes, size);
            redisReaderFeed(reader, "\r\n", 2);
        }
        else {
            redisReaderFeed(reader, bytes, size);
        }
        while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply) {
            read_reply(reply, first, n);
            freeReplyObject(reply);
        }
        free(bytes);
    }
    redisReaderFree(reader);
    return 0;
}
