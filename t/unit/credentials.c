/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passwords get from their file into AUTH unchanged, whatever bytes they have, and while the file
 * changes. Errors about a file do not show its text, and keep the password that was read before.
 */
#include <apr_general.h>
#include <apr_strings.h>
#include <hiredis.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "redis/credentials.h"
#include "tap.h"

static apr_pool_t *pool;
static const char *path;

static void put(const char *text)
{
    const char *other = apr_pstrcat(pool, path, ".new", NULL);
    FILE *out = fopen(other, "w");

    if (!out || fputs(text, out) < 0 || fclose(out) || rename(other, path))
        perror(path);
}

/* The words of the AUTH command after AUTH, joined by '|'; "" if it is not AUTH. */
static const char *auth(const rl_credentials *c)
{
    char *command = NULL, *end;
    const char *at, *words = "";
    int length = rl_credentials_format(c, &command);

    for (at = command; length && (at = memchr(at, '$', (size_t)(command + length - at)));) {
        long size = strtol(at + 1, &end, 10);

        words = apr_pstrcat(pool, words, *words ? "|" : "",
                            apr_pstrmemdup(pool, end + 2, (apr_size_t)size), NULL);
        at = end + 2 + size;
    }
    if (length)
        redisFreeCommand(command);
    return strncmp(words, "AUTH|", 5) ? "" : words + 5;
}

static rl_credentials *read_from(const char *text)
{
    rl_credentials *c;
    const char *error;
    int exposed;

    put(text);
    error = rl_credentials_read(pool, path, &c, &exposed);
    if (error)
        printf("# %s\n", error);
    return error ? NULL : c;
}

static void test_lines(void)
{
    static const struct {
        const char *line, *auth; /* NULL: refused */
    } lines[] = {
        {"secret", "secret"}, {"secret\n", "secret"}, {"  secret\t\r\n\n", "secret"},
        {"me secret", "me|secret"}, {"me\t \"my secret\"", "me|my secret"}, {"\"a b\"\n", "a b"},
        {"\"say \\\"\\\\\\\" \\n\"", "say \"\\\" \\n"}, {"sec\"ret\\", "sec\"ret\\"},
        {"\"my self\" \"my secret\" ", "my self|my secret"}, {"", NULL}, {"\n", NULL},
        {"\"\"", NULL}, {"me \"\"", NULL}, {"a b c", NULL}, {"\"a", NULL}, {"me \"a\\\"", NULL},
        {"\"a\"b", NULL}, {"a\nb", NULL},
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        rl_credentials *c = read_from(lines[i].line);

        is_str(c ? auth(c) : "refused", lines[i].auth ? lines[i].auth : "refused", "line %zu", i);
    }
}

static void test_long(void)
{
    char *token = memset(apr_pcalloc(pool, 65537), 'x', 65536);
    rl_credentials *c = read_from(apr_pstrcat(pool, "me ", token, NULL));

    is_str(c ? auth(c) : "", apr_pstrcat(pool, "me|", token, NULL), "a token of 64 KB");
}

static void test_user(void)
{
    rl_credentials *c = read_from("secret");

    ok(!rl_credentials_set_user(c, "me"), "the user may come from elsewhere");
    is_str(auth(c), "me|secret", "and is used");
    ok(rl_credentials_set_user(read_from("you secret"), "me") != NULL, "but not be another one");
}

static void test_refresh(void)
{
    rl_credentials *c = read_from("first");
    const char *error;

    rl_credentials_share(c, pool);
    is_str(auth(c), "first", "a password");
    ok(!rl_credentials_refresh(c, pool, &error) && !error, "nothing has changed");
    put("second");
    ok(rl_credentials_refresh(c, pool, &error) && !error, "now it has");
    is_str(auth(c), "second", "and is used");
    put("third \"half");
    ok(!rl_credentials_refresh(c, pool, &error) && error,
       "a file that is not valid gives an error");
    ok(!strstr(error, "half") && !strstr(error, "third"), "which does not show its text");
    ok(!rl_credentials_refresh(c, pool, &error) && !error, "and is not repeated");
    is_str(auth(c), "second", "and the password stays");
    unlink(path);
    ok(!rl_credentials_refresh(c, pool, &error) && error,
       "a file that is gone gives an error, too");
    ok(!rl_credentials_refresh(c, pool, &error) && !error, "which is not repeated either");
    is_str(auth(c), "second", "and the password stays");
    put("fourth");
    ok(rl_credentials_refresh(c, pool, &error), "until there is one again");
    is_str(auth(c), "fourth", "which is used");
}

/* Children read as fast as they can while the parent changes the password all the time. */
static void test_children(void)
{
    char *passwords[2] = {memset(apr_pcalloc(pool, 60001), 'a', 60000),
                          memset(apr_pcalloc(pool, 60001), 'b', 60000)};
    rl_credentials *c = read_from(passwords[0]);
    int torn = 0, status, changes = 0;
    const char *error;
    pid_t children[2];

    rl_credentials_share(c, pool);
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            for (int n = 0; n < 3000 && !torn; n++) {
                char *command = NULL;
                int length = rl_credentials_format(c, &command);

                torn = length < 60000
                    || memchr(command + 40, command[length - 3] == 'a' ? 'b' : 'a', 59000) != NULL;
                redisFreeCommand(command);
            }
            _exit(torn);
        }
    }
    for (int i = 1; i <= 400; i++) {
        put(passwords[i % 2]);
        changes += rl_credentials_refresh(c, pool, &error);
    }
    for (int i = 0; i < 2; i++) {
        waitpid(children[i], &status, 0);
        torn += status != 0;
    }
    ok(changes > 100, "a password that changes all the time");
    is_int(torn, 0, "is always whole");
}

int main(void)
{
    char dir[] = "/tmp/rl-credentials-XXXXXX";

    apr_initialize();
    apr_pool_create(&pool, NULL);
    path = apr_pstrcat(pool, mkdtemp(dir), "/secret", NULL);
    test_lines();
    test_long();
    test_user();
    test_refresh();
    test_children();
    unlink(path);
    rmdir(dir);
    return done_testing();
}
