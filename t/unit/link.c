/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command whose connection ends is reported as unsent only if certainly nothing of it was sent;
 * otherwise it is lost, and may have run. A connection that died while it was idle is detected
 * before anything is sent over it. The test itself is the server, over loopback.
 */
#include <apr_general.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "redis/link.h"
#include "tap.h"

#define SECOND_US 1000000

static apr_pool_t *pool;
static rl_endpoint at = {.name = "here", .host = "127.0.0.1"};
static int listener, peer = -1;
static int replies, lost, unsent; /* results of calls */

static void on_reply(void *data, redisReply *reply)
{
    (void)data;
    replies += reply != NULL;
    lost += reply == NULL;
    if (reply)
        freeReplyObject(reply);
}

static void on_unsent(void *data)
{
    (void)data;
    unsent++;
}

static void serve(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);

    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 8)
        || getsockname(listener, (struct sockaddr *)&address, &size))
        perror("listen");
    at.port = ntohs(address.sin_port);
}

/* Drives a link until it has this state, for a second at most. */
static int becomes(rl_link *link, rl_link_state state)
{
    for (int i = 0; i < 200 && rl_link_read_state(link) != state; i++) {
        struct pollfd fd = {.fd = -1};
        int64_t due_us;

        fd.fd = rl_link_wait(link, &fd.events, &due_us);
        poll(&fd, 1, 5);
        rl_link_handle_io(link, fd.revents, rl_link_clock());
    }
    return rl_link_read_state(link) == state;
}

static void say(const char *text)
{
    if (write(peer, text, strlen(text)) < 0)
        perror("write");
}

/* Reads what the link has sent; waits for it. */
static ssize_t hear(char *text, size_t size)
{
    struct pollfd fd = {.fd = peer, .events = POLLIN};
    ssize_t n = poll(&fd, 1, 1000) == 1 ? read(peer, text, size - 1) : -1;

    text[n < 0 ? 0 : n] = '\0';
    return n;
}

/* A link that is up, to a peer that has been greeted. */
static rl_link *connect_link(void)
{
    static const rl_greeting greeting = {.name = "hello", .bytes = "HELLO\r\n", .length = 7};
    static const rl_greeting sign = {.name = "sign", .bytes = "SIGN\r\n", .length = 6};
    rl_link_options options = {.connect_us = SECOND_US, .silent_us = SECOND_US,
                               .greetings = &greeting, .greeting_count = 1, .in_flight = 8,
                               .sign_of_life = &sign, .check_us = SECOND_US / 5};
    rl_link *link = rl_link_create(pool, &options);
    char text[99];

    if (peer >= 0)
        close(peer);
    replies = lost = unsent = 0;
    rl_link_connect(link, &at, "127.0.0.1");
    peer = accept(listener, NULL, NULL);
    say("+OK\r\n");
    if (!becomes(link, RL_LINK_READY))
        return NULL;
    hear(text, sizeof(text)); /* the greeting: a peer that has not read all resets when it closes */
    return link;
}

static void send_call(rl_link *link)
{
    rl_command command = {.bytes = "CALL\r\n", .length = 6, .kind = RL_REPLY_TEXT,
                          .on_reply = on_reply, .on_unsent = on_unsent};

    rl_link_send(link, &command);
}

static void drop_peer(int reset)
{
    struct linger linger = {1, 0};

    if (reset)
        setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(peer);
    peer = -1;
    usleep(20000);
}

static void test_unsent(void)
{
    rl_link *link = connect_link();
    char text[99];

    send_call(link);
    rl_link_handle_io(link, 0, rl_link_clock());
    ok(hear(text, sizeof(text)) > 0, "a call has arrived");
    drop_peer(1);
    send_call(link);
    send_call(link);
    rl_link_handle_io(link, 0, rl_link_clock());
    is_int(rl_link_read_state(link), RL_LINK_DOWN,
           "the next ones meet a connection that was reset");
    is_int(unsent, 2, "nothing of them was sent");
    is_int(lost, 1, "the one before may have run");
    ok(!rl_link_was_idle(link), "the connection was not idle");
}

static void test_written(void)
{
    rl_link *link = connect_link();

    drop_peer(0);
    send_call(link);
    rl_link_handle_io(link, 0, rl_link_clock());
    ok(becomes(link, RL_LINK_DOWN), "a call was written although the other side had closed");
    is_int(unsent, 0, "it is not reported as unsent");
    is_int(lost, 1, "it is lost");
}

static void test_waiting(void)
{
    rl_link *link = connect_link();

    send_call(link);
    rl_link_close(link, "the test says so");
    is_int(unsent, 1, "a call that waits to be sent when the connection is closed was not sent");
}

/* now_us is an argument, so nothing here waits for a link to be idle for long. */
static void test_idle(void)
{
    int64_t now_us = rl_link_clock();
    rl_link *link = connect_link();
    char text[99];

    drop_peer(0);
    ok(!rl_link_check_alive(link, now_us), "a connection that was just used is not checked");
    ok(rl_link_check_alive(link, now_us + 2 * SECOND_US),
       "one that was idle is, before a call is sent");
    is_int(rl_link_read_state(link), RL_LINK_DOWN, "the other side has closed it");
    ok(rl_link_was_idle(link), "while it was idle");
    is_int(lost + unsent, 0, "and no call was affected");
    link = connect_link();
    ok(!rl_link_check_alive(link, now_us + 2 * SECOND_US),
       "one that is open is not asked for a sign of life");
    send_call(link);
    ok(!rl_link_check_alive(link, now_us + 60 * SECOND_US),
       "nor is one with calls in flight, ever");
    rl_link_handle_io(link, 0, rl_link_clock());
    say("+OK\r\n");
    hear(text, sizeof(text));
    is_str(text, "CALL\r\n", "nothing else was sent");
    rl_link_close(link, "the test is over");
}

static void test_sign_of_life(void)
{
    rl_link *link = connect_link();
    int64_t now_us = rl_link_clock();
    char text[99];

    ok(rl_link_check_alive(link, now_us + 60 * SECOND_US), "one that was idle for longer is");
    is_int(rl_link_read_state(link), RL_LINK_CONNECTING, "nothing is sent before it answers");
    rl_link_handle_io(link, 0, now_us + 60 * SECOND_US);
    hear(text, sizeof(text));
    is_str(text, "SIGN\r\n", "it is asked for a sign of life");
    say("-NOPERM whatever\r\n");
    for (int i = 0; i < 200 && rl_link_read_state(link) == RL_LINK_CONNECTING; i++) {
        rl_link_handle_io(link, POLLIN, now_us + 60 * SECOND_US);
        usleep(1000);
    }
    is_int(rl_link_read_state(link), RL_LINK_READY, "any answer will do");
    now_us = rl_link_clock();
    rl_link_check_alive(link, now_us + 60 * SECOND_US);
    rl_link_handle_io(link, 0, now_us + 60 * SECOND_US);
    rl_link_handle_io(link, 0, now_us + 61 * SECOND_US);
    is_int(rl_link_read_state(link), RL_LINK_DOWN, "without one it is closed");
    ok(rl_link_was_idle(link), "as an idle one");
}

int main(void)
{
    apr_initialize();
    apr_pool_create(&pool, NULL);
    serve();
    test_unsent();
    test_written();
    test_waiting();
    test_idle();
    test_sign_of_life();
    return done_testing();
}
