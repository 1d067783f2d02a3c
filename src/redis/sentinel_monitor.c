/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch: keeps an eye on the sentinels of a primary.
 *
 * What is asked of a sentinel is said when shaking hands with it: the address, then the channel
 * +switch-master. So a connection that is up is one that listens, and asking again means connecting
 * again, to whoever is next. A sentinel gets connect_ms from the first look at its name to the end
 * of the handshake, with all its addresses; then the next one is asked at once. Only when all were
 * asked in vain there is a pause, which doubles each time.
 *
 * Sentinels tell of a switch over the connection that listens, so hosts follow a failover even if
 * nobody ever lost a connection to the old primary.
 */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include "redis/sentinel_monitor.h"
#include "redis/sentinel_search.h"

#define AGAIN_US 50000        /* at least, from one search to the next */
#define IDLE_CLOSE_US 1000000 /* a sentinel that closes a link sooner is given time */

struct rl_watch {
    rl_watch_options options;
    rl_sentinel_search search;
    rl_greeting greetings[4];
    int greeting_count;
    rl_link *link;

    rl_question *question; /* for the addresses of one, that is under way */
    rl_address addresses[RL_ADDRESSES_MAX];
    int address_count;
    int address;           /* the next one to try */
    int asking;            /* the sentinel whose turn it is */
    int64_t ask_until_us;
    int64_t search_at_us;  /* not before */
    int64_t searched_us;   /* when the link was last made again, and the pause before the next */
    int64_t again_us;
    int64_t pause_us;
    int pausing;           /* the search has failed, and that is known */
    unsigned failures;     /* of searches */

    unsigned serial;       /* how many there were; the last one stands at serial % 2 */
    rl_endpoint primary[2];
    char host[2][RL_HOST_SIZE];
    char name[2][RL_HOST_SIZE + 10];
};

/* --- What sentinels say ------------------------------------------------------------------- */

static int is_known(const rl_watch *w)
{
    const rl_endpoint *at = &w->primary[w->serial % 2];

    return w->serial && at->port == w->search.port && !strcmp(at->host, w->search.host);
}

static void take_primary(rl_watch *w)
{
    unsigned at;

    if (is_known(w))
        return;
    at = ++w->serial % 2;
    apr_cpystrn(w->host[at], w->search.host, sizeof(w->host[at]));
    apr_snprintf(w->name[at], sizeof(w->name[at]), strchr(w->host[at], ':') ? "[%s]:%d" : "%s:%d",
                 w->host[at], w->search.port);
    w->primary[at] = (rl_endpoint){w->name[at], w->host[at], (apr_port_t)w->search.port, NULL};
    if (w->serial > 1)
        rl_logger_say(&w->options.logger, RL_LOG_NOTICE,
                      "sentinel %s: the primary of %s is now %s",
                      w->options.url->endpoints[w->search.at].name,
                      w->options.url->primary, w->name[at]);
}

static const char *check_address(void *context, const redisReply *reply)
{
    rl_watch *w = context;

    if (w->search.state != RL_SEARCH_ASK)
        return NULL;
    w->asking = 0;
    if (rl_sentinel_search_take(&w->search, reply) != RL_SEARCH_CHECK)
        return "it knows no such primary";
    take_primary(w);
    return NULL;
}

/* What comes without being asked for: messages of the channel. */
static void on_push(void *owner, redisReply *reply)
{
    rl_watch *w = owner;

    if (rl_sentinel_search_is_switch(reply, w->options.url->primary)) {
        rl_sentinel_search_begin(&w->search);
        w->search_at_us = 0;
    }
    freeReplyObject(reply);
}

const char *rl_watch_take_role(rl_watch *w, const redisReply *reply)
{
    int primary = rl_sentinel_search_is_primary(reply);

    if (w->search.state == RL_SEARCH_CHECK)
        rl_sentinel_search_take(&w->search, reply);
    else if (!primary)
        rl_watch_doubt(w);
    if (primary)
        w->pause_us = w->options.retry_min_ms * 1000;
    return primary ? NULL : "it is not the primary";
}

void rl_watch_doubt(rl_watch *w)
{
    if (w->search.state == RL_SEARCH_CHECK)
        rl_sentinel_search_take(&w->search, NULL);
    else if (w->search.state == RL_SEARCH_FOUND)
        rl_sentinel_search_begin(&w->search);
}

const rl_endpoint *rl_watch_primary(const rl_watch *w)
{
    rl_search_state state = w->search.state;

    return state == RL_SEARCH_CHECK || state == RL_SEARCH_FOUND ? &w->primary[w->serial % 2]
                                                                  : NULL;
}

const char *rl_watch_error(const rl_watch *w)
{
    return rl_link_error(w->link);
}

unsigned rl_watch_failures(const rl_watch *w)
{
    return w->failures;
}

/* --- Searching ---------------------------------------------------------------------------- */

static const rl_endpoint *whose_turn(const rl_watch *w)
{
    return &w->options.url->endpoints[w->search.at];
}

static void end_question(rl_watch *w)
{
    if (w->question)
        rl_question_end(w->question);
    w->question = NULL;
}

/* Turns to the sentinel whose turn it is. */
static void begin_asking(rl_watch *w, int64_t now_us)
{
    const char *host = whose_turn(w)->host;

    rl_link_close(w->link, "");
    end_question(w);
    w->asking = 1;
    w->ask_until_us = now_us + w->options.connect_ms * 1000;
    w->address = w->address_count = 0;
    if (rl_resolver_is_address(host)) {
        apr_cpystrn(w->addresses[0].text, host, RL_ADDRESS_SIZE);
        w->address_count = 1;
    }
    else {
        w->question = rl_resolver_ask(w->options.resolver, host);
    }
}

static void take_addresses(rl_watch *w)
{
    int count = w->question ? rl_question_read(w->question, w->addresses) : -1;

    if (count < 0)
        return;
    end_question(w);
    w->address_count = count;
}

/* Tries the next address; returns 0 if there is no hope left. */
static int go_on_asking(rl_watch *w, int64_t now_us)
{
    take_addresses(w);
    while (rl_link_read_state(w->link) == RL_LINK_DOWN && w->address < w->address_count)
        rl_link_connect(w->link, whose_turn(w), w->addresses[w->address++].text);
    return now_us < w->ask_until_us
        && (w->question || rl_link_read_state(w->link) != RL_LINK_DOWN);
}

static void failed(rl_watch *w, int64_t now_us)
{
    w->pausing = 1;
    w->failures++;
    w->search_at_us = now_us + w->pause_us;
    w->pause_us *= 2;
    if (w->pause_us > w->options.retry_max_ms * 1000)
        w->pause_us = w->options.retry_max_ms * 1000;
}

/* Asks until one answers, a connection is under way, or all were asked. */
static void ask_sentinels(rl_watch *w, int64_t now_us)
{
    while (w->search.state == RL_SEARCH_ASK) {
        if (!w->asking)
            begin_asking(w, now_us);
        if (go_on_asking(w, now_us))
            return;
        w->asking = 0;
        end_question(w); /* its answer would wake a link that does not want it any more */
        rl_sentinel_search_take(&w->search, NULL);
    }
}

/* Nobody listens any more, though the primary is known: a search that only makes the link again. */
static void note_lost_link(rl_watch *w, int64_t now_us)
{
    if (now_us >= w->searched_us + w->again_us + IDLE_CLOSE_US)
        w->again_us = AGAIN_US;
    else if ((w->again_us *= 2) > w->options.retry_max_ms * 1000)
        w->again_us = w->options.retry_max_ms * 1000;
    w->searched_us = now_us;
}

void rl_watch_look(rl_watch *w, int64_t now_us)
{
    if (w->asking || now_us >= w->search_at_us) {
        if (!rl_watch_is_settled(w) && w->search.state != RL_SEARCH_ASK) {
            if (w->search.state != RL_SEARCH_FAILED)
                note_lost_link(w, now_us);
            rl_sentinel_search_begin(&w->search);
        }
        if (w->search.state == RL_SEARCH_ASK && !w->asking)
            w->search_at_us = now_us + w->again_us;
        w->pausing = 0;
        ask_sentinels(w, now_us);
    }
    if (w->search.state == RL_SEARCH_FAILED && !w->pausing)
        failed(w, now_us);
}

int rl_watch_wait(const rl_watch *w, short *events, int64_t *due_us)
{
    int fd = rl_link_wait(w->link, events, due_us);

    if (w->asking && w->ask_until_us < *due_us)
        *due_us = w->ask_until_us;
    else if (!w->asking && !rl_watch_is_settled(w) && w->search_at_us < *due_us)
        *due_us = w->search_at_us;
    if (fd < 0 && w->question) {
        *events = POLLIN;
        return rl_question_wait(w->question);
    }
    return fd;
}

void rl_watch_step(rl_watch *w, short revents, int64_t now_us)
{
    rl_link_step(w->link, revents, now_us);
}

void rl_watch_close(rl_watch *w)
{
    end_question(w);
    rl_link_close(w->link, "the server stops");
}

int rl_watch_is_settled(const rl_watch *w)
{
    return w->search.state != RL_SEARCH_ASK && w->search.state != RL_SEARCH_FAILED
        && rl_link_read_state(w->link) == RL_LINK_READY;
}

/* --- Life --------------------------------------------------------------------------------- */

static void nobody_calls(void *owner, void *call, redisReply *reply)
{
    (void)owner;
    (void)call;
    freeReplyObject(reply);
}

static void make_greetings(rl_watch *w, apr_pool_t *pool)
{
    const char *ask[] = {"SENTINEL", "get-master-addr-by-name", w->options.url->primary};
    const char *subscribe[] = {"SUBSCRIBE", "+switch-master"};
    rl_greeting *next = w->greetings;

    if (w->options.credentials)
        *next++ = rl_greeting_auth(w->options.credentials);
    *next++ = rl_greeting_set_name(pool);
    *next = rl_greeting_make(pool, "SENTINEL get-master-addr-by-name", 3, ask);
    next->reply = RL_REPLY_LIST;
    next->check = check_address;
    next++->context = w;
    *next = rl_greeting_make(pool, "SUBSCRIBE", 2, subscribe);
    next++->reply = RL_REPLY_LIST;
    w->greeting_count = (int)(next - w->greetings);
}

rl_watch *rl_watch_create(apr_pool_t *pool, const rl_watch_options *options)
{
    rl_watch *w = apr_pcalloc(pool, sizeof(*w));
    rl_link_options link = {.connect_us = options->connect_ms * 1000,
                            .silent_us = options->connect_ms * 1000, .greetings = w->greetings,
                            .tls = options->tls, .on_reply = nobody_calls, .on_push = on_push,
                            .owner = w};

    w->options = *options;
    w->pause_us = options->retry_min_ms * 1000;
    w->again_us = AGAIN_US;
    rl_sentinel_search_init(&w->search, options->url->endpoint_count, (unsigned)getpid());
    make_greetings(w, pool);
    link.greeting_count = w->greeting_count;
    w->link = rl_link_create(pool, &link);
    return w;
}
