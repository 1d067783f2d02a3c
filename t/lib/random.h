/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A seeded generator for property tests. The same seed gives the same cases on every machine;
 * RL_SEED sets another seed. Not for secrets.
 */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>
#include <stdlib.h>

typedef struct {
    uint64_t state;
} rng;

/* RL_SEED if it is set, otherwise the given number. */
__attribute__((unused)) static uint64_t rng_seed(uint64_t otherwise)
{
    const char *said = getenv("RL_SEED");

    return said && *said ? strtoull(said, NULL, 10) : otherwise;
}

/* A number of rounds: the environment variable if it is set, otherwise the given number. */
__attribute__((unused)) static long rng_rounds(const char *variable, long otherwise)
{
    const char *said = getenv(variable);

    return said && *said ? strtol(said, NULL, 10) : otherwise;
}

/* 64 random bits (splitmix64, Steele, Lea and Flood 2014). */
__attribute__((unused)) static uint64_t rng_next(rng *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A number from low to high, both included. */
__attribute__((unused)) static int64_t rng_between(rng *r, int64_t low, int64_t high)
{
    return low + (int64_t)(rng_next(r) % (uint64_t)(high - low + 1));
}

/* Likewise, with all orders of magnitude equally likely, and low and high themselves likely. */
__attribute__((unused)) static int64_t rng_scaled(rng *r, int64_t low, int64_t high)
{
    uint64_t span = (uint64_t)(high - low);

    switch (rng_next(r) % 8) {
    case 0:
        return low;
    case 1:
        return high;
    default:
        return span ? low + (int64_t)((rng_next(r) >> rng_next(r) % 64) % (span + 1)) : low;
    }
}

__attribute__((unused)) static int rng_one_in(rng *r, unsigned n)
{
    return rng_next(r) % n == 0;
}

#endif
