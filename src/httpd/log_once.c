/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_once: warnings about requests, at most one line in ten seconds for each text.
 *
 * When a text was logged last, and how often it came since, is an entry of the local tier, so that
 * all children of the host count together.
 */
#include <string.h>

#include <httpd.h>
#include <http_log.h>

#include "httpd/log_once.h"

extern module AP_MODULE_DECLARE_DATA ratelimit_redis_module;
APLOG_USE_MODULE(ratelimit_redis);

#define EVERY_MS 10000

/* How often the text was to be logged since it was logged last; 0: it is not due. */
static uint32_t count(rl_local *local, const char *text)
{
    uint64_t key = rl_local_key(local, RL_LOCAL_LOG_ONCE, 0, text, strlen(text));

    return rl_local_report(local, key, rl_local_clock(), EVERY_MS);
}

void rl_log_once_for_server(server_rec *s, rl_local *local, const char *text)
{
    uint32_t times = count(local, text);

    if (times)
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, "ratelimit: %s (times=%u)", text, times);
}

void rl_log_once(request_rec *r, rl_local *local, const char *text)
{
    uint32_t times = count(local, text);

    if (times)
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r, "ratelimit: %s (times=%u)", text, times);
}
