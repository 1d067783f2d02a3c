/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path: one spelling for each path, so that a client cannot get a fresh count, or avoid a rule, by
 * writing the same path in another way.
 *
 * Pure functions: no allocation, no global state, safe in any thread. Paths are bytes with a length
 * and may contain NUL; only a glob is a C string.
 */
#ifndef RL_PATH_H
#define RL_PATH_H

#include <stddef.h>

/* The steps of RateLimitNormalize. Any combination is allowed. */
enum {
    RL_PATH_CASE     = 1 << 0, /* A-Z become a-z; bytes from 0x80 up stay */
    RL_PATH_SLASHES  = 1 << 1, /* a backslash becomes a slash, and //a becomes /a */
    RL_PATH_DOTS     = 1 << 2, /* "." and ".." segments are resolved, never above the root */
    RL_PATH_TRAILING = 1 << 3, /* slashes at the end are removed; the root stays "/" */
    RL_PATH_PARAMS   = 1 << 4, /* ";..." is removed, up to the end of its segment */
    RL_PATH_ENCODING = 1 << 5, /* %XX is decoded until none is left: %256C becomes l */
    RL_PATH_ALL      = 63
};

/*
 * Writes the one spelling of src (len bytes; httpd's r->uri, which httpd has decoded once) to dst
 * and returns its length. That is 1 to len, or len + 1 if src has no leading slash, because the
 * result always starts with one. dst must have room for len + 1 bytes and may be src or overlap it.
 * No NUL is added, and the bytes of dst after the result are undefined. Never fails; linear in len.
 */
size_t rl_path_normalise(char *dst, const char *src, size_t len, unsigned flags);

/*
 * The length of the first n segments of a normalised path: 4 ("/a/b") for "/a/b/c" and n = 2; the
 * whole length if there are fewer; 1 (the root) for n = 0. Without RL_PATH_SLASHES an empty segment
 * counts, too: 1 ("/") for "//a" and n = 1.
 */
size_t rl_path_segments(const char *path, size_t len, unsigned n);

/*
 * 1 if the glob matches the whole of a normalised path, else 0.
 *
 *     ?     one byte except a slash
 *     *     any number of bytes within a segment
 *     **    any number of bytes, slashes included
 *
 * Between slashes, or after the last one, ** stands for whole segments, also for none, and then one
 * slash is not required. So "/api/" with ** behind it matches /api and everything below: a rule
 * must also apply to /api/, which is normalised to /api. Other bytes match themselves; there is no
 * escape.
 *
 * A glob should be normalised with the flags of its paths, so that /Login/ in a configuration
 * matches /login. Linear in len for any glob, so no client can send a path that takes long.
 */
int rl_path_match(const char *glob, const char *path, size_t len);

#endif
