/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker_load: how many of httpd's workers are busy.
 *
 * Each child counts them in httpd's scoreboard, at most four times a second.
 */
#ifndef RL_WORKER_LOAD_H
#define RL_WORKER_LOAD_H

/* The busy workers, in percent of rl_worker_load_workers(). Thread-safe. */
int rl_worker_load_percent(void);

/* The most workers that all children together may have. Changes only with the configuration. */
int rl_worker_load_workers(void);

#endif
