/* SPDX-License-Identifier: Apache-2.0 */
/*
 * variable: the variable that the module adds to httpd's expressions.
 *
 *     %{RATELIMIT_PATH}   the normalised path of the request, as path= and key=path see it
 *
 * httpd compares <Location> and the like with the path as it reads it. An <If> with this variable
 * makes a section that no spelling of a path escapes. The variable works wherever httpd takes an
 * expression. Thread-safe: all state is the request's own.
 */
#ifndef RL_VARIABLE_H
#define RL_VARIABLE_H

#include <apr_pools.h>

void rl_variable_register(apr_pool_t *pool);

#endif
