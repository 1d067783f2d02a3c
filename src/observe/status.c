/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status: the module's part of server-status.
 *
 * The hook of mod_status gathers the figures, which status_html.c prints for people and
 * status_text.c for programs (?auto). They are read from shared memory, without a lock and without
 * asking Redis.
 */
#include <apr_strings.h>

#include <httpd.h>
#include <http_protocol.h>
#include <mod_status.h>

#include "observe/status.h"
#include "observe/status_html.h"
#include "observe/status_text.h"

#define RECENT_MS 60000

int rl_status(request_rec *r, int flags, const rl_context *context)
{
    rl_status_page page = {.r = r, .host_ms = rl_local_clock()};
    rl_stats_counts *recent;

    if (!context->local) {
        if (flags & AP_STATUS_SHORT)
            ap_rputs("RateLimitLocalCapacity: 0\n", r);
        else
            rl_status_html_print_no_memory(r);
        return OK;
    }
    page.start = page.recent = rl_figures_read(r->pool, context);
    if (flags & AP_STATUS_SHORT) {
        rl_status_text_print(r, &page.start);
        return OK;
    }
    recent = apr_pmemdup(r->pool, page.start.counts, sizeof(*recent));
    page.recent_ms = rl_stats_recent(context->stats, page.host_ms, recent);
    if (page.recent_ms > 2 * RECENT_MS) /* httpd -X has no parent that keeps earlier counts */
        page.recent_ms = 0;
    else
        page.recent.counts = recent;
    page.span = page.recent_ms ? "in the last minute" : "since the start";
    rl_status_html_print(&page);
    return OK;
}
