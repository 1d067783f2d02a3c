/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failure: how an attempt to have Redis decide ended: with an answer, or why without one.
 *
 * A row has everything that counters, metrics and pages need of an outcome. A new reason is a row
 * here and an entry in conf/OPERATING.md. The columns of server-status have the order of the rows.
 * The table is constant.
 */
#ifndef RL_FAILURE_H
#define RL_FAILURE_H

/*
 *  ROW(  name               metric      line of server-status?auto, column of server-status )
 *
 * The metric is the value of the label kind; answers are counted by another metric. The line is
 * printed after "RateLimit".
 */
#define RL_FAILURE_TABLE(ROW)                                                                     \
    ROW(RL_ANSWERED,       "answered", "RedisAnswered",      "Answered")                          \
    ROW(RL_FAILED_OPEN,    "open",     "RedisFailedOpen",    "Breaker open")                      \
    /* this child has no connection */                                                            \
    ROW(RL_FAILED_DOWN,    "down",     "RedisFailedDown",    "No connection")                     \
    /* too many calls of this child are in flight */                                              \
    ROW(RL_FAILED_BUSY,    "busy",     "RedisFailedBusy",    "Too many calls")                    \
    /* there was no reply before the deadline */                                                  \
    ROW(RL_FAILED_LATE,    "late",     "RedisFailedLate",    "Late")                              \
    /* the connection broke while the call was in flight */                                       \
    ROW(RL_FAILED_LOST,    "lost",     "RedisFailedLost",    "Lost")                              \
    /* Redis replied with an error */                                                             \
    ROW(RL_FAILED_REFUSED, "refused",  "RedisFailedRefused", "Refused")                           \
    /* the reply makes no sense */                                                                \
    ROW(RL_FAILED_GARBAGE, "garbage",  "RedisFailedGarbage", "Garbage")

#define RL_FAILURE_NAME(name, metric, line, title) name,
typedef enum { RL_FAILURE_TABLE(RL_FAILURE_NAME) RL_FAILURES } rl_failure;
#undef RL_FAILURE_NAME

typedef struct {
    const char *metric;
    const char *line;
    const char *title;
} rl_failure_text;

extern const rl_failure_text rl_failure_texts[RL_FAILURES];

#endif
