/* SPDX-License-Identifier: Apache-2.0 */
/* Short initializers of limits and states, for tests; with a cast in front they are values. */
#ifndef STATES_H
#define STATES_H

#include "core/limiter.h"

#define LIMIT(kind, units, ms) \
    {.algorithm = (kind), .quota = (units), .window_ms = (ms), .burst = (units)}
#define BUCKET(kind, units, ms, holds) \
    {.algorithm = (kind), .quota = (units), .window_ms = (ms), .burst = (holds)}
#define WINDOW(number, before, now) {.index = (number), .prev = (before), .cur = (now)}
#define LEVEL(tick, units) {.at = (tick), .level = (units)}

/* Units that are pending in a period, at host_ms; of a limit whose ticks are ms. */
#define UNITS(period, cost, host_ms) \
    (&(rl_local_units){(period), (cost), (host_ms), BASE + (host_ms)})

#endif
