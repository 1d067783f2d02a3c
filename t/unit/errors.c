/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kind of an error reply depends on how its text begins, in the form of every version, and on
 * nothing after that.
 */
#include <stdlib.h>
#include <string.h>

#include "redis/errors.h"
#include "tap.h"

static const struct {
    const char *text;
    rl_error_kind kind;
} said[] = {
    {"NOSCRIPT No matching script. Please use EVAL.", RL_ERROR_NOSCRIPT},
    {"TRYAGAIN Multiple keys request during rehashing of slot", RL_ERROR_TRYAGAIN},
    {"MOVED 3999 127.0.0.1:6381", RL_ERROR_MOVED},
    {"ASK 3999 127.0.0.1:6381", RL_ERROR_ASK},
    {"CROSSSLOT Keys in request don't hash to the same slot", RL_ERROR_CROSSSLOT},
    {"CLUSTERDOWN Hash slot not served", RL_ERROR_CLUSTERDOWN},
    {"READONLY You can't write against a read only replica.", RL_ERROR_READONLY},
    {"READONLY You can't write against a read only replica. script: 6e81, on @user_script:1.",
     RL_ERROR_READONLY},
    {"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
     RL_ERROR_MASTERDOWN},
    {"LOADING Redis is loading the dataset in memory", RL_ERROR_LOADING},
    {"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
     RL_ERROR_BUSY},
    {"OOM command not allowed when used memory > 'maxmemory'. script: 6e81, on @user_script:1.",
     RL_ERROR_OOM},
    {"ERR Error running script (call to f_6e81): @user_script:9: @user_script: 9: -OOM command not "
     "allowed when used memory > 'maxmemory'.", RL_ERROR_OOM},
    {"ERR Error running script (call to f_6e81): @user_script:12: @user_script: 12: -READONLY You "
     "can't write against a read only replica.", RL_ERROR_READONLY},
    {"ERR Error running script (call to f_6e81): @user_script:12: @user_script: 12: -MISCONF Redis "
     "is configured to save RDB snapshots", RL_ERROR_MISCONF},
    {"ERR Error running script (call to f_6e81): @user_script:2: @user_script: 2: The user "
     "executing the script can't run this command or subcommand", RL_ERROR_NOPERM},
    {"ERR The user executing the script can't run this command or subcommand script: 6e81, on "
     "@user_script:1.", RL_ERROR_NOPERM},
    {"NOPERM this user has no permissions to access one of the keys used as arguments",
     RL_ERROR_NOPERM},
    {"NOREPLICAS Not enough good replicas to write. script: 6e81, on @user_script:1.",
     RL_ERROR_NOREPLICAS},
    {"NOAUTH Authentication required.", RL_ERROR_NOAUTH},
    {"WRONGPASS invalid username-password pair or user is disabled.", RL_ERROR_WRONGPASS},
    {"ERR invalid password", RL_ERROR_WRONGPASS},
    {"ERR max number of clients reached", RL_ERROR_MAXCLIENTS},
    {"", RL_ERROR_OTHER},
    {"OOM", RL_ERROR_OTHER},
    {"OOMPH", RL_ERROR_OTHER},
    {"ERR OOM command not allowed", RL_ERROR_OTHER},
    {"ERR no such key 'READONLY OOM NOSCRIPT '", RL_ERROR_OTHER},
    {"ERR unknown command 'AUTH', with args beginning with: 'NOAUTH '", RL_ERROR_NOCOMMAND},
    {"ERR unknown command `EVALSHA`, with args beginning with: `6e81`, ", RL_ERROR_NOCOMMAND},
    {"ERR Unknown Redis command called from script script: 6e81, on @user_script:1.",
     RL_ERROR_NOCOMMAND},
    {"ERR Error running script (call to f_6e81): @user_script:9: @user_script: 9: Unknown Redis "
     "command called from Lua script", RL_ERROR_NOCOMMAND},
    {"ERR Error running script (call to f_6e81): @user_script:9: @user_script: 9: ERR syntax error",
     RL_ERROR_SYNTAX},
    {"WRONGTYPE @user_script: 1: -OOM command not allowed", RL_ERROR_OTHER},
    {"ERR Error running script (call to f_6e81): @user_script: ", RL_ERROR_OTHER},
    {"ERR Error running script (call to f_6e81): @user_script:9: attempt to index a nil value",
     RL_ERROR_OTHER},
    {"ERR Error running script", RL_ERROR_OTHER},
};

static void test_kinds(void)
{
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
        char *exact = strdup(said[i].text); /* on the heap so that ASan sees a byte too many */

        is_int(rl_error_of(exact), said[i].kind, "\"%.60s\"", said[i].text);
        free(exact);
    }
}

static const struct {
    const char *text, *shown;
} logged[] = {
    {"", ""},
    {"ERR This instance has cluster support disabled",
     "ERR This instance has cluster support disabled"},
    {"ERR it can't be done", "ERR it can't be done"},
    {"ERR no such thing 'SECRET'", "ERR no such thing"},
    {"ERR unknown subcommand, with args beginning with: `SECRET`", "ERR unknown subcommand"},
    {"ERR one\nSECRET", "ERR one"},
};

static void test_shown(void)
{
    char text[300];

    for (size_t i = 0; i < sizeof(logged) / sizeof(logged[0]); i++) {
        snprintf(text, sizeof(text), "%.*s", rl_error_shown(logged[i].text), logged[i].text);
        is_str(text, logged[i].shown, "text that may repeat a client's bytes is left out (%zu)", i);
    }
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    is_int(rl_error_shown(text), 100, "and a long error is cut");
}

static void test_table(void)
{
    for (int kind = 0; kind < RL_ERROR_KINDS; kind++) {
        const rl_error *error = &rl_errors[kind];
        int twice = 0;

        ok(error->prefix && error->metric && error->means && *error->means,
           "kind %d is a whole row: %s", kind, error->metric ? error->metric : "?");
        for (int other = 0; other < kind; other++)
            twice += !strcmp(error->metric, rl_errors[other].metric);
        is_int(twice, 0, "with its own name");
        is_int(strspn(error->metric, "abcdefghijklmnopqrstuvwxyz"), strlen(error->metric),
               "of letters");
        if (kind != RL_ERROR_OTHER)
            is_int(rl_error_of(error->prefix), kind, "which its prefix leads to");
    }
}

int main(void)
{
    test_kinds();
    test_shown();
    test_table();
    return done_testing();
}
