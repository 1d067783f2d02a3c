/* SPDX-License-Identifier: Apache-2.0 */
/*
 * script: the commands that run the scripts, and the replies to them.
 *
 * The opening of decide.lua draws the formats. A reply is used only after its type, its length and
 * the range of every number have been checked, because keys of Redis may hold anything.
 */
#include <string.h>

#include <apr_sha1.h>

#include "redis/script.h"

/* The build puts TEXT_OF(macro) where a script names a macro. */
#define TEXT_OF(macro) QUOTE(macro)
#define QUOTE(text) #text

#include "decide_lua.h"
#include "decide_plain_lua.h"

const char *const rl_script_sources[RL_SCRIPTS] = {decide_lua, decide_plain_lua};

#define RECORD 33                       /* bytes */
#define PLAIN_RECORD 26                 /* without the position */
#define MORE 21                         /* of a reply, after the state, for kinds of 8 and more */
#define LEASED 4                        /* and after it, if a lease is wanted */
#define TIME_MAX_MS (INT64_C(1) << 42)  /* the year 2109 */
#define NUMBER 24                       /* bytes of a number as text */
#define WORDS_MAX (4 + 5 * RL_ASKS_MAX) /* of a command */

/* Bits of a record's kind. */
enum { KIND_US = 4, KIND_ON_RESPONSE = 8, KIND_BLOCKS = 16, KIND_OVERRIDES = 32 };

/* The words of a command. numbers and records hold the bytes of those made here. */
typedef struct {
    const char *word[WORDS_MAX];
    size_t size[WORDS_MAX];
    int count;
    char numbers[2 + RL_ASKS_MAX][NUMBER];
    int number_count;
    unsigned char records[RL_ASKS_MAX][RECORD];
} words;

void rl_script_name(rl_script_names *names)
{
    static const char hex[] = "0123456789abcdef";

    for (int script = 0; script < RL_SCRIPTS; script++) {
        char *name = names->sha[script];
        unsigned char sum[APR_SHA1_DIGESTSIZE];
        apr_sha1_ctx_t sha;

        apr_sha1_init(&sha);
        apr_sha1_update(&sha, rl_script_sources[script],
                        (unsigned)strlen(rl_script_sources[script]));
        apr_sha1_final(sum, &sha);
        for (int i = 0; i < APR_SHA1_DIGESTSIZE; i++) {
            name[2 * i] = hex[sum[i] >> 4];
            name[2 * i + 1] = hex[sum[i] & 15];
        }
        name[RL_SCRIPT_SHA] = '\0';
    }
}

/* --- Words -------------------------------------------------------------------------------- */

static void add(words *w, const char *word, size_t size)
{
    w->word[w->count] = word;
    w->size[w->count++] = size;
}

static void add_number(words *w, int64_t n)
{
    char *text = w->numbers[w->number_count++];
    char *s = text + NUMBER - 1;
    int64_t left = n < 0 ? -n : n;

    *s = '\0';
    do {
        *--s = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (n < 0)
        *--s = '-';
    add(w, s, (size_t)(text + NUMBER - 1 - s));
}

static unsigned char *put(unsigned char *s, int64_t n, int bytes)
{
    for (int i = 0; i < bytes; i++, n >>= 8)
        s[i] = (unsigned char)n;
    return s + bytes;
}

static int64_t get(const unsigned char **s, int bytes)
{
    uint64_t n = 0;

    for (int i = bytes; i-- > 0;)
        n = n << 8 | (*s)[i];
    *s += bytes;
    return (int64_t)n;
}

/* --- Commands ----------------------------------------------------------------------------- */

static int kind_of(const rl_ask *ask)
{
    return rl_algorithms[ask->limit->algorithm].wire
        + (rl_limiter_ticks(ask->limit) > 1 ? KIND_US : 0)
        + (ask->limit->on_response ? KIND_ON_RESPONSE : 0)
        + (ask->limit->block_ms || ask->has_block_or_pending ? KIND_BLOCKS : 0)
        + (ask->override_key ? KIND_OVERRIDES : 0);
}

/* Whether a reply has more than the state. */
static int has_more(const rl_ask *ask)
{
    return kind_of(ask) >= KIND_ON_RESPONSE;
}

static void add_record(words *w, int i, const rl_ask *ask, size_t size)
{
    const rl_limit *limit = ask->limit;
    int64_t ticks = rl_limiter_ticks(limit);
    unsigned char *s = w->records[i];

    s = put(s, kind_of(ask), 1);
    s = put(s, ask->kind, 1);
    s = put(s, limit->window_ms * ticks, 4);
    s = put(s, limit->quota, 4);
    s = put(s, ask->cost, 4);
    s = put(s, rl_limiter_capacity(limit), 4);
    s = put(s, limit->delay_ms * ticks, 4);
    s = put(s, limit->block_ms, 4);
    if (ask->kind == RL_ASK_DECIDE)
        put(put(s, ask->wanted, 4), limit->lease_ms, 3);
    else
        put(s, ask->position, 7);
    add(w, (const char *)w->records[i], size);
}

/* The ms until nothing of a charge counts any more. */
static int64_t lives_ms(const rl_limit *limit)
{
    int64_t quota = limit->quota ? limit->quota : 1, capacity = rl_limiter_capacity(limit);

    if (!rl_limiter_is_bucket(limit))
        return 2 * limit->window_ms;
    return 2 * (capacity * limit->window_ms / quota + limit->delay_ms) + limit->window_ms;
}

static char *command_of(const rl_script_names *names, const rl_ask *asks, int n, int plain,
                        int64_t live, int *length)
{
    char *command = NULL;
    words w;

    w.count = w.number_count = 0;
    add(&w, "EVALSHA", 7);
    add(&w, names->sha[plain ? RL_SCRIPT_PLAIN : RL_SCRIPT_FULL], RL_SCRIPT_SHA);
    add_number(&w, asks[0].override_key ? 2 * n : n);
    for (int i = 0; i < n; i++)
        add(&w, asks[i].key, strlen(asks[i].key));
    for (int i = 0; i < n && asks[i].override_key; i++)
        add(&w, asks[i].override_key, strlen(asks[i].override_key));
    add_number(&w, live);
    for (int i = 0; i < n; i++) {
        add_record(&w, i, &asks[i], plain ? PLAIN_RECORD : RECORD);
        add_number(&w, lives_ms(asks[i].limit));
    }
    for (int i = 0; i < n && asks[i].override_key; i++)
        add(&w, asks[i].tiers, strlen(asks[i].tiers));
    *length = (int)redisFormatCommandArgv(&command, w.count, w.word, w.size);
    return *length > 0 ? command : NULL;
}

int rl_script_is_plain(const rl_ask *asks, int n, int peek)
{
    int plain = !peek;

    for (int i = 0; i < n; i++)
        plain = plain && !has_more(&asks[i]) && !rl_limiter_is_log(asks[i].limit)
            && !asks[i].wanted;
    return plain;
}

char *rl_script_decide(const rl_script_names *names, const rl_ask *asks, int n, int peek,
                       int *length)
{
    int live = 0;

    while (live < n && !asks[live].shadow)
        live++;
    return command_of(names, asks, n, rl_script_is_plain(asks, n, peek), peek ? -1 - live : live,
                      length);
}

char *rl_script_undo(const rl_script_names *names, const rl_ask *asks, int n, int *length)
{
    return command_of(names, asks, n, 0, 0, length);
}

/* --- Replies ------------------------------------------------------------------------------ */

/* Bytes of a state in a reply, with its tick. */
static size_t state_size(const rl_ask *ask)
{
    return rl_limiter_is_log(ask->limit) ? 7 + 16 : 7 + 8;
}

static void read_state(const unsigned char **s, rl_ask *ask)
{
    const rl_limit *limit = ask->limit;
    rl_state *state = &ask->state;

    memset(state, 0, sizeof(*state));
    ask->now = get(s, 7);
    if (rl_limiter_is_log(limit)) {
        state->asked = ask->cost;
        state->used = get(s, 4);
        state->wait_ms = get(s, 4);
        state->next_ms = get(s, 4);
        state->reset_ms = get(s, 4);
    }
    else if (rl_limiter_is_bucket(limit)) {
        state->at = ask->now;
        state->level = get(s, 8);
    }
    else {
        state->index = ask->now / limit->window_ms;
        state->prev = get(s, 4);
        state->cur = get(s, 4);
    }
}

static int is_sane_state(const rl_limit *limit, const rl_state *state)
{
    if (rl_limiter_is_log(limit))
        return state->used <= RL_COUNT_MAX && state->wait_ms <= limit->window_ms
            && state->next_ms <= limit->window_ms && state->reset_ms <= limit->window_ms;
    if (rl_limiter_is_bucket(limit))
        return state->level >= 0 && state->level <= RL_PRODUCT_MAX;
    return state->prev <= RL_COUNT_MAX && state->cur <= RL_COUNT_MAX;
}

/* Returns 0 if a number is out of range; then the limit is unchanged. */
static int read_more(const unsigned char **s, rl_ask *ask)
{
    int64_t blocked_ms = get(s, 4), period = get(s, 4), pending = get(s, 4), quota = get(s, 4);
    int64_t capacity = get(s, 4), override = get(s, 1);
    rl_limit limit = *ask->limit;

    ask->state.blocked_until = blocked_ms ? ask->now + blocked_ms * rl_limiter_ticks(ask->limit)
                                          : 0;
    ask->state.pending = (rl_pending){period, 0, pending};
    ask->override = (rl_override)override;
    if (override == RL_OVERRIDE_QUOTA) {
        limit.quota = quota;
        limit.burst = capacity;
    }
    if (pending > 2 * RL_COUNT_MAX || override >= RL_OVERRIDES || quota > RL_COUNT_MAX
        || capacity > RL_COUNT_MAX || !rl_limiter_is_exact(&limit))
        return 0;
    *ask->limit = limit;
    return 1;
}

static size_t reply_size(const rl_ask *asks, int n)
{
    size_t size = 1;

    for (int i = 0; i < n; i++)
        size += state_size(&asks[i]) + (has_more(&asks[i]) ? MORE : 0)
            + (asks[i].wanted ? LEASED : 0);
    return size;
}

/* Returns 0 if the script cannot have leased so many units. */
static int read_lease(const unsigned char **s, rl_ask *ask, int all)
{
    ask->leased = ask->wanted ? get(s, LEASED) : 0;
    return ask->leased == 0
        || ((all || ask->shadow) && ask->override != RL_OVERRIDE_UNLIMITED
            && ask->leased <= rl_limiter_lease(ask->limit, &ask->state, ask->now, ask->cost,
                                               ask->wanted));
}

int rl_script_read(const redisReply *reply, rl_ask *asks, int n)
{
    const unsigned char *s = (const unsigned char *)reply->str;
    int all;

    if (reply->type != REDIS_REPLY_STRING || (size_t)reply->len != reply_size(asks, n)
        || (*s != '0' && *s != '1'))
        return -1;
    all = *s++ == '1';
    for (int i = 0; i < n; i++) {
        rl_ask *ask = &asks[i];

        read_state(&s, ask);
        ask->override = RL_OVERRIDE_NONE;
        if (ask->now >= TIME_MAX_MS * rl_limiter_ticks(ask->limit)
            || !is_sane_state(ask->limit, &ask->state) || (has_more(ask) && !read_more(&s, ask))
            || !read_lease(&s, ask, all))
            return -1;
    }
    return all;
}
