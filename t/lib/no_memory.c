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

static void *map(const char *real, void *at, size_t length, int protection, int flags, int fd,
                 off64_t offset)
{
    void *(*next)(void *, size_t, int, int, int, off64_t);

    if ((flags & MAP_SHARED) && (flags & MAP_ANONYMOUS) && length > most()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    *(void **)&next = dlsym(RTLD_NEXT, real);
    return next(at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map("mmap", at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return map("mmap64", at, length, protection, flags, fd, offset);
}
