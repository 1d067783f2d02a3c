/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sentinel_monitor: finds a primary by its sentinels, and follows it.
 *
 * The question for the address and the subscription to the channel +switch-master are greetings of
 * the connection to a sentinel. So a connection that is up is subscribed, and asking again means
 * connecting again, to the next sentinel. A sentinel has connect_ms from the lookup of its name to
 * the end of the handshake, for all its addresses; then the next one is asked at once. There is a
 * pause only when all were asked in vain; it doubles each time.
 *
 * Sentinels announce a switch over the subscribed connection, so hosts follow a failover even if no
 * connection to the old primary was lost.
 */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include "redis/sentinel_monitor.h"
#include "redis/sentinel_search.h"

#define AGAIN_US 50000        /* from one search to the next, at least */
#define IDLE_CLOSE_US 1000000 /* a link that ends sooner was not idle: the next pause is longer */

struct rl_sentinel_monitor {
    rl_sentinel_monitor_options options;
    rl_sentinel_search search;
    rl_greeting greetings[4];
    int greeting_count;
    rl_link *link;

    rl_lookup *lookup;     /* of a sentinel's host name, under way; NULL: none */
    rl_address addresses[RL_ADDRESSES_MAX];
    int address_count;
    int address;           /* the next one to try */
    int asking;            /* the sentinel whose turn it is */
    int64_t ask_until_us;
    int64_t search_at_us;  /* not before */
    int64_t searched_us;   /* when the link was last made again */
    int64_t again_us;      /* the pause before the next time */
    int64_t pause_us;
    int pausing;           /* the search has failed, and failed() was called */
    unsigned failures;     /* of searches */

    unsigned serial;       /* addresses so far; the last one is at serial % 2 */
    rl_endpoint primary[2];
    char host[2][RL_HOST_SIZE];
    char name[2][RL_HOST_SIZE + 10];
};

/* --- Replies of sentinels ----------------------------------------------------------------- */

static int is_known(const rl_sentinel_monitor *m)
{
    const rl_endpoint *at = &m->primary[m->serial % 2];

    return m->serial && at->port == m->search.port && !strcmp(at->host, m->search.host);
}

static void take_primary(rl_sentinel_monitor *m)
{
    unsigned at;

    if (is_known(m))
        return;
    at = ++m->serial % 2;
    apr_cpystrn(m->host[at], m->search.host, sizeof(m->host[at]));
    apr_snprintf(m->name[at], sizeof(m->name[at]), strchr(m->host[at], ':') ? "[%s]:%d" : "%s:%d",
                 m->host[at], m->search.port);
    m->primary[at] = (rl_endpoint){m->name[at], m->host[at], (apr_port_t)m->search.port, NULL};
    if (m->serial > 1)
        rl_logger_say(&m->options.logger, RL_LOG_NOTICE,
                      "sentinel %s: the primary of %s is now %s",
                      m->options.url->endpoints[m->search.at].name,
                      m->options.url->primary, m->name[at]);
}

static const char *check_address(void *context, const redisReply *reply)
{
    rl_sentinel_monitor *m = context;

    if (m->search.state != RL_SEARCH_ASK)
        return NULL;
    m->asking = 0;
    if (rl_sentinel_search_take(&m->search, reply) != RL_SEARCH_CHECK)
        return "it knows no such primary";
    take_primary(m);
    return NULL;
}

/* Messages of the channel. */
static void on_push(void *data, redisReply *reply)
{
    rl_sentinel_monitor *m = data;

    if (rl_sentinel_search_is_switch(reply, m->options.url->primary)) {
        rl_sentinel_search_begin(&m->search);
        m->search_at_us = 0;
    }
    freeReplyObject(reply);
}

const char *rl_sentinel_monitor_take_role(rl_sentinel_monitor *m, const redisReply *reply)
{
    int primary = rl_sentinel_search_is_primary(reply);

    if (m->search.state == RL_SEARCH_CHECK)
        rl_sentinel_search_take(&m->search, reply);
    else if (!primary)
        rl_sentinel_monitor_invalidate(m);
    if (primary)
        m->pause_us = m->options.retry_min_ms * 1000;
    return primary ? NULL : "it is not the primary";
}

void rl_sentinel_monitor_invalidate(rl_sentinel_monitor *m)
{
    if (m->search.state == RL_SEARCH_CHECK)
        rl_sentinel_search_take(&m->search, NULL);
    else if (m->search.state == RL_SEARCH_FOUND)
        rl_sentinel_search_begin(&m->search);
}

const rl_endpoint *rl_sentinel_monitor_primary(const rl_sentinel_monitor *m)
{
    rl_search_state state = m->search.state;

    return state == RL_SEARCH_CHECK || state == RL_SEARCH_FOUND ? &m->primary[m->serial % 2]
                                                                  : NULL;
}

const char *rl_sentinel_monitor_error(const rl_sentinel_monitor *m)
{
    return rl_link_error(m->link);
}

unsigned rl_sentinel_monitor_failures(const rl_sentinel_monitor *m)
{
    return m->failures;
}

/* --- Searching ---------------------------------------------------------------------------- */

static const rl_endpoint *whose_turn(const rl_sentinel_monitor *m)
{
    return &m->options.url->endpoints[m->search.at];
}

static void end_lookup(rl_sentinel_monitor *m)
{
    if (m->lookup)
        rl_lookup_end(m->lookup);
    m->lookup = NULL;
}

/* Begins to ask the sentinel whose turn it is. */
static void begin_asking(rl_sentinel_monitor *m, int64_t now_us)
{
    const char *host = whose_turn(m)->host;

    rl_link_close(m->link, "");
    end_lookup(m);
    m->asking = 1;
    m->ask_until_us = now_us + m->options.connect_ms * 1000;
    m->address = m->address_count = 0;
    if (rl_resolver_is_address(host)) {
        apr_cpystrn(m->addresses[0].text, host, RL_ADDRESS_SIZE);
        m->address_count = 1;
    }
    else {
        m->lookup = rl_resolver_look_up(m->options.resolver, host);
    }
}

static void take_addresses(rl_sentinel_monitor *m)
{
    int count = m->lookup ? rl_lookup_read(m->lookup, m->addresses) : -1;

    if (count < 0)
        return;
    end_lookup(m);
    m->address_count = count;
}

/* Tries the sentinel's next address. Returns 0 if none is left or its time is over. */
static int go_on_asking(rl_sentinel_monitor *m, int64_t now_us)
{
    take_addresses(m);
    while (rl_link_read_state(m->link) == RL_LINK_DOWN && m->address < m->address_count)
        rl_link_connect(m->link, whose_turn(m), m->addresses[m->address++].text);
    return now_us < m->ask_until_us
        && (m->lookup || rl_link_read_state(m->link) != RL_LINK_DOWN);
}

static void failed(rl_sentinel_monitor *m, int64_t now_us)
{
    m->pausing = 1;
    m->failures++;
    m->search_at_us = now_us + m->pause_us;
    m->pause_us *= 2;
    if (m->pause_us > m->options.retry_max_ms * 1000)
        m->pause_us = m->options.retry_max_ms * 1000;
}

/* Asks sentinels until one has answered, a connection is under way, or all were asked. */
static void ask_sentinels(rl_sentinel_monitor *m, int64_t now_us)
{
    while (m->search.state == RL_SEARCH_ASK) {
        if (!m->asking)
            begin_asking(m, now_us);
        if (go_on_asking(m, now_us))
            return;
        m->asking = 0;
        end_lookup(m); /* otherwise its answer would wake the owner for nothing */
        rl_sentinel_search_take(&m->search, NULL);
    }
}

/* The link is lost, but the primary is known: sets the pause before the next such search. */
static void note_lost_link(rl_sentinel_monitor *m, int64_t now_us)
{
    if (now_us >= m->searched_us + m->again_us + IDLE_CLOSE_US)
        m->again_us = AGAIN_US;
    else if ((m->again_us *= 2) > m->options.retry_max_ms * 1000)
        m->again_us = m->options.retry_max_ms * 1000;
    m->searched_us = now_us;
}

void rl_sentinel_monitor_tick(rl_sentinel_monitor *m, int64_t now_us)
{
    if (m->asking || now_us >= m->search_at_us) {
        if (!rl_sentinel_monitor_is_quiet(m) && m->search.state != RL_SEARCH_ASK) {
            if (m->search.state != RL_SEARCH_FAILED)
                note_lost_link(m, now_us);
            rl_sentinel_search_begin(&m->search);
        }
        if (m->search.state == RL_SEARCH_ASK && !m->asking)
            m->search_at_us = now_us + m->again_us;
        m->pausing = 0;
        ask_sentinels(m, now_us);
    }
    if (m->search.state == RL_SEARCH_FAILED && !m->pausing)
        failed(m, now_us);
}

int rl_sentinel_monitor_wait(const rl_sentinel_monitor *m, short *events, int64_t *due_us)
{
    int fd = rl_link_wait(m->link, events, due_us);

    if (m->asking && m->ask_until_us < *due_us)
        *due_us = m->ask_until_us;
    else if (!m->asking && !rl_sentinel_monitor_is_quiet(m) && m->search_at_us < *due_us)
        *due_us = m->search_at_us;
    if (fd < 0 && m->lookup) {
        *events = POLLIN;
        return rl_lookup_wait(m->lookup);
    }
    return fd;
}

void rl_sentinel_monitor_handle_io(rl_sentinel_monitor *m, short revents, int64_t now_us)
{
    rl_link_handle_io(m->link, revents, now_us);
}

void rl_sentinel_monitor_close(rl_sentinel_monitor *m)
{
    end_lookup(m);
    rl_link_close(m->link, "the server stops");
}

int rl_sentinel_monitor_is_quiet(const rl_sentinel_monitor *m)
{
    return m->search.state != RL_SEARCH_ASK && m->search.state != RL_SEARCH_FAILED
        && rl_link_read_state(m->link) == RL_LINK_READY;
}

/* --- Life --------------------------------------------------------------------------------- */

static void make_greetings(rl_sentinel_monitor *m, apr_pool_t *pool)
{
    const char *ask[] = {"SENTINEL", "get-master-addr-by-name", m->options.url->primary};
    const char *subscribe[] = {"SUBSCRIBE", "+switch-master"};
    rl_greeting *next = m->greetings;

    if (m->options.credentials)
        *next++ = rl_greeting_auth(m->options.credentials);
    *next++ = rl_greeting_set_name(pool);
    *next = rl_greeting_make(pool, "SENTINEL get-master-addr-by-name", 3, ask);
    next->reply = RL_REPLY_LIST;
    next->check = check_address;
    next++->context = m;
    *next = rl_greeting_make(pool, "SUBSCRIBE", 2, subscribe);
    next++->reply = RL_REPLY_LIST;
    m->greeting_count = (int)(next - m->greetings);
}

rl_sentinel_monitor *rl_sentinel_monitor_create(apr_pool_t *pool,
                                                const rl_sentinel_monitor_options *options)
{
    rl_sentinel_monitor *m = apr_pcalloc(pool, sizeof(*m));
    rl_link_options link = {.connect_us = options->connect_ms * 1000,
                            .silent_us = options->connect_ms * 1000, .greetings = m->greetings,
                            .tls = options->tls, .on_push = on_push, .push_data = m};

    m->options = *options;
    m->pause_us = options->retry_min_ms * 1000;
    m->again_us = AGAIN_US;
    rl_sentinel_search_init(&m->search, options->url->endpoint_count, (unsigned)getpid());
    make_greetings(m, pool);
    link.greeting_count = m->greeting_count;
    m->link = rl_link_create(pool, &link);
    return m;
}
