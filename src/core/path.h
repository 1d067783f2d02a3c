/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path: one spelling for each path, so that a client cannot get a fresh count, or step around a
 * rule, by writing the same path in another way.
 *
 * Pure functions of their arguments: no allocation, no global state, safe from any thread. Paths
 * are bytes with a length, and may hold NUL; only a glob is a C string.
 */
#ifndef RL_PATH_H
#define RL_PATH_H

#include <stddef.h>

/* The steps of RateLimitNormalize. Each works alone, and with any of the others. */
enum {
    RL_PATH_CASE     = 1 << 0, /* A-Z become a-z; bytes from 0x80 up are not letters here */
    RL_PATH_SLASHES  = 1 << 1, /* a backslash is a slash; empty segments go: //a is /a */
    RL_PATH_DOTS     = 1 << 2, /* "." and ".." segments are resolved, never above the root */
    RL_PATH_TRAILING = 1 << 3, /* slashes at the end go; the root stays "/" */
    RL_PATH_PARAMS   = 1 << 4, /* ";..." goes, up to the end of its segment */
    RL_PATH_ENCODING = 1 << 5, /* %XX is decoded until none is left: %256C is l */
    RL_PATH_ALL      = 63
};

/*
 * Writes the one spelling of src (len bytes; httpd's r->uri, which httpd decoded once) to dst and
 * returns its length: at least 1, at most len, or len + 1 where src has no leading slash, for dst
 * always starts with one. dst must have room for len + 1 bytes. It may be src, or overlap it. No
 * NUL is added (that takes one byte more), and what stands behind the result in dst is no part of
 * it. Never fails; linear in len.
 */
size_t rl_path_normalise(char *dst, const char *src, size_t len, unsigned flags);

/*
 * The length of the part of a normalised path that holds its first n segments: of "/a/b/c", 2 is
 * 4 ("/a/b"); the whole length where there are fewer; 1 (the root) for n = 0. Where
 * RL_PATH_SLASHES is off an empty segment is one too: of "//a", 1 is 1 ("/").
 */
size_t rl_path_segments(const char *path, size_t len, unsigned n);

/*
 * 1 if the glob matches the whole of a normalised path, else 0.
 *
 *     ?     one byte, but no slash
 *     *     any bytes within a segment, or none
 *     **    any bytes, slashes too, or none
 *
 * Between slashes, or behind the last one, ** stands for whole segments; where there are none, one
 * slash less is wanted. So "api" then ** is /api itself and all below it: the rule must hold for
 * /api/ too, which normalisation spells /api. All else stands for itself; there is no escape.
 *
 * A glob should be normalised with the flags of its paths, so that /Login/ in a config finds
 * /login. Linear in len, whatever the glob: nobody can send a path that takes long.
 */
int rl_path_match(const char *glob, const char *path, size_t len);

#endif
