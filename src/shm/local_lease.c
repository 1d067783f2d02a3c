/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local_lease: units of a counter that this host has leased from Redis and spends by itself.
 *
 * Why leases are exact. Let the algorithm run alone over the requests that are admitted, each at
 * the time when its thread read the clock or, if that was later, when its unit was debited.
 *
 * - Each unit is spent at most once: a spend is one swap of the pair that holds the lease's units,
 *   from exactly the pair that was read. Grants are stored by such a swap, too, in place of a
 *   lease that is used up, has expired or has too little left, which is lost; they are never added
 *   to another lease. A table that replaces this one never finds its leases: see
 *   rl_local_lease_key().
 * - A unit is debited before it is spent, and spent before its lease expires. The lease expires
 *   rl_limiter_lease_ms() after the moment before the command was sent, on a clock that never
 *   steps; an eighth is left for clocks of different speed. A late reply makes it shorter, not
 *   longer.
 * - Windows: so a unit is spent in the window, by Redis's clock, that it was debited to. At any
 *   moment what was spent in this window and in the one before is at most what was debited there,
 *   and the estimate made from the debits is at most the quota: Redis saw to it at each debit, and
 *   between debits the estimate only falls. The algorithm's own estimate is not higher.
 * - Buckets: units that are spent in any t ms were debited in at most t + lease_ms. All debits fit
 *   into a bucket that is smaller by what drains in lease_ms, so they are at most
 *   burst - quota x lease_ms / window + quota x (t + lease_ms) / window, which is what the whole
 *   bucket admits in t ms.
 * - Units return only if the request that took them was not admitted after all, and only to the
 *   same lease, by its serial. Units that are left when a lease expires are lost. So are those of a
 *   grant that nobody receives: a call for units is never repeated unless it certainly did not run.
 *
 * The quota of a counter may change: a tier, an override. The entry's key contains the limit, so
 * that no request spends what was debited under another one; units debited before the change are
 * spent for at most RL_LEASE_MAX_MS after it.
 *
 * An entry has room for two leases, so that a refill has a place while the other one is spent. The
 * one that expires first is spent first. One thread of the host at a time asks for a refill: its
 * claim is a word with the time until which it lasts, so that it ends although the thread dies or
 * no reply comes.
 */
#include "shm/local_table.h"

#define EXPIRES_MS ((UINT64_C(1) << 40) - 1)
#define SERIAL_SHIFT 40
#define SERIAL (UINT64_C(0xfff) << SERIAL_SHIFT)
#define LEFT_SHIFT 40
#define SIZE_SHIFT 16
#define UNITS_MAX ((INT64_C(1) << 24) - 1)
#define USED_UP (UINT64_C(1) << 15)
#define LIFE_MS (USED_UP - 1)

#define FIRST 2          /* requests that the first lease is for: the demand is not known yet */
#define FIRST_GAP_MS 50  /* the longest time between each two of the three requests before it */
#define GROWTH 4         /* a lease is at most so many times the one before */

/* One of the two leases of an entry, as it was read. */
typedef struct {
    rl_pair pair;
    uint64_t serial; /* its first word, which no other lease of the tenure has */
    int64_t expires_ms, left, size, life_ms;
    int is_used_up;  /* no request of its cost fits; life_ms is then how long that took */
} lease;

static word *words_of(const tenure *t, int i)
{
    return &t->entry->words[LEASE + 2 * i];
}

static lease read_lease(const tenure *t, int i)
{
    lease l = {.pair = read_pair(words_of(t, i))};
    uint64_t units = second_of(l.pair);

    if (!is_of(first_of(l.pair), t->owner))
        return l;
    l.serial = first_of(l.pair);
    l.expires_ms = (int64_t)(l.serial & EXPIRES_MS);
    l.left = (int64_t)(units >> LEFT_SHIFT);
    l.size = (int64_t)(units >> SIZE_SHIFT) & UNITS_MAX;
    l.life_ms = (int64_t)(units & LIFE_MS);
    l.is_used_up = (units & USED_UP) != 0;
    return l;
}

static rl_pair with_left(const lease *l, int64_t left)
{
    return pair_of(l->serial, (uint64_t)left << LEFT_SHIFT | (uint64_t)l->size << SIZE_SHIFT
                                  | (l->is_used_up ? USED_UP : 0) | (uint64_t)l->life_ms);
}

/* Whether a lease can be spent on a request of this cost. */
static int is_live(const lease *l, int64_t cost, int64_t host_ms)
{
    return l->left >= max64(cost, 1) && host_ms < l->expires_ms;
}

/* How long the lease has been spent: from when it was asked for, until it was used up or now. */
static int64_t age_of(const lease *l, int64_t host_ms)
{
    return l->is_used_up ? l->life_ms : host_ms - (l->expires_ms - l->life_ms);
}

static void note_used_up(lease *l, int64_t host_ms)
{
    l->life_ms = max64(0, age_of(l, host_ms));
    l->is_used_up = 1;
}

/* Reads both leases. Returns 0 if the tenure is over; otherwise a swap happens in it or fails. */
static int read_leases(const tenure *t, lease l[2])
{
    l[0] = read_lease(t, 0);
    l[1] = read_lease(t, 1);
    return is_current(t);
}

uint64_t rl_local_lease_key(const rl_local *table, uint64_t key, const rl_limit *limit)
{
    uint64_t sum = key ^ table->lease_salt;

    sum = (sum ^ (uint64_t)limit->quota) * UINT64_C(0x9e3779b97f4a7c15);
    sum = (sum ^ sum >> 32 ^ (uint64_t)limit->burst) * UINT64_C(0xd6e8feb86659fd93);
    sum ^= sum >> 32;
    if (!(sum >> FINGERPRINT_SHIFT & FINGERPRINT))
        sum |= UINT64_C(1) << FINGERPRINT_SHIFT;
    return sum | KEY_BIT;
}

/* --- Spending ----------------------------------------------------------------------------- */

/* Of the live leases with enough units the one that expires first; -1: there is none. */
static int choose(const lease l[2], int64_t cost, int64_t host_ms)
{
    int best = -1;

    for (int i = 0; i < 2; i++) {
        if (is_live(&l[i], cost, host_ms)
            && (best < 0 || l[i].expires_ms < l[best].expires_ms))
            best = i;
    }
    return best;
}

int rl_local_lease_spend(rl_local *table, uint64_t key, int64_t cost, int64_t host_ms,
                         rl_lease *spent)
{
    tenure t = rl_local_find(table, key);
    lease l[2], *from, *other;
    int i;

    do {
        if (!t.entry || !read_leases(&t, l))
            return 0;
        i = choose(l, cost, host_ms);
        if (i < 0)
            return 0;
        from = &l[i];
        if (from->left < 2 * cost) /* no further request of this cost fits */
            note_used_up(from, host_ms);
    } while (!swap_pair(words_of(&t, i), from->pair, with_left(from, from->left - cost)));
    other = &l[!i];
    spent->serial = from->serial;
    spent->left = from->left - cost + (is_live(other, 1, host_ms) ? other->left : 0);
    spent->refill = !is_live(other, cost, host_ms) && 2 * (from->left - cost) <= from->size;
    return 1;
}

void rl_local_lease_return(rl_local *table, uint64_t key, uint64_t serial, int64_t cost)
{
    tenure t = rl_local_find(table, key);
    int i = 0;

    while (t.entry && i < 2) {
        lease l = read_lease(&t, i);

        if (!is_current(&t))
            return;
        if (l.serial != serial || l.left + cost > l.size)
            i++;
        else if (swap_pair(words_of(&t, i), l.pair, with_left(&l, l.left + cost)))
            return;
    }
}

/* --- Refills ------------------------------------------------------------------------------ */

/* The units that are spent in RL_LEASE_DEMAND_MS, if so many were spent in age_ms. */
static int64_t demand(int64_t spent, int64_t age_ms)
{
    return spent * RL_LEASE_DEMAND_MS / max64(1, age_ms);
}

/*
 * The units to ask for by how fast a lease was spent. The last request is not counted: it ends the
 * time in which the others spent.
 */
static int64_t demand_of(const lease *l, int64_t cost, int64_t host_ms)
{
    int64_t took_ms = age_of(l, host_ms), units;

    if (l->size == 0 || host_ms >= l->expires_ms + 2 * RL_LEASE_DEMAND_MS)
        return 0;
    units = demand(l->size - l->left - cost, took_ms);
    if (l->left < cost && took_ms < 2 * RL_LEASE_DEMAND_MS)
        units = max64(units, l->size);
    units = units < GROWTH * l->size ? units : GROWTH * l->size;
    return units < UNITS_MAX ? units : UNITS_MAX;
}

/*
 * Whether a request that came shortly before this one met no lease, nor one to ask for. It has left
 * the time in the claim, which was over at once.
 */
static int is_second(const tenure *t, uint64_t claim, int64_t host_ms)
{
    return is_of(claim, t->owner) && (int64_t)(claim & VALUE) + FIRST_GAP_MS >= host_ms;
}

int64_t rl_local_lease_claim(rl_local *table, uint64_t key, const rl_lease_times *times)
{
    tenure t = rl_local_find(table, key);
    lease l[2] = {{0}, {0}};
    int64_t units, until_ms = times->until_ms, cost = max64(times->cost, 1);
    uint64_t claim;

    if (t.entry && !read_leases(&t, l))
        return 0;
    if (is_live(&l[0], cost, times->host_ms) && is_live(&l[1], cost, times->host_ms))
        return 0;
    units = demand_of(&l[l[1].expires_ms > l[0].expires_ms], cost, times->host_ms);
    if (units < FIRST * cost && times->host_ms - times->asked_ms > FIRST_GAP_MS)
        return 0;
    if (FIRST * cost > UNITS_MAX) /* too many for a lease */
        return 0;
    t = rl_local_claim(table, key, times->host_ms);
    claim = load_acquire(&t.entry->words[CLAIM]);
    if (!is_current(&t) || (is_of(claim, t.owner) && (int64_t)(claim & VALUE) > times->host_ms))
        return 0;
    if (units < FIRST * cost) {
        units = is_second(&t, claim, times->host_ms) ? FIRST * cost : 0;
        until_ms = units ? until_ms : times->host_ms;
    }
    if (!swap(&t.entry->words[CLAIM], &claim, (t.owner & GENERATION) | (uint64_t)until_ms))
        return 0;
    rl_local_keep(t.entry, times->host_ms, RL_LEASE_MAX_MS);
    return units;
}

/* Ends the claim of the refill that is over. A later claim of another thread may end, too. */
static void end_claim(const tenure *t)
{
    uint64_t claim = load_acquire(&t->entry->words[CLAIM]);

    if (is_of(claim, t->owner) && is_current(t))
        swap(&t->entry->words[CLAIM], &claim, t->owner & GENERATION);
}

/* The serials of the second lease are odd, so that the two of an entry always differ. */
static uint64_t next_serial(uint64_t serial, int i)
{
    uint64_t number = ((serial & SERIAL) >> SERIAL_SHIFT | 1) + 1 + (uint64_t)i;

    return number << SERIAL_SHIFT & SERIAL;
}

/* The lease that a grant may replace: one that is over, or else has too little left; -1: none. */
static int place_for(const lease l[2], const rl_lease_grant *grant)
{
    for (int64_t cost = 1;; cost = grant->cost) {
        for (int i = 0; i < 2; i++) {
            if (!is_live(&l[i], cost, grant->host_ms))
                return i;
        }
        if (cost >= grant->cost)
            return -1;
    }
}

/* Puts a grant in place of a lease. Returns the units lost thereby, or -1: there is no place. */
static int64_t put(const tenure *t, const rl_lease_grant *grant)
{
    uint64_t expires_ms = (uint64_t)(grant->sent_ms + grant->life_ms);
    lease l[2], fresh = {.size = grant->units, .life_ms = grant->life_ms};
    int i;

    for (;;) {
        i = read_leases(t, l) ? place_for(l, grant) : -1;
        if (i < 0)
            return -1;
        fresh.serial = next_serial(l[i].serial, i) | (t->owner & GENERATION) | expires_ms;
        if (swap_pair(words_of(t, i), l[i].pair, with_left(&fresh, grant->units)))
            return l[i].left;
    }
}

int64_t rl_local_lease_grant(rl_local *table, uint64_t key, const rl_lease_grant *grant)
{
    tenure t = grant->units > 0 ? rl_local_claim(table, key, grant->sent_ms)
                                : rl_local_find(table, key);
    int64_t lost = -1;

    if (grant->units > 0 && grant->host_ms < grant->sent_ms + grant->life_ms)
        lost = put(&t, grant);
    if (t.entry) {
        end_claim(&t);
        rl_local_keep(t.entry, grant->host_ms, RL_LEASE_MAX_MS); /* longer than a lease lives */
    }
    return lost < 0 ? grant->units : lost;
}
