/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The breaker of a server: what opens it, which child probes and when, what closes it, and what the
 * log says. Time is an argument, so nothing here waits.
 */
#include "redis/breaker_log.h"
#include "tap.h"

static const rl_breaker_options options = {50, 2000};
#define START INT64_C(1000000)

static rl_breaker fresh(void)
{
    rl_breaker b;

    memset(&b, 0, sizeof(b));
    return b;
}

/* Counts n calls with this result; returns how many of them opened it: 0 or 1. */
static int count(rl_breaker *b, int n, rl_failure failure, int64_t now_ms)
{
    int opened = 0;

    while (n-- > 0)
        opened += rl_breaker_count(b, &options, failure, now_ms);
    return opened;
}

static rl_breaker opened(void)
{
    rl_breaker b = fresh();

    rl_breaker_open(&b, 50, START);
    return b;
}

static void test_opens(void)
{
    rl_breaker b = fresh();

    ok(rl_breaker_read(&b) == RL_BREAKER_CLOSED && rl_breaker_allows(&b, START),
       "a breaker in zeroed memory is closed");
    ok(!rl_breaker_count_reconnect(&b, &options, 0, START), "one failed reconnect opens nothing");
    rl_breaker_count_reconnect(&b, &options, 1, START);
    ok(!rl_breaker_count_reconnect(&b, &options, 0, START), "nor one more after a good one");
    ok(rl_breaker_count_reconnect(&b, &options, 0, START), "two in a row open it");
    ok(rl_breaker_read(&b) == RL_BREAKER_OPEN && !rl_breaker_allows(&b, START + 100000),
       "open, it allows nothing, however long");
    ok(!rl_breaker_count_reconnect(&b, &options, 0, START), "a third one does not open it again");
    is_int(b.opened, 1, "it opened once");

    b = fresh();
    ok(rl_breaker_open(&b, 50, START), "an error that lasts opens it at once");
    ok(!rl_breaker_open(&b, 50, START), "for one caller only");
}

static void test_opens_by_share(void)
{
    rl_breaker b = fresh();
    int early = 0;

    ok(!count(&b, 19, RL_FAILED_LATE, START), "19 failures of 19 calls are too few to judge");
    ok(count(&b, 1, RL_FAILED_LATE, START), "20 of 20 open it");
    b = fresh();
    count(&b, 10, RL_ANSWERED, START);
    ok(!count(&b, 10, RL_FAILED_LOST, START), "half of 20 do not");
    ok(count(&b, 1, RL_FAILED_LOST, START), "more than half do");
    b = fresh();
    count(&b, 19, RL_FAILED_LATE, START);
    ok(!count(&b, 19, RL_FAILED_LATE, START + 1000), "each second counts for itself");
    b = fresh();
    for (int i = 0; i < 100000; i++)
        early += count(&b, 1, RL_ANSWERED, START) + count(&b, 1, RL_FAILED_LATE, START);
    is_int(early, 0, "200,000 calls in a second, half of them failures: it stays closed");
    ok(count(&b, 1000, RL_FAILED_LATE, START), "a little more, and it opens");
}

/* When the first probe can be claimed; -1: not within a minute. */
static int64_t probe_due(rl_breaker *b, int64_t from)
{
    for (int64_t t = from; t < from + 60000; t++) {
        if (rl_breaker_claim_probe(b, 25, t))
            return t - from;
    }
    return -1;
}

static void test_probe_owner(void)
{
    rl_breaker b = fresh();
    int64_t due;

    is_int(probe_due(&b, START), -1, "closed, no probe is due");
    b = opened();
    due = probe_due(&b, START);
    ok(due >= 25 && due <= 50, "the first probe is due after half to all of the least wait");
    due += START;
    ok(!rl_breaker_claim_probe(&b, 25, due), "it has one owner");
    ok(!rl_breaker_claim_probe(&b, 25, due + 24), "for as long as it claimed");
    ok(rl_breaker_claim_probe(&b, 25, due + 25), "after an owner that died there is another");
    ok(!rl_breaker_claim_probe(&b, 25, due + 26), "by one");
}

static void test_stale(void)
{
    rl_breaker b = fresh();
    int64_t due, longest = options.retry_max_ms;

    ok(!rl_breaker_is_stale(&b, &options, START + 60000), "closed, nothing is stale");
    b = opened();
    due = START + probe_due(&b, START);
    ok(!rl_breaker_is_stale(&b, &options, due + 25 + longest),
       "open, it is not stale during a probe, nor for the longest pause after it");
    ok(rl_breaker_is_stale(&b, &options, due + 26 + longest), "then it is");
    rl_breaker_probed(&b, &options, 0, due + 25);
    due = due + 25 + probe_due(&b, due + 25);
    b.claim_until = 0; /* no child probed */
    ok(!rl_breaker_is_stale(&b, &options, due + longest), "likewise after a probe was due");
    ok(rl_breaker_is_stale(&b, &options, due + longest + 1), "and no child probed");
}

static void test_backoff(void)
{
    static const int64_t waits[] = {100, 200, 400, 800, 1600, 2000, 2000};
    int early = 0, late = 0, least = 0, most = 0;
    rl_breaker b;

    for (int64_t start = START; start < START + 300; start++) {
        int64_t now = start, due;

        b = fresh();
        rl_breaker_open(&b, 50, start);
        for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
            now += probe_due(&b, now);
            rl_breaker_probed(&b, &options, 0, now);
            due = probe_due(&b, now);
            early += due < waits[i] / 2;
            late += due > waits[i];
            least += due < waits[i] * 6 / 10;
            most += due > waits[i] * 9 / 10;
            now += due;
            b.claim_until = 0; /* the same probe again, at its time */
        }
    }
    is_int(early, 0, "failed probes double the wait up to the largest: never under half of it");
    is_int(late, 0, "never over it");
    ok(least > 100 && most > 100, "and anywhere between: hosts do not probe in step");
    b = fresh();
    rl_breaker_open(&b, 30000, START);
    ok(probe_due(&b, START) >= 15000, "an error that lasts has its own first wait");
}

static void probe(rl_breaker *b, int64_t *now_ms, int in_time)
{
    *now_ms += probe_due(b, *now_ms);
    rl_breaker_probed(b, &options, in_time, *now_ms);
}

static void test_closes(void)
{
    rl_breaker b = opened();
    int64_t now_ms = START;
    int allowed = 0;

    probe(&b, &now_ms, 1);
    probe(&b, &now_ms, 1);
    probe(&b, &now_ms, 0);
    probe(&b, &now_ms, 1);
    probe(&b, &now_ms, 1);
    is_int(rl_breaker_read(&b), RL_BREAKER_OPEN,
           "two good probes between bad ones do not close it");
    now_ms += probe_due(&b, now_ms);
    ok(rl_breaker_probed(&b, &options, 1, now_ms), "three in a row close it");
    is_int(rl_breaker_read(&b), RL_BREAKER_RAMPING, "over a while");
    ok(!rl_breaker_probed(&b, &options, 1, now_ms), "once");
    for (int i = 0; i < 800; i++)
        allowed += rl_breaker_allows(&b, now_ms);
    is_int(allowed, 100, "at first an eighth of the requests pass");
    for (int i = allowed = 0; i < 800; i++)
        allowed += rl_breaker_allows(&b, now_ms - 1);
    is_int(allowed, 100, "also of those that read the clock before that");
    for (int i = allowed = 0; i < 800; i++)
        allowed += rl_breaker_allows(&b, now_ms + 250);
    is_int(allowed, 500, "halfway, five eighths");
    for (int i = allowed = 0; i < 800; i++)
        allowed += rl_breaker_allows(&b, now_ms + 499);
    is_int(allowed, 800, "at the end all");
    rl_breaker_allows(&b, now_ms + 500);
    is_int(rl_breaker_read(&b), RL_BREAKER_CLOSED, "then it is closed");
    ok(!rl_breaker_count_reconnect(&b, &options, 0, now_ms + 500),
       "and earlier failures do not count any more");
}

static void test_opens_while_ramping(void)
{
    rl_breaker b = opened();
    int64_t now_ms = START;

    for (int i = 0; i < 3; i++)
        probe(&b, &now_ms, 1);
    count(&b, 19, RL_FAILED_LATE, now_ms);
    ok(count(&b, 1, RL_FAILED_LATE, now_ms), "failures during the ramp open it");
    ok(!rl_breaker_allows(&b, now_ms + 1000), "again");
    for (int i = 0; i < 2; i++)
        probe(&b, &now_ms, 1);
    is_int(rl_breaker_read(&b), RL_BREAKER_OPEN, "and it takes three new probes");
    probe(&b, &now_ms, 1);
    is_int(rl_breaker_read(&b), RL_BREAKER_RAMPING, "to close");
}

static void test_table(void)
{
    static rl_breakers all;
    char name[64], shown[RL_BREAKER_NAME];
    rl_breaker *first = rl_breaker_of(&all, "127.0.0.1:6379"), *second;
    int same = 0, outside = 0;

    ok(!rl_breaker_at(&all, 1, shown), "a table has only the nodes that were named");
    second = rl_breaker_of(&all, "127.0.0.1:6380");
    ok(first != second, "each node has its own breaker");
    ok(rl_breaker_of(&all, "127.0.0.1:6379") == first
           && rl_breaker_of(&all, "127.0.0.1:6380") == second, "the same one for the same name");
    ok(rl_breaker_at(&all, 1, shown) == second, "the table can be read by index");
    is_str(shown, "127.0.0.1:6380", "with names");
    rl_breaker_of(&all, "a-name-of-more-than-fifty-five-bytes.example.com:6379-and-more");
    rl_breaker_at(&all, 2, shown);
    is_str(shown, "a-name-of-more-than-fifty-five-bytes.example.com:6379-a", "cut at 55 bytes");
    for (int i = 0; i < 1000; i++) {
        rl_breaker *b;

        snprintf(name, sizeof(name), "node-%d", i);
        b = rl_breaker_of(&all, name);
        same += b == rl_breaker_of(&all, name);
        outside += b < &all.nodes[0].breaker || b > &all.nodes[RL_BREAKERS - 1].breaker;
    }
    is_int(same, 1000, "nodes beyond the table share a breaker, always the same");
    is_int(outside, 0, "within it");
    ok(rl_breaker_at(&all, RL_BREAKERS - 1, shown) && !rl_breaker_at(&all, RL_BREAKERS, shown),
       "which does not grow");
}

/* --- The log ------------------------------------------------------------------------------ */

#define OPENED "Redis at r:6379: breaker open, on-failure decides until it answers again: why"
#define CLOSED "Redis at r:6379 answers again: breaker closed"

static char last_line[RL_LOGGER_LINE];

static void take_line(void *context, rl_log_level level, const char *line)
{
    (void)context;
    (void)level;
    snprintf(last_line, sizeof(last_line), "%s", line);
}

static const rl_logger logger = {take_line, NULL};

/* The line that was logged since the last call; "" for none. */
static const char *logged(void)
{
    static char line[RL_LOGGER_LINE];

    strcpy(line, last_line);
    *last_line = '\0';
    return line;
}

static int log_opened(rl_breaker *b, int64_t now_ms)
{
    return rl_breaker_log_opened(b, &logger, "r:6379", "why", now_ms);
}

static int open_it(rl_breaker *b, int64_t now_ms)
{
    rl_breaker_open(b, 50, now_ms);
    return log_opened(b, now_ms);
}

static void close_it(rl_breaker *b)
{
    rl_breaker_reset(b);
    rl_breaker_log_closed(b, &logger, "r:6379");
}

static void test_log(void)
{
    rl_breaker b = fresh();

    ok(open_it(&b, START), "an opening is logged");
    is_str(logged(), OPENED, "with the reason");
    close_it(&b);
    is_str(logged(), CLOSED, "and its closing");
    ok(!open_it(&b, START + 100), "an opening soon after is not");
    is_str(logged(), "", "logged");
    close_it(&b);
    is_str(logged(), "", "nor is its closing");
    rl_breaker_log_left_out(&b);
    ok(!open_it(&b, START + 300), "nor is the next one");
    ok(!log_opened(&b, START + 999), "while it is too soon");
    ok(log_opened(&b, START + 1000), "but later, if it lasts");
    is_str(logged(), OPENED " (and 1 times before)", "with the number of those left out");
    close_it(&b);
    is_str(logged(), CLOSED, "its closing is logged, too");
}

int main(void)
{
    test_table();
    test_opens();
    test_opens_by_share();
    test_probe_owner();
    test_stale();
    test_backoff();
    test_closes();
    test_opens_while_ramping();
    test_log();
    return done_testing();
}
