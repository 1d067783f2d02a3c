/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials: user and password for Redis, from a file, for as long as a server runs.
 *
 * The file has one line: `password`, or `user password`. A word that holds blanks stands in double
 * quotes, in which a backslash takes the meaning from a quote or a backslash. Tokens of cloud
 * providers are passwords too, may be long, and change every hour. So the parent of the children,
 * which has the rights to read the file, looks from time to time whether it has changed, and what
 * it holds then is in memory that all children share: each handshake uses the latest.
 *
 * No text that comes from here for a log holds anything of the file.
 */
#ifndef RL_CREDENTIALS_H
#define RL_CREDENTIALS_H

#include <apr_pools.h>

#define RL_CREDENTIALS_MAX 66560 /* bytes of a file: a password of 64 KB, and a user */

typedef struct rl_credentials rl_credentials;

/*
 * Reads a file, whose path must live as long as the pool. Returns NULL and sets *credentials, or an
 * error text. *exposed: everybody on this host can read or write the file.
 */
const char *rl_credentials_read(apr_pool_t *pool, const char *path, rl_credentials **credentials,
                                int *exposed);

/*
 * The user is said elsewhere, and the file need not repeat the name. Returns an error text if it
 * says another one.
 */
const char *rl_credentials_set_user(rl_credentials *credentials, const char *user);

/*
 * The parent's, before it makes children: shares them, for as long as the pool lives. Without
 * memory for that they stay as they are.
 */
void rl_credentials_share(rl_credentials *credentials, apr_pool_t *pool);

/*
 * The parent's, now and then: reads the file again if it has changed. Returns 1 if there are new
 * credentials. Else what there was stays, and if that is for a reason *error says it, once for each
 * change of the file.
 */
int rl_credentials_refresh(rl_credentials *credentials, apr_pool_t *pool, const char **error);

const char *rl_credentials_path(const rl_credentials *credentials);

/*
 * The latest as an AUTH command, for redisFreeCommand(). Returns its length; 0 without memory. Any
 * thread of any child.
 */
int rl_credentials_format(const rl_credentials *credentials, char **command);

#endif
