/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_move: copies the entries of one table into another.
 *
 * A table cannot be resized in place, because a key's set depends on the number of sets. So a
 * reload with another size makes a new table and fills it from the old one, in which children that
 * have not ended yet go on counting. An entry is copied with its generation, because its words
 * would read as zero in another one. It is read in the order in which decisions read it, so a copy
 * has at least what was charged and pending at some moment; a snapshot that is being written fails
 * its checksum.
 *
 * An entry does not contain the last 12 bits of its key. In a table of at least 4,096 sets, which
 * is 2 MB, they follow from the set. In a smaller one several keys may fit; the entry is then left
 * out.
 */
#include <string.h>

#include "shm/local_table.h"

#define TAIL ((UINT64_C(1) << FINGERPRINT_SHIFT) - 1) /* the bits that an entry lacks */

/* The key of an owner in a set, of so many; 0 if several keys fit. */
static uint64_t key_in(uint64_t owner, uint64_t set, uint64_t sets)
{
    uint64_t upper = KEY_BIT | (owner & FINGERPRINT) << FINGERPRINT_SHIFT;
    uint64_t tail = (set + sets - upper % sets) % sets;

    return tail <= TAIL && tail + sets > TAIL ? upper | tail : 0;
}

/* The table that the entry is copied to is not in use yet. */
static void copy(const entry *from, entry *to)
{
    rl_pair pending, count;

    do { /* the count and the pending units, as they were together: see local_count.c */
        pending = read_pair(&from->words[PENDING]);
        count = read_pair(&from->words[COUNT]);
    } while (read_pair(&from->words[PENDING]) != pending);
    store(&to->words[PENDING], first_of(pending));
    store(&to->words[PENDING + 1], second_of(pending));
    store(&to->words[COUNT], first_of(count));
    store(&to->words[COUNT + 1], second_of(count));
    store(&to->words[BLOCKED], load_acquire(&from->words[BLOCKED]));
    store(&to->expires_s, load(&from->expires_s));
    store(&to->used, load(&from->used));
    store(&to->reported_s, load(&from->reported_s));
    store(&to->silent, load(&from->silent));
}

/* Moves an entry; returns 0 if it gets another owner meanwhile, or its key is unknown. */
static int move(rl_local *to, const rl_local *from, uint64_t set, const entry *e, uint64_t owner,
                int64_t host_ms)
{
    uint64_t key = key_in(owner, set, from->sets);
    tenure t;

    if (!key)
        return 0;
    t = rl_local_claim(to, key, host_ms);
    copy(e, t.entry);
    if (load_acquire(&e->owner) != owner) {
        store(&t.entry->owner, t.owner & GENERATION);
        return 0;
    }
    store(&t.entry->owner, owner);
    return 1;
}

static int is_live(const entry *e, uint64_t owner, int64_t host_ms)
{
    return (owner & FINGERPRINT) && !(owner & BEING_MADE)
        && load(&e->expires_s) > (uint32_t)(host_ms / 1000);
}

uint64_t rl_local_move(rl_local *to, const rl_local *from, int64_t host_ms, uint64_t *live)
{
    uint64_t moved = 0;

    memcpy(to->seed, from->seed, RL_LOCAL_SEED);
    to->epoch_offset_ms = from->epoch_offset_ms;
    store(&to->redis_offset_ms, load(&from->redis_offset_ms));
    *live = 0;
    for (uint64_t set = 0; set < from->sets; set++) {
        for (int i = 0; i < WAYS; i++) {
            const entry *e = &from->table[set][i];
            uint64_t owner = load_acquire(&e->owner);

            if (!is_live(e, owner, host_ms))
                continue;
            (*live)++;
            moved += (uint64_t)move(to, from, set, e, owner, host_ms);
        }
    }
    moved -= load(&to->evictions); /* each evicted an entry that had been moved before */
    add(&to->evictions, load(&from->evictions));
    return moved;
}
