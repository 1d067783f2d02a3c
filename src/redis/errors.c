/* SPDX-License-Identifier: Apache-2.0 */
/*
 * errors: the error replies of Redis.
 *
 * The first word of an error is its kind. Redis 7 passes on an error that a script meets, with more
 * text after it. Redis 6 wraps it:
 *
 *     ERR Error running script (call to f_SHA): @user_script:9: @user_script: 9: -OOM command ...
 *
 * The first word is then what follows the last "@user_script: LINE: ". Some errors begin with ERR
 * only, and are recognized by more of their text.
 */
#include <stddef.h>
#include <string.h>

#include "redis/errors.h"

#define MARK "@user_script: "
#define SHOWN_MAX 100

const rl_error rl_errors[RL_ERROR_KINDS] = {
    [RL_ERROR_OTHER] = {"", "other", RL_DO_COUNT, "refuses what it is asked"},
    [RL_ERROR_NOSCRIPT] = {"NOSCRIPT ", "noscript", RL_DO_RELOAD,
                           "forgets its script again and again"},
    [RL_ERROR_TRYAGAIN] = {"TRYAGAIN ", "tryagain", RL_DO_RETRY,
                           "is moving the slot to another node"},
    [RL_ERROR_MOVED] = {"MOVED ", "moved", RL_DO_REDIRECT,
                        "is a node of a cluster: RateLimitRedis needs a cluster:// URL"},
    [RL_ERROR_ASK] = {"ASK ", "ask", RL_DO_REDIRECT,
                      "is a node of a cluster: RateLimitRedis needs a cluster:// URL"},
    [RL_ERROR_CROSSSLOT] = {"CROSSSLOT ", "crossslot", RL_DO_OPEN,
                            "is a node of a cluster: RateLimitRedis needs a cluster:// URL"},
    [RL_ERROR_CLUSTERDOWN] = {"CLUSTERDOWN ", "clusterdown", RL_DO_REDISCOVER,
                              "belongs to a cluster that is down"},
    [RL_ERROR_READONLY] = {"READONLY ", "readonly", RL_DO_REDISCOVER,
                           "is a replica that takes no writes"},
    [RL_ERROR_MASTERDOWN] = {"MASTERDOWN ", "masterdown", RL_DO_REDISCOVER,
                             "is a replica that has lost its primary"},
    [RL_ERROR_LOADING] = {"LOADING ", "loading", RL_DO_REDISCOVER,
                          "is still reading its data from disk"},
    [RL_ERROR_BUSY] = {"BUSY ", "busy", RL_DO_COUNT,
                       "is busy with another client's script: see SCRIPT KILL"},
    [RL_ERROR_OOM] = {"OOM ", "oom", RL_DO_OPEN,
                      "reports that its memory is full: raise maxmemory or use a separate instance "
                      "for the limits"},
    [RL_ERROR_MISCONF] = {"MISCONF ", "misconf", RL_DO_OPEN,
                          "refuses writes because it cannot save to disk"},
    [RL_ERROR_NOREPLICAS] = {"NOREPLICAS ", "noreplicas", RL_DO_OPEN,
                             "refuses writes because it has too few good replicas: see "
                             "min-replicas-to-write"},
    [RL_ERROR_NOAUTH] = {"NOAUTH ", "noauth", RL_DO_OPEN,
                         "wants a password: see RateLimitRedisAuth"},
    [RL_ERROR_WRONGPASS] = {"WRONGPASS ", "wrongpass", RL_DO_OPEN,
                            "does not accept the user or the password of RateLimitRedisAuth"},
    [RL_ERROR_NOPERM] = {"NOPERM ", "noperm", RL_DO_OPEN,
                         "reports that its user may not run what is needed, or not on these keys"},
    [RL_ERROR_MAXCLIENTS] = {"ERR max number of clients", "maxclients", RL_DO_OPEN,
                             "has no room for more clients: raise maxclients"},
    [RL_ERROR_NOCOMMAND] = {"ERR unknown command", "nocommand", RL_DO_OPEN,
                            "does not know a command that is needed: it must not be renamed or "
                            "disabled"},
    [RL_ERROR_SYNTAX] = {"ERR syntax error", "syntax", RL_DO_OPEN,
                         "does not know SET with KEEPTTL: Redis 6.0 or later is needed"},
};

/* Other texts of the same kinds. */
static const struct {
    const char *prefix;
    rl_error_kind kind;
} others[] = {
    {"ERR The user executing the script can't", RL_ERROR_NOPERM},
    {"The user executing the script can't", RL_ERROR_NOPERM},
    {"ERR ACL failure in script", RL_ERROR_NOPERM},
    {"ERR Unknown Redis command called from", RL_ERROR_NOCOMMAND},
    {"Unknown Redis command called from", RL_ERROR_NOCOMMAND}, /* Redis 6 */
    {"ERR invalid password", RL_ERROR_WRONGPASS}, /* Redis 5 */
    {"ERR AUTH <password> called without any password", RL_ERROR_WRONGPASS},
    {"ERR Client sent AUTH, but no password is set", RL_ERROR_WRONGPASS}, /* Redis 5 */
};

static int begins(const char *text, const char *prefix)
{
    return !strncmp(text, prefix, strlen(prefix));
}

/* The text without what Redis 6 wraps around an error that a script met. */
static const char *unwrapped(const char *text)
{
    const char *at;

    if (!begins(text, "ERR Error running script"))
        return text;
    while ((at = strstr(text, MARK))) {
        text = at + strlen(MARK);
        text += strspn(text, "0123456789");
        text += strspn(text, ": ");
    }
    return text + (*text == '-');
}

rl_error_kind rl_error_of(const char *text)
{
    text = unwrapped(text);
    for (int kind = RL_ERROR_OTHER + 1; kind < RL_ERROR_KINDS; kind++) {
        if (begins(text, rl_errors[kind].prefix))
            return (rl_error_kind)kind;
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (begins(text, others[i].prefix))
            return others[i].kind;
    }
    return RL_ERROR_OTHER;
}

int rl_error_shown(const char *text)
{
    static const char *const echoes[] = {", with args", " '", " `", " \"", "\n"};
    size_t shown = strlen(text);

    for (size_t i = 0; i < sizeof(echoes) / sizeof(echoes[0]); i++) {
        const char *echo = strstr(text, echoes[i]);

        if (echo && (size_t)(echo - text) < shown)
            shown = (size_t)(echo - text);
    }
    return shown < SHOWN_MAX ? (int)shown : SHOWN_MAX;
}
