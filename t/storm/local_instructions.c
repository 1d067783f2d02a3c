/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared table at every instruction. A child runs one call, traced by its parent, which stops
 * it after the first instruction, the second, the third and so on. There it kills the child, or
 * does what another worker might do at that moment and lets the child go on. So races and deaths
 * that would take years to happen all happen here, each once, the same in every run. make check
 * stops at each seventh instruction, make storm (STORM_STRIDE=1) at each.
 *
 * Skipped if tracing is not allowed, and under sanitizers, which add instructions.
 */
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random.h"
#include "table.h"
#include "tap.h"

#define SIZE RL_LOCAL_MIN_SIZE
#define QUOTA 20
#define FILLERS 4000

enum { LIVE_S = 100 }; /* the second of host_ms at which most of it happens */
#define NOW (LIVE_S * INT64_C(1000))

static const rl_limit hourly = LIMIT(RL_SLIDING_WINDOW, QUOTA, 3600000);
static const rl_limit responding = {.algorithm = RL_SLIDING_WINDOW, .quota = QUOTA,
                                    .window_ms = 3600000, .burst = QUOTA, .on_response = 1};
static const rl_limit bucket = LIMIT(RL_TOKEN_BUCKET, QUOTA, 3600000);
static const rl_limit brief = LIMIT(RL_SLIDING_WINDOW, QUOTA, 1000);

static int every; /* instructions from stop to stop; 1 in make storm */
static rl_local *table;
static char *image; /* the table as each run finds it */
static uint64_t alice, bob, victim;
static uint64_t fillers[FILLERS];

static struct {
    volatile int begun, done;
    int admitted; /* what the child's charge, spend or claim returned */
    int lost;     /* by the child's grant */
    rl_state state;
} *child;

/* --- Stepping --- */

/* A stop for the parent; 0 when the child is gone. */
static int next_stop(pid_t pid)
{
    int status;

    return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
}

static int step(pid_t pid)
{
    return ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 && next_stop(pid);
}

/* A child that is about to run the call, and steps instructions into it. 0: it cannot be traced. */
static pid_t start(void (*call)(void), int steps)
{
    pid_t pid;

    memcpy(table, image, SIZE);
    memset(child, 0, sizeof(*child));
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
            _exit(1);
        kill(getpid(), SIGSTOP);
        child->begun = 1;
        call();
        child->done = 1;
        _exit(0);
    }
    if (!next_stop(pid))
        return 0;
    while (!child->begun)
        step(pid);
    while (!child->done && steps-- > 0)
        step(pid);
    return pid;
}

static void finish(pid_t pid)
{
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    waitpid(pid, NULL, 0);
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* --- The scene: a table without a free place --- */

static int fill_up_by(const rl_limit *limit, uint64_t key, int64_t host_ms)
{
    int admitted = 0;
    rl_state state;

    while (admitted <= 2 * QUOTA && charge(table, key, limit, 1, host_ms, &state))
        admitted++;
    return admitted;
}

static int fill_up(uint64_t key, int64_t host_ms)
{
    return fill_up_by(&hourly, key, host_ms);
}

/* The key that a new one would evict now. */
static uint64_t driven_out_by(uint64_t key)
{
    char *before = malloc(SIZE);
    uint64_t gone = 0;
    rl_state state;

    memcpy(before, table, SIZE);
    charge(table, key, &hourly, 1, NOW, &state);
    for (int i = 0; i < FILLERS && !gone; i++) {
        if (line_of((rl_local *)before, SIZE, fillers[i]) && !line_of(table, SIZE, fillers[i]))
            gone = fillers[i];
    }
    memcpy(table, before, SIZE);
    free(before);
    return gone;
}

static void charge_alice_long_ago(void)
{
    rl_state state;

    charge(table, alice, &brief, 1, NOW - 5000, &state);
}

/*
 * Every place is taken, by entries in use and half full. alice has no entry and would evict victim.
 * Then, with a function that makes it, a table in which alice's entry has expired, and bob would
 * evict it.
 */
static void prepare(void (*make_expired)(void))
{
    rl_state state;

    memset(image, 0, SIZE);
    table = make_table(SIZE);
    alice = key_of(table, RL_LOCAL_COUNT, -1);
    for (int i = 0; i < FILLERS; i++) {
        fillers[i] = key_of(table, RL_LOCAL_COUNT, i);
        charge(table, fillers[i], &hourly, QUOTA / 2, NOW - 1000, &state);
    }
    victim = driven_out_by(alice);
    if (make_expired) {
        make_expired();
        memcpy(image, table, SIZE);
        for (int i = FILLERS; line_of(table, SIZE, alice); i++) {
            memcpy(table, image, SIZE);
            bob = key_of(table, RL_LOCAL_COUNT, i);
            charge(table, bob, &hourly, 1, NOW, &state);
        }
        memcpy(table, image, SIZE);
    }
    memcpy(image, table, SIZE);
}

/* --- What the child does --- */

static void charge_alice(void)
{
    child->admitted = charge(table, alice, &hourly, 1, NOW, &child->state);
}

static void charge_alices_bucket(void)
{
    child->admitted = charge(table, alice, &bucket, 1, NOW, &child->state);
}

static void charge_alice_pending(void)
{
    child->admitted = charge(table, alice, &responding, 1, NOW, &child->state);
}

#define LATER (NOW + 4 * MINUTE) /* when units that are pending since NOW are overdue */

static void charge_alice_later(void)
{
    child->admitted = charge(table, alice, &hourly, 1, LATER, &child->state);
}

static void charge_alice_pending_later(void)
{
    child->admitted = charge(table, alice, &responding, 1, LATER, &child->state);
}

static void settle_alice(int charged)
{
    rl_local_settle(table, alice, &responding, UNITS((BASE + NOW) / MINUTE, 1, NOW), charged);
}

static void settle_alice_charged(void)
{
    settle_alice(1);
}

static void settle_alice_uncharged(void)
{
    settle_alice(0);
}

static void prolong_alice(void)
{
    rl_local_prolong(table, alice, &responding, UNITS((BASE + NOW) / MINUTE, 1, NOW + MINUTE));
}

static void charge_alice_before_the_edge(void)
{
    child->admitted = charge(table, alice, &hourly, 1, HOUR - 1, &child->state);
}

static void give_alice_back(void)
{
    rl_local_give_back(table, alice, &hourly, BASE / HOUR, 1);
}

static void store_snapshot(void)
{
    rl_state state = WINDOW(BASE / HOUR, 3, QUOTA);

    store_reply(table, alice, &hourly, &state, BASE + NOW, NOW);
}

/* --- What must hold --- */

static void test_killed_charging(void)
{
    int n = 0, finished = 0, wrong = 0, miscounted = 0;
    rl_local_stats stats;

    for (; !finished; n += every) {
        pid_t pid = start(charge_alice, n);
        int admitted;

        finished = child->done;
        end(pid);
        admitted = fill_up(alice, NOW);
        wrong += admitted != QUOTA && admitted != QUOTA - 1;
        wrong += peek(table, alice, &hourly, NOW).cur != QUOTA;
        rl_local_read_stats(table, &stats);
        miscounted += stats.entries != stats.capacity;
    }
    is_int(miscounted, 0, "killed at any instruction of a charge: a full table is counted as full");
    ok(!wrong && n > 50, "killed at any of %d instructions of a charge: at most its unit is lost",
       n);
}

static void test_killed_giving_back(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare(NULL);
    fill_up(alice, NOW);
    memcpy(image, table, SIZE);
    for (; !finished; n += every) {
        pid_t pid = start(give_alice_back, n);
        int admitted;

        finished = child->done;
        end(pid);
        admitted = fill_up(alice, NOW);
        wrong += admitted != 0 && admitted != 1;
    }
    ok(!wrong && n > 10, "killed at any of %d instructions of a give-back: it is done or not done",
       n);
}

/*
 * The snapshot of alice: 2 the child's reply, 1 the one before, 0 none, -1 anything else.
 */
static int stored(void)
{
    rl_view view;

    check_of(table, alice, &hourly, 1, NOW + 5, &view);
    if (view.now == 0)
        return 0;
    if (view.state.prev == 3 && view.state.cur == QUOTA)
        return 2;
    return view.state.prev == 1 && view.state.cur == 7 ? 1 : -1;
}

static void test_killed_storing(void)
{
    rl_state older = WINDOW(BASE / HOUR, 1, 7);
    int n = 0, finished = 0, wrong = 0, torn = 0;

    prepare(NULL);
    store_reply(table, alice, &hourly, &older, BASE + NOW - 9, NOW - 9);
    memcpy(image, table, SIZE);
    for (; !finished; n++) {
        pid_t pid = start(store_snapshot, n);

        finished = child->done;
        end(pid);
        wrong += stored() < 0;
        torn += stored() == 0;
        store_snapshot();
        wrong += stored() != 2;
    }
    ok(!wrong && torn > 0,
       "killed at any of %d instructions of storing a snapshot (%d times half written): it is "
       "never trusted, and the next one counts", n, torn);
}

typedef struct {
    int most, least;
} range;

static void widen(range *r, int n)
{
    r->most = n > r->most ? n : r->most;
    r->least = n < r->least ? n : r->least;
}

static int is_range(range r, int least, int most)
{
    if (r.least < least || r.most != most)
        diag("%d to %d admitted", r.least, r.most);
    return r.least >= least && r.most == most;
}

/*
 * Stops the child's call at each of its instructions, where others take what they get under the
 * given limit. Finds how much all get together if the call then goes on, and if it is killed.
 * Returns the number of instructions.
 */
static int meanwhile(void (*call)(void), const rl_limit *others, int64_t host_ms, range *all,
                     range *killed)
{
    char *stopped = malloc(SIZE);
    int n = 0, finished = 0;

    *all = *killed = (range){0, INT_MAX};
    for (; !finished; n += every) {
        pid_t pid = start(call, n);
        int admitted;

        finished = child->done;
        memcpy(stopped, table, SIZE);
        widen(killed, fill_up_by(others, alice, host_ms));
        memcpy(table, stopped, SIZE);
        admitted = fill_up_by(others, alice, host_ms);
        finish(pid);
        widen(all, admitted + child->admitted + fill_up_by(others, alice, host_ms));
    }
    free(stopped);
    return n;
}

/* A table in which alice has units that are pending since NOW. */
static void prepare_pending(int units)
{
    rl_state state;

    prepare(NULL);
    charge(table, alice, &responding, units, NOW, &state);
    memcpy(image, table, SIZE);
}

static void test_buckets(void)
{
    range all, killed;
    int n;

    prepare_pending(0);
    n = meanwhile(charge_alices_bucket, &bucket, NOW, &all, &killed);
    ok(is_range(all, QUOTA, QUOTA), "others use up a bucket at any of %d instructions of a charge: "
       "exactly that is admitted", n);
    ok(is_range(killed, QUOTA - 1, QUOTA), "killed at any of them: at most its unit is lost");
}

static void test_pending(void)
{
    range all, killed;
    int n;

    prepare_pending(0);
    n = meanwhile(charge_alice_pending, &responding, NOW, &all, &killed);
    ok(is_range(all, QUOTA, QUOTA),
       "others make the whole quota pending at any of %d instructions of "
       "one that does: exactly that is admitted", n);
    ok(is_range(killed, QUOTA - 1, QUOTA), "killed at any of them: at most its unit is lost");
    n = meanwhile(charge_alice_pending, &hourly, NOW, &all, &killed);
    ok(is_range(all, QUOTA - 1, QUOTA), "others charge at once at any of %d: no more is admitted",
       n);
    n = meanwhile(charge_alice, &responding, NOW, &all, &killed);
    ok(is_range(all, QUOTA - 1, QUOTA),
       "others make units pending at any of %d of a charge: no more is admitted", n);
}

static void test_settling(void)
{
    range all, killed;
    int n;

    prepare_pending(1);
    n = meanwhile(settle_alice_charged, &responding, NOW, &all, &killed);
    ok(is_range(all, QUOTA - 1, QUOTA - 1), "a unit is settled with a charge: at none of %d "
       "instructions is it free", n);
    ok(is_range(killed, QUOTA - 2, QUOTA - 1), "killed there: it is not free either");
    n = meanwhile(settle_alice_uncharged, &responding, NOW, &all, &killed);
    ok(is_range(all, QUOTA, QUOTA), "settled without one at any of %d: it is free afterwards", n);
    ok(is_range(killed, QUOTA - 1, QUOTA), "killed there: it is free or still pending");
}

static void test_prolonging(void)
{
    range all, killed;
    int n;

    prepare_pending(1);
    n = meanwhile(prolong_alice, &responding, NOW + MINUTE, &all, &killed);
    ok(is_range(all, QUOTA - 1, QUOTA - 1) && is_range(killed, QUOTA - 1, QUOTA - 1),
       "a unit is prolonged: at none of %d instructions is it free or counted twice", n);
}

/* Two threads that find units overdue may charge them twice, but the units are never free. */
static void test_overdue(void)
{
    range all, killed;
    int n;

    prepare_pending(5);
    n = meanwhile(charge_alice_later, &hourly, LATER, &all, &killed);
    ok(is_range(all, QUOTA - 10, QUOTA - 5) && is_range(killed, QUOTA - 10, QUOTA - 5),
       "overdue units become a charge: at none of %d instructions are they free, killed or not", n);
    n = meanwhile(charge_alice_pending_later, &responding, LATER, &all, &killed);
    ok(is_range(all, QUOTA - 10, QUOTA - 5) && is_range(killed, QUOTA - 10, QUOTA - 5),
       "at none of %d of one that becomes pending itself", n);
}

static void test_others_charge_meanwhile(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare(NULL);
    for (; !finished; n += every) {
        pid_t pid = start(charge_alice, n);
        int admitted;

        finished = child->done;
        admitted = fill_up(alice, NOW);
        finish(pid);
        wrong += admitted + child->admitted != QUOTA;
    }
    ok(!wrong, "others use up the quota at any of %d instructions of a charge: exactly that is "
       "admitted", n);
}

/* At the first ms of a window all units of the one before count fully. */
static void test_the_window_turns_meanwhile(void)
{
    int n = 0, finished = 0, wrong = 0;
    rl_state state;

    prepare(NULL);
    charge(table, alice, &hourly, QUOTA / 2, HOUR - 2, &state);
    memcpy(image, table, SIZE);
    for (; !finished; n += every) {
        pid_t pid = start(charge_alice_before_the_edge, n);
        int admitted;

        finished = child->done;
        admitted = fill_up(alice, HOUR);
        finish(pid);
        wrong += QUOTA / 2 + admitted + child->admitted != QUOTA;
        wrong += child->admitted && child->state.index == (BASE + HOUR) / HOUR - 1
                 && admitted != QUOTA / 2 - 1;
    }
    ok(!wrong, "a window ends at any of %d instructions of a charge: units admitted in the "
       "old one count in the new one", n);
}

/*
 * Two threads make an entry for alice at once and choose different places, because the entry that
 * the first chose has become useful in between. From then on a third charges alice at each
 * instruction.
 */
static void test_two_places_for_one_key(void)
{
    int n = 0, finished = 0, most = 0;

    prepare(NULL);
    for (; !finished; n += every) {
        pid_t pid = start(charge_alice, n);
        int admitted = 0;
        rl_state state;

        finished = child->done;
        if (line_of(table, SIZE, victim))
            charge(table, victim, &hourly, QUOTA / 4, NOW, &state);
        admitted = fill_up(alice, NOW);
        while (!child->done) {
            step(pid);
            admitted += charge(table, alice, &hourly, 1, NOW, &state);
        }
        finish(pid);
        admitted += child->admitted;
        most = admitted > most ? admitted : most;
    }
    is_int(most, QUOTA, "two threads make an entry for one key, in two places, at any of %d "
           "instructions: its quota is admitted once", n);
}

/* The call is for alice, whose entry has expired; at each instruction bob evicts it and charges. */
static void test_late_owner(void (*make_expired)(void), void (*call)(void), const char *what)
{
    int n = 0, finished = 0, most = 0;

    prepare(make_expired);
    for (; !finished; n += every) {
        pid_t pid = start(call, n);
        int admitted;

        finished = child->done;
        admitted = fill_up(bob, NOW);
        finish(pid);
        if (line_of(table, SIZE, bob))
            admitted += fill_up(bob, NOW);
        most = admitted > most ? admitted : most;
    }
    is_int(most, QUOTA, "an entry is taken over at any of %d instructions of its old owner's %s: "
           "the new owner's count stays", n, what);
}

/* --- Leases --- */

#define LIFE_MS 500
#define AFTER (NOW + LIFE_MS) /* when leases that were asked for at NOW have expired */

static uint64_t taken_from; /* serial of the lease that return_alice() returns a unit to */

static int spend_at(int64_t cost, int64_t host_ms)
{
    rl_lease spent;

    return rl_local_lease_spend(table, alice, cost, host_ms, &spent);
}

/* Likewise, with units that return_alice() may return. */
static void take_at(int64_t cost, int64_t host_ms)
{
    rl_lease spent = {0};

    rl_local_lease_spend(table, alice, cost, host_ms, &spent);
    taken_from = spent.serial;
}

/* Spends all that alice can at this time. */
static int spend_all(int64_t host_ms)
{
    int spent = 0;

    while (spent <= 2 * QUOTA && spend_at(1, host_ms))
        spent++;
    return spent;
}

static int grant_at(int units, int64_t sent_ms)
{
    rl_lease_grant grant = {units, sent_ms, LIFE_MS, sent_ms, 1};

    return (int)rl_local_lease_grant(table, alice, &grant);
}

static int claim_at(int64_t host_ms)
{
    rl_lease_times times = {host_ms, host_ms - 1, host_ms + 50, 1};

    /* The first request only leaves word for the second. */
    return rl_local_lease_claim(table, alice, &times) > 0
        || rl_local_lease_claim(table, alice, &times) > 0;
}

static void spend_alice(void)
{
    child->admitted = spend_at(1, NOW);
}

static void spend_alice_late(void)
{
    child->admitted = spend_at(1, NOW - 4900);
}

static void return_alice(void)
{
    rl_local_lease_return(table, alice, taken_from, 1);
}

static void grant_alice(void)
{
    child->lost = grant_at(5, NOW);
}

static void claim_alice(void)
{
    child->admitted = claim_at(NOW);
}

static void grant_alice_long_ago(void)
{
    grant_at(3, NOW - 5000);
    take_at(1, NOW - 5000);
}

/* A table in which alice has a lease of so many units, of which some are spent. */
static void prepare_lease(int units, int spent)
{
    prepare(NULL);
    grant_at(units, NOW);
    if (spent)
        take_at(spent, NOW);
    memcpy(image, table, SIZE);
}

/* Whether alice can be granted another lease, and spend it, when all others have expired. */
static int is_usable(void)
{
    int64_t later = NOW + 10 * LIFE_MS;

    grant_at(7, later);
    return spend_all(later) == 7;
}

static void test_spending(void)
{
    int n = 0, finished = 0, wrong = 0, unusable = 0;

    prepare_lease(10, 0);
    for (; !finished; n += every) {
        pid_t pid = start(spend_alice, n);
        int spent;

        finished = child->done;
        end(pid);
        spent = spend_all(NOW);
        wrong += spent != 9 && (spent != 10 || child->done);
        unusable += !is_usable();
    }
    ok(!wrong && n > 20, "killed at any of %d instructions of a spend: at most its unit is lost",
       n);
    is_int(unusable, 0, "and the next lease can be spent");
    finished = wrong = 0;
    for (n = 0; !finished; n += every) {
        pid_t pid = start(spend_alice, n);
        int spent;

        finished = child->done;
        spent = spend_all(NOW);
        finish(pid);
        wrong += spent + child->admitted != 10;
    }
    ok(!wrong, "others spend all units at any of %d instructions of a spend: no unit is spent "
       "twice", n);
}

/* The child's clock was read before the lease expired. */
static void test_replacing(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare_lease(3, 0);
    for (; !finished; n += every) {
        pid_t pid = start(spend_alice, n);
        int lost, spent;

        finished = child->done;
        lost = grant_at(4, AFTER);
        spent = spend_all(AFTER);
        finish(pid);
        wrong += spent + spend_all(AFTER) != 4 || spend_all(NOW) != 0;
        wrong += child->admitted + lost != 3;
    }
    ok(!wrong, "a lease expires and is replaced at any of %d instructions of a spend: the unit is "
       "the old lease's, or none", n);
}

static void test_returning(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare_lease(10, 4);
    for (; !finished; n += every) {
        pid_t pid = start(return_alice, n);
        int spent;

        finished = child->done;
        end(pid);
        spent = spend_all(NOW);
        wrong += spent != 7 && (spent != 6 || child->done);
    }
    ok(!wrong, "killed at any of %d instructions of a return: it is done or not done", n);
    finished = wrong = 0;
    for (n = 0; !finished; n += every) {
        pid_t pid = start(return_alice, n);
        int spent;

        finished = child->done;
        spent = spend_all(NOW);
        finish(pid);
        wrong += spent + spend_all(NOW) != 7;
    }
    ok(!wrong, "others spend all units at any of %d: the unit returns", n);
    finished = wrong = 0;
    for (n = 0; !finished; n += every) {
        pid_t pid = start(return_alice, n);

        finished = child->done;
        grant_at(4, AFTER);
        spend_at(2, AFTER);
        finish(pid);
        wrong += spend_all(AFTER) != 2;
    }
    ok(!wrong, "another lease takes the place at any of %d: no unit returns to it", n);
}

static void test_granting(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare(NULL);
    for (; !finished; n += every) {
        pid_t pid = start(grant_alice, n);
        int spent;

        finished = child->done;
        end(pid);
        spent = spend_all(NOW);
        wrong += spent != 5 && (spent != 0 || child->done);
        wrong += !is_usable();
    }
    ok(!wrong && n > 50, "killed at any of %d instructions of a grant: it is stored or not", n);
    finished = wrong = 0;
    for (n = 0; !finished; n += every) {
        pid_t pid = start(grant_alice, n);
        int spent, lost = 0;

        finished = child->done;
        lost += grant_at(3, NOW);
        spent = spend_all(NOW);
        lost += grant_at(2, NOW);
        finish(pid);
        spent += spend_all(NOW);
        wrong += spent + lost + child->lost != 10;
    }
    ok(!wrong, "others are granted and spend at any of %d: all units are spent, or known to be "
       "lost", n);
}

static void test_claiming(void)
{
    int n = 0, finished = 0, wrong = 0;

    prepare(NULL);
    for (; !finished; n += every) {
        pid_t pid = start(claim_alice, n);

        finished = child->done;
        end(pid);
        wrong += child->done && claim_at(NOW + 49);
        wrong += !claim_at(NOW + 49) && !claim_at(NOW + 50);
        wrong += !is_usable();
    }
    ok(!wrong, "killed at any of %d instructions of a claim: the claim ends in time", n);
    finished = wrong = 0;
    for (n = 0; !finished; n += every) {
        pid_t pid = start(claim_alice, n);
        int claimed;

        finished = child->done;
        claimed = claim_at(NOW);
        finish(pid);
        wrong += claimed + child->admitted != 1;
    }
    ok(!wrong, "another claims at any of %d: one of the two has the claim", n);
}

int main(void)
{
    cpu_set_t one;
    pid_t pid;

    every = (int)rng_rounds("STORM_STRIDE", 7);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    /* Parent and child alternate: one processor is faster. */
    sched_setaffinity(0, sizeof(one), &one);
    child = shared_memory(sizeof(*child));
    image = malloc(SIZE);
    prepare(NULL);
    pid = start(charge_alice, 0);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    if (pid)
        end(pid);
    pid = 0;
#endif
    if (!pid || !victim) {
        pass("# SKIP single steps: not possible here");
        return done_testing();
    }
    end(pid);
    test_killed_charging();
    test_killed_giving_back();
    test_killed_storing();
    test_others_charge_meanwhile();
    test_the_window_turns_meanwhile();
    test_two_places_for_one_key();
    test_buckets();
    test_pending();
    test_settling();
    test_prolonging();
    test_overdue();
    test_late_owner(charge_alice_long_ago, charge_alice, "charge");
    test_late_owner(charge_alice_long_ago, store_snapshot, "snapshot");
    test_spending();
    test_replacing();
    test_returning();
    test_granting();
    test_claiming();
    test_late_owner(grant_alice_long_ago, spend_alice_late, "spend");
    test_late_owner(grant_alice_long_ago, return_alice, "return");
    test_late_owner(grant_alice_long_ago, grant_alice, "grant");
    test_late_owner(grant_alice_long_ago, claim_alice, "claim");
    free(image);
    return done_testing();
}
