/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prober: probes the server of an open breaker.
 */
#include <apr_strings.h>

#include "redis/prober.h"
#include "redis/breaker_log.h"

void rl_prober_init(rl_prober *p, const rl_prober_options *options)
{
    p->options = *options;
    rl_prober_set_tag(p, "probe");
}

void rl_prober_set_tag(rl_prober *p, const char *tag)
{
    apr_cpystrn(p->tag, tag, sizeof(p->tag));
}

static void report(rl_prober *p, int in_time)
{
    p->is_probing = p->is_sent = 0;
    if (rl_breaker_probed(p->breaker, &p->options.retry, in_time, rl_link_clock() / 1000))
        rl_breaker_log_closed(p->breaker, &p->options.logger, p->options.name);
}

/*
 * The last reply has come. The owner may have been away since the probe was due, so the clock
 * decides whether it came in time. Replies to an earlier probe say nothing about a later one.
 */
static void finish(rl_prober *p)
{
    int64_t now_us = rl_link_clock();
    int good = p->is_good;

    if (good && now_us >= p->until_us)
        rl_logger_say_at_pace(&p->options.logger, &p->said_late, now_us / 1000, RL_LOG_WARNING,
                              "Redis at %s answers, but later than the %d ms that "
                              "RateLimitRedisTimeout allows", p->options.name,
                              (int)p->options.timeout_ms);
    if (p->is_sent)
        report(p, good && now_us < p->until_us);
}

/* reply is NULL if the connection ended before it came, or before the probe was sent. */
static void on_reply(void *data, redisReply *reply)
{
    rl_prober *p = data;

    p->owed--;
    if (!reply || reply->type != REDIS_REPLY_STRING)
        p->is_good = 0;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        p->options.on_error(p->options.data, reply->str);
    if (p->owed == 0)
        finish(p);
    if (reply)
        freeReplyObject(reply);
}

/* Twice, because an existing key is written with other commands than a new one. */
void rl_prober_send(rl_prober *p, int64_t now_us)
{
    const rl_probe_maker *maker = &p->options.maker;
    rl_command command = {.kind = RL_REPLY_TEXT, .on_reply = on_reply, .data = p};
    char *probe = maker->make(maker->data, p->tag, rl_breaker_good_probes(p->breaker),
                              &command.length);

    command.bytes = probe;
    p->until_us = now_us + p->options.timeout_ms * 1000;
    p->is_sent = p->is_good = 1;
    for (int i = 0; i < 2 && p->is_sent; i++) {
        p->is_sent = probe && rl_link_send(p->options.link, &command);
        p->owed += p->is_sent;
    }
    redisFreeCommand(probe);
    if (!p->is_sent)
        report(p, 0);
}

int rl_prober_claim(rl_prober *p, rl_breaker *breaker, int64_t now_us)
{
    int64_t lasts_ms = p->options.connect_ms + p->options.timeout_ms;

    if (p->is_probing || !rl_breaker_claim_probe(breaker, 2 * lasts_ms, now_us / 1000))
        return 0;
    p->breaker = breaker;
    p->is_probing = 1;
    p->until_us = now_us + lasts_ms * 1000;
    return 1;
}

void rl_prober_tick(rl_prober *p, int64_t now_us)
{
    if (p->is_probing && now_us >= p->until_us)
        report(p, 0);
}

void rl_prober_fail(rl_prober *p)
{
    if (p->is_probing)
        report(p, 0);
}

void rl_prober_stop(rl_prober *p)
{
    p->is_probing = p->is_sent = 0;
}
