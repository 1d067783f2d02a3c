/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credentials: user and password for Redis, from a file that may change while the server runs.
 *
 * The text of the file is checked and then shared as it is; it is parsed when a command is
 * formatted. Two buffers take turns, so that the parent fills one while children read the other. A
 * child so slow that its buffer was filled again reads once more.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <apr_file_info.h>
#include <apr_file_io.h>
#include <apr_shm.h>
#include <apr_strings.h>
#include <hiredis.h>

#include "redis/credentials.h"

typedef struct {
    atomic_uint version; /* the text is in text[version % 2] */
    char text[2][RL_CREDENTIALS_MAX];
} latest;

/* What differs after a change of a file. */
typedef struct {
    apr_status_t status;
    apr_time_t mtime, ctime;
    apr_off_t size;
    apr_ino_t inode;
} file_state;

struct rl_credentials {
    const char *path;
    const char *user; /* from elsewhere; NULL: none */
    latest *latest;
    file_state seen;  /* the parent's: of the text that was read last */
};

/* --- The line ----------------------------------------------------------------------------- */

/*
 * Cuts the next word off a text, in place, and sets *rest to what follows. NULL if there is no
 * word, or its quote is not closed.
 */
static char *cut_word(char *text, char **rest)
{
    char *word = text += strspn(text, " \t"), *to;
    int quoted = *text == '"';

    if (!*text)
        return NULL;
    to = word;
    for (text += quoted; *text && !strchr(quoted ? "\"" : " \t", *text); text++) {
        if (quoted && *text == '\\' && text[1] && strchr("\"\\", text[1]))
            text++;
        *to++ = *text;
    }
    if (quoted && (*text != '"' || (text[1] && !strchr(" \t", text[1]))))
        return NULL;
    *rest = text + (*text != '\0');
    *to = '\0';
    return word;
}

/* Parses a text in place. Returns what is wrong with it, or NULL. *user is NULL if it has none. */
static const char *parse(char *text, const char **user, const char **password)
{
    char *end = text + strcspn(text, "\r\n"), *first, *second = NULL, *rest;

    if (end[strspn(end, " \t\r\n")])
        return "has more than one line, and should have one: password, or user password";
    *end = '\0';
    while (end > text && strchr(" \t", end[-1]))
        *--end = '\0';
    text += strspn(text, " \t");
    if (!*text)
        return "is empty, and should have one line: password, or user password";
    first = cut_word(text, &rest);
    if (first && *rest) {
        second = cut_word(rest, &rest);
        first = second ? first : NULL;
    }
    if (!first)
        return "has a double quote that is not closed, or is followed by other text";
    if (*rest)
        return "has more than two words, and should have: password, or user password. Put a "
               "password with blanks into double quotes";
    *user = second ? first : NULL;
    *password = second ? second : first;
    return **password ? NULL : "has an empty password";
}

/* What is wrong with a text for these credentials, or NULL. Does not change the text. */
static const char *find_error(const rl_credentials *c, const char *text)
{
    char *copy = strdup(text);
    const char *user, *password, *error = copy ? parse(copy, &user, &password) : "out of memory";

    if (!error && c->user && user && strcmp(user, c->user))
        error = "names another user than RateLimitRedis";
    if (copy)
        explicit_bzero(copy, strlen(text));
    free(copy);
    return error;
}

/* --- The file ----------------------------------------------------------------------------- */

static file_state look_at(const char *path, apr_pool_t *pool)
{
    apr_finfo_t info;
    file_state state;

    memset(&state, 0, sizeof(state));
    memset(&info, 0, sizeof(info));
    state.status = apr_stat(&info, path, APR_FINFO_MTIME | APR_FINFO_CTIME | APR_FINFO_SIZE
                            | APR_FINFO_INODE, pool);
    if (state.status == APR_INCOMPLETE)
        state.status = APR_SUCCESS;
    state.mtime = info.mtime;
    state.ctime = info.ctime;
    state.size = info.size;
    state.inode = info.inode;
    return state;
}

static const char *read_file(apr_pool_t *pool, const char *path, char text[RL_CREDENTIALS_MAX],
                             int *exposed)
{
    apr_size_t length = RL_CREDENTIALS_MAX - 1;
    apr_file_t *file;
    apr_finfo_t info;
    apr_status_t status = apr_file_open(&file, path, APR_FOPEN_READ, APR_OS_DEFAULT, pool);
    char why[120];

    if (status == APR_SUCCESS) {
        *exposed = apr_file_info_get(&info, APR_FINFO_PROT, file) == APR_SUCCESS
            && info.protection & (APR_FPROT_WREAD | APR_FPROT_WWRITE);
        status = apr_file_read_full(file, text, RL_CREDENTIALS_MAX - 1, &length);
        apr_file_close(file);
    }
    if (status != APR_SUCCESS && status != APR_EOF)
        return apr_psprintf(pool, "cannot be read: %s", apr_strerror(status, why, sizeof(why)));
    if (status == APR_SUCCESS)
        return apr_psprintf(pool, "has more than %d bytes, and should have one line: password, or "
                            "user password", RL_CREDENTIALS_MAX - 2);
    text[length] = '\0';
    return strlen(text) == length ? NULL : "contains NUL bytes";
}

/* Reads the file into a buffer. Returns what is wrong with it, or NULL. */
static const char *fill(rl_credentials *c, apr_pool_t *pool, char text[RL_CREDENTIALS_MAX],
                        int *exposed)
{
    const char *error = read_file(pool, c->path, text, exposed);

    return error ? error : find_error(c, text);
}

const char *rl_credentials_read(apr_pool_t *pool, const char *path, rl_credentials **credentials,
                                int *exposed)
{
    rl_credentials *c = *credentials = apr_pcalloc(pool, sizeof(*c));
    const char *error;

    c->path = path;
    c->latest = apr_pcalloc(pool, sizeof(*c->latest));
    c->seen = look_at(path, pool);
    error = fill(c, pool, c->latest->text[0], exposed);
    return error ? apr_pstrcat(pool, path, " ", error, NULL) : NULL;
}

const char *rl_credentials_set_user(rl_credentials *c, const char *user)
{
    c->user = user;
    return find_error(c, c->latest->text[0]);
}

void rl_credentials_share(rl_credentials *c, apr_pool_t *pool)
{
    latest *own = c->latest;
    apr_shm_t *shm;

    if (apr_shm_create(&shm, sizeof(*own), NULL, pool) != APR_SUCCESS)
        return;
    c->latest = apr_shm_baseaddr_get(shm);
    memcpy(c->latest, own, sizeof(*own));
    explicit_bzero(own, sizeof(*own));
}

int rl_credentials_refresh(rl_credentials *c, apr_pool_t *pool, const char **error)
{
    unsigned version = atomic_load(&c->latest->version);
    file_state now = look_at(c->path, pool);
    int ignored;

    *error = NULL;
    if (!memcmp(&now, &c->seen, sizeof(now)))
        return 0;
    c->seen = now;
    *error = fill(c, pool, c->latest->text[(version + 1) % 2], &ignored);
    if (*error || !strcmp(c->latest->text[0], c->latest->text[1]))
        return 0;
    atomic_store(&c->latest->version, version + 1);
    return 1;
}

const char *rl_credentials_path(const rl_credentials *c)
{
    return c->path;
}

/* --- The command -------------------------------------------------------------------------- */

static void take_latest(const latest *from, char text[RL_CREDENTIALS_MAX])
{
    unsigned version;

    do {
        version = atomic_load(&from->version);
        memcpy(text, from->text[version % 2], RL_CREDENTIALS_MAX);
        atomic_thread_fence(memory_order_acquire);
    } while (atomic_load(&from->version) != version);
    text[RL_CREDENTIALS_MAX - 1] = '\0';
}

int rl_credentials_format(const rl_credentials *c, char **command)
{
    char *text = malloc(RL_CREDENTIALS_MAX);
    const char *user = NULL, *password = NULL, *words[3] = {"AUTH"};
    int count = 1, length = 0;

    if (!text)
        return 0;
    take_latest(c->latest, text);
    if (!parse(text, &user, &password)) {
        if (c->user || user)
            words[count++] = c->user ? c->user : user;
        words[count++] = password;
        length = (int)redisFormatCommandArgv(command, count, words, NULL);
    }
    explicit_bzero(text, RL_CREDENTIALS_MAX);
    free(text);
    return length > 0 ? length : 0;
}
