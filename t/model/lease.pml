/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease: a model of sync=lease for Spin. lease.t has every order of its steps tried.
 *
 * Threads of one or two hosts take units of a counter in Redis and spend them. Between two steps of
 * a thread there can be any steps of others, and ticks of the time.
 *
 *   step     in the code
 *   BEGIN    a request begins: host_ms, from rl_local_clock(); maybe rl_local_lease_claim()
 *   READ     rl_local_lease_spend(): choose() a lease that is live,
 *   SPEND    and swap_pair() it, if it is still as it was read
 *   RETURN   rl_local_lease_return(): another rule denies the request
 *   DECIDE   redis/decide.lua: roll(), fits(), lease(), charge(), by the clock of Redis
 *   RECEIVE  take() in decide/lease.c: received_ms, rl_limiter_lease_ms(); put() looks for a lease
 *            that is over,
 *   PUT      and swaps it; end_claim()
 *
 * The model permits more than the code does: a request may spend either lease, or ask Redis
 * although units are left, and a call takes any number of units that fits. A thread that takes no
 * more steps was killed; another one takes over its claim. A reply may come late or be lost. All
 * clocks run equally fast, so a lease has its whole time here instead of 7/8 of it.
 *
 * The counter is a fixed window or, with -DBUCKET, a bucket. For leases a sliding window is like a
 * fixed one: units must be spent in the window that they were debited to.
 *
 * -DNAME plants a fault: FROM_RECEIPT, SPEND_EXPIRED, BLIND_SPEND, RETURN_ANY, REFUND, LATE_GRANT,
 * MERGE, SHARED_GRANT, HOST_WINDOW; with BUCKET also FULL_BURST.
 */
#ifndef HOSTS
#define HOSTS 1
#define THREADS 2 /* of each host */
#endif
#define TICKS 3
#define TIMEOUT 1 /* ticks that a claim lasts */

#ifdef BUCKET     /* one unit drains in each tick */
#ifndef BURST
#define BURST 3
#define LASTS 2   /* ticks that a lease lasts */
#endif
#define ROOM (BURST - LASTS)
#define SPAN 1    /* ticks for which units are counted together */
#else
#define WINDOW 2  /* ticks */
#define QUOTA 2   /* units in a window */
#define ROOM QUOTA
#define SPAN WINDOW
#endif

#ifdef FULL_BURST
#define ROOM_OF_REQUEST BURST
#else
#define ROOM_OF_REQUEST ROOM
#endif

typedef lease {
    byte serial;
    byte expires;
    byte left;
    byte debited /* the span in which Redis debited it; only the properties read it */
}

typedef host {
    lease leases[2];
    byte claim /* tick until which a thread refills */
}

host hosts[HOSTS];
byte now;  /* of Redis, and of all clocks that never step */
byte at;   /* the window that the counter is of; of a bucket, the tick */
byte used; /* units in it */

#define SPANS ((TICKS + SPAN - 1) / SPAN)
byte admitted[SPANS];
byte unspent[SPANS]; /* units of leases, by the span in which they were debited */

#ifdef SHARED_GRANT
lease reply; /* the last one */
#endif

hidden byte i, j, sum; /* for use within a step, no part of the state */

inline roll()
{
#ifdef BUCKET
    used = (used > now - at -> used - (now - at) : 0);
    at = now
#else
    used = (at == now / WINDOW -> used : 0);
    at = now / WINDOW
#endif
}

/*
 * Admits a request. It counts when it read the clock or, if that was later, when its units were
 * debited. Property: the algorithm, run alone over the admitted requests, admits all of them.
 */
inline admit(cost, read_at, debited_at)
{
    i = (read_at > debited_at -> read_at : debited_at);
    admitted[i] = admitted[i] + cost;
#ifdef BUCKET
    for (i : 0 .. TICKS - 1) {
        sum = 0;
        for (j : i .. TICKS - 1) {
            sum = sum + admitted[j];
            assert(sum <= BURST + j - i)
        }
    }
#else
    assert(admitted[i] <= QUOTA)
#endif
}

#define AT hosts[h].leases[n]
#define IS_SAME (AT.serial == seen.serial && AT.expires == seen.expires && AT.left == seen.left)
#define SET(l, a, b, c, d) l.serial = a; l.expires = b; l.left = c; l.debited = d
#define SEE SET(seen, AT.serial, AT.expires, AT.left, AT.debited)

/* A host with one thread needs no claims. */
#define CLAIM(until) hosts[h].claim = (THREADS > 1 -> until : 0)

mtype = { BEGIN, READ, SPEND, RETURN, DECIDE, RECEIVE, PUT };

/* Forgets all, so that requests that are over do not differ. */
inline finish()
{
    SET(seen, 0, 0, 0, 0);
    SET(granted, 0, 0, 0, 0);
    n = 0;
    t = 0;
    step = BEGIN
}

proctype worker(byte h)
{
    mtype step = BEGIN;
    byte t;     /* host_ms of the request; later, of the reply */
    byte n;     /* number of the lease; in DECIDE, whether one is wanted */
    lease seen; /* the lease as it was read */
    lease granted;

    do
    :: atomic { step == BEGIN ->
        t = now;
        if
        :: step = READ
        :: step = READ; n = 1
        :: step = DECIDE
        :: hosts[h].claim <= t -> CLAIM(t + TIMEOUT); step = DECIDE; n = 1
        fi }

    :: atomic { step == READ ->
        SEE;
        if
#ifdef SPEND_EXPIRED
        :: seen.left > 0 -> step = SPEND
#else
        :: seen.left > 0 && t < seen.expires -> step = SPEND
#endif
        :: else -> finish()
        fi }

    :: atomic { step == SPEND ->
        if
#ifdef BLIND_SPEND
        :: AT.left = seen.left - 1
#else
        :: IS_SAME -> AT.left = seen.left - 1
        :: else -> step = READ
#endif
        fi;
        if
        :: step == READ
        :: step == SPEND ->
           assert(unspent[seen.debited] > 0); /* property: no unit is spent twice */
           unspent[seen.debited] = unspent[seen.debited] - 1;
           admit(1, t / SPAN, seen.debited);
           finish()
        :: step == SPEND -> step = RETURN; t = 0; seen.expires = 0; seen.left = 0; seen.debited = 0
        fi }

    :: atomic { step == RETURN ->
        if
#ifdef RETURN_ANY
        :: AT.left = AT.left + 1
#else
        :: AT.serial == seen.serial -> AT.left = AT.left + 1
        :: else
#endif
        fi;
        finish() }

    :: atomic { step == DECIDE ->
        roll();
#ifdef BUCKET
        i = LASTS;
#else
#ifdef HOST_WINDOW
        i = WINDOW - (now + 1) % WINDOW;
#else
        i = WINDOW - now % WINDOW;
#endif
#endif
        sum = 0;                 /* units of the lease */
        do
        :: n == 1 && used < ROOM -> used++; sum++
        :: break
        od;
        unspent[now / SPAN] = unspent[now / SPAN] + sum;
        SET(granted, 0, i, sum, now / SPAN);
        sum = 0;                 /* units of the request itself */
        do
        :: used < ROOM_OF_REQUEST -> used++; sum++
        :: break
        od;
        j = sum;
        admit(j, t / SPAN, now / SPAN);
#ifdef SHARED_GRANT
        if
        :: n == 1 && reply.left > 0 -> SET(granted, 0, reply.expires, reply.left, reply.debited)
        :: n == 1 -> SET(reply, 0, granted.expires, granted.left, granted.debited)
        :: n == 0
        fi;
#endif
        n = 0;
        if
        :: granted.left > 0 -> step = RECEIVE
        :: finish()              /* no units, or the reply is lost */
        fi }

    :: atomic { step == RECEIVE ->
#ifdef FROM_RECEIPT
        granted.expires = now + granted.expires;
#else
#ifdef LATE_GRANT
        granted.expires = (now < t + granted.expires -> t : now) + granted.expires;
#else
        granted.expires = t + granted.expires;
#endif
#endif
        if
        :: n = 0
        :: n = 1
        fi;
        SEE;
        if
#ifdef MERGE
        :: now < granted.expires -> step = PUT; t = 0
#else
        :: now < granted.expires && !(seen.left > 0 && now < seen.expires) -> step = PUT; t = 0
#endif
        :: else -> CLAIM(0); finish()
        fi }

    :: atomic { step == PUT ->
        if
        :: IS_SAME ->
#ifdef REFUND
           roll();
           used = (used > seen.left -> used - seen.left : 0);
#endif
#ifdef MERGE
           granted.left = granted.left + seen.left;
#endif
           SET(AT, seen.serial + 2, granted.expires, granted.left, granted.debited)
        :: else
        fi;
        CLAIM(0);
        finish() }
    od
}

init {
    atomic {
        for (i : 0 .. HOSTS - 1) {
            hosts[i].leases[0].serial = 1;
            hosts[i].leases[1].serial = 2;
            for (j : 1 .. THREADS) {
                run worker(i)
            }
        }
        i = 0; j = 0
    }
    do
    :: now < TICKS - 1 -> now++
    :: else -> break
    od
}
