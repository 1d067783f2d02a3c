/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a path: the first byte picks the steps, the rest is the path. Aborts where a
 * promise of path.h does not hold, and so names the input.
 */

#include "core/path.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void must(int holds)
{
    if (!holds) {
        abort();
    }
}

static int is_hex(char c)
{
    return c != '\0' && strchr("0123456789abcdefABCDEF", c) != NULL;
}

/* None of what the enabled steps remove is left. */
static void must_be_clean(const char *path, size_t len, unsigned flags)
{
    size_t i;

    must(!(flags & RL_PATH_PARAMS) || !memchr(path, ';', len));
    must(!(flags & RL_PATH_SLASHES) || !memchr(path, '\\', len));
    must(!(flags & RL_PATH_TRAILING) || len == 1 || path[len - 1] != '/');
    for (i = 0; i < len; i++) {
        if ((flags & RL_PATH_SLASHES) && path[i] == '/') {
            must(i + 1 == len || path[i + 1] != '/');
        }
        if ((flags & RL_PATH_DOTS) && path[i] == '/' && i + 1 < len && path[i + 1] == '.') {
            must(i + 2 < len && path[i + 2] != '/');
            must(path[i + 2] != '.' || (i + 3 < len && path[i + 3] != '/'));
        }
        if ((flags & RL_PATH_ENCODING) && path[i] == '%' && i + 2 < len) {
            must(!is_hex(path[i + 1]) || !is_hex(path[i + 2]));
        }
        must(!(flags & RL_PATH_CASE) || path[i] < 'A' || path[i] > 'Z');
    }
}

/* Every byte percent-encoded, and its % again, is the same path. */
static void must_ignore_encoding(const char *path, size_t len, const char *want, size_t want_len,
                                 unsigned flags)
{
    static const char digits[] = "0123456789ABCDEF";
    char *twice = malloc(5 * len + 1);
    size_t i;

    for (i = 0; i < len; i++) {
        memcpy(twice + 5 * i, "%25", 3);
        twice[5 * i + 3] = digits[(unsigned char)path[i] >> 4];
        twice[5 * i + 4] = digits[path[i] & 15];
    }
    len = rl_path_normalise(twice, twice, 5 * len, flags);
    must(len == want_len && memcmp(twice, want, len) == 0);
    free(twice);
}

static void must_have_segments(const char *path, size_t len)
{
    size_t before = 0, now;
    unsigned n;

    for (n = 1; before < len; n++, before = now) {
        now = rl_path_segments(path, len, n);
        must(now > before && now <= len);
        must(now == len || path[now] == '/');
    }
}

static void must_match(const char *path, size_t len)
{
    char *glob = calloc(len + 4, 1);

    must(rl_path_match("/**", path, len) && rl_path_match("**", path, len));
    memcpy(glob, path, len);
    if (!memchr(path, '\0', len) && !memchr(path, '*', len)) {
        must(rl_path_match(glob, path, len));
        memcpy(glob + len, "/**", 3);
        must(rl_path_match(glob, path, len));
    }
    else {
        rl_path_match(glob, path, len);
    }
    free(glob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = (const char *)data + 1;
    size_t len, got_len, again_len;
    unsigned flags;
    char *got, *again;

    if (size == 0) {
        return 0;
    }
    flags = data[0] & RL_PATH_ALL;
    len = size - 1;

    got = malloc(len + 1);
    got_len = rl_path_normalise(got, path, len, flags);
    must(got_len >= 1 && got[0] == '/');
    must(got_len <= len + (len == 0 || path[0] != '/'));
    must_be_clean(got, got_len, flags);

    again = malloc(got_len + 1);
    again_len = rl_path_normalise(again, got, got_len, flags);
    must(again_len == got_len && memcmp(again, got, got_len) == 0);

    if (flags & RL_PATH_ENCODING) {
        must_ignore_encoding(path, len, got, got_len, flags);
    }
    must_have_segments(got, got_len);
    must_match(got, got_len);
    free(again);
    free(got);
    return 0;
}
