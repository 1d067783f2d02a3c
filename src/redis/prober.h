/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prober: probes the server of an open breaker.
 *
 * Calls do not reach a server whose breaker is open. One child at a time claims its next probe from
 * the breaker, connects, sends the probe over the node's link, and reports whether it was answered
 * in time. The breaker decides when the next one is due and when it closes.
 *
 * Part of a node, for the node's owner alone. Nothing here waits. Times are µs on rl_link_clock().
 */
#ifndef RL_PROBER_H
#define RL_PROBER_H

#include "redis/breaker.h"
#include "redis/link.h"
#include "redis/logger.h"

#define RL_PROBE_TAG 16

/*
 * Formats a command that does what calls do and charges nothing that counts, for
 * redisFreeCommand(). Its keys have this tag. What it does differs from turn to turn.
 */
typedef struct {
    char *(*make)(void *data, const char *tag, unsigned turn, int *length);
    void *data;
} rl_probe_maker;

typedef struct {
    const char *name;   /* the server's, for logs */
    rl_link *link;
    rl_probe_maker maker;
    int64_t timeout_ms; /* for the replies to a probe */
    int64_t connect_ms; /* for a connection before it */
    rl_breaker_options retry;
    rl_logger logger;
    void (*on_error)(void *data, const char *text); /* an error reply to a probe; text: Redis's */
    void *data;
} rl_prober_options;

/* Set by rl_prober_init(); only is_probing and until_us are read elsewhere. */
typedef struct {
    rl_prober_options options;
    char tag[RL_PROBE_TAG];
    rl_breaker *breaker; /* that the probe was claimed of */
    int is_probing;      /* a claimed probe has no result yet */
    int is_sent;
    int is_good;         /* no reply to it was bad */
    int owed;            /* replies to come, also to earlier probes */
    int64_t until_us;    /* when the claimed probe is late */
    rl_logger_pace said_late;
} rl_prober;

/* options are copied, what they point to is not. */
void rl_prober_init(rl_prober *prober, const rl_prober_options *options);

/* The tag of the keys of probes, with less than RL_PROBE_TAG bytes. */
void rl_prober_set_tag(rl_prober *prober, const char *tag);

/*
 * Claims a probe if one is due and this prober has none under way. Returns 1 if it did: the caller
 * sends it as soon as there is a connection.
 */
int rl_prober_claim(rl_prober *prober, rl_breaker *breaker, int64_t now_us);

/* Sends the claimed probe. The link is ready. */
void rl_prober_send(rl_prober *prober, int64_t now_us);

/* Reports the claimed probe as failed if it is late. */
void rl_prober_tick(rl_prober *prober, int64_t now_us);

/* Reports the claimed probe as failed, if there is one: there is no connection to send it over. */
void rl_prober_fail(rl_prober *prober);

/* Drops the claimed probe without a report. */
void rl_prober_stop(rl_prober *prober);

#endif
