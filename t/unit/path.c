/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A path has one spelling: a group of rows for each known way around a limit; then properties of
 * all paths, on random paths made of the pieces that matter (seeded, so each run tries the same
 * ones); then inputs that only a linear algorithm finishes.
 */

#include "core/path.h"
#include "tap.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { ALL = RL_PATH_ALL, NONE = 0, FLAG_SETS = RL_PATH_ALL + 1 };
enum { CASE = RL_PATH_CASE, SLASHES = RL_PATH_SLASHES, DOTS = RL_PATH_DOTS,
       TRAILING = RL_PATH_TRAILING, PARAMS = RL_PATH_PARAMS, ENCODING = RL_PATH_ENCODING };

enum { TEXT_MAX = 1024 };

struct text {
    size_t len;
    char bytes[TEXT_MAX];
};

/* Normalises on the heap, with no more room than promised, so that ASan finds a byte too many. */
static struct text normalise(const char *path, size_t len, unsigned flags)
{
    struct text got;
    char *room = malloc(len + 1);

    got.len = rl_path_normalise(room, path, len, flags);
    memcpy(got.bytes, room, got.len);
    free(room);
    return got;
}

static int same(const struct text *a, const struct text *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* The bytes in a form for a TAP line; the last four results stay valid. */
static const char *show(const char *bytes, size_t len)
{
    static char turns[4][4 * TEXT_MAX + 3];
    static unsigned turn;
    char *buf = turns[turn++ % 4], *to = buf;
    size_t i;

    *to++ = '"';
    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];

        to += sprintf(to, c > 0x20 && c < 0x7f && c != '#' ? "%c" : "\\x%02x", c);
    }
    strcpy(to, "\"");
    return buf;
}

/* Spellings */

struct row {
    const char *in;
    size_t in_len;
    unsigned flags;
    const char *want;
    size_t want_len;
    const char *way;
};

#define WAY(title) { NULL, 0, 0, NULL, 0, title }
#define ROW(in, flags, want) { in, sizeof(in) - 1, flags, want, sizeof(want) - 1, NULL }

static const struct row spellings[] = {
    WAY("a plain path stays as it is"),
    ROW("/", ALL, "/"),
    ROW("/login", ALL, "/login"),
    ROW("/a/b-c_d~e/f.php", ALL, "/a/b-c_d~e/f.php"),
    ROW("/a b+c&d=e,f:g@h!$'()*", ALL, "/a b+c&d=e,f:g@h!$'()*"),
    ROW("/who?", ALL, "/who?"),

    WAY("more slashes"),
    ROW("//login", ALL, "/login"),
    ROW("/a//b", ALL, "/a/b"),
    ROW("///a////b", ALL, "/a/b"),
    ROW("//", ALL, "/"),
    ROW("//////", ALL, "/"),
    ROW("//", SLASHES, "/"),
    ROW("/a//", SLASHES, "/a/"),

    WAY("a backslash for a slash"),
    ROW("\\login", ALL, "/login"),
    ROW("/a\\b", ALL, "/a/b"),
    ROW("/a\\/\\b", ALL, "/a/b"),
    ROW("/a\\..\\b", ALL, "/b"),
    ROW("/a/..\\..\\b", ALL, "/b"),
    ROW("/login\\", ALL, "/login"),
    ROW("/a;x\\b", ALL, "/a/b"),
    ROW("\\", ALL, "/"),
    ROW("/a%5Cb", ALL, "/a/b"),

    WAY("dot segments"),
    ROW("/./login", ALL, "/login"),
    ROW("/a/./b", ALL, "/a/b"),
    ROW("/a/././././b", ALL, "/a/b"),
    ROW("/login/.", ALL, "/login"),
    ROW("/login/.", DOTS, "/login/"),
    ROW("/.", ALL, "/"),
    ROW("/...", ALL, "/..."),
    ROW("/.a/b./..c/d..", ALL, "/.a/b./..c/d.."),
    ROW("/a/../login", ALL, "/login"),
    ROW("/a/b/../../login", ALL, "/login"),
    ROW("/a/b/../c", ALL, "/a/c"),
    ROW("/a/b/..", ALL, "/a"),
    ROW("/a/b/..", DOTS, "/a/"),
    ROW("/a/b/../", DOTS, "/a/"),
    ROW("/a/..", ALL, "/"),
    ROW("/a//../b", ALL, "/b"),
    ROW("/a/.//../b", ALL, "/b"),

    WAY("above the root"),
    ROW("/..", ALL, "/"),
    ROW("/../login", ALL, "/login"),
    ROW("/../../../login", ALL, "/login"),
    ROW("/a/../../../login", ALL, "/login"),
    ROW("../login", ALL, "/login"),
    ROW("..", ALL, "/"),
    ROW("/..", DOTS, "/"),
    ROW("//..", DOTS, "/"),
    ROW("/..//login", DOTS, "//login"),

    WAY("a trailing slash"),
    ROW("/login/", ALL, "/login"),
    ROW("/login//", ALL, "/login"),
    ROW("/login/./", ALL, "/login"),
    ROW("/a/b/../", ALL, "/a"),
    ROW("/login/", TRAILING, "/login"),
    ROW("/login///", TRAILING, "/login"),
    ROW("/", TRAILING, "/"),
    ROW("///", TRAILING, "/"),

    WAY("case"),
    ROW("/LOGIN", ALL, "/login"),
    ROW("/LoGiN/Me", ALL, "/login/me"),
    ROW("/AZ[az]@`{", ALL, "/az[az]@`{"),
    ROW("/LOGIN/", CASE, "/login/"),
    ROW("/%4C%4c", CASE, "/%4c%4c"),

    WAY("percent-encoding left after httpd's decoding"),
    ROW("/%6Cogin", ALL, "/login"),
    ROW("/%6cogin", ALL, "/login"),
    ROW("/%4Cogin", ALL, "/login"),
    ROW("/%6C%6F%67%69%6E", ALL, "/login"),
    ROW("%2Flogin", ALL, "/login"),
    ROW("%2Flogin", ENCODING, "/login"),
    ROW("/a%2Fb", ALL, "/a/b"),
    ROW("/a%2F%2Fb", ENCODING, "/a//b"),
    ROW("/login%2F", ALL, "/login"),
    ROW("/login%3Bx=1", ALL, "/login"),
    ROW("/%2e%2e/login", ALL, "/login"),
    ROW("/a/%2e%2e/login", ALL, "/login"),
    ROW("/a/.%2E/login", ALL, "/login"),
    ROW("/a/%2e/b", ALL, "/a/b"),
    ROW("/a%2f%2e%2e%2flogin", ALL, "/login"),
    ROW("/a/%2e%2e%5clogin", ALL, "/login"),

    WAY("encoded twice, three times, in pieces"),
    ROW("/%256Cogin", ALL, "/login"),
    ROW("/%25256Cogin", ALL, "/login"),
    ROW("/%2525252525256Cogin", ALL, "/login"),
    ROW("/%25%36%43ogin", ALL, "/login"),
    ROW("/%%36Cogin", ALL, "/login"),
    ROW("/%%36%43ogin", ALL, "/login"),
    ROW("/%%32%35%36%43ogin", ALL, "/login"),
    ROW("/%6%43ogin", ALL, "/login"),
    ROW("/%252e%252e%252flogin", ALL, "/login"),
    ROW("/a%253Bx/b", ALL, "/a/b"),

    WAY("an invalid encoding stays"),
    ROW("/100%", ALL, "/100%"),
    ROW("/100%25", ALL, "/100%"),
    ROW("/%zz", ALL, "/%zz"),
    ROW("/%4", ALL, "/%4"),
    ROW("/%4g%g4", ALL, "/%4g%g4"),
    ROW("/%u006c", ALL, "/%u006c"),
    ROW("/%2/f", ALL, "/%2/f"),
    ROW("/%2;x/f", ALL, "/%2/f"),
    ROW("/%%%", ALL, "/%%%"),

    WAY("path parameters"),
    ROW("/login;x=1", ALL, "/login"),
    ROW("/login;", ALL, "/login"),
    ROW("/login;x=1;y=2", ALL, "/login"),
    ROW("/login/;x=1", ALL, "/login"),
    ROW("/login/;x=1", PARAMS, "/login/"),
    ROW("/a;x=1/b;y=2", ALL, "/a/b"),
    ROW("/;x=1/login", ALL, "/login"),
    ROW("/a/;x/b", PARAMS, "/a//b"),
    ROW(";jsessionid=1", ALL, "/"),

    WAY("path parameters on dot segments"),
    ROW("/a/..;x/b", ALL, "/b"),
    ROW("/a/..;/b", ALL, "/b"),
    ROW("/a/.;x/b", ALL, "/a/b"),
    ROW("/..;/login", ALL, "/login"),
    ROW("/a/;x/../b", ALL, "/b"),
    ROW("/a/%2e%2e%3bx/b", ALL, "/b"),
    ROW("/a/.;./b", ALL, "/a/b"),

    WAY("bytes that are not ASCII letters stay"),
    ROW("/caf\xc3\xa9", ALL, "/caf\xc3\xa9"),
    ROW("/CAF\xc3\x89", ALL, "/caf\xc3\x89"),
    ROW("/caf%C3%A9", ALL, "/caf\xc3\xa9"),
    ROW("/\xff\xfe\x80", ALL, "/\xff\xfe\x80"),
    ROW("/\xc0\xae\xc0\xae/login", ALL, "/\xc0\xae\xc0\xae/login"),
    ROW("/a\0B", ALL, "/a\0b"),
    ROW("/a%00b", ALL, "/a\0b"),
    ROW("\0", ALL, "/\0"),
    ROW("/\r\n\t", ALL, "/\r\n\t"),

    WAY("a missing leading slash is added"),
    ROW("", ALL, "/"),
    ROW("", NONE, "/"),
    ROW("*", ALL, "/*"),
    ROW("login", ALL, "/login"),
    ROW("login", NONE, "/login"),
    ROW("\\login", NONE, "/\\login"),
    ROW("/", NONE, "/"),

    WAY("a step that is off does nothing, and the others still work"),
    ROW("/A/%6C//..;x\\./", NONE, "/A/%6C//..;x\\./"),
    ROW("//A/./%42;x/", ALL & ~CASE, "/A/B"),
    ROW("//A/./%42;x/", ALL & ~DOTS, "/a/./b"),
    ROW("//A/./%42;x/", ALL & ~TRAILING, "/a/b/"),
    ROW("//A/./%42;x/", ALL & ~PARAMS, "/a/b;x"),
    ROW("//A/./%42;x/", ALL & ~ENCODING, "/a/%42"),
    ROW("//A/./%42;x/", ALL & ~SLASHES, "//a/b"),
    ROW("/a\\..\\b", ALL & ~SLASHES, "/a\\..\\b"),
    ROW("/a//../b", ALL & ~SLASHES, "/a/b"),
    ROW("/a//", ALL & ~SLASHES, "/a"),
    ROW("/a//../..", ALL & ~DOTS, "/a/../.."),
    ROW("/a/../", ALL & ~DOTS, "/a/.."),
    ROW("/a/..;x/b", ALL & ~PARAMS, "/a/..;x/b"),
    ROW("/a/..%3B/b", ALL & ~PARAMS, "/a/..;/b"),
    ROW("/a/%2e%2e/b", ALL & ~ENCODING, "/a/%2e%2e/b"),
    ROW("/a%3Bx", ALL & ~ENCODING, "/a%3bx"),
    ROW("/%4C", ALL & ~CASE, "/L"),
};

static void each_spelling_becomes_the_one(void)
{
    const char *way = "";
    size_t i;

    for (i = 0; i < COUNT(spellings); i++) {
        const struct row *row = &spellings[i];
        struct text got;

        if (row->way) {
            way = row->way;
            continue;
        }
        got = normalise(row->in, row->in_len, row->flags);
        ok(got.len == row->want_len && memcmp(got.bytes, row->want, got.len) == 0,
           "%s: %s, flags %02x, is %s, want %s", way, show(row->in, row->in_len), row->flags,
           show(got.bytes, got.len), show(row->want, row->want_len));
    }
}

/* Properties of all paths */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

/* xorshift64*, Vigna 2016 */
static unsigned below(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 0x2545f4914f6cdd1du) >> 33) % n;
}

static void insert(struct text *text, size_t at, const char *bytes, size_t len)
{
    memmove(text->bytes + at + len, text->bytes + at, text->len - at);
    memcpy(text->bytes + at, bytes, len);
    text->len += len;
}

static void insert_str(struct text *text, size_t at, const char *str)
{
    insert(text, at, str, strlen(str));
}

static struct text any_path(void)
{
    static const char *const pieces[] = {
        "/", "/", "/", "//", "\\", ".", "..", "/..", "/.", "/../", ";", ";x=1", "..;", "a", "B",
        "cd", "E5", "2", "5", "25", "%", "%%", "%2", "%25", "%2f", "%2E", "%5c", "%3B", "%41",
        "%00", "*", "?", "\xc3\xa9", "\xff",
    };
    struct text path = { 0 };
    unsigned n = below(12);

    if (below(8)) {
        insert_str(&path, 0, "/");
    }
    while (n--) {
        if (below(32)) {
            insert_str(&path, path.len, pieces[below(COUNT(pieces))]);
        }
        else {
            insert(&path, path.len, "", 1);
        }
    }
    return path;
}

static void a_second_round_changes_nothing(void)
{
    unsigned flags, round, bad = 0;

    for (flags = 0; flags < FLAG_SETS && !bad; flags++) {
        for (round = 0; round < 3000 && !bad; round++) {
            struct text path = any_path();
            struct text once = normalise(path.bytes, path.len, flags);
            struct text twice = normalise(once.bytes, once.len, flags);

            if (!same(&once, &twice)) {
                bad = 1;
                printf("# flags %02x: %s, %s, %s\n", flags, show(path.bytes, path.len),
                       show(once.bytes, once.len), show(twice.bytes, twice.len));
            }
        }
    }
    ok(!bad, "normalising again changes nothing, with any flags");
}

static void the_result_has_a_slash_and_no_more_room_than_promised(void)
{
    unsigned flags, round, bad = 0;

    for (flags = 0; flags < FLAG_SETS && !bad; flags++) {
        for (round = 0; round < 1000 && !bad; round++) {
            struct text path = any_path();
            struct text got = normalise(path.bytes, path.len, flags);
            size_t most = path.len + (path.len == 0 || path.bytes[0] != '/');

            if (got.len < 1 || got.len > most || got.bytes[0] != '/') {
                bad = 1;
                printf("# flags %02x: %s, %s\n", flags, show(path.bytes, path.len),
                       show(got.bytes, got.len));
            }
        }
    }
    ok(!bad, "the result has a leading slash and is, without it, no longer than the input");
}

static void source_and_destination_may_overlap(void)
{
    unsigned flags, round, bad = 0;

    for (flags = 0; flags < FLAG_SETS; flags++) {
        for (round = 0; round < 300; round++) {
            struct text path = any_path();
            struct text want = normalise(path.bytes, path.len, flags);
            struct text in_place = path, shifted = path;

            in_place.len = rl_path_normalise(in_place.bytes, in_place.bytes, path.len, flags);
            insert(&shifted, 0, "xyz", 3);
            shifted.len = rl_path_normalise(shifted.bytes, shifted.bytes + 3, path.len, flags);
            bad += !same(&in_place, &want) || !same(&shifted, &want);
        }
    }
    ok(!bad, "the destination may be the source, or overlap it");
}

/* Noise: each kind spells a path in another way that its step takes for the same path. */

/* The place of a slash at or after `from`; the length if there is none. */
static size_t some_slash(const struct text *path, size_t from)
{
    size_t start, i;

    if (from >= path->len) {
        return path->len;
    }
    start = from + below((unsigned)(path->len - from));
    for (i = start; i < path->len; i++) {
        if (path->bytes[i] == '/') {
            return i;
        }
    }
    return path->len;
}

static void respell_case(struct text *path)
{
    size_t i = path->len ? below((unsigned)path->len) : 0;
    char low = (char)(path->bytes[i] | 0x20);

    if (i < path->len && low >= 'a' && low <= 'z') {
        path->bytes[i] ^= 0x20;
    }
}

static void respell_more_slashes(struct text *path)
{
    size_t i = some_slash(path, 0);

    if (i < path->len) {
        insert_str(path, i, below(2) ? "/" : "\\");
    }
}

static void respell_backslash(struct text *path)
{
    size_t i = some_slash(path, 0);

    if (i < path->len) {
        path->bytes[i] = '\\';
    }
}

static void respell_dot(struct text *path)
{
    size_t i = some_slash(path, 0);

    if (i < path->len) {
        insert_str(path, i, "/.");
    }
}

static void respell_detour(struct text *path)
{
    size_t i = some_slash(path, 0);

    if (i < path->len) {
        insert_str(path, i, below(2) ? "/zz/.." : "/y/./zz/../..");
    }
}

static void respell_above_root(struct text *path)
{
    if (path->len && path->bytes[0] == '/') {
        insert_str(path, 0, "/..");
    }
}

static void respell_trailing(struct text *path)
{
    insert_str(path, path->len, below(2) ? "/" : "//");
}

static void respell_params(struct text *path)
{
    insert_str(path, some_slash(path, 1), below(2) ? ";x=1" : ";");
}

static void respell_encoding(struct text *path)
{
    size_t i = path->len ? below((unsigned)path->len) : 0;
    char code[4];

    if (i < path->len) {
        sprintf(code, below(2) ? "%%%02X" : "%%%02x", (unsigned char)path->bytes[i]);
        path->bytes[i] = code[0];
        insert(path, i + 1, code + 1, 2);
    }
}

static const struct noise {
    const char *name;
    unsigned step;
    void (*respell)(struct text *path);
} noises[] = {
    { "a letter in the other case", CASE, respell_case },
    { "one more slash", SLASHES, respell_more_slashes },
    { "a backslash for a slash", SLASHES, respell_backslash },
    { "a dot segment", DOTS, respell_dot },
    { "a detour", DOTS, respell_detour },
    { "a step above the root", DOTS, respell_above_root },
    { "trailing slashes", TRAILING, respell_trailing },
    { "a path parameter", PARAMS, respell_params },
    { "a byte percent-encoded", ENCODING, respell_encoding },
};

/* With any flags that have the step: this noise alone, then with all kinds whose steps are on. */
static void noise_changes_nothing(const struct noise *noise)
{
    unsigned flags, round, more, bad = 0, respelled = 0;

    for (flags = 0; flags < FLAG_SETS && !bad; flags++) {
        for (round = 0; round < 2000 && !bad && (flags & noise->step); round++) {
            struct text path = any_path(), noisy = path, want, got;

            noise->respell(&noisy);
            respelled += !same(&noisy, &path);
            for (more = below(6); more > 0; more--) {
                const struct noise *other = &noises[below(COUNT(noises))];

                if (flags & other->step) {
                    other->respell(&noisy);
                }
            }
            want = normalise(path.bytes, path.len, flags);
            got = normalise(noisy.bytes, noisy.len, flags);
            if (!same(&got, &want)) {
                bad = 1;
                printf("# flags %02x: %s is %s\n", flags, show(path.bytes, path.len),
                       show(want.bytes, want.len));
                printf("#           but %s is %s\n", show(noisy.bytes, noisy.len),
                       show(got.bytes, got.len));
            }
        }
    }
    ok(!bad && respelled > 1000, "%s does not make another path", noise->name);
}

/* The first segments */

static void the_first_segments(void)
{
    static const struct {
        const char *path;
        unsigned n;
        const char *want;
    } rows[] = {
        { "/a/b/c", 1, "/a" },
        { "/a/b/c", 2, "/a/b" },
        { "/a/b/c", 3, "/a/b/c" },
        { "/a/b/c", 4, "/a/b/c" },
        { "/a/b/c", 4294967295u, "/a/b/c" },
        { "/a/b/c", 0, "/" },
        { "/api/users/1", 2, "/api/users" },
        { "/a", 1, "/a" },
        { "/", 0, "/" },
        { "/", 1, "/" },
        { "/", 2, "/" },
        { "/a/", 1, "/a" },
        { "/a/", 2, "/a/" },
        { "/a//b", 2, "/a/" },
        { "//a", 1, "/" },
        { "//a", 2, "//a" },
        { "", 0, "" },
        { "", 1, "" },
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        size_t got = rl_path_segments(rows[i].path, strlen(rows[i].path), rows[i].n);

        ok(got == strlen(rows[i].want), "the first %u segments of \"%s\" are \"%.*s\", want "
           "\"%s\"", rows[i].n, rows[i].path, (int)got, rows[i].path, rows[i].want);
    }
}

/*
 * Linear: a quadratic algorithm needs minutes to hours for these, which shows without a time that
 * is asserted.
 */

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

static void long_paths_are_normalised(void)
{
    static const struct {
        const char *head, *piece;
        size_t want;
    } rows[] = {
        { "/%", "2525", 2 },
        { "/", "%2525", 1 + MANY },
        { "/", "%%35", 1 + 2 * MANY },
        { "/", "%", 1 + MANY },
        { "/", "%2", 1 + 2 * MANY },
        { "", "/", 1 },
        { "", "\\", 1 },
        { "", "/.", 1 },
        { "", "/..", 1 },
        { "", "/a/..", 1 },
        { "", "/a", 2 * MANY },
        { "", ";", 1 },
        { "", "/;", 1 },
        { "/", "a;", 2 },
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        size_t len, got;
        char *text = repeated(rows[i].head, rows[i].piece, &len);

        got = rl_path_normalise(text, text, len, ALL);
        ok(got == rows[i].want, "%s and %d times %s comes to %lu bytes, want %lu", rows[i].head,
           MANY, rows[i].piece, (unsigned long)got, (unsigned long)rows[i].want);
        free(text);
    }
}

static void a_long_way_down_and_back_again(void)
{
    size_t down, up, len;
    char *text = repeated("", "/a", &down), *back = repeated("", "/..", &up);

    text = realloc(text, down + up + 1);
    memcpy(text + down, back, up);
    len = rl_path_normalise(text, text, down + up, ALL);
    ok(len == 1, "%d segments and as many .. come to the root", MANY);
    free(back);
    free(text);
}

int main(void)
{
    size_t i;

    each_spelling_becomes_the_one();
    a_second_round_changes_nothing();
    the_result_has_a_slash_and_no_more_room_than_promised();
    source_and_destination_may_overlap();
    for (i = 0; i < COUNT(noises); i++) {
        noise_changes_nothing(&noises[i]);
    }
    the_first_segments();
    long_paths_are_normalised();
    a_long_way_down_and_back_again();
    return done_testing();
}
