/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load: how busy the server is.
 *
 * Busy workers are counted in httpd's scoreboard, at most every quarter of a second and child.
 */
#ifndef RL_WORKER_LOAD_H
#define RL_WORKER_LOAD_H

/* Busy workers of all that there may be, in percent. May be called from any thread. */
int rl_worker_load_percent(void);

/* How many workers there may be, of all children. Constant while a configuration holds. */
int rl_worker_load_workers(void);

#endif
