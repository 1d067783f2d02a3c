/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity: from a request to what is counted.
 *
 * An identity has two forms. The raw form is bytes that no other identity of the rule has; it is
 * made for every request and only hashed. The text is for Redis keys, logs and pages: short and
 * plain, with a digest in place of everything that may be secret or unprintable. It is made only
 * when one of these needs it.
 *
 * Thread-safe: all state is the request's own.
 */
#ifndef RL_IDENTITY_H
#define RL_IDENTITY_H

#include <httpd.h>

#include "decide/evaluate.h"
#include "rule/rule.h"

typedef struct {
    const rl_key *key; /* the alternative that applied */
    const void *raw;
    apr_size_t length;
    unsigned char address[18]; /* what raw points to when the key is an address alone */
} rl_identity;

/*
 * Finds the identity of a request under a rule. It points into the request's pool and into
 * itself, so it must not be copied. Nothing is allocated for key=ip.
 */
void rl_identity_find(rl_evaluation *e, const rl_rule *rule, rl_identity *identity);

/* Whether two identities of a request are equal: then so are their texts. */
int rl_identity_equal(const rl_identity *a, const rl_identity *b);

/*
 * The text of an identity that was found for this request, in its pool: parts joined by '+', as in
 * ip:203.0.113.7, ip:2001:db8::/64, user:alice, path:/login. Headers, cookies, environment,
 * expressions, and values that are longer than 64 bytes or not plain, are replaced by the first 32
 * hex digits of the SHA-256 of header:name:VALUE, cookie:NAME:VALUE, env:NAME:VALUE,
 * EXPRESSION:VALUE, user:NAME or path:PATH. Only printable ASCII without blanks, quotes and braces.
 */
const char *rl_identity_text(rl_evaluation *e, const rl_identity *identity);

#endif
