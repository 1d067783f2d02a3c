/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "httpd/accept.h"

/* The weight that the parameters of a range give it, as ap_get_list_item() spells them. */
static int weight_of(const char *parameters)
{
    const char *q = strstr(parameters, ";q=");
    int weight = 0;

    if (!q)
        return 1000;
    q += 3;
    weight = (*q == '1') * 1000;
    if (*q && q[1] == '.') {
        for (int digit = 2, unit = 100; unit && q[digit] >= '0' && q[digit] <= '9';
             digit++, unit /= 10)
            weight += (q[digit] - '0') * unit;
    }
    return weight < 1000 ? weight : 1000;
}

int rl_accept_next(apr_pool_t *pool, const char **accept, rl_accept_range *range)
{
    range->text = *accept ? ap_get_list_item(pool, accept) : NULL;
    if (!range->text)
        return 0;
    range->length = strcspn(range->text, ";");
    range->weight = weight_of(range->text + range->length);
    return 1;
}

int rl_accept_is(const rl_accept_range *range, const char *type)
{
    return strlen(type) == range->length && !strncmp(range->text, type, range->length);
}
