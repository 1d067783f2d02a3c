/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TAP printer for the unit tests in C.
 *
 * Every check prints one line and returns whether it held. A failed check also
 * prints its file and line and the values it compared, as TAP comments on
 * stderr. main ends with `return done_testing();`, which prints the plan and
 * returns the exit code. A program that crashes prints no plan, so prove counts
 * it as failed.
 *
 * The name of a check is a printf format. Not thread-safe: only one thread of a
 * program may check.
 */
#ifndef TAP_H
#define TAP_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int tap_count;
static int tap_failed;

#define TAP_FN static __attribute__((unused))
#define TAP_FORMAT(n) __attribute__((unused, format(printf, n, n + 1)))

#define ok(cond, ...) tap_ok((cond) ? 1 : 0, __FILE__, __LINE__, __VA_ARGS__)
#define pass(...) tap_ok(1, __FILE__, __LINE__, __VA_ARGS__)
#define fail(...) tap_ok(0, __FILE__, __LINE__, __VA_ARGS__)
#define is_int(got, want, ...) \
    tap_is_int((int64_t)(got), (int64_t)(want), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, want, ...) tap_is_str(got, want, __FILE__, __LINE__, __VA_ARGS__)
#define is_mem(got, want, len, ...) \
    tap_is_mem(got, want, len, __FILE__, __LINE__, __VA_ARGS__)

/* Prints the line of one check; the name must not contain a newline. */
__attribute__((format(printf, 4, 0)))
static int tap_vok(int held, const char *file, int line, const char *name, va_list args)
{
    tap_count++;
    printf("%sok %d - ", held ? "" : "not ", tap_count);
    vprintf(name, args);
    putchar('\n');
    fflush(stdout);
    if (!held) {
        tap_failed++;
        fprintf(stderr, "#   failed at %s line %d\n", file, line);
    }
    return held;
}

static TAP_FORMAT(4) int tap_ok(int held, const char *file, int line, const char *name, ...)
{
    va_list args;

    va_start(args, name);
    tap_vok(held, file, line, name, args);
    va_end(args);
    return held;
}

static TAP_FORMAT(5) int tap_is_int(int64_t got, int64_t want, const char *file, int line,
                                    const char *name, ...)
{
    va_list args;

    va_start(args, name);
    tap_vok(got == want, file, line, name, args);
    va_end(args);
    if (got != want)
        fprintf(stderr, "#      got: %" PRId64 "\n# expected: %" PRId64 "\n", got, want);
    return got == want;
}

static TAP_FORMAT(5) int tap_is_str(const char *got, const char *want, const char *file,
                                    int line, const char *name, ...)
{
    int same = got && want ? strcmp(got, want) == 0 : got == want;
    va_list args;

    va_start(args, name);
    tap_vok(same, file, line, name, args);
    va_end(args);
    if (!same)
        fprintf(stderr, "#      got: %s\n# expected: %s\n", got ? got : "(null)",
                want ? want : "(null)");
    return same;
}

/* Prints up to 16 bytes, beginning at the first difference. */
TAP_FN void tap_hex(const char *label, const unsigned char *bytes, size_t from, size_t len)
{
    size_t i;

    fprintf(stderr, "# %8s:", label);
    for (i = from; i < len && i < from + 16; i++)
        fprintf(stderr, " %02x", bytes[i]);
    fprintf(stderr, "\n");
}

static TAP_FORMAT(6) int tap_is_mem(const void *got, const void *want, size_t len,
                                    const char *file, int line, const char *name, ...)
{
    const unsigned char *a = got;
    const unsigned char *b = want;
    size_t at = 0;
    va_list args;

    while (at < len && a[at] == b[at])
        at++;
    va_start(args, name);
    tap_vok(at == len, file, line, name, args);
    va_end(args);
    if (at < len) {
        fprintf(stderr, "# first difference at byte %zu\n", at);
        tap_hex("got", a, at, len);
        tap_hex("expected", b, at, len);
    }
    return at == len;
}

/* Prints a remark as a TAP comment on stderr. */
TAP_FN TAP_FORMAT(1) void diag(const char *text, ...)
{
    va_list args;

    va_start(args, text);
    fputs("# ", stderr);
    vfprintf(stderr, text, args);
    fputc('\n', stderr);
    va_end(args);
}

/* Prints the plan. Returns the exit code: 0 if all checks held, 1 if one failed or none ran. */
TAP_FN int done_testing(void)
{
    printf("1..%d\n", tap_count);
    if (tap_failed)
        fprintf(stderr, "# %d of %d failed\n", tap_failed, tap_count);
    return tap_failed || !tap_count;
}

#endif
