/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_denied: the identities that are denied most, in bounded shared memory.
 *
 * The table is divided into sets of eight places, as the local tier is. A denial of an identity
 * that is in the table takes two atomic adds. To write the texts of a place, a thread swaps the
 * place's key for a claim, which contains the second in which it was made. A claim older than two
 * seconds may be replaced by any thread, so a process that dies while it writes blocks nothing.
 *
 * A reader believes the texts only if their checksum fits the place's key. Otherwise a claim was
 * replaced while its owner still wrote, and the reader frees the place.
 *
 *  word          bits  meaning
 *  keys[i]         64  key of the identity; has bit 63. Or a claim: bit 62 and a second of host_ms.
 *                      0: the place is free
 *  minute          32  number of the minute of the latest denial
 *                  32  denials in that minute
 *  before        32+32 the same for an earlier minute
 *  denials         64  denials since the identity was entered
 *  since_ms        64  host_ms when it was entered
 *  last_ms         64  host_ms of the latest denial, to about a second
 *  check           64  checksum of the key and the details
 *  details        44 words: rl_top_denied_details
 */
#include <string.h>

#include "shm/stats.h"
#include "shm/top_denied.h"
#include "core/atomics.h"

#define MAGIC UINT64_C(0x31594e4544524c52) /* "RLRDENY1", little endian */
#define WAYS 8
#define SETS (RL_DENIED_MAX / WAYS)
#define MINUTE_MS 60000
#define CLAIM_LASTS_S 2

/* Set in every key of the local tier, and not in a claim. */
#define KEY (UINT64_C(1) << 63)
#define CLAIM (UINT64_C(1) << 62)

#define DETAIL_WORDS (sizeof(rl_top_denied_details) / sizeof(uint64_t))

_Static_assert(sizeof(rl_top_denied_details) % sizeof(uint64_t) == 0,
               "an identity's texts fill whole words");

typedef _Atomic uint64_t word;

typedef struct {
    word minute;
    word before;
    word denials;
    word since_ms;
    word last_ms;
    word check;
    word details[DETAIL_WORDS];
} place;

typedef struct {
    _Alignas(64) word keys[WAYS];
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

    for (size_t i = 0; i < DETAIL_WORDS; i++)
        sum = (sum ^ words[i]) * UINT64_C(0x100000001b3) + (sum >> 47);
    return sum;
}

static void write_details(place *p, uint64_t key, const rl_top_denied_details *details)
{
    uint64_t words[DETAIL_WORDS];

    memcpy(words, details, sizeof(words));
    for (size_t i = 0; i < DETAIL_WORDS; i++)
        store(&p->details[i], words[i]);
    store(&p->check, checksum(key, words));
}

/* Whether the numbers are indexes of their tables, and the texts end. */
static int is_in_bounds(const rl_top_denied_details *details)
{
    return details->algorithm < RL_ALGORITHMS && details->source < RL_SOURCES
        && memchr(details->identity, 0, sizeof(details->identity))
        && memchr(details->rule, 0, sizeof(details->rule))
        && memchr(details->address, 0, sizeof(details->address))
        && memchr(details->limit, 0, sizeof(details->limit));
}

/* Returns 0 if what is there was not written for this key, or not completely. */
static int read_details(const place *p, uint64_t key, rl_top_denied_details *details)
{
    uint64_t words[DETAIL_WORDS] = {0}, check;

    for (size_t i = 0; i < DETAIL_WORDS; i++)
        words[i] = load(&p->details[i]);
    check = load(&p->check);
    memcpy(details, words, sizeof(*details));
    if (!is_in_bounds(details))
        return 0;
    return check == checksum(key, words);
}

static uint64_t claim_at(int64_t host_ms)
{
    return CLAIM | (uint64_t)(host_ms / 1000);
}

/* Whether a claim is so old that its owner is taken for dead. */
static int is_void(uint64_t there, int64_t host_ms)
{
    return !(there & KEY) && (there & ~CLAIM) + CLAIM_LASTS_S < (uint64_t)(host_ms / 1000);
}

/*
 * The place for a newcomer with so many denials: a free one, or the one with the fewest denials in
 * the last minute if the newcomer has more; -1: none.
 */
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

/* Writes the texts of a place again if they have changed. */
static void replace_details(set *s, int i, uint64_t key, const rl_top_denied_details *details,
                            int64_t host_ms)
{
    uint64_t claim = claim_at(host_ms), there = key;
    rl_top_denied_details known;

    if ((read_details(&s->places[i], key, &known) && !memcmp(&known, details, sizeof(known)))
        || !swap(&s->keys[i], &there, claim))
        return;
    write_details(&s->places[i], key, details);
    swap(&s->keys[i], &claim, key);
}

void rl_top_denied_enter(rl_top_denied *table, uint64_t key, const rl_top_denied_details *details,
                         uint32_t denials, int64_t host_ms)
{
    set *s = set_of(table, key);
    uint64_t claim = claim_at(host_ms), there;
    int i = find(s, key);
    place *p;

    if (i >= 0) {
        replace_details(s, i, key, details, host_ms);
        return;
    }
    i = place_for(s, denials, host_ms);
    if (i < 0)
        return;
    there = load(&s->keys[i]);
    if ((!(there & KEY) && there && !is_void(there, host_ms)) || !swap(&s->keys[i], &there, claim))
        return; /* another thread has taken the place; the next report comes soon */
    p = &s->places[i];
    store(&p->minute, (uint64_t)(host_ms / MINUTE_MS) << 32 | denials);
    store(&p->before, 0);
    store(&p->denials, denials);
    store(&p->since_ms, (uint64_t)host_ms);
    store(&p->last_ms, (uint64_t)host_ms);
    write_details(p, key, details);
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
    whole = read_details(p, there, &entry->details);
    atomic_thread_fence(memory_order_acquire); /* reads the key again after all the others */
    if (load(key) != there)
        return 0; /* the place has just been taken by another key */
    if (!whole)
        swap(key, &there, 0);
    return whole;
}
