/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compiler includes this first in each source of an explored program. It defines the hook of
 * core/atomics.h, so that the explorer (explore.h) is called before every atomic access.
 */
#ifndef POINT_H
#define POINT_H

void explore_point(const char *file, int line);

#define RL_BEFORE_ACCESS() explore_point(__FILE__, __LINE__)

#endif
