/* SPDX-License-Identifier: Apache-2.0 */
/*
 * variable: what the module adds to httpd's expressions.
 *
 *     %{RATELIMIT_PATH}   the normalised path of the request, as path= and key=path see it
 *
 * Sections such as <Location> are compared with the path as httpd reads it; <If> with this variable
 * makes a section that no spelling of a path escapes. It stands wherever httpd takes an
 * expression. Thread-safe: all state is the request's own.
 */
#ifndef RL_VARIABLE_H
#define RL_VARIABLE_H

#include <apr_pools.h>

void rl_variable_register(apr_pool_t *pool);

#endif
