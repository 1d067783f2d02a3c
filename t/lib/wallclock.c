/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library to preload, which moves the wall clock of a program and of its children by
 * WALLCLOCK_OFFSET seconds, which may be negative. The clock keeps running; other
 * clocks are left alone.
 *
 * libfaketime does this and much more, but deadlocks with the jemalloc of Debian 12's
 * redis-server, because each initializes itself during a call from the other. This
 * library initializes nothing: it reads the real time by system calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset;

__attribute__((constructor)) static void read_offset(void)
{
    const char *text = getenv("WALLCLOCK_OFFSET");

    offset = text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (syscall(SYS_clock_gettime, clock, now) != 0)
        return -1;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += offset;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec ts;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    now->tv_sec = ts.tv_sec;
    now->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (now)
        *now = ts.tv_sec;
    return ts.tv_sec;
}

/* The deadline was computed from the moved clock; the kernel waits by the real one. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline)
{
    struct timespec real = *deadline;

    real.tv_sec -= offset;
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &real);
}
