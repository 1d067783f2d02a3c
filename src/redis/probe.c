/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe: the command of a probe, a decision that counts against no client.
 *
 * The full script writes nothing if it charges nothing, so its probes have a cost. Each probe has a
 * key whose window of 100 ms has usually ended since the last one, and a key that lasts longer.
 */
#include <apr_strings.h>

#include "redis/probe.h"

#define ASKS 2

#define MANY 10000 /* more probes than all hosts send in a window; the largest quota of a log */

static const struct {
    unsigned way;
    const char *name;
    int64_t cost;
    rl_limit limits[ASKS];
} probes[] = {
    {RL_WAY_PLAIN, "plain", 0,
     {{.algorithm = RL_FIXED_WINDOW, .quota = MANY, .window_ms = RL_WINDOW_MIN_MS},
      {.algorithm = RL_FIXED_WINDOW, .quota = MANY, .window_ms = 3600000}}},
    {RL_WAY_FULL, "full", 1,
     {{.algorithm = RL_FIXED_WINDOW, .quota = MANY, .window_ms = RL_WINDOW_MIN_MS,
       .block_ms = 1000},
      {.algorithm = RL_FIXED_WINDOW, .quota = MANY, .window_ms = 1000, .block_ms = 1000}}},
    {RL_WAY_LOG, "log", 1,
     {{.algorithm = RL_SLIDING_LOG, .quota = MANY, .window_ms = RL_WINDOW_MIN_MS},
      {.algorithm = RL_SLIDING_LOG, .quota = MANY, .window_ms = 1000}}},
};
#define PROBES (sizeof(probes) / sizeof(probes[0]))

unsigned rl_probe_ways(const rl_ask *asks, int n, int peek)
{
    unsigned ways = 0;

    if (rl_script_is_plain(asks, n, peek))
        return RL_WAY_PLAIN;
    for (int i = 0; i < n; i++)
        ways |= rl_limiter_is_log(asks[i].limit) ? RL_WAY_LOG : RL_WAY_FULL;
    return ways;
}

/* The index of this turn's probe. */
static size_t find(unsigned ways, unsigned turn)
{
    size_t found[PROBES] = {0}, count = 0;

    for (size_t i = 0; i < PROBES; i++) {
        if (ways & probes[i].way)
            found[count++] = i;
    }
    return found[count ? turn % count : 0];
}

char *rl_probe_make(const rl_script_names *names, const char *prefix, const char *tag,
                    unsigned ways, unsigned turn, int *length)
{
    size_t which = find(ways, turn);
    rl_limit limits[ASKS];
    rl_ask asks[ASKS];
    char keys[ASKS][256];

    for (int i = 0; i < ASKS; i++) {
        limits[i] = probes[which].limits[i];
        limits[i].burst = limits[i].quota;
        apr_snprintf(keys[i], sizeof(keys[i]), "%s:{%s}:probe:%s:%d", prefix, tag,
                     probes[which].name, i);
        asks[i] = (rl_ask){.key = keys[i], .limit = &limits[i], .cost = probes[which].cost};
    }
    return rl_script_decide(names, asks, ASKS, 0, length);
}
