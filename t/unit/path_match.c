/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The globs of path=: a table of examples; the definition in path.h as a second, slow matcher that
 * must agree on random globs and paths (seeded, so each run tries the same ones); and long paths
 * that only a linear algorithm finishes.
 */

#include "core/path.h"
#include "tap.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static uint64_t random_state = 0x9e3779b97f4a7c15u;

/* xorshift64*, Vigna 2016 */
static unsigned below(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 0x2545f4914f6cdd1du) >> 33) % n;
}

static void globs_match_what_they_say(void)
{
    static const struct {
        const char *glob, *path;
        int want;
    } rows[] = {
        { "/login", "/login", 1 },
        { "/login", "/logi", 0 },
        { "/login", "/login2", 0 },
        { "/login", "/login/x", 0 },
        { "/login", "/", 0 },
        { "/", "/", 1 },
        { "", "/", 0 },
        { "", "", 1 },

        { "/log?n", "/login", 1 },
        { "/a?b", "/a/b", 0 },
        { "/a?", "/a", 0 },
        { "/?", "/?", 1 },

        { "/*", "/", 1 },
        { "/*", "/a", 1 },
        { "/*", "/a/b", 0 },
        { "/*.php", "/index.php", 1 },
        { "/*.php", "/.php", 1 },
        { "/*.php", "/index.php5", 0 },
        { "/*.php", "/a/index.php", 0 },
        { "/*.php", "/a.php.php", 1 },
        { "/a/*/c", "/a/b/c", 1 },
        { "/a/*/c", "/a/c", 0 },
        { "/a/*/c", "/a/b/b/c", 0 },
        { "/a*b*c", "/axbxbxc", 1 },
        { "/a*b*c", "/axbx/xc", 0 },
        { "/u/*/p*", "/u/1/posts", 1 },
        { "/*/*", "/a/b", 1 },
        { "/*/*", "/a", 0 },
        { "/*", "/*", 1 },

        { "**", "/", 1 },
        { "**", "/a/b/c", 1 },
        { "/**", "/", 1 },
        { "/**", "/a/b", 1 },
        { "/api/**", "/api", 1 },
        { "/api/**", "/api/", 1 },
        { "/api/**", "/api/v1/users", 1 },
        { "/api/**", "/apis", 0 },
        { "/api/**", "/apis/x", 0 },
        { "/api**", "/apis/x", 1 },
        { "/a/**/z", "/a/z", 1 },
        { "/a/**/z", "/a/b/z", 1 },
        { "/a/**/z", "/a/b/c/z", 1 },
        { "/a/**/z", "/a/bz", 0 },
        { "/a/**/z", "/az", 0 },
        { "/**/login", "/login", 1 },
        { "/**/login", "/x/y/login", 1 },
        { "/**/login", "/xlogin", 0 },
        { "**/login", "/x/login", 1 },
        { "**.php", "/a/b.php", 1 },
        { "/**.php", "/b.php", 1 },
        { "/**.php", "/a/b.php", 1 },
        { "/**.php", "/a/b.html", 0 },
        { "/a**", "/a", 1 },
        { "/a***b", "/a/x/b", 1 },
        { "/**/*.php", "/a/b/c.php", 1 },
        { "/**/*.php", "/c.php", 1 },
        { "/**/v?/*/x", "/a/v1/v2/b/x", 1 },
        { "/**/a*/b*/c", "/a/a1/b/ab/c", 0 },
        { "/**/a*/b*/c", "/a/a1/b/a/b/c", 1 },
        { "/**/a/**/b", "/b/a/b/a", 0 },
        { "/**/a/**", "/b/a", 1 },

        { "/[a]", "/a", 0 },
        { "/[a]", "/[a]", 1 },
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        ok(rl_path_match(rows[i].glob, rows[i].path, strlen(rows[i].path)) == rows[i].want,
           "\"%s\" %s \"%s\"", rows[i].glob, rows[i].want ? "matches" : "does not match",
           rows[i].path);
    }
    ok(rl_path_match("/a?b", "/a\0b", 4) && !rl_path_match("/a", "/a\0b", 4),
       "a NUL in a path is a byte like any other");
}

/* The definition in path.h, taken literally, without regard to time. */
static int match_by_definition(const char *glob, const char *path, size_t len)
{
    size_t stars, i;

    if (glob[0] == '/' && (stars = strspn(glob + 1, "*")) >= 2
        && (glob[1 + stars] == '/' || glob[1 + stars] == '\0')) {
        const char *rest = glob + 1 + stars;
        int hit = match_by_definition(rest, path, len);

        for (i = 1; !hit && len > 0 && path[0] == '/' && i <= len; i++) {
            hit = match_by_definition(rest, path + i, len - i);
        }
        return hit;
    }
    stars = strspn(glob, "*");
    if (stars) {
        for (i = 0; i <= len; i++) {
            if (match_by_definition(glob + stars, path + i, len - i)) {
                return 1;
            }
            if (i < len && path[i] == '/' && stars == 1) {
                break;
            }
        }
        return 0;
    }
    if (len == 0 || glob[0] == '\0') {
        return len == 0 && glob[0] == '\0';
    }
    return (glob[0] == path[0] || (glob[0] == '?' && path[0] != '/'))
           && match_by_definition(glob + 1, path + 1, len - 1);
}

static void globs_match_by_definition(void)
{
    unsigned round, bad = 0, hits = 0;

    for (round = 0; round < 400000 && !bad; round++) {
        char glob[12] = "", path[16] = "";
        size_t i, glob_len = below(sizeof(glob)), len = below(sizeof(path));
        int got;

        for (i = 0; i < glob_len; i++) {
            glob[i] = "//ab**?*"[below(8)];
        }
        for (i = 0; i < len; i++) {
            path[i] = "//aab"[below(5)];
        }
        got = rl_path_match(glob, path, len);
        hits += (unsigned)got;
        if (got != match_by_definition(glob, path, len)) {
            bad = 1;
            printf("# \"%s\", \"%s\" gives %d\n", glob, path, got);
        }
    }
    ok(!bad && hits > 10000, "any glob matches as its definition says");
}

static void a_glob_is_spelled_as_its_paths_are(void)
{
    static const struct {
        const char *glob, *path;
    } rows[] = {
        { "/Login/", "/LOGIN" },
        { "/API/**", "/api/" },
        { "/API/**", "/api/V1" },
        { "/api/**/", "/api//v1/" },
        { "**.PHP", "/x/y.php" },
        { "**/Login", "/Login" },
        { "/a/*/c", "/A/b/c/" },
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        char glob[32], path[32];
        size_t len = rl_path_normalise(path, rows[i].path, strlen(rows[i].path), RL_PATH_ALL);

        glob[rl_path_normalise(glob, rows[i].glob, strlen(rows[i].glob), RL_PATH_ALL)] = '\0';
        ok(rl_path_match(glob, path, len), "\"%s\", normalised, finds \"%s\"", rows[i].glob,
           rows[i].path);
    }
}

/* A quadratic algorithm needs minutes for these, which shows without a time that is asserted. */

enum { MANY = 300000 };

/* The head, then MANY times the piece. */
static char *repeated(const char *head, const char *piece, size_t *len)
{
    size_t head_len = strlen(head), piece_len = strlen(piece), i;
    char *text = malloc(head_len + MANY * piece_len + 1);

    memcpy(text, head, head_len);
    for (i = 0; i < MANY; i++) {
        memcpy(text + head_len + i * piece_len, piece, piece_len);
    }
    *len = head_len + MANY * piece_len;
    return text;
}

static void long_paths_are_matched(void)
{
    static const struct {
        const char *glob, *piece;
    } rows[] = {
        { "**b", "a" },
        { "**x*a*b", "xa" },
        { "**x*/*a*b", "xa" },
        { "/**/x*/*/*a*b", "/xa" },
        { "/*a*a*a*a*b", "a" },
        { "**a**a**a**b", "a" },
        { "/**/a/**/a/**/b", "/a" },
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        size_t len;
        char *text = repeated("/", rows[i].piece, &len);

        ok(!rl_path_match(rows[i].glob, text, len), "\"%s\" does not match %d times %s",
           rows[i].glob, MANY, rows[i].piece);
        free(text);
    }
}

int main(void)
{
    globs_match_what_they_say();
    globs_match_by_definition();
    a_glob_is_spelled_as_its_paths_are();
    long_paths_are_matched();
    return done_testing();
}
