/* SPDX-License-Identifier: Apache-2.0 */
/*
 * variable: the variable that the module adds to httpd's expressions.
 *
 * httpd evaluates <If> sections after it has merged all others, so RateLimitNormalize of the
 * sections around an <If> applies to its condition.
 */
#include <string.h>

#include <ap_expr.h>
#include <httpd.h>
#include <http_config.h>

#include "decide/variable.h"
#include "config/config.h"
#include "decide/evaluate.h"

/* Empty without a path: httpd evaluates expressions even for requests that it could not read. */
static const char *path_of(ap_expr_eval_ctx_t *context, const void *data)
{
    const rl_section *section;
    rl_evaluation e = {.r = context->r};

    (void)data;
    if (!context->r || !context->r->uri)
        return "";
    section = rl_config_section(context->r);
    e.normalize = section ? rl_config_normalize(section) : RL_PATH_ALL;
    return rl_evaluation_path(&e);
}

static int look_up(ap_expr_lookup_parms *parms)
{
    if (parms->type != AP_EXPR_FUNC_VAR || strcasecmp(parms->name, "RATELIMIT_PATH"))
        return DECLINED;
    *parms->func = (const void *)path_of;
    *parms->data = NULL;
    return OK;
}

void rl_variable_register(apr_pool_t *pool)
{
    (void)pool;
    ap_hook_expr_lookup(look_up, NULL, NULL, APR_HOOK_MIDDLE);
}
