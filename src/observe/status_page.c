/* SPDX-License-Identifier: Apache-2.0 */
#include <apr_strings.h>

#include <httpd.h>

#include "observe/status_page.h"

const char *rl_page_number(const rl_status_page *p, uint64_t n)
{
    char *digits = apr_psprintf(p->r->pool, "%" APR_UINT64_T_FMT, n);
    size_t length = strlen(digits), at = 0;
    char *text = apr_palloc(p->r->pool, length + length / 3 + 1);

    for (size_t i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

const char *rl_page_duration(const rl_status_page *p, int64_t us)
{
    if (us < 1000)
        return apr_psprintf(p->r->pool, "%d &micro;s", (int)us);
    if (us < 1000000)
        return apr_psprintf(p->r->pool, us < 100000 ? "%.1f ms" : "%.0f ms", (double)us / 1e3);
    return apr_psprintf(p->r->pool, "%.1f s", (double)us / 1e6);
}

const char *rl_page_escaped(const rl_status_page *p, const char *text)
{
    return ap_escape_html2(p->r->pool, text, 1);
}

uint64_t rl_page_failures(const rl_stats_counts *counts)
{
    uint64_t sum = 0;

    for (int i = RL_ANSWERED + 1; i < RL_FAILURES; i++)
        sum += counts->redis[i];
    return sum;
}
