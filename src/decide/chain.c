/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain: what was decided for a request and all requests that it was redirected to.
 *
 * The chain is the module's per-request config of the request that it began with. A rule is
 * identified by its address, because merging sections never copies rules.
 */
#include <httpd.h>
#include <http_config.h>

#include "decide/chain.h"

rl_chain *rl_chain_create(request_rec *r)
{
    rl_chain *chain = apr_pcalloc(r->pool, sizeof(*chain));

    chain->end = &chain->first;
    return chain;
}

rl_chain *rl_chain_begin(request_rec *r)
{
    rl_chain *chain = rl_chain_of(r);

    if (!chain) {
        chain = rl_chain_create(r);
        ap_set_module_config(r->request_config, &ratelimit_redis_module, chain);
    }
    return chain;
}

void rl_chain_bind_request(rl_chain *chain, request_rec *r, const rl_context *context,
                           const rl_section *section)
{
    rl_evaluation *e = &chain->evaluation;

    e->path = NULL; /* even for the same r: httpd decodes r->uri in place */
    e->r = r;
    e->settings = context->settings;
    e->local = context->local;
    e->normalize = rl_config_normalize(section);
}

const char *rl_chain_identity_text(rl_chain *chain, rl_outcome *o)
{
    for (const rl_outcome *other = chain->first; other && !o->identity_text; other = other->next) {
        if (other->identity_text && rl_identity_equal(&other->identity, &o->identity))
            o->identity_text = other->identity_text;
    }
    if (!o->identity_text)
        o->identity_text = rl_identity_text(&chain->evaluation, &o->identity);
    return o->identity_text;
}

int64_t rl_outcome_retry_after(const rl_outcome *o)
{
    int64_t cost = o->cost > 0 ? o->cost : 1; /* of the next try */
    int64_t wait_ms = rl_limiter_retry_after(&o->limit, &o->view.state, o->view.now, cost);

    return wait_ms == RL_NEVER ? RL_NEVER : wait_ms + o->view.lag_ms;
}
