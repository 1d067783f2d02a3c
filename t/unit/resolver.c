/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names whose DNS hangs cost a bounded number of threads and descriptors, however often and for
 * however many names somebody asks; nobody waits for them; and an answer that comes at last is
 * heard. getaddrinfo() is this test's own.
 */
#include <apr_general.h>
#include <dirent.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "redis/resolver.h"
#include "tap.h"

static atomic_int hangs, asked, under_way;

/* Names in "test" have the address that they say; as long as DNS hangs there is no answer. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    static struct sockaddr_in address = {.sin_family = AF_INET};
    struct addrinfo *a;

    (void)service;
    (void)hints;
    atomic_fetch_add(&asked, 1);
    atomic_fetch_add(&under_way, 1);
    while (atomic_load(&hangs))
        usleep(1000);
    atomic_fetch_sub(&under_way, 1);
    if (!strstr(name, ".test"))
        return EAI_NONAME;
    a = calloc(1, sizeof(*a));
    a->ai_addr = (struct sockaddr *)&address;
    a->ai_addrlen = sizeof(address);
    *found = a;
    return 0;
}

void freeaddrinfo(struct addrinfo *found)
{
    free(found);
}

static int count_files(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;

    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static int threads(void)
{
    return count_files("/proc/self/task");
}

static int descriptors(void)
{
    return count_files("/proc/self/fd");
}

static void wait_for(atomic_int *value, int want)
{
    for (int i = 0; i < 10000 && atomic_load(value) != want; i++)
        usleep(1000);
}

static int read_in_time(rl_question *q, rl_address addresses[RL_ADDRESSES_MAX])
{
    int count = -1;

    for (int i = 0; i < 10000 && (count = rl_question_read(q, addresses)) < 0; i++)
        usleep(1000);
    return count;
}

static void test_numbers(void)
{
    static const char *const addresses[] = {"127.0.0.1", "::1", "fe80::1%eth0", "fe80::1%2"};
    static const char *const names[] = {"redis", "re%dis", "%", "%eth0", "fe80::1%", "127.0.0.1%1",
                                        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa%1"};

    for (int i = 0; i < 4; i++)
        ok(rl_resolver_is_address(addresses[i]), "%s is an address", addresses[i]);
    for (int i = 0; i < 7; i++)
        ok(!rl_resolver_is_address(names[i]), "%s is none", names[i]);
}

static void test_answers(rl_resolver *resolver)
{
    rl_address addresses[RL_ADDRESSES_MAX];
    rl_question *q = rl_resolver_ask(resolver, "redis.test");

    is_int(read_in_time(q, addresses), 1, "a name has an address");
    is_str(addresses[0].text, "0.0.0.0", "which it says in numbers");
    rl_question_end(q);
    q = rl_resolver_ask(resolver, "redis.invalid");
    is_int(read_in_time(q, addresses), 0, "another one has none");
    rl_question_end(q);
    is_int(atomic_load(&asked), 2, "each was asked for once");
}

/* As a child asks three sentinels in turn for as long as DNS hangs. */
static void test_few_names(rl_resolver *resolver)
{
    static const char *const names[] = {"s1.test", "s2.test", "s3.test"};
    rl_address addresses[RL_ADDRESSES_MAX];
    int before = threads(), open = descriptors(), hung = 0;
    rl_question *q, *other;

    atomic_store(&asked, 0);
    atomic_store(&hangs, 1);
    for (int i = 0; i < 300; i++) {
        q = rl_resolver_ask(resolver, names[i % 3]);
        hung += rl_question_read(q, addresses) == -1;
        rl_question_end(q);
    }
    is_int(hung, 300, "nobody gets an answer while DNS hangs");
    wait_for(&under_way, 3);
    is_int(atomic_load(&asked), 3, "three names are asked for once each, not each time");
    ok(threads() <= before + 3, "by three threads");
    ok(descriptors() <= open + 3, "with three descriptors");
    q = rl_resolver_ask(resolver, "s1.test");
    other = rl_resolver_ask(resolver, "s1.test");
    atomic_store(&hangs, 0);
    is_int(read_in_time(q, addresses), 1, "the answer that comes at last is heard");
    is_int(read_in_time(other, addresses), 1, "by everybody who waits for it");
    rl_question_end(q);
    rl_question_end(other);
    wait_for(&under_way, 0);
    q = rl_resolver_ask(resolver, "s2.test");
    is_int(read_in_time(q, addresses), 1, "and soon after by whoever asks next");
    rl_question_end(q);
    is_int(atomic_load(&asked), 3, "without another question");
    q = rl_resolver_ask(resolver, "s2.test");
    is_int(read_in_time(q, addresses), 1, "who has had it and comes back");
    is_int(atomic_load(&asked), 4, "asks anew: the name may have moved");
    rl_question_end(q);
}

static void test_many_names(rl_resolver *resolver)
{
    rl_address addresses[RL_ADDRESSES_MAX];
    rl_question *all[3 * RL_QUESTIONS_MAX];
    int before = threads(), answered = 0;
    char name[32];

    atomic_store(&asked, 0);
    atomic_store(&hangs, 1);
    for (int i = 0; i < 3 * RL_QUESTIONS_MAX; i++) {
        snprintf(name, sizeof(name), "n%d.test", i);
        all[i] = rl_resolver_ask(resolver, name);
    }
    wait_for(&under_way, RL_QUESTIONS_MAX);
    for (int i = 0; i < 3 * RL_QUESTIONS_MAX; i++)
        answered += rl_question_read(all[i], addresses) >= 0;
    is_int(answered, 0, "nobody has an answer");
    ok(threads() <= before + RL_QUESTIONS_MAX, "many names take a bounded number of threads");
    is_int(atomic_load(&asked), RL_QUESTIONS_MAX, "the others wait for their turn");
    atomic_store(&hangs, 0);
    for (int i = 0; i < 3 * RL_QUESTIONS_MAX; i++)
        answered += read_in_time(all[i], addresses) == 1;
    is_int(answered, 3 * RL_QUESTIONS_MAX, "which comes");
    for (int i = 0; i < 3 * RL_QUESTIONS_MAX; i++)
        rl_question_end(all[i]);
}

static void test_end(rl_resolver *resolver)
{
    int open;

    rl_resolver_close(resolver);
    wait_for(&under_way, 0);
    open = descriptors();
    atomic_store(&hangs, 1);
    rl_resolver_ask(resolver, "late.test");
    wait_for(&under_way, 1);
    rl_resolver_close(resolver);
    pass("the end does not wait for an answer");
    atomic_store(&hangs, 0);
    wait_for(&under_way, 0);
    for (int i = 0; i < 10000 && descriptors() != open; i++)
        usleep(1000);
    is_int(descriptors(), open, "which takes the last of the question with it");
}

int main(void)
{
    apr_pool_t *pool;
    rl_resolver *resolver;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    resolver = rl_resolver_create(pool);
    test_numbers();
    test_answers(resolver);
    test_few_names(resolver);
    test_many_names(resolver);
    test_end(resolver);
    return done_testing();
}
