/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_strings.h>

#include "rule/reading.h"
#include "rule/text.h"

const char *rl_reading_invalid(const rl_reading *r, const char *option, const char *value,
                               const char *expected, const char *example)
{
    return apr_psprintf(r->pool, "invalid value \"%s\" for %s=: expected %s, for example %s=%s",
                        value, option, expected, option, example);
}

/* What an expression reads. httpd accepts these names in any case. */

static const char *const of_response[] = {"%{resp:", "resp(", "%{REQUEST_STATUS}",
                                          "%{LAST_MODIFIED}", NULL};
static const char *const of_type[] = {"%{CONTENT_TYPE}", "%{HANDLER}", NULL};
static const char *const of_file[] = {"_FILENAME}", "%{PATH_INFO}", "%{CONTEXT_",
                                      "%{SCRIPT_USER}", "%{SCRIPT_GROUP}", NULL};
/* Some SSL_ variables are known earlier, but a section may still ask for a certificate. */
static const char *const of_auth[] = {"REMOTE_USER", "%{AUTH", "env:", "env(", "note:", "note(",
                                      "%{SSL_", "PeerExtList(", NULL};
static const char *const of_user[] = {"REMOTE_USER", NULL};

const char *rl_reading_expr(rl_reading *r, const char *option, const char *text, int boolean,
                            rl_expr *expr)
{
    const char *error;

    if (rl_text_contains(text, of_response))
        return apr_psprintf(r->pool, "%s=: \"%s\" reads the response, which does not exist yet "
                            "when a rule decides; to count by the response's status use "
                            "charge-on=, for example charge-on=404", option, text);
    r->reads_file |= rl_text_contains(text, of_file);
    r->reads_type |= rl_text_contains(text, of_type);
    r->reads_auth |= r->reads_type || rl_text_contains(text, of_auth);
    r->reads_user |= rl_text_contains(text, of_user);
    if (!r->compiler)
        return apr_psprintf(r->pool, "%s=: \"%s\" is an expression, which only httpd can evaluate",
                            option, text);
    expr->text = text;
    error = r->compiler->compile(r->compiler->data, text, boolean, &expr->compiled);
    return error ? apr_psprintf(r->pool, "invalid expression \"%s\" for %s=: %s", text, option,
                                error)
                 : NULL;
}

const char *rl_reading_algorithms(apr_pool_t *pool, unsigned takes)
{
    const char *names[RL_ALGORITHMS + 1];
    int n = 0;

    for (int i = 0; i < RL_ALGORITHMS; i++) {
        if ((rl_algorithms[i].takes & takes) == takes)
            names[n++] = rl_algorithms[i].name;
    }
    names[n] = NULL;
    return rl_text_list(pool, names);
}
