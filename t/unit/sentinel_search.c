/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A search for the primary: which sentinels it asks, in which order, which replies it accepts, and
 * when it fails.
 */
#include <stdlib.h>

#include "redis/sentinel_search.h"
#include "replies.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define ADDRESS "*2\r\n$9\r\n192.0.2.7\r\n$4\r\n6379\r\n"
#define PRIMARY "*3\r\n$6\r\nmaster\r\n:5\r\n*0\r\n"
#define REPLICA "*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$9\r\nconnected\r\n:5\r\n"

static rl_search_state take(rl_sentinel_search *s, const char *bytes)
{
    return rl_sentinel_search_take(s, bytes ? reply_of(bytes) : NULL);
}

static void test_search(void)
{
    rl_sentinel_search s;

    rl_sentinel_search_init(&s, 3, 0);
    is_int(s.state, RL_SEARCH_IDLE, "at first there is no search");
    rl_sentinel_search_begin(&s);
    ok(s.state == RL_SEARCH_ASK && s.at == 0, "the first sentinel is asked");
    is_int(take(&s, ADDRESS), RL_SEARCH_CHECK, "what it names is checked");
    ok(!strcmp(s.host, "192.0.2.7") && s.port == 6379, "at that address");
    is_int(take(&s, PRIMARY), RL_SEARCH_FOUND, "it is a primary: found");
    rl_sentinel_search_begin(&s);
    ok(s.state == RL_SEARCH_ASK && s.at == 0,
       "the next search begins with the sentinel that was right");
}

static void test_next(void)
{
    rl_sentinel_search s;

    rl_sentinel_search_init(&s, 3, 4);
    rl_sentinel_search_begin(&s);
    is_int(s.at, 1, "children begin at different ones");
    ok(take(&s, NULL) == RL_SEARCH_ASK && s.at == 2, "one that is silent: the next");
    ok(take(&s, "*-1\r\n") == RL_SEARCH_ASK && s.at == 0, "one that knows no such name: the next");
    is_int(take(&s, ADDRESS), RL_SEARCH_CHECK, "one that has not noticed a failover");
    is_int(take(&s, REPLICA), RL_SEARCH_FAILED, "names a replica: all were asked, the search ends");
    is_int(take(&s, PRIMARY), RL_SEARCH_FAILED, "and stays so");
    rl_sentinel_search_begin(&s);
    ok(s.state == RL_SEARCH_ASK && s.at == 1, "until the next one, which goes on round");
    take(&s, ADDRESS);
    ok(take(&s, NULL) == RL_SEARCH_ASK && s.at == 2, "a primary that does not answer: the next");
    take(&s, ADDRESS);
    is_int(take(&s, "-LOADING Redis is loading\r\n"), RL_SEARCH_ASK, "or answers with an error");
}

static const char *const garbage[] = {
    "+OK\r\n", "$-1\r\n", "-ERR No such master with that name\r\n", "*0\r\n",
    "*1\r\n$9\r\n192.0.2.7\r\n", "*2\r\n:1\r\n:2\r\n", "*2\r\n$-1\r\n$4\r\n6379\r\n",
    "*2\r\n$0\r\n\r\n$4\r\n6379\r\n", "*2\r\n$3\r\na b\r\n$4\r\n6379\r\n",
    "*2\r\n$1\r\na\r\n$1\r\n0\r\n", "*2\r\n$1\r\na\r\n$5\r\n65536\r\n",
    "*2\r\n$1\r\na\r\n$0\r\n\r\n", "*2\r\n$1\r\na\r\n$2\r\n-1\r\n",
    "*2\r\n$1\r\na\r\n$3\r\n1x1\r\n",
    "*3\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n1\r\n",
};

static void test_garbage(void)
{
    rl_sentinel_search s;

    for (size_t i = 0; i < COUNT(garbage); i++) {
        rl_sentinel_search_init(&s, 1, 0);
        rl_sentinel_search_begin(&s);
        is_int(take(&s, garbage[i]), RL_SEARCH_FAILED, "no address: garbage %zu", i);
    }
    ok(!rl_sentinel_search_is_primary(NULL), "no reply is not a primary's");
    ok(!rl_sentinel_search_is_primary(reply_of("*0\r\n")), "nor is an empty one");
    ok(!rl_sentinel_search_is_primary(reply_of("$6\r\nmaster\r\n")), "nor a word");
    ok(!rl_sentinel_search_is_primary(reply_of("*1\r\n:1\r\n")), "nor a number");
}

#define SWITCHED "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n"

static void test_switch(void)
{
    ok(rl_sentinel_search_is_switch(reply_of(SWITCHED "$14\r\nmain a 1 b 222\r\n"), "main"),
       "a switch");
    ok(!rl_sentinel_search_is_switch(reply_of(SWITCHED "$14\r\nmain a 1 b 222\r\n"), "mai"),
       "of another name");
    ok(!rl_sentinel_search_is_switch(reply_of(SWITCHED "$4\r\nmain\r\n"), "main"), "of no address");
    ok(!rl_sentinel_search_is_switch(reply_of("*3\r\n$9\r\nsubscribe\r\n"
                                              "$14\r\n+switch-master\r\n:1\r\n"),
                                     "main"), "a subscription is none");
    ok(!rl_sentinel_search_is_switch(reply_of("+PONG\r\n"), "main"), "nor is anything else");
    ok(!rl_sentinel_search_is_switch(NULL, "main"), "nor is no message");
}

int main(void)
{
    test_search();
    test_next();
    test_garbage();
    test_switch();
    return done_testing();
}
