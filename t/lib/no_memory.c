/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library to preload into httpd, which makes large shared mappings fail. The file named by the
 * variable NO_MEMORY holds a number of bytes; anonymous shared mappings larger than that fail.
 * While the file does not exist, none does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static size_t most(void)
{
    const char *name = getenv("NO_MEMORY");
    FILE *file = name ? fopen(name, "r") : NULL;
    size_t bytes = (size_t)-1;

    if (file) {
        if (fscanf(file, "%zu", &bytes) != 1)
            bytes = (size_t)-1;
        fclose(file);
    }
    return bytes;
}

static int is_refused(size_t length, int flags)
{
    if (!(flags & MAP_SHARED) || !(flags & MAP_ANONYMOUS) || length <= most())
        return 0;
    errno = ENOMEM;
    return 1;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off_t);

    *(void **)&next = dlsym(RTLD_NEXT, "mmap");
    return is_refused(length, flags) ? MAP_FAILED
                                     : next(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off64_t);

    *(void **)&next = dlsym(RTLD_NEXT, "mmap64");
    return is_refused(length, flags) ? MAP_FAILED
                                     : next(at, length, protection, flags, fd, offset);
}
