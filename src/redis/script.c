/*
 * script: what is said to Redis, and what comes back.
 *
 * The formats are those that decide.lua's opening comment fixes. A reply is trusted only after
 * its type, its length and the range of every number have been checked: what holds the key space
 * may be anything.
 */
#include <string.h>

#include <apr_sha1.h>

#include "decide_lua.h"
#include "script.h"

const char *const rl_script_source = decide_lua;

#define RECORD 14                      /* bytes a rule takes in a reply */
#define TIME_MAX (INT64_C(1) << 47)    /* ms; the year 6429 */
#define NUMBER 24                      /* bytes for a number in text */

/* The words of a command; text numbers live in it. */
typedef struct {
    const char *word[4 + 5 * RL_ASKS_MAX];
    size_t size[4 + 5 * RL_ASKS_MAX];
    int count;
    char numbers[2 + 3 * RL_ASKS_MAX][NUMBER];
    int number_count;
} words;

void rl_script_name(char name[RL_SCRIPT_SHA + 1])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char sum[APR_SHA1_DIGESTSIZE];
    apr_sha1_ctx_t sha;

    apr_sha1_init(&sha);
    apr_sha1_update(&sha, rl_script_source, (unsigned)strlen(rl_script_source));
    apr_sha1_final(sum, &sha);
    for (int i = 0; i < APR_SHA1_DIGESTSIZE; i++) {
        name[2 * i] = hex[sum[i] >> 4];
        name[2 * i + 1] = hex[sum[i] & 15];
    }
    name[RL_SCRIPT_SHA] = '\0';
}

static void add(words *w, const char *word)
{
    w->word[w->count] = word;
    w->size[w->count++] = strlen(word);
}

static void add_number(words *w, int64_t n)
{
    char *text = w->numbers[w->number_count++];
    char *s = text + NUMBER - 1;

    *s = '\0';
    do {
        *--s = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    add(w, s);
}

static void begin(words *w, const char *sha, const rl_ask *asks, int n)
{
    static const char *const counts[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};

    w->count = w->number_count = 0;
    add(w, "EVALSHA");
    add(w, sha);
    if (n < 10)
        add(w, counts[n]);
    else
        add_number(w, n);
    for (int i = 0; i < n; i++)
        add(w, asks[i].key);
}

static char *finish(words *w, int *length)
{
    char *command = NULL;

    *length = (int)redisFormatCommandArgv(&command, w->count, w->word, w->size);
    return *length > 0 ? command : NULL;
}

char *rl_script_decide(const char *sha, const rl_ask *asks, int n, int *length)
{
    int live = 0;
    words w;

    while (live < n && !asks[live].shadow)
        live++;
    begin(&w, sha, asks, n);
    add_number(&w, live);
    for (int i = 0; i < n; i++) {
        add(&w, asks[i].limit->algorithm == RL_SLIDING_WINDOW ? "s" : "f");
        add_number(&w, asks[i].limit->window_ms);
        add_number(&w, asks[i].limit->quota);
        add_number(&w, asks[i].cost);
    }
    return finish(&w, length);
}

char *rl_script_give_back(const char *sha, const rl_ask *asks, int n, int *length)
{
    words w;

    begin(&w, sha, asks, n);
    add(&w, "give-back");
    for (int i = 0; i < n; i++) {
        add_number(&w, asks[i].limit->window_ms);
        add_number(&w, asks[i].state.index);
        add_number(&w, asks[i].cost);
    }
    return finish(&w, length);
}

static int64_t little_endian(const unsigned char *s, int bytes)
{
    int64_t n = 0;

    while (bytes-- > 0)
        n = n << 8 | s[bytes];
    return n;
}

int rl_script_read(const redisReply *reply, rl_ask *asks, int n)
{
    const unsigned char *s = (const unsigned char *)reply->str;

    if (reply->type != REDIS_REPLY_STRING || (size_t)reply->len != 1 + (size_t)n * RECORD
        || (*s != '0' && *s != '1'))
        return -1;
    for (int i = 0; i < n; i++) {
        const unsigned char *record = s + 1 + i * RECORD;
        rl_state *state = &asks[i].state;

        asks[i].now = little_endian(record, 6);
        state->prev = little_endian(record + 6, 4);
        state->cur = little_endian(record + 10, 4);
        state->index = asks[i].now / asks[i].limit->window_ms;
        if (asks[i].now >= TIME_MAX || state->prev > RL_COUNT_MAX || state->cur > RL_COUNT_MAX)
            return -1;
    }
    return *s == '1';
}
