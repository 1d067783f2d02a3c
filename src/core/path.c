/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path: one spelling for each path.
 *
 * A limit on /login is useless if //login, /x/../login, /LOGIN and /%6Cogin are counted apart, so
 * all of them get the same bytes here. httpd has decoded a path once before a rule sees it, but an
 * application behind it may decode it again, fold case or read a backslash as a slash. So each step
 * would rather merge two different paths than count one path twice.
 *
 * The order of the steps matters. Decoding comes first, because its results (a slash, a dot, a ";")
 * are input to the other steps. None of those makes a new %XX: they remove whole segments or the
 * ends of segments, so a slash stays between what is left. Then one walk over the segments:
 * parameters are removed before dots are resolved ("..;x" is ".."), and empty segments before ".."
 * removes the one before it ("/a//.." is "/"). What is left is only shortened at its end (slashes)
 * or replaced byte by byte (case).
 *
 * So with any flags: normalising the result again does not change it; it starts with a slash; it is
 * no longer than the input, except for that slash. Each step writes every byte once and removes it
 * at most once: linear time, also for %25252525 and for /a/a/a/../../..
 *
 * Nothing here allocates, fails, or looks at a character set, a file system or a query.
 */

#include "core/path.h"

#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

/*
 * Decodes in place until no %XX is left. The output is a stack: a decoded byte may complete another
 * %XX with the two bytes before it, so the top is checked again. No %XX can overlap another, so the
 * order in which they are decoded does not matter.
 */
static size_t decode(char *path, size_t len)
{
    size_t in, out = 0;

    for (in = 0; in < len; in++) {
        path[out++] = path[in];
        while (out >= 3 && path[out - 3] == '%') {
            int high = hex_value(path[out - 2]);
            int low = hex_value(path[out - 1]);

            if (high < 0 || low < 0) {
                break;
            }
            out -= 2;
            path[out - 1] = (char)(high * 16 + low);
        }
    }
    return out;
}

static size_t backslashes_to_slashes(char *path, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        if (path[i] == '\\') {
            path[i] = '/';
        }
    }
    return len;
}

static int is_dot(const char *seg, size_t len)
{
    return len == 1 && seg[0] == '.';
}

static int is_dot_dot(const char *seg, size_t len)
{
    return len == 2 && seg[0] == '.' && seg[1] == '.';
}

/* Removes the last "/segment" from the output; the root has none. */
static size_t parent(const char *path, size_t len)
{
    while (len > 0 && path[--len] != '/') {
        continue;
    }
    return len;
}

/*
 * Walks over the segments in place: path starts with a slash, and each segment is written as
 * "/segment", never ahead of where it was read. If nothing is left of the last segment ("/a/",
 * "/a/.", "/a/b/..", "/a/;x"), a slash is written: the trailing one.
 */
static size_t walk_segments(char *path, size_t len, unsigned flags)
{
    size_t in = 0, out = 0;

    while (in < len) {
        const char *seg = path + in + 1;
        const char *slash = memchr(seg, '/', len - in - 1);
        size_t seg_len = slash ? (size_t)(slash - seg) : len - in - 1;
        int last = slash == NULL, gone;

        in += 1 + seg_len;
        if (flags & RL_PATH_PARAMS) {
            const char *param = memchr(seg, ';', seg_len);
            seg_len = param ? (size_t)(param - seg) : seg_len;
        }
        gone = (flags & RL_PATH_SLASHES) && seg_len == 0;
        if (flags & RL_PATH_DOTS) {
            if (is_dot_dot(seg, seg_len)) {
                out = parent(path, out);
                gone = 1;
            }
            gone |= is_dot(seg, seg_len);
        }
        if (gone && !last) {
            continue;
        }
        path[out++] = '/';
        if (!gone) {
            memmove(path + out, seg, seg_len);
            out += seg_len;
        }
    }
    return out;
}

/*
 * Removes all trailing slashes, also if empty segments count: if "/a/" is "/a", then "/a//" is
 * "/a/" and so "/a". Removing only one would leave a path that normalising again would change.
 */
static size_t drop_trailing_slashes(const char *path, size_t len)
{
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    return len;
}

static void fold_case(char *path, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        if (path[i] >= 'A' && path[i] <= 'Z') {
            path[i] = (char)(path[i] - 'A' + 'a');
        }
    }
}

size_t rl_path_normalise(char *dst, const char *src, size_t len, unsigned flags)
{
    /* The bytes are moved by one, behind a slash. If they turn out to start with a slash, which
     * is known only after decoding, that slash is removed again. */
    memmove(dst + 1, src, len);
    dst[0] = '/';
    len++;

    if (flags & RL_PATH_ENCODING) {
        len = decode(dst, len);
    }
    if (flags & RL_PATH_SLASHES) {
        len = backslashes_to_slashes(dst, len);
    }
    if (len > 1 && dst[1] == '/') {
        memmove(dst, dst + 1, --len);
    }
    len = walk_segments(dst, len, flags);
    if (flags & RL_PATH_TRAILING) {
        len = drop_trailing_slashes(dst, len);
    }
    if (flags & RL_PATH_CASE) {
        fold_case(dst, len);
    }
    return len;
}

size_t rl_path_segments(const char *path, size_t len, unsigned n)
{
    size_t i;

    if (n == 0) {
        return len > 0 ? 1 : 0;
    }
    for (i = 1; i < len; i++) {
        if (path[i] == '/' && --n == 0) {
            return i;
        }
    }
    return len;
}

/*
 * If glob starts with a double star, or with a slash and a double star that stands for whole
 * segments, returns what follows it; otherwise NULL.
 */
static const char *skip_deep(const char *glob, int *whole_segments)
{
    const char *end;

    *whole_segments = 0;
    if (glob[0] == '/' && glob[1] == '*' && glob[2] == '*') {
        end = glob + 1 + strspn(glob + 1, "*");
        *whole_segments = *end == '/' || *end == '\0';
        return *whole_segments ? end : NULL;
    }
    return glob[0] == '*' && glob[1] == '*' ? glob + strspn(glob, "*") : NULL;
}

/*
 * Greedy, with two places to backtrack to: the last star and, if that fails, the last double star.
 * Nothing before a double star is tried again, because it can match all that an earlier one would
 * have; nor, within a segment, anything before a star. If a star behind a double star reaches the
 * end of its segment, it would from every later start in the same segment, too, so the double star
 * goes on to the next segment. So stars are searched in each segment from at most as many starts as
 * the glob has slashes, plus one: linear in len.
 */
int rl_path_match(const char *glob, const char *path, size_t len)
{
    const char *end = path + len;
    const char *star = NULL, *star_at = path; /* the glob after it; the end of its match */
    const char *deep = NULL, *deep_at = path;

    for (;;) {
        int whole_segments;
        const char *behind = skip_deep(glob, &whole_segments);

        if (behind && (!whole_segments || path == end || *path == '/')) {
            deep = glob = behind;
            deep_at = path;
            star = NULL;
        }
        else if (*glob == '*') {
            star = ++glob;
            star_at = path;
        }
        else if (!behind && *glob && path < end
                 && (*glob == *path || (*glob == '?' && *path != '/'))) {
            glob++;
            path++;
        }
        else if (*glob == '\0' && path == end) {
            return 1;
        }
        else if (star && star_at < end && *star_at != '/') {
            glob = star;
            path = ++star_at;
        }
        else if (deep) {
            if (star) {
                deep_at = memchr(deep_at, '/', (size_t)(end - deep_at));
            }
            if (!deep_at || deep_at == end) {
                return 0;
            }
            glob = deep;
            path = ++deep_at;
            star = NULL;
        }
        else {
            return 0;
        }
    }
}
