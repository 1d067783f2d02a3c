/* SPDX-License-Identifier: Apache-2.0 */
/* Included before every file of a program that is explored: each atomic access is a point. */
#ifndef POINT_H
#define POINT_H

void explore_point(const char *file, int line);

#define RL_BEFORE_ACCESS() explore_point(__FILE__, __LINE__)

#endif
