/* SPDX-License-Identifier: Apache-2.0 */
/*
 * version: the version of the module, in this place only. httpd's start-up notice and server-status
 * show it, and so does the metric build_info.
 */
#ifndef RL_VERSION_H
#define RL_VERSION_H

#define RL_VERSION "1.0.0"

#endif
