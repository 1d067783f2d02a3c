/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of RateLimit and RateLimitTier lines: what valid lines compile to, the error texts of
 * invalid ones, words, quotes and durations, and which rules share a counter.
 */
#include <apr_general.h>
#include <apr_strings.h>

#include "random.h"
#include "rule/parse.h"
#include "rule/text.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static apr_pool_t *pool;

/* In place of httpd: an expression with "bad" in it is invalid. */
static const char *compile(void *data, const char *text, int boolean, const void **compiled)
{
    (void)data;
    (void)boolean;
    if (strstr(text, "bad"))
        return "syntax error";
    *compiled = text;
    return NULL;
}

static const char *parse(const char *line, rl_rule **rule)
{
    static const rl_compiler compiler = {compile, NULL};

    *rule = NULL;
    return rl_parse_rule(pool, line, &compiler, rule);
}

/* --- Valid lines --- */

static const char *named(const char *name, int64_t n)
{
    return n ? apr_psprintf(pool, " %s %" PRId64, name, n) : "";
}

static const char *quoted(const char *name, const char *text)
{
    return text ? apr_psprintf(pool, " %s[%s]", name, text) : "";
}

static const char *print_limit(const rl_rule *rule)
{
    const rl_limit *limit = &rule->limit;
    const char *on = "";

    for (int status = 0; limit->on_response && status < 700; status++) {
        if (rl_rule_charges_on(rule, status) && !rl_rule_charges_on(rule, status - 1))
            on = apr_psprintf(pool, "%s %d", on, status);
        if (rl_rule_charges_on(rule, status) && !rl_rule_charges_on(rule, status + 1))
            on = apr_psprintf(pool, "%s-%d", on, status);
    }
    return apr_pstrcat(pool, named("burst", limit->burst == limit->quota ? 0 : limit->burst),
                       named("delay", limit->delay_ms), named("block", limit->block_ms),
                       limit->on_response ? " on" : "", on, NULL);
}

static const char *print_terms(const rl_rule *rule)
{
    const char *methods = NULL;

    for (int i = 0; rule->methods && rule->methods[i]; i++)
        methods = apr_pstrcat(pool, i ? methods : "", i ? "," : "", rule->methods[i], NULL);
    return apr_pstrcat(pool, named("cost", rule->cost == 1 ? 0 : rule->cost),
                       quoted("cost", rule->cost_expr.text), quoted("path", rule->path),
                       quoted("normal", rule->path_normal), quoted("methods", methods),
                       quoted("when", rule->when.text), quoted("unless", rule->unless.text),
                       quoted("tier", rule->tier.text), rule->adaptive ? " adaptive" : "", NULL);
}

static const char *print_denial(const rl_rule *rule)
{
    static const char *const failures[] = {"", " local", " open", " closed"};
    static const char *const syncs[] = {"", " lease", " here"};
    static const char *const phases[] = {" unset", " early", "", " auth"};

    return apr_pstrcat(pool, named("status", rule->status == 429 ? 0 : rule->status),
                       failures[rule->on_failure], syncs[rule->sync],
                       phases[rule->phase], rule->headers ? "" : " quiet",
                       rule->shadow ? " shadow" : "", rule->is_shared ? " shared" : "", NULL);
}

/* A rule as one line, without what has its default. */
static const char *print(const rl_rule *rule)
{
    static const char *const kinds[] = {"ip", "user", "header", "cookie", "env", "method", "host",
                                        "path", "server", "expr"};
    static const char *const algorithms[] = {"sliding", "fixed", "log", "bucket", "leaky"};
    const char *text;

    if (rule->off)
        return apr_psprintf(pool, "%s off", rule->name);
    text = apr_psprintf(pool, "%s %s %" PRId64 "/%" PRId64 " ", rule->name,
                        algorithms[rule->limit.algorithm], rule->limit.quota,
                        rule->limit.window_ms);
    for (int i = 0; i < rule->key_count; i++) {
        for (int j = 0; j < rule->keys[i].count; j++) {
            const rl_key_part *p = &rule->keys[i].parts[j];

            text = apr_pstrcat(pool, text, j ? "+" : i ? "|" : "", kinds[p->component], NULL);
            if (p->number)
                text = apr_psprintf(pool, "%s(%d)", text, p->number);
            if (p->name)
                text = apr_psprintf(pool, "%s(%s)", text, p->name);
        }
    }
    return apr_pstrcat(pool, text, print_limit(rule), print_terms(rule), print_denial(rule), NULL);
}

static const struct {
    const char *line, *want;
} good[] = {
    {"login 10/1m", "login sliding 10/60000 ip"},
    {"  login\t10/1m  ", "login sliding 10/60000 ip"},
    {"login off", "login off"},
    {"login OFF", "login off"},
    {"a 0/1s", "a sliding 0/1000 ip"},
    {"a 1/s", "a sliding 1/1000 ip"},
    {"a 1/m", "a sliding 1/60000 ip"},
    {"a 1/h", "a sliding 1/3600000 ip"},
    {"a 1/D", "a sliding 1/86400000 ip"},
    {"a 1/w", "a sliding 1/604800000 ip"},
    {"a 1/100ms", "a sliding 1/100 ip"},
    {"a 1/31d", "a sliding 1/2678400000 ip"},
    {"a 1000000000/37m", "a sliding 1000000000/2220000 ip"},
    {"a 840725/31d", "a sliding 840725/2678400000 ip"},
    {"a-B_c.9 1/1m", "a-B_c.9 sliding 1/60000 ip"},
    {"a 1/1m algorithm=fixed-window", "a fixed 1/60000 ip"},
    {"a 1/1m ALGORITHM=Sliding-Window", "a sliding 1/60000 ip"},
    {"a 1/1m status=503 headers=off shadow", "a sliding 1/60000 ip status 503 quiet shadow"},
    {"a 1/1m headers=on status=400", "a sliding 1/60000 ip status 400"},
    {"a 1/1m on-failure=local", "a sliding 1/60000 ip local"},
    {"a 1/1m on-failure=open", "a sliding 1/60000 ip open"},
    {"a 1/1m on-failure=closed sync=request", "a sliding 1/60000 ip closed"},
    {"a 1/1m sync=local phase=auth", "a sliding 1/60000 ip here auth"},
    {"a 1/1m sync=Lease", "a sliding 1/60000 ip lease"},
    {"a 1/1m sync=lease algorithm=fixed-window", "a fixed 1/60000 ip lease"},
    {"a 8/1m sync=lease algorithm=token-bucket", "a bucket 8/60000 ip lease"},
    {"a 8/1m sync=lease algorithm=leaky-bucket delay=0", "a leaky 8/60000 ip lease"},
    {"a 1/1m key=ip/24", "a sliding 1/60000 ip(24)"},
    {"a 1/1m key=ip/128", "a sliding 1/60000 ip(128)"},
    {"a 1/1m key=user", "a sliding 1/60000 user auth"},
    {"a 1/1m key=user|ip", "a sliding 1/60000 user|ip auth"},
    {"a 1/1m key=env:X", "a sliding 1/60000 env(X) auth"},
    {"a 1/1m key=env:X phase=access", "a sliding 1/60000 env(X)"},
    {"a 1/1m key=header:X-Api-Key", "a sliding 1/60000 header(x-api-key)"},
    {"a 1/1m key=HEADER:x|cookie:Sid|ip", "a sliding 1/60000 header(x)|cookie(Sid)|ip"},
    {"a 1/1m key=ip+path", "a sliding 1/60000 ip+path"},
    {"a 1/1m key=ip+path:2+method|host", "a sliding 1/60000 ip+path(2)+method|host"},
    {"a 1/1m key=server", "a sliding 1/60000 server shared"},
    {"a 1/1m key=%{HTTP_HOST}", "a sliding 1/60000 expr(%{HTTP_HOST})"},
    {"a 1/1m key=%{REMOTE_USER}", "a sliding 1/60000 expr(%{REMOTE_USER}) auth"},
    {"a 1/1m key=%{a+b|c}+ip|host", "a sliding 1/60000 expr(%{a+b|c})+ip|host"},
    {"a 1/1m key=%{a{b|c}d+e}|ip", "a sliding 1/60000 expr(%{a{b|c}d+e})|ip"},
    {"a 1/1m key=x%{a}y", "a sliding 1/60000 expr(x%{a}y)"},
    {"a 1/1m key=\"%{md5:a b}\"", "a sliding 1/60000 expr(%{md5:a b})"},
    {"a 1/1m \"key=%{md5:a b}\" shadow", "a sliding 1/60000 expr(%{md5:a b}) shadow"},
    {"a 1/1m key='%{md5:a \"b\"}'", "a sliding 1/60000 expr(%{md5:a \"b\"})"},
    {"a 1/1m key=\"%{md5:a \\\"b\\\\}\"", "a sliding 1/60000 expr(%{md5:a \"b\\})"},
    {"\"a\" '1/1m' \"shadow\"", "a sliding 1/60000 ip shadow"},
    {"a 1/1m key=host+path:1", "a sliding 1/60000 host+path(1) shared"},
    {"a 1/1m key=method|server", "a sliding 1/60000 method|server shared"},
    {"a 1/1m key=ip", "a sliding 1/60000 ip"},
    {"a 1/1m key=path|header:x", "a sliding 1/60000 path|header(x)"},
    {"a 1/1m algorithm=sliding-log", "a log 1/60000 ip"},
    {"a 10000/1m algorithm=sliding-log", "a log 10000/60000 ip"},
    {"a 9/1m algorithm=token-bucket", "a bucket 9/60000 ip"},
    {"a 9/1m algorithm=token-bucket burst=20", "a bucket 9/60000 ip burst 20"},
    {"a 9/1m burst=1 algorithm=token-bucket", "a bucket 9/60000 ip burst 1"},
    {"a 37529996/1m algorithm=token-bucket", "a bucket 37529996/60000 ip"},
    {"a 0/1m algorithm=token-bucket burst=5", "a bucket 0/60000 ip burst 5"},
    {"a 9/1m algorithm=leaky-bucket", "a leaky 9/60000 ip"},
    {"a 9/1m algorithm=leaky-bucket delay=0", "a leaky 9/60000 ip"},
    {"a 9/1m algorithm=leaky-bucket burst=2 delay=500ms", "a leaky 9/60000 ip burst 2 delay 500"},
    {"a 9/1m algorithm=leaky-bucket delay=10s", "a leaky 9/60000 ip delay 10000"},
    {"a 9/1m delay=0", "a sliding 9/60000 ip"},
    {"a 9/1m block=10m", "a sliding 9/60000 ip block 600000"},
    {"a 9/1m block=31d", "a sliding 9/60000 ip block 2678400000"},
    {"a 9/1m block=1ms", "a sliding 9/60000 ip block 1"},
    {"a 9/1m charge-on=401", "a sliding 9/60000 ip on 401-401"},
    {"a 9/1m charge-on=401,403,5xx", "a sliding 9/60000 ip on 401-401 403-403 500-599"},
    {"a 9/1m charge-on=4XX,500", "a sliding 9/60000 ip on 400-500"},
    {"a 9/1m charge-on=1xx,2xx,3xx,4xx,5xx", "a sliding 9/60000 ip on 100-599"},
    {"a 9/1m key=user charge-on=402,403", "a sliding 9/60000 user on 402-403 auth"},
    {"a 9/1m key=env:X charge-on=401 phase=access", "a sliding 9/60000 env(X) on 401-401"},
    {"a 9/1m charge-on=401 block=1h algorithm=token-bucket",
     "a bucket 9/60000 ip block 3600000 on 401-401"},
    {"a 9/1m cost=9", "a sliding 9/60000 ip cost 9"},
    {"a 0/1m cost=5", "a sliding 0/60000 ip cost 5"},
    {"a 9/1m cost=20 algorithm=token-bucket burst=20", "a bucket 9/60000 ip burst 20 cost 20"},
    {"a 9/1m cost=%{HTTP:X-Cost}", "a sliding 9/60000 ip cost[%{HTTP:X-Cost}]"},
    {"a 9/1m cost=0%{HTTP:X-Cost}", "a sliding 9/60000 ip cost[0%{HTTP:X-Cost}]"},
    {"a 9/1m cost=5%{HTTP:X-Cost}", "a sliding 9/60000 ip cost[5%{HTTP:X-Cost}]"},
    {"a 9/1m cost=length('abc')", "a sliding 9/60000 ip cost[length('abc')]"},
    {"a 9/1m path=/api/**", "a sliding 9/60000 ip path[/api/**] normal[/api/**]"},
    {"a 9/1m path=//API/./v1/", "a sliding 9/60000 ip path[//API/./v1/] normal[/api/v1]"},
    {"a 9/1m path=/", "a sliding 9/60000 ip path[/] normal[/]"},
    {"a 9/1m path=/a/../../b;x=1", "a sliding 9/60000 ip path[/a/../../b;x=1] normal[/b]"},
    {"a 9/1m path=/%41b", "a sliding 9/60000 ip path[/%41b] normal[/ab]"},
    {"a 9/1m methods=POST", "a sliding 9/60000 ip methods[POST]"},
    {"a 9/1m methods=GET,POST,M-SEARCH", "a sliding 9/60000 ip methods[GET,POST,M-SEARCH]"},
    {"a 9/1m when=\"%{a} == 'b c'\"", "a sliding 9/60000 ip when[%{a} == 'b c']"},
    {"a 9/1m \"unless=-n req('X')\" when=true",
     "a sliding 9/60000 ip when[true] unless[-n req('X')]"},
    {"a 9/1m when=\"%{REMOTE_USER} == 'b'\"",
     "a sliding 9/60000 ip when[%{REMOTE_USER} == 'b'] auth"},
    {"a 9/1m unless=\"-n env('X')\"", "a sliding 9/60000 ip unless[-n env('X')] auth"},
    {"a 9/1m cost=%{note:x}", "a sliding 9/60000 ip cost[%{note:x}] auth"},
    {"a 9/1m tier=%{HTTP:X-Plan}", "a sliding 9/60000 ip tier[%{HTTP:X-Plan}]"},
    {"a 9/1m tier=%{env:PLAN}", "a sliding 9/60000 ip tier[%{env:PLAN}] auth"},
    {"a 9/1m key=%{SSL_CLIENT_S_DN}|ip", "a sliding 9/60000 expr(%{SSL_CLIENT_S_DN})|ip auth"},
    {"a 9/1m when=\"-z %{ssl_client_verify}\"",
     "a sliding 9/60000 ip when[-z %{ssl_client_verify}] auth"},
    {"a 9/1m unless=\"'x' in PeerExtList('1.2')\"",
     "a sliding 9/60000 ip unless['x' in PeerExtList('1.2')] auth"},
    {"a 9/1m tier=%{SSL_CLIENT_S_DN_OU} phase=access",
     "a sliding 9/60000 ip tier[%{SSL_CLIENT_S_DN_OU}]"},
    {"a 9/1m tier=%{HTTP:SSL_PLAN}", "a sliding 9/60000 ip tier[%{HTTP:SSL_PLAN}]"},
    {"a 9/1m tier=%{env:PLAN} phase=access", "a sliding 9/60000 ip tier[%{env:PLAN}]"},
    {"a 9/1m adaptive", "a sliding 9/60000 ip adaptive"},
    {"a 9/1m phase=early", "a sliding 9/60000 ip early"},
    {"a 9/1m phase=early path=/a key=ip|server",
     "a sliding 9/60000 ip|server path[/a] normal[/a] early"},
    {"a 9/1m phase=access", "a sliding 9/60000 ip"},
};

static void test_good(void)
{
    for (size_t i = 0; i < COUNT(good); i++) {
        rl_rule *rule;
        const char *error = parse(good[i].line, &rule);

        is_str(error ? error : print(rule), good[i].want, "%s", good[i].line);
    }
}

/* --- Invalid lines --- */

static const struct {
    const char *line, *part; /* of the message */
} bad[] = {
    {"", "expected NAME QUOTA/WINDOW"},
    {"   ", "expected NAME QUOTA/WINDOW"},
    {"\"\" 10/1m", "expected NAME QUOTA/WINDOW"},
    {"\"open 10/1m", "expected NAME QUOTA/WINDOW"},
    {"a/b 10/1m", "invalid name \"a/b\": expected 1 to 64 letters"},
    {"a:b 10/1m", "invalid name"},
    {"a{b} 10/1m", "invalid name"},
    {"\"a b\" 10/1m", "invalid name"},
    {"a2345678901234567890123456789012345678901234567890123456789012345 1/1m", "invalid name"},
    {"login", "\"login\": expected QUOTA/WINDOW or off"},
    {"login \"\" shadow", "expected QUOTA/WINDOW or off after"},
    {"login off shadow", "unexpected \"shadow\" after off"},
    {"login off \"\" shadow", "unexpected \"\"\" shadow\" after off"},
    {"login ten/1m", "invalid value \"ten/1m\": expected QUOTA/WINDOW, for example 10/1m"},
    {"login 10", "expected QUOTA/WINDOW"},
    {"login -1/1m", "expected QUOTA/WINDOW"},
    {"login +1/1m", "expected QUOTA/WINDOW"},
    {"login 1.5/1m", "expected QUOTA/WINDOW"},
    {"login /1m", "expected QUOTA/WINDOW"},
    {"login 10/", "expected a window in one of the units"},
    {"login 10/60", "expected a window in one of the units"},
    {"login 10/1x", "expected a window in one of the units"},
    {"login 10/1.5s", "expected a window in one of the units"},
    {"login 10/-1s", "expected a window in one of the units"},
    {"login 10/1m/2", "expected a window in one of the units"},
    {"login 10/315619200000w", "expected a window in one of the units"},
    {"login 10/99999999999999999999w", "expected a window in one of the units"},
    {"login 10/0s", "expected a window from 100ms to 31d"},
    {"login 10/99ms", "expected a window from 100ms to 31d"},
    {"login 10/32d", "expected a window from 100ms to 31d"},
    {"login 10/5w", "expected a window from 100ms to 31d"},
    {"login 1000000001/1s", "expected a quota of at most 1000000000"},
    {"login 9223372036854775809/1s", "expected a quota of at most 1000000000"},
    {"login 99999999999999999999999/1s", "expected a quota of at most 1000000000"},
    {"login 840726/31d", "quota and burst are at most 840725"},
    {"login 1000000000/38m", "too large to count exactly"},
    {"login 10/1m keys=ip", "unknown option \"keys=ip\"; expected one of: key=, algorithm="},
    {"login 10/1m \"\" shadow", "\"\""},
    {"login 10/1m shadow \"\"", "\"\""},
    {"login 10/1m key=ip key=ip", "option key is given twice"},
    {"login 10/1m shadow SHADOW", "option shadow is given twice"},
    {"login 10/1m shadow=on", "option shadow takes no value"},
    {"login 10/1m key", "option key= needs a value"},
    {"login 10/1m key=", "option key= needs a value"},
    {"login 10/1m key=\"\"", "option key= needs a value"},
    {"login 10/1m key=\"ip", "missing closing quote"},
    {"login 10/1m key=nobody", "invalid value \"nobody\" for key=: expected ip, ip/N, user"},
    {"login 10/1m key=ip|", "for key=: expected ip, ip/N"},
    {"login 10/1m key=+ip", "for key=: expected ip, ip/N"},
    {"login 10/1m key=ip++user", "for key=: expected ip, ip/N"},
    {"login 10/1m key=ipx", "invalid value \"ipx\" for key=: expected ip, ip/N"},
    {"login 10/1m key=ip:24", "invalid value \"ip:24\" for key=: expected ip, ip/N"},
    {"login 10/1m key=ip/0", "expected a number from 1 to 128 after"},
    {"login 10/1m key=ip/129", "expected a number from 1 to 128 after"},
    {"login 10/1m key=ip/2x", "expected a number from 1 to 128 after"},
    {"login 10/1m key=ip/", "expected a number from 1 to 128 after"},
    {"login 10/1m key=path:0", "expected a number from 1 to 1000 after"},
    {"login 10/1m key=path/1", "invalid value \"path/1\" for key=: expected ip, ip/N"},
    {"login 10/1m key=header", "invalid value \"header\" for key=: expected ip, ip/N"},
    {"login 10/1m key=header:", "invalid value \"header:\" for key=: expected ip, ip/N"},
    {"login 10/1m key=user:x", "invalid value \"user:x\" for key=: expected ip, ip/N"},
    {"login 10/1m key=server/1", "invalid value \"server/1\" for key=: expected ip, ip/N"},
    {"login 10/1m key=%{bad}", "invalid expression \"%{bad}\" for key=: syntax error"},
    {"login 10/1m key=user phase=access", "key=user needs phase=auth"},
    {"login 10/1m key=ip|user phase=access", "key=user needs phase=auth"},
    {"login 10/1m algorithm=leaky",
     "invalid value \"leaky\" for algorithm=: expected sliding-window"},
    {"login 10/1m status=399",
     "invalid value \"399\" for status=: expected a status from 400 to 599, for example "
     "status=503"},
    {"login 10/1m status=600", "expected a status from 400 to 599"},
    {"login 10/1m status=429x", "expected a status from 400 to 599"},
    {"login 10/1m on-failure=maybe",
     "invalid value \"maybe\" for on-failure=: expected local, open or closed"},
    {"login 10/1m sync=never",
     "invalid value \"never\" for sync=: expected request, lease or local"},
    {"login 10/1m sync=lease algorithm=sliding-log",
     "algorithm=sliding-log cannot be combined with sync=lease, because it stores the time of each "
     "request; algorithm=sliding-window can"},
    {"login 10/1m delay=1s sync=lease algorithm=leaky-bucket",
     "delay= cannot be combined with sync=lease: only Redis knows how long"},
    {"login 10/1m sync=lease charge-on=401",
     "charge-on= cannot be combined with sync=lease: units of a lease are charged before"},
    {"login 10/1m sync=lease block=1m",
     "block= cannot be combined with sync=lease: other hosts would spend leases"},
    {"login 10/1m phase=late", "invalid value \"late\" for phase=: expected early, access or auth"},
    {"login 10/1m headers=maybe", "invalid value \"maybe\" for headers=: expected off or on"},
    {"login 10/1m burst=20", "burst= needs algorithm=token-bucket or leaky-bucket"},
    {"login 10/1m burst=20 algorithm=sliding-log", "burst= needs algorithm=token-bucket"},
    {"login 10/1m algorithm=token-bucket burst=0",
     "invalid value \"0\" for burst=: expected a whole number from 1 to 1000000000"},
    {"login 10/1m algorithm=token-bucket burst=-1",
     "invalid value \"-1\" for burst=: expected a whole number"},
    {"login 10/1m algorithm=token-bucket burst=2x",
     "invalid value \"2x\" for burst=: expected a whole number"},
    {"login 10/1m algorithm=token-bucket burst=1000000001", "expected a whole number from 1 to"},
    {"login 10/1m algorithm=token-bucket burst=37529997", "quota and burst are at most 37529996"},
    {"login 37529997/1m algorithm=token-bucket", "quota and burst are at most 37529996"},
    {"login 10/1m delay=2s", "delay= needs algorithm=leaky-bucket"},
    {"login 10/1m delay=2s algorithm=token-bucket", "delay= needs algorithm=leaky-bucket"},
    {"login 10/1m delay=2", "invalid value \"2\" for delay=: expected a duration of at most 10s"},
    {"login 10/1m delay=-1s", "invalid value \"-1s\" for delay=: expected a duration"},
    {"login 10/1m delay=11s algorithm=leaky-bucket",
     "invalid value \"11s\" for delay=: expected a duration of at most 10s"},
    {"login 10/1m delay=1s algorithm=leaky-bucket charge-on=401",
     "delay= and charge-on= cannot be combined"},
    {"login 37529996/1m delay=10s algorithm=leaky-bucket",
     "too large to count exactly with this delay="},
    {"login 10001/1m algorithm=sliding-log",
     "invalid value \"10001/1m\": algorithm=sliding-log takes a quota of at most 10000"},
    {"login 10/1m algorithm=sliding-log sync=local",
     "needs Redis and cannot be combined with sync=local"},
    {"login 10/1m sync=local algorithm=sliding-log",
     "needs Redis and cannot be combined with sync=local"},
    {"login 10/1m cost=two",
     "invalid value \"two\" for cost=: expected a whole number from 1 to 1000000000 or an "
     "expression"},
    {"login 10/1m cost=0", "invalid value \"0\" for cost=: expected a whole number"},
    {"login 10/1m cost=-1", "invalid value \"-1\" for cost=: expected a whole number"},
    {"login 10/1m cost=1.5", "invalid value \"1.5\" for cost=: expected a whole number"},
    {"login 10/1m cost=1000000001",
     "invalid value \"1000000001\" for cost=: expected a whole number"},
    {"login 10/1m cost=%{bad}", "invalid expression \"%{bad}\" for cost=: syntax error"},
    {"login 10/1m cost=11",
     "cost=11 exceeds the 10 units that the rule admits at once: every request would be denied"},
    {"login 10/1m cost=11 algorithm=token-bucket burst=5", "cost=11 exceeds the 5 units"},
    {"login 10/1m path=api",
     "invalid value \"api\" for path=: expected a glob that begins with a slash"},
    {"login 10/1m path=**",
     "invalid value \"**\" for path=: expected a glob that begins with a slash"},
    {"login 10/1m path=", "option path= needs a value"},
    {"login 10/1m methods=,",
     "invalid value \",\" for methods=: expected methods separated by commas, for example "
     "methods=POST,PUT"},
    {"login 10/1m methods=GET,", "invalid value \"GET,\" for methods=: expected methods separated"},
    {"login 10/1m methods=GET,,POST", "expected methods separated by commas"},
    {"login 10/1m \"methods=GET POST\"", "expected methods separated by commas"},
    {"login 10/1m methods=G3T", "expected methods separated by commas"},
    {"login 10/1m when=bad", "invalid expression \"bad\" for when=: syntax error"},
    {"login 10/1m when=", "option when= needs a value"},
    {"login 10/1m unless=bad", "invalid expression \"bad\" for unless=: "},
    {"login 10/1m when=true when=false", "option when is given twice"},
    {"login 10/1m tier=bad", "invalid expression \"bad\" for tier=: "},
    {"login 10/1m charge-on=401,",
     "invalid value \"401,\" for charge-on=: expected statuses separated by commas, for "
     "example charge-on=401,403,5xx"},
    {"login 10/1m charge-on=600", "expected statuses separated by commas"},
    {"login 10/1m charge-on=099", "expected statuses separated by commas"},
    {"login 10/1m charge-on=6xx", "expected statuses separated by commas"},
    {"login 10/1m charge-on=4x", "expected statuses separated by commas"},
    {"login 10/1m charge-on=40x", "expected statuses separated by commas"},
    {"login 10/1m charge-on=4010", "expected statuses separated by commas"},
    {"login 10/1m charge-on=failed", "expected statuses separated by commas"},
    {"login 10/1m charge-on=401 phase=auth", "charge-on=401 needs phase=access"},
    {"login 10/1m charge-on=4xx key=user", "charge-on=401 needs phase=access"},
    {"login 10/1m charge-on=401 key=env:X", "charge-on=401 needs phase=access"},
    {"login 10/1m charge-on=401 tier=%{note:x}", "charge-on=401 needs phase=access"},
    {"login 10/1m block=1", "invalid value \"1\" for block=: expected a duration from 1ms to 31d"},
    {"login 10/1m block=0s", "invalid value \"0s\" for block=: expected a duration"},
    {"login 10/1m block=32d",
     "invalid value \"32d\" for block=: expected a duration from 1ms to 31d"},
    {"login 10/1m adaptive=on", "option adaptive takes no value"},
    {"login 10/1m key=user phase=early", "key=user needs phase=auth"},
    {"login 10/1m phase=access when=\"%{REMOTE_USER} == 'a'\"",
     "any key, tier or expression that reads"},
    {"login 10/1m phase=early tier=%{REMOTE_USER}",
     "reads the user, who is not known before authentication"},
    {"login 10/1m phase=access key=%{remote_user}",
     "reads the user, who is not known before authentication"},
    {"login 10/1m phase=early key=path", "key=path cannot be combined with phase=early"},
    {"login 10/1m phase=early key=ip+path:2|ip", "key=path cannot be combined with phase=early"},
    {"login 10/1m cost=%{resp:X-Cost}", "cost=: \"%{resp:X-Cost}\" reads the response"},
    {"login 10/1m cost=%{RESP:X-Cost}", "reads the response, which does not exist yet"},
    {"login 10/1m key=ip+%{resp:X-Tenant}", "key=: \"%{resp:X-Tenant}\" reads the response"},
    {"login 10/1m tier=%{resp:X-Plan}", "charge-on=, for example charge-on=404"},
    {"login 10/1m when=\"%{REQUEST_STATUS} == 404\"",
     "when=: \"%{REQUEST_STATUS} == 404\" reads the"},
    {"login 10/1m unless=\"-n resp('X-Cached')\"",
     "unless=: \"-n resp('X-Cached')\" reads the response"},
    {"login 10/1m phase=access when=\"%{CONTENT_TYPE} == 'a/b'\"", "%{HANDLER} need phase=auth"},
    {"login 10/1m phase=early when=\"%{HANDLER} == 'x'\"", "%{HANDLER} need phase=auth"},
    {"login 10/1m phase=early when=\"-f %{REQUEST_FILENAME}\"",
     "phase=early cannot be combined with %{REQUEST_FILENAME}"},
    {"login 10/1m phase=early cost=%{PATH_INFO}", "use phase=access"},
    {"login 10/1m path=/search?page=1",
     "invalid value \"/search?page=1\" for path=: a query is not part of a path"},
    {"login 10/1m \"key=header:X Api Key\"",
     "invalid value \"header:X Api Key\" for key=: expected a valid header name"},
    {"login 10/1m key=cookie:a=b", "expected a valid cookie name, for example key=cookie:session"},
};

static void test_bad(void)
{
    for (size_t i = 0; i < COUNT(bad); i++) {
        rl_rule *rule;
        const char *error = parse(bad[i].line, &rule);

        if (!ok(error && strstr(error, bad[i].part), "refused: %s", bad[i].line))
            diag("error: %s", error ? error : print(rule));
    }
}

static void test_without_expressions(void)
{
    static const char *const lines[] = {"a 1/1m key=%{HTTP_HOST}", "a 1/1m when=true",
                                        "a 1/1m unless=true", "a 1/1m cost=%{a}",
                                        "a 1/1m tier=%{a}"};
    rl_rule *rule;

    for (size_t i = 0; i < COUNT(lines); i++) {
        const char *error = rl_parse_rule(pool, lines[i], NULL, &rule);

        ok(error && strstr(error, "which only httpd can evaluate"),
           "refused without a compiler: %s", lines[i]);
    }
}

/* --- Statuses and tiers --- */

static void test_charges_on(void)
{
    rl_rule *rule;

    parse("a 1/1m", &rule);
    ok(rl_rule_charges_on(rule, 200) && rl_rule_charges_on(rule, 599),
       "a rule without charge-on= charges every response");
    parse("a 1/1m charge-on=403", &rule);
    ok(rl_rule_charges_on(rule, 403) && !rl_rule_charges_on(rule, 402)
           && !rl_rule_charges_on(rule, 404), "charge-on=403 charges that status only");
    ok(!rl_rule_charges_on(rule, -1) && !rl_rule_charges_on(rule, 600)
           && !rl_rule_charges_on(rule, 100000), "statuses out of range are not charged");
}

/* Each line adds to the rule of the last row that has one; error NULL: the line is accepted. */
static const struct {
    const char *rule, *line, *error;
} tiers[] = {
    {"a 10/1m tier=%{x}", "gold 1000", NULL},
    {NULL, "  silver \t 100 ", NULL},
    {NULL, "\"bronze\" '0'", NULL},
    {NULL, "staff unlimited", NULL},
    {NULL, "boss UNLIMITED", NULL},
    {NULL, "gold 5", "\"a\": tier \"gold\" is given twice"},
    {NULL, "Gold 5", NULL},
    {NULL, "", "expected TIER QUOTA|unlimited [burst=N], for example RateLimitTier a gold 1000"},
    {NULL, "x", "expected TIER QUOTA|unlimited [burst=N]"},
    {NULL, "x \"\"", "expected TIER QUOTA|unlimited [burst=N]"},
    {NULL, "x 5 burst=5 more", "expected TIER QUOTA|unlimited [burst=N]"},
    {NULL, "\"x 5", "expected TIER QUOTA|unlimited [burst=N]"},
    {NULL, "x/y 5", "invalid tier name \"x/y\""},
    {NULL, "\"x y\" 5", "invalid tier name \"x y\""},
    {NULL, "x -5",
     "invalid value \"-5\": expected a quota from 0 to 1000000000 or unlimited, for "
     "example RateLimitTier a gold 1000"},
    {NULL, "x 5/1m", "invalid value \"5/1m\": expected a quota"},
    {NULL, "x many", "invalid value \"many\": expected a quota"},
    {NULL, "x 1000000001", "invalid value \"1000000001\": expected a quota"},
    {NULL, "x 5 burst=10", "burst= needs algorithm=token-bucket or leaky-bucket"},
    {"a 10/31d", "x 840726", "quota and burst are at most 840725"},
    {NULL, "x 840725", NULL},
    {"a 10/1m algorithm=sliding-log", "x 10001",
     "invalid value \"10001\": algorithm=sliding-log takes a quota of at most 10000"},
    {NULL, "x 10000", NULL},
    {"a 10/1m algorithm=token-bucket burst=50", "x 20", NULL},
    {NULL, "y 20 burst=100", NULL},
    {NULL, "z 20 BURST=5", NULL},
    {NULL, "v 20 burst=0",
     "invalid value \"burst=0\": expected burst=N with N from 1 to 1000000000"},
    {NULL, "v 20 burst=many", "invalid value \"burst=many\": expected burst=N"},
    {NULL, "v 20 bust=5", "invalid value \"bust=5\": expected burst=N"},
    {NULL, "v unlimited burst=5", "burst= cannot be combined with unlimited"},
    {NULL, "v 20 burst=37529997", "quota and burst are at most 37529996"},
    {NULL, "v 37529997", "quota and burst are at most 37529996"},
    {"a 10/1m cost=5", "x 4", "cost=5 exceeds the 4 units that tier x admits"},
    {NULL, "x 5", NULL},
    {NULL, "y 0", NULL},
    {NULL, "z unlimited", NULL},
    {"a 10/1m algorithm=token-bucket burst=9 cost=5", "x 20 burst=4",
     "exceeds the 4 units that tier x admits"},
    {"a 10/1m algorithm=leaky-bucket delay=10s", "v 37529996", "with this delay="},
    {NULL, "v 30000000", NULL},
};

static void test_tiers(void)
{
    rl_rule *rule = NULL;

    for (size_t i = 0; i < COUNT(tiers); i++) {
        const char *error;
        int count;

        if (tiers[i].rule)
            parse(tiers[i].rule, &rule);
        count = rule->tier_count;
        error = rl_parse_tier(pool, rule, tiers[i].line);
        if (!ok(tiers[i].error ? error && strstr(error, tiers[i].error)
                                     && !strncmp(error, "\"a\": ", 5) && rule->tier_count == count
                               : !error && rule->tier_count == count + 1,
                "tier %s: %s", tiers[i].line, tiers[i].error ? "refused" : "accepted"))
            diag("error: %s", error ? error : "nothing");
    }
}

/* How a bucket with leases gets smaller bursts: by what is refilled in 250 ms. */
static void test_leased_bursts(void)
{
    const char *line = "api 1000/1s algorithm=token-bucket sync=lease cost=2";
    rl_rule *rule;

    parse(line, &rule);
    is_int(rl_parse_lease_ms(rule), 250, "a unit is at most a quarter of the window old");
    rl_parse_tier(pool, rule, "gold 2000 burst=1000");
    is_int(rl_parse_lease_ms(rule), 125, "or a quarter of the time in which a tier's burst drains");
    rl_parse_tier(pool, rule, "few 10 burst=7");
    rl_parse_tier(pool, rule, "staff unlimited");
    rl_parse_tier(pool, rule, "none 0");
    is_int(rl_parse_lease_ms(rule), 125, "unlimited tiers and those of 0 do not count");
    ok(!rl_parse_lease(pool, rule, 125), "the rule takes a lease of that length");
    is_int(rule->limit.burst, 875, "its burst is smaller by what is refilled meanwhile");
    is_int(rl_rule_tier(rule, "gold")->burst, 750, "so is that of a tier");
    is_int(rl_rule_tier(rule, "few")->burst, 7, "except one that is too small to be leased from");
    is_str(rule->tiers_text, "api gold 2000 750 few 10 7 staff unlimited 0 none 0 0 ",
           "and the script is told the same");

    parse("api 8/1s algorithm=token-bucket cost=8 sync=lease", &rule);
    is_str(rl_parse_lease(pool, rule, 250),
           "cost=8 exceeds the 6 units that are admitted at once with sync=lease", "cost");
    parse("api 80/1s algorithm=token-bucket cost=8 sync=lease", &rule);
    rl_parse_tier(pool, rule, "small 8");
    is_str(rl_parse_lease(pool, rule, 250), "tier \"small\": cost=8 exceeds the 6 units that are "
           "admitted at once with sync=lease", "cost and a tier");

    parse("api 1000/1s sync=lease", &rule);
    ok(rl_parse_lease_ms(rule) == 1000 && !rl_parse_lease(pool, rule, 1000)
       && rule->limit.burst == 1000, "a window keeps its whole quota");
}

static void test_tier_quotas(void)
{
    rl_rule *rule;
    const rl_tier *tier;

    parse("api 10/1m algorithm=token-bucket burst=50", &rule);
    ok(!rl_rule_tier(rule, "gold"), "a rule without tiers has none");
    is_str(rule->tiers_text, "api ", "the text for the script has only its name");
    rl_parse_tier(pool, rule, "gold 1000 burst=2000");
    rl_parse_tier(pool, rule, "free 0");
    rl_parse_tier(pool, rule, "staff unlimited");
    rl_parse_tier(pool, rule, "plain 20");
    tier = rl_rule_tier(rule, "gold");
    ok(tier && tier->quota == 1000 && tier->burst == 2000 && !tier->unlimited, "a tier is found");
    tier = rl_rule_tier(rule, "plain");
    ok(tier && tier->quota == 20 && tier->burst == 20,
       "the burst of a tier without one is its quota, not the rule's burst");
    tier = rl_rule_tier(rule, "free");
    ok(tier && tier->quota == 0 && !tier->unlimited, "a tier may have a quota of 0");
    tier = rl_rule_tier(rule, "staff");
    ok(tier && tier->unlimited, "a tier may be unlimited");
    ok(!rl_rule_tier(rule, "GOLD") && !rl_rule_tier(rule, "") && !rl_rule_tier(rule, "gol"),
       "other names are not found, nor this one in another case");
    is_str(rule->tiers_text, "api gold 1000 2000 free 0 0 staff unlimited 0 plain 20 20 ",
           "the text for the script has all tiers");
}

/* --- Words and durations --- */

static const struct {
    const char *line, *words; /* each in brackets */
} quotings[] = {
    {"a b", "[a][b]"},
    {" \t a \n b ", "[a][b]"},
    {"'a b' c", "[a b][c]"},
    {"\"a b\" c", "[a b][c]"},
    {"x=\"a b\" c", "[x=a b][c]"},
    {"\"x=a b\" c", "[x=a b][c]"},
    {"x='a b'c d", "[x=a bc][d]"},
    {"x=\"it's\"", "[x=it's]"},
    {"x='say \"a b\"'", "[x=say \"a b\"]"},
    {"x=\"a\\\"b\\\\c\\d\"", "[x=a\"b\\c\\d]"},
    {"a\"b c", "[a\"b][c]"},
    {"x=a=\"b c\"", "[x=a=\"b][c\"]"},
    {"a\\ b", "[a\\][b]"},
    {"x=\"a", "!"},
    {"'a", "!"},
    {"x='a\\'", "!"},
};

static void test_words(void)
{
    for (size_t i = 0; i < COUNT(quotings); i++) {
        const char *line = quotings[i].line, *got = "", *word;

        while ((word = rl_text_word(pool, &line)) != NULL && *word)
            got = apr_pstrcat(pool, got, "[", word, "]", NULL);
        is_str(word ? got : apr_pstrcat(pool, got, "!", NULL), quotings[i].words, "words of %s",
               quotings[i].line);
    }
}

static void test_durations(void)
{
    static const int64_t units[] = {1, 1000, 60000, 3600000, 86400000, 604800000};
    rng r = {rng_seed(4)};
    int wrong = 0;
    int64_t ms;

    for (int i = 0; i < 100000; i++) {
        int64_t unit = units[rng_next(&r) % COUNT(units)];
        int64_t want = rng_scaled(&r, 0, INT64_C(3653) * 86400000 / unit) * unit;
        const char *text = rl_text_print_duration(pool, want);

        wrong += !rl_text_duration(text, &ms) || ms != want;
        if (i % 1000 == 0)
            apr_pool_clear(pool);
    }
    is_int(wrong, 0, "a printed duration is read as the same one");
    is_str(rl_text_print_duration(pool, 60000), "1m", "printed in the largest unit");
    is_str(rl_text_print_duration(pool, 90000), "90s", "if that divides it");
    is_str(rl_text_print_duration(pool, 604800000), "1w", "up to weeks");
    is_str(rl_text_print_duration(pool, 1500), "1500ms", "down to ms");
    ok(rl_text_duration("3653d", &ms) && !rl_text_duration("3654d", &ms),
       "the longest duration is ten years");
    ok(!rl_text_duration("", &ms) && !rl_text_duration("10", &ms) && !rl_text_duration("1 s", &ms)
           && !rl_text_duration("1ss", &ms) && !rl_text_duration("-1s", &ms),
       "malformed durations are refused");
}

/* --- Counters --- */

static const struct {
    const char *a, *b;
    int same;
} counters[] = {
    {"a 10/1m", "a 10/1m", 1},
    {"a 10/1m", "a 20/60s", 1},
    {"a 10/1m", "a 10/1m key=user status=503 shadow sync=local phase=auth", 1},
    {"a 10/1m", "b 10/1m", 0},
    {"a 10/1m", "A 10/1m", 0},
    {"a 10/1m", "a 10/2m", 0},
    {"a 10/1m", "a 10/1m cost=5 path=/a methods=GET when=true adaptive block=1h charge-on=5xx", 1},
    {"a 10/1m", "a 10/1m algorithm=fixed-window", 0},
    {"a 10/1m algorithm=token-bucket", "a 20/1m algorithm=token-bucket burst=90", 1},
    {"a 10/1m algorithm=token-bucket", "a 10/1m algorithm=leaky-bucket", 0},
    {"a 10/1m algorithm=leaky-bucket", "a 10/1m algorithm=leaky-bucket delay=1s", 1},
    {"a 10/1m algorithm=sliding-log", "a 10/1m", 0},
};

static void test_counters(void)
{
    rl_rule *a, *b;

    for (size_t i = 0; i < COUNT(counters); i++) {
        parse(counters[i].a, &a);
        parse(counters[i].b, &b);
        ok((a->counter == b->counter) == counters[i].same
               && (strcmp(a->key_suffix, b->key_suffix) == 0) == counters[i].same,
           "%s and %s %s", counters[i].a, counters[i].b,
           counters[i].same ? "share a counter" : "have different counters");
    }
    parse("login 10/60s", &a);
    is_str(a->key_suffix, ":login:sliding-window:1m", "the suffix of a Redis key");
}

static const struct {
    const char *key;
    int inventable, anchored;
} keys[] = {
    {"ip", 0, 1}, {"ip/24", 0, 1}, {"server", 0, 1}, {"user", 0, 0}, {"path", 0, 0},
    {"header:X", 1, 0}, {"cookie:X", 1, 0}, {"ip+header:X", 1, 0}, {"user|header:X|ip", 1, 0},
    {"%{HTTP_HOST}", 1, 0}, {"%{req:X}", 1, 0}, {"%{QUERY_STRING}", 1, 0}, {"%{env:X}", 0, 0},
    {"user|ip", 0, 0}, {"ip+path", 0, 0},
};

static void test_keys(void)
{
    for (size_t i = 0; i < COUNT(keys); i++) {
        rl_rule *rule;

        parse(apr_pstrcat(pool, "a 1/1m key=", keys[i].key, NULL), &rule);
        is_int(rl_rule_key_is_inventable(rule), keys[i].inventable, "key=%s: clients %s identities",
               keys[i].key, keys[i].inventable ? "can invent" : "cannot invent");
        is_int(rl_rule_key_is_anchored(rule), keys[i].anchored, "clients %s the rule",
               keys[i].anchored ? "cannot evade" : "can evade");
    }
}

int main(void)
{
    apr_initialize();
    apr_pool_create(&pool, NULL);
    test_good();
    test_bad();
    test_without_expressions();
    test_charges_on();
    test_tiers();
    test_tier_quotas();
    test_leased_bursts();
    test_words();
    test_durations();
    test_counters();
    test_keys();
    apr_terminate();
    return done_testing();
}
