/*
 * The grammar of a RateLimit line: what good lines compile to, exactly; what is said of bad ones;
 * words, quotes and durations; which rules share a counter.
 */
#include <apr_general.h>
#include <apr_strings.h>

#include "random.h"
#include "rule.h"
#include "tap.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static apr_pool_t *pool;

/* Stands in for httpd: an expression that says "bad" is none. */
static const char *compile(void *context, const char *text, int boolean, const void **compiled)
{
    (void)context;
    (void)boolean;
    if (strstr(text, "bad"))
        return "syntax error";
    *compiled = text;
    return NULL;
}

static const char *parse(const char *line, rl_rule **rule)
{
    *rule = NULL;
    return rl_rule_parse(pool, line, compile, NULL, rule);
}

/* --- Good lines --- */

/* A rule as one line; what stands at its default is left out. */
static const char *print(const rl_rule *rule)
{
    static const char *const kinds[] = {"ip", "user", "header", "cookie", "env", "method", "host",
                                        "path", "server", "expr"};
    static const char *const failures[] = {"", " local", " open", " closed"};
    static const char *const phases[] = {" unset", " early", "", " auth"};
    const char *text;

    if (rule->off)
        return apr_psprintf(pool, "%s off", rule->name);
    text = apr_psprintf(pool, "%s %s %" PRId64 "/%" PRId64 " ", rule->name,
                        rule->limit.algorithm == RL_FIXED_WINDOW ? "fixed" : "sliding",
                        rule->limit.quota, rule->limit.window_ms);
    for (int i = 0; i < rule->key_count; i++) {
        for (int j = 0; j < rule->keys[i].count; j++) {
            const rl_key_part *p = &rule->keys[i].parts[j];

            text = apr_pstrcat(pool, text, j ? "+" : i ? "|" : "", kinds[p->kind], NULL);
            if (p->number)
                text = apr_psprintf(pool, "%s(%d)", text, p->number);
            if (p->name)
                text = apr_psprintf(pool, "%s(%s)", text, p->name);
        }
    }
    return apr_psprintf(pool, "%s%s%s%s%s%s%s", text,
                        rule->status == 429 ? "" : apr_psprintf(pool, " %d", rule->status),
                        failures[rule->on_failure], rule->sync == RL_SYNC_LOCAL ? " here" : "",
                        phases[rule->phase], rule->headers ? "" : " quiet",
                        rule->shadow ? " shadow" : "");
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
    {"a 1/1m status=503 headers=off shadow", "a sliding 1/60000 ip 503 quiet shadow"},
    {"a 1/1m headers=on status=400", "a sliding 1/60000 ip 400"},
    {"a 1/1m on-failure=local", "a sliding 1/60000 ip local"},
    {"a 1/1m on-failure=open", "a sliding 1/60000 ip open"},
    {"a 1/1m on-failure=closed sync=request", "a sliding 1/60000 ip closed"},
    {"a 1/1m sync=local phase=auth", "a sliding 1/60000 ip here auth"},
    {"a 1/1m key=ip/24", "a sliding 1/60000 ip(24)"},
    {"a 1/1m key=ip/128", "a sliding 1/60000 ip(128)"},
    {"a 1/1m key=user", "a sliding 1/60000 user auth"},
    {"a 1/1m key=user|ip", "a sliding 1/60000 user|ip auth"},
    {"a 1/1m key=env:X", "a sliding 1/60000 env(X) auth"},
    {"a 1/1m key=env:X phase=access", "a sliding 1/60000 env(X)"},
    {"a 1/1m key=header:X-Api-Key", "a sliding 1/60000 header(X-Api-Key)"},
    {"a 1/1m key=HEADER:x|cookie:Sid|ip", "a sliding 1/60000 header(x)|cookie(Sid)|ip"},
    {"a 1/1m key=ip+path", "a sliding 1/60000 ip+path"},
    {"a 1/1m key=ip+path:2+method|host", "a sliding 1/60000 ip+path(2)+method|host"},
    {"a 1/1m key=server", "a sliding 1/60000 server"},
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
};

static void test_good(void)
{
    for (size_t i = 0; i < COUNT(good); i++) {
        rl_rule *rule;
        const char *error = parse(good[i].line, &rule);

        is_str(error ? error : print(rule), good[i].want, "%s", good[i].line);
    }
}

/* --- Bad lines --- */

static const struct {
    const char *line, *part; /* of the message */
} bad[] = {
    {"", "needs NAME QUOTA/WINDOW"},
    {"   ", "needs NAME QUOTA/WINDOW"},
    {"\"\" 10/1m", "needs NAME QUOTA/WINDOW"},
    {"\"open 10/1m", "needs NAME QUOTA/WINDOW"},
    {"a/b 10/1m", "\"a/b\" is no name"},
    {"a:b 10/1m", "is no name"},
    {"a{b} 10/1m", "is no name"},
    {"\"a b\" 10/1m", "is no name"},
    {"a2345678901234567890123456789012345678901234567890123456789012345 1/1m", "is no name"},
    {"login", "\"login\": needs QUOTA/WINDOW or off"},
    {"login \"\" shadow", "needs QUOTA/WINDOW or off"},
    {"login off shadow", "takes nothing behind off"},
    {"login off \"\" shadow", "takes nothing behind off"},
    {"login ten/1m", "\"ten/1m\" is not QUOTA/WINDOW"},
    {"login 10", "is not QUOTA/WINDOW"},
    {"login -1/1m", "is not QUOTA/WINDOW"},
    {"login +1/1m", "is not QUOTA/WINDOW"},
    {"login 1.5/1m", "is not QUOTA/WINDOW"},
    {"login /1m", "is not QUOTA/WINDOW"},
    {"login 10/", "needs a window with one of the units"},
    {"login 10/60", "needs a window with one of the units"},
    {"login 10/1x", "needs a window with one of the units"},
    {"login 10/1.5s", "needs a window with one of the units"},
    {"login 10/-1s", "needs a window with one of the units"},
    {"login 10/1m/2", "needs a window with one of the units"},
    {"login 10/315619200000w", "needs a window with one of the units"},
    {"login 10/99999999999999999999w", "needs a window with one of the units"},
    {"login 10/0s", "needs a window above zero"},
    {"login 10/99ms", "needs a window of 100ms to 31d"},
    {"login 10/32d", "needs a window of 100ms to 31d"},
    {"login 10/5w", "needs a window of 100ms to 31d"},
    {"login 1000000001/1s", "a quota above 1000000000"},
    {"login 9223372036854775809/1s", "a quota above 1000000000"},
    {"login 99999999999999999999999/1s", "a quota above 1000000000"},
    {"login 840726/31d", "the quota is at most 840725"},
    {"login 1000000000/38m", "too large to count exactly"},
    {"login 10/1m keys=ip", "\"keys=ip\" is no option; known are key=, algorithm="},
    {"login 10/1m \"\" shadow", "\"\""},
    {"login 10/1m shadow \"\"", "\"\""},
    {"login 10/1m key=ip key=ip", "option key is given twice"},
    {"login 10/1m shadow SHADOW", "option shadow is given twice"},
    {"login 10/1m shadow=on", "option shadow takes no value"},
    {"login 10/1m key", "option key= needs a value"},
    {"login 10/1m key=", "option key= needs a value"},
    {"login 10/1m key=\"\"", "option key= needs a value"},
    {"login 10/1m key=\"ip", "a quote is not closed"},
    {"login 10/1m key=nobody", "\"nobody\" is none of ip, ip/N, user"},
    {"login 10/1m key=ip|", "is none of"},
    {"login 10/1m key=+ip", "is none of"},
    {"login 10/1m key=ip++user", "is none of"},
    {"login 10/1m key=ipx", "\"ipx\" is none of"},
    {"login 10/1m key=ip:24", "\"ip:24\" is none of"},
    {"login 10/1m key=ip/0", "needs a number of 1 to 128"},
    {"login 10/1m key=ip/129", "needs a number of 1 to 128"},
    {"login 10/1m key=ip/2x", "needs a number of 1 to 128"},
    {"login 10/1m key=ip/", "needs a number of 1 to 128"},
    {"login 10/1m key=path:0", "needs a number of 1 to 1000"},
    {"login 10/1m key=path/1", "\"path/1\" is none of"},
    {"login 10/1m key=header", "\"header\" is none of"},
    {"login 10/1m key=header:", "\"header:\" is none of"},
    {"login 10/1m key=user:x", "\"user:x\" is none of"},
    {"login 10/1m key=server/1", "\"server/1\" is none of"},
    {"login 10/1m key=%{bad}", "\"%{bad}\" is no expression: syntax error"},
    {"login 10/1m key=user phase=access", "key=user needs phase=auth"},
    {"login 10/1m key=ip|user phase=access", "key=user needs phase=auth"},
    {"login 10/1m algorithm=leaky", "algorithm=leaky is none of sliding-window"},
    {"login 10/1m algorithm=sliding-log", "algorithm=sliding-log is not supported in this version"},
    {"login 10/1m algorithm=token-bucket", "is not supported in this version"},
    {"login 10/1m algorithm=leaky-bucket", "is not supported in this version"},
    {"login 10/1m status=399", "status=399 is not a status of 400 to 599"},
    {"login 10/1m status=600", "is not a status of 400 to 599"},
    {"login 10/1m status=429x", "is not a status of 400 to 599"},
    {"login 10/1m on-failure=maybe", "on-failure=maybe is none of local, open and closed"},
    {"login 10/1m sync=never", "sync=never is none of request, lease and local"},
    {"login 10/1m sync=lease", "sync=lease is not supported in this version"},
    {"login 10/1m phase=late", "phase=late is none of early, access and auth"},
    {"login 10/1m phase=early", "phase=early is not supported in this version"},
    {"login 10/1m headers=maybe", "headers=maybe is neither on nor off"},
    {"login 10/1m burst=20", "option burst= is not supported in this version"},
    {"login 10/1m burst=0", "burst=: \"0\" is not a whole number"},
    {"login 10/1m delay=2s", "option delay= is not supported in this version"},
    {"login 10/1m delay=2", "delay=: \"2\" is not a duration"},
    {"login 10/1m cost=2", "option cost= is not supported in this version"},
    {"login 10/1m cost=two", "cost=: \"two\" is not a whole number"},
    {"login 10/1m cost=%{bad}", "cost=: \"%{bad}\" is no expression"},
    {"login 10/1m path=/a methods=GET", "option path= is not supported in this version"},
    {"login 10/1m methods=GET,POST", "option methods= is not supported in this version"},
    {"login 10/1m when=\"%{a} == 'b c'\"", "option when= is not supported in this version"},
    {"login 10/1m when=bad", "when=: \"bad\" is no expression"},
    {"login 10/1m unless=true", "option unless= is not supported in this version"},
    {"login 10/1m tier=%{a}", "option tier= is not supported in this version"},
    {"login 10/1m charge-on=401,5xx", "option charge-on= is not supported in this version"},
    {"login 10/1m charge-on=401,", "is not a list of statuses"},
    {"login 10/1m charge-on=600", "is not a list of statuses"},
    {"login 10/1m block=1m", "option block= is not supported in this version"},
    {"login 10/1m adaptive", "option adaptive is not supported in this version"},
};

static void test_bad(void)
{
    for (size_t i = 0; i < COUNT(bad); i++) {
        rl_rule *rule;
        const char *error = parse(bad[i].line, &rule);

        ok(error && strstr(error, bad[i].part), "refused: %s", bad[i].line);
        if (!error || !strstr(error, bad[i].part))
            diag("said: %s", error ? error : print(rule));
    }
}

static void test_without_expressions(void)
{
    rl_rule *rule;
    const char *error = rl_rule_parse(pool, "a 1/1m key=%{HTTP_HOST}", NULL, NULL, &rule);

    ok(error && strstr(error, "known to httpd only"), "without httpd there are no expressions");
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

        while ((word = rl_rule_word(pool, &line)) != NULL && *word)
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
        const char *text = rl_rule_print_duration(pool, want);

        wrong += !rl_rule_duration(text, &ms) || ms != want;
        if (i % 1000 == 0)
            apr_pool_clear(pool);
    }
    is_int(wrong, 0, "what is printed of a duration reads as the same one");
    is_str(rl_rule_print_duration(pool, 60000), "1m", "in the largest unit");
    is_str(rl_rule_print_duration(pool, 90000), "90s", "that divides it");
    is_str(rl_rule_print_duration(pool, 604800000), "1w", "up to weeks");
    is_str(rl_rule_print_duration(pool, 1500), "1500ms", "down to ms");
    ok(rl_rule_duration("3653d", &ms) && !rl_rule_duration("3654d", &ms), "ten years are the most");
    ok(!rl_rule_duration("", &ms) && !rl_rule_duration("10", &ms) && !rl_rule_duration("1 s", &ms)
           && !rl_rule_duration("1ss", &ms) && !rl_rule_duration("-1s", &ms),
       "what is no duration is none");
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
    {"a 10/1m", "a 10/1m algorithm=fixed-window", 0},
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
           counters[i].same ? "share a counter" : "never meet");
    }
    parse("login 10/60s", &a);
    is_str(a->key_suffix, ":login:sliding-window:1m", "the end of a Redis key");
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
        is_int(rl_rule_key_is_inventable(rule), keys[i].inventable, "key=%s: clients %s it",
               keys[i].key, keys[i].inventable ? "can invent" : "cannot invent");
        is_int(rl_rule_key_is_anchored(rule), keys[i].anchored, "and it %s dodged",
               keys[i].anchored ? "cannot be" : "may be");
    }
}

int main(void)
{
    apr_initialize();
    apr_pool_create(&pool, NULL);
    test_good();
    test_bad();
    test_without_expressions();
    test_words();
    test_durations();
    test_counters();
    test_keys();
    apr_terminate();
    return done_testing();
}
