/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_denied: who is denied the most right now, in bounded shared memory.
 *
 * Sets of eight places, as in the local tier, but for texts. Counting a denial of somebody who is
 * in the table is two atomic adds. Texts are written by whoever has swapped the place's key for a
 * claim, which holds the second it was made in: one that is older than two seconds belongs to
 * nobody, so a process that dies while it writes blocks nothing. What a place says is believed only
 * if its checksum, which takes in the key, agrees; a place that does not agree, as when a claim was
 * overtaken, is freed by whoever reads it.
 *
 * A place counts the denials of two minutes, the one under way and the one before, each word with
 * its minute: that is enough to weigh one client against another.
 */
#include <string.h>

#include "shm/top_denied.h"
#include "core/atomics.h"

#define MAGIC UINT64_C(0x31594e4544524c52) /* "RLRDENY1", little endian */
#define WAYS 8
#define SETS (RL_DENIED_MAX / WAYS)
#define MINUTE_MS 60000
#define CLAIM_LASTS_S 2

/* Set in every key of the local tier; what else stands in place of a key is a claim. */
#define KEY (UINT64_C(1) << 63)
#define CLAIM (UINT64_C(1) << 62)

#define KEY_WORDS (sizeof(rl_top_denied_key) / sizeof(uint64_t))

_Static_assert(sizeof(rl_top_denied_key) % sizeof(uint64_t) == 0,
               "who somebody is, is whole words");

typedef _Atomic uint64_t word;

typedef struct {
    word minute;  /* number << 32 | denials in it */
    word before;  /* the like */
    word denials;
    word since_ms;
    word last_ms;
    word check;
    word who[KEY_WORDS];
} place;

typedef struct {
    _Alignas(64) word keys[WAYS]; /* 0: free */
    place places[WAYS];
} set;

struct rl_top_denied {
    uint64_t magic;
    uint64_t size;
    set sets[SETS];
};

size_t rl_top_denied_size(void)
{
    return sizeof(rl_top_denied);
}

rl_top_denied *rl_top_denied_init(void *memory)
{
    rl_top_denied *table = memory;

    table->size = sizeof(*table);
    table->magic = MAGIC;
    return table;
}

rl_top_denied *rl_top_denied_attach(void *memory)
{
    rl_top_denied *table = memory;

    return table->magic == MAGIC && table->size == sizeof(*table) ? table : NULL;
}

static set *set_of(rl_top_denied *table, uint64_t key)
{
    return &table->sets[(key >> 8) % SETS];
}

static int find(set *s, uint64_t key)
{
    for (int i = 0; i < WAYS; i++) {
        if (load(&s->keys[i]) == key)
            return i;
    }
    return -1;
}

/* --- Minutes ------------------------------------------------------------------------------ */

static void count(place *p, uint64_t n, int64_t host_ms)
{
    uint64_t minute = (uint64_t)(host_ms / MINUTE_MS), there = load(&p->minute);

    add(&p->denials, n);
    if (load(&p->last_ms) / 1000 != (uint64_t)host_ms / 1000)
        store(&p->last_ms, (uint64_t)host_ms);
    if (there >> 32 != minute && swap(&p->minute, &there, minute << 32 | n)) {
        store(&p->before, there);
        return;
    }
    add(&p->minute, n);
}

static uint64_t in_minute(uint64_t count_of, uint64_t minute)
{
    return count_of >> 32 == minute ? count_of & UINT32_MAX : 0;
}

static uint64_t last_minute(const place *p, int64_t host_ms)
{
    uint64_t minute = (uint64_t)(host_ms / MINUTE_MS);
    uint64_t now = load(&p->minute), before = load(&p->before);
    uint64_t earlier = in_minute(now, minute - 1) + in_minute(before, minute - 1);

    return in_minute(now, minute)
        + earlier * (uint64_t)(MINUTE_MS - host_ms % MINUTE_MS) / MINUTE_MS;
}

/* --- Texts -------------------------------------------------------------------------------- */

static uint64_t checksum(uint64_t key, const uint64_t *words)
{
    uint64_t sum = key;

    for (size_t i = 0; i < KEY_WORDS; i++)
        sum = (sum ^ words[i]) * UINT64_C(0x100000001b3) + (sum >> 47);
    return sum;
}

static void write_who(place *p, uint64_t key, const rl_top_denied_key *who)
{
    uint64_t words[KEY_WORDS];

    memcpy(words, who, sizeof(words));
    for (size_t i = 0; i < KEY_WORDS; i++)
        store(&p->who[i], words[i]);
    store(&p->check, checksum(key, words));
}

/* Returns 0 if what is read was not written for key, or not whole. */
static int read_who(const place *p, uint64_t key, rl_top_denied_key *who)
{
    uint64_t words[KEY_WORDS] = {0}, check;

    for (size_t i = 0; i < KEY_WORDS; i++)
        words[i] = load(&p->who[i]);
    check = load(&p->check);
    memcpy(who, words, sizeof(*who));
    return check == checksum(key, words);
}

static uint64_t claim_at(int64_t host_ms)
{
    return CLAIM | (uint64_t)(host_ms / 1000);
}

/* Whether a claim has been left behind. */
static int is_void(uint64_t there, int64_t host_ms)
{
    return !(there & KEY) && (there & ~CLAIM) + CLAIM_LASTS_S < (uint64_t)(host_ms / 1000);
}

/* The place to take: a free one, or whose owner was denied least, and less than a newcomer. */
static int place_for(const set *s, uint64_t denials, int64_t host_ms)
{
    uint64_t least = denials;
    int found = -1;

    for (int i = 0; i < WAYS; i++) {
        uint64_t there = load(&s->keys[i]), n;

        if (!there || is_void(there, host_ms))
            return i;
        n = last_minute(&s->places[i], host_ms);
        if ((there & KEY) && n < least) {
            least = n;
            found = i;
        }
    }
    return found;
}

/* --- Counting and reading ----------------------------------------------------------------- */

void rl_top_denied_count(rl_top_denied *table, uint64_t key, int64_t host_ms)
{
    set *s = set_of(table, key);
    int i = find(s, key);

    if (i >= 0)
        count(&s->places[i], 1, host_ms);
}

/* Says anew who it is, unless that is known. */
static void replace_who(set *s, int i, uint64_t key, const rl_top_denied_key *who, int64_t host_ms)
{
    uint64_t claim = claim_at(host_ms), there = key;
    rl_top_denied_key known;

    if ((read_who(&s->places[i], key, &known) && !memcmp(&known, who, sizeof(known)))
        || !swap(&s->keys[i], &there, claim))
        return;
    write_who(&s->places[i], key, who);
    swap(&s->keys[i], &claim, key);
}

void rl_top_denied_enter(rl_top_denied *table, uint64_t key, const rl_top_denied_key *who,
                         uint32_t denials, int64_t host_ms)
{
    set *s = set_of(table, key);
    uint64_t claim = claim_at(host_ms), there;
    int i = find(s, key);
    place *p;

    if (i >= 0) {
        replace_who(s, i, key, who, host_ms);
        return;
    }
    i = place_for(s, denials, host_ms);
    if (i < 0)
        return;
    there = load(&s->keys[i]);
    if ((!(there & KEY) && there && !is_void(there, host_ms)) || !swap(&s->keys[i], &there, claim))
        return; /* somebody else was quicker; the next report is soon */
    p = &s->places[i];
    store(&p->minute, (uint64_t)(host_ms / MINUTE_MS) << 32 | denials);
    store(&p->before, 0);
    store(&p->denials, denials);
    store(&p->since_ms, (uint64_t)host_ms);
    store(&p->last_ms, (uint64_t)host_ms);
    write_who(p, key, who);
    swap(&s->keys[i], &claim, key);
}

int rl_top_denied_read(rl_top_denied *table, int i, int64_t host_ms, rl_top_denied_entry *entry)
{
    set *s = &table->sets[i / WAYS];
    const place *p = &s->places[i % WAYS];
    word *key = &s->keys[i % WAYS];
    uint64_t there = load_acquire(key);
    int whole;

    if (!(there & KEY))
        return 0;
    entry->key = there;
    entry->denials = load(&p->denials);
    entry->last_minute = last_minute(p, host_ms);
    entry->since_ms = (int64_t)load(&p->since_ms);
    entry->last_ms = (int64_t)load(&p->last_ms);
    whole = read_who(p, there, &entry->who);
    atomic_thread_fence(memory_order_acquire); /* all that was read, before the key again */
    if (load(key) != there)
        return 0; /* it has just changed hands */
    if (!whole)
        swap(key, &there, 0);
    return whole;
}
