/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity: from a request to what is counted.
 *
 * A key is a list of alternatives, each a list of parts. The first alternative without an empty
 * part applies; if there is none, the address does. An IPv4 address mapped into IPv6 counts as the
 * IPv4 address. An IPv6 client counts as its prefix, because it can use any address in it.
 *
 * Values that clients send are hashed under a secret seed for the local tier, and digested for
 * everything that people or other programs read.
 */
#include <arpa/inet.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_random.h>
#include <apr_strings.h>

#include <httpd.h>
#include <util_cookies.h>

#include "decide/identity.h"
#include "core/path.h"

#define PLAIN_MAX 64 /* bytes of a value that may be readable */
#define DIGEST_HEX 32

static const rl_key_part address_part = {.component = RL_KEY_IP};
static const rl_key address_key = {&address_part, 1};

/* --- Addresses ---------------------------------------------------------------------------- */

typedef struct {
    int family; /* 4 or 6 */
    int prefix; /* bits that count */
    unsigned char bytes[16];
} network;

static void network_of(const rl_evaluation *e, const rl_key_part *part, network *n)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    const apr_sockaddr_t *address = e->r->useragent_addr;
    const unsigned char *bytes = address->ipaddr_ptr;
    int size = address->ipaddr_len;

    memset(n, 0, sizeof(*n));
    if (size == 16 && !memcmp(bytes, mapped, sizeof(mapped))) {
        bytes += sizeof(mapped);
        size = 4;
    }
    n->family = size == 4 ? 4 : 6;
    n->prefix = size == 4 ? 32 : e->settings->ipv6_prefix;
    /* ip/24 is for IPv4 alone: a /24 of IPv6 would be a whole provider. */
    if (part->number && (part->number <= 32) == (n->family == 4))
        n->prefix = part->number;
    if (size != 4 && size != 16)
        return; /* clients without an address, as on a unix socket, count as one */
    for (int bit = 0; bit < n->prefix; bit += 8) {
        int rest = n->prefix - bit;

        n->bytes[bit / 8] = bytes[bit / 8] & (unsigned char)(rest >= 8 ? 0xff : 0xff << (8 - rest));
    }
}

static const char *network_text(const rl_evaluation *e, const network *n)
{
    apr_pool_t *pool = e->r->pool;
    char text[INET6_ADDRSTRLEN];

    /* httpd has printed a whole IPv4 address already. */
    if (n->prefix == 32 && e->r->useragent_addr->ipaddr_len == 4)
        return apr_pstrcat(pool, "ip:", e->r->useragent_ip, NULL);
    inet_ntop(n->family == 4 ? AF_INET : AF_INET6, n->bytes, text, sizeof(text));
    if (n->prefix == (n->family == 4 ? 32 : 128))
        return apr_pstrcat(pool, "ip:", text, NULL);
    return apr_psprintf(pool, "ip:%s/%d", text, n->prefix);
}

/* Writes family, prefix and address; returns the number of bytes. */
static apr_size_t network_raw(const network *n, unsigned char raw[18])
{
    apr_size_t size = n->family == 4 ? 4 : 16;

    raw[0] = (unsigned char)n->family;
    raw[1] = (unsigned char)n->prefix;
    memcpy(raw + 2, n->bytes, size);
    return size + 2;
}

/* --- The other parts ---------------------------------------------------------------------- */

static const char *method_of(const request_rec *r)
{
    if (r->method_number == M_INVALID)
        return "unknown";
    return r->header_only && r->method_number == M_GET ? "GET" : r->method;
}

static const char *path_of(rl_evaluation *e, const rl_key_part *part)
{
    const char *path = rl_evaluation_path(e);

    if (!part->number)
        return path;
    return apr_pstrmemdup(e->r->pool, path,
                          rl_path_segments(path, strlen(path), (unsigned)part->number));
}

static const char *evaluate(rl_evaluation *e, const rl_key_part *part)
{
    rl_expr expr = {part->name, part->expr};

    return rl_evaluation_string(e, &expr);
}

/* The value of any part except an address; NULL or "" if there is none. */
static const char *value_of(rl_evaluation *e, const rl_key_part *part)
{
    request_rec *r = e->r;
    const char *cookie = NULL;

    switch (part->component) {
    case RL_KEY_USER:
        return r->user;
    case RL_KEY_HEADER:
        return apr_table_get(r->headers_in, part->name);
    case RL_KEY_COOKIE:
        ap_cookie_read(r, part->name, &cookie, 0);
        return cookie;
    case RL_KEY_ENV:
        return apr_table_get(r->subprocess_env, part->name);
    case RL_KEY_METHOD:
        return method_of(r);
    case RL_KEY_HOST:
        return r->server->server_hostname ? r->server->server_hostname : "default";
    case RL_KEY_PATH:
        return path_of(e, part);
    case RL_KEY_SERVER:
        return "all";
    case RL_KEY_EXPR:
        return evaluate(e, part);
    case RL_KEY_IP:
    case RL_KEY_COMPONENTS:
        break;
    }
    return NULL;
}

/* What precedes a part's value in its text, digested or not. */
static const char *label_of(apr_pool_t *pool, const rl_key_part *part)
{
    const rl_key_row *row = &rl_key_rows[part->component];

    if (row->argument == RL_KEY_HAS_NAME)
        return apr_pstrcat(pool, row->name, ":", part->name, NULL);
    return row->name ? row->name : part->name;
}

static int is_plain(const char *s)
{
    apr_size_t length = 0;

    for (; s[length]; length++) {
        if (length == PLAIN_MAX || (!apr_isalnum(s[length]) && !strchr("._@/-", s[length])))
            return 0;
    }
    return 1;
}

static const char *digest(apr_pool_t *pool, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    apr_crypto_hash_t *sha = apr_crypto_sha256_new(pool);
    unsigned char sum[32];
    char *out = apr_palloc(pool, DIGEST_HEX + 1);

    sha->init(sha);
    sha->add(sha, text, strlen(text));
    sha->finish(sha, sum);
    for (int i = 0; i < DIGEST_HEX / 2; i++) {
        out[2 * i] = hex[sum[i] >> 4];
        out[2 * i + 1] = hex[sum[i] & 15];
    }
    out[DIGEST_HEX] = '\0';
    return out;
}

/* --- Identities --------------------------------------------------------------------------- */

static int is_address(const rl_key *key)
{
    return key->count == 1 && key->parts[0].component == RL_KEY_IP;
}

static void address_identity(const rl_evaluation *e, const rl_key *key, rl_identity *identity)
{
    network n;

    network_of(e, &key->parts[0], &n);
    identity->key = key;
    identity->raw = identity->address;
    identity->length = network_raw(&n, identity->address);
}

/*
 * Joins the parts, each as kind, name, length and value, so that no two lists of parts give the
 * same bytes. Returns 0 if a part is empty.
 */
static int joined_identity(rl_evaluation *e, const rl_key *key, rl_identity *identity)
{
    const char *raw = "";
    apr_size_t length = 0;

    for (int i = 0; i < key->count; i++) {
        const rl_key_part *part = &key->parts[i];
        const char *name = part->name ? part->name : "", *value;
        unsigned char address[18];
        apr_size_t name_size = strlen(name) + 1, value_size;
        apr_uint32_t head[2];
        char *longer;

        if (part->component == RL_KEY_IP) {
            network n;

            network_of(e, part, &n);
            value_size = network_raw(&n, address);
            value = (const char *)address;
        }
        else {
            value = value_of(e, part);
            if (!value || !*value)
                return 0;
            value_size = strlen(value);
        }
        head[0] = (apr_uint32_t)part->component;
        head[1] = (apr_uint32_t)value_size;
        longer = apr_palloc(e->r->pool, length + sizeof(head) + name_size + value_size);
        memcpy(longer, raw, length);
        memcpy(longer + length, head, sizeof(head));
        memcpy(longer + length + sizeof(head), name, name_size);
        memcpy(longer + length + sizeof(head) + name_size, value, value_size);
        raw = longer;
        length += sizeof(head) + name_size + value_size;
    }
    identity->key = key;
    identity->raw = raw;
    identity->length = length;
    return 1;
}

void rl_identity_find(rl_evaluation *e, const rl_rule *rule, rl_identity *identity)
{
    for (int i = 0; i < rule->key_count; i++) {
        if (is_address(&rule->keys[i])) {
            address_identity(e, &rule->keys[i], identity);
            return;
        }
        if (joined_identity(e, &rule->keys[i], identity))
            return;
    }
    address_identity(e, &address_key, identity);
}

int rl_identity_equal(const rl_identity *a, const rl_identity *b)
{
    return a->length == b->length && !memcmp(a->raw, b->raw, a->length);
}

static const char *part_text(rl_evaluation *e, const rl_key_part *part)
{
    apr_pool_t *pool = e->r->pool;
    const char *value, *text;
    network n;

    if (part->component == RL_KEY_IP) {
        network_of(e, part, &n);
        return network_text(e, &n);
    }
    if (part->component == RL_KEY_SERVER)
        return "server";
    value = value_of(e, part);
    if (!value)
        value = ""; /* it had one when the identity was found */
    text = apr_pstrcat(pool, label_of(pool, part), ":", value, NULL);
    return rl_key_rows[part->component].may_be_secret || !is_plain(value) ? digest(pool, text)
                                                                          : text;
}

const char *rl_identity_text(rl_evaluation *e, const rl_identity *identity)
{
    const char *text = part_text(e, &identity->key->parts[0]);

    for (int i = 1; i < identity->key->count; i++)
        text = apr_pstrcat(e->r->pool, text, "+", part_text(e, &identity->key->parts[i]),
                           NULL);
    return text;
}
