/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials: user and password for Redis, from a file that may change while the server runs.
 *
 * The file has one line: `password`, or `user password`. A word with blanks is put in double
 * quotes, in which a backslash escapes a quote or a backslash. Tokens of cloud providers are
 * passwords, too; they may be long, and change every hour. So the parent of the children, which may
 * read the file, checks from time to time whether it has changed, and puts its text into memory
 * that all children share. Each handshake uses the latest one.
 *
 * No error text from here contains anything of the file.
 */
#ifndef RL_CREDENTIALS_H
#define RL_CREDENTIALS_H

#include <apr_pools.h>

#define RL_CREDENTIALS_MAX 66560 /* bytes of a file: a password of 64 KB, and a user */

typedef struct rl_credentials rl_credentials;

/*
 * Reads a file. path must live as long as the pool. Returns NULL and sets *credentials, or returns
 * an error text. *exposed: every user of this host may read or write the file.
 */
const char *rl_credentials_read(apr_pool_t *pool, const char *path, rl_credentials **credentials,
                                int *exposed);

/*
 * Sets the user from elsewhere; the file need not repeat the name. Returns an error text if it has
 * another one.
 */
const char *rl_credentials_set_user(rl_credentials *credentials, const char *user);

/*
 * The parent's, before it makes children: moves the text to shared memory, for as long as the pool
 * lives. If there is none, children keep the credentials that they inherit.
 */
void rl_credentials_share(rl_credentials *credentials, apr_pool_t *pool);

/*
 * The parent's, now and then: reads the file again if it has changed. Returns 1 if the credentials
 * are new. Otherwise they stay as they are; *error is what is wrong with the new text, once for
 * each change of the file, or NULL.
 */
int rl_credentials_refresh(rl_credentials *credentials, apr_pool_t *pool, const char **error);

const char *rl_credentials_path(const rl_credentials *credentials);

/*
 * Formats the latest credentials as an AUTH command, which the caller frees with
 * redisFreeCommand(). Returns its length; 0 without memory. May be called from any thread of any
 * child.
 */
int rl_credentials_format(const rl_credentials *credentials, char **command);

#endif
