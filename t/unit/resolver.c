/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resolver while DNS hangs: however often and however many names are looked up, threads and
 * descriptors stay bounded and no caller waits; an answer that comes late is used. This file
 * replaces getaddrinfo().
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

/* Names in "test" have the address 0.0.0.0, others have none. Does not return while DNS hangs. */
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

static int read_in_time(rl_lookup *l, rl_address addresses[RL_ADDRESSES_MAX])
{
    int count = -1;

    for (int i = 0; i < 10000 && (count = rl_lookup_read(l, addresses)) < 0; i++)
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
        ok(!rl_resolver_is_address(names[i]), "%s is not", names[i]);
}

static void test_answers(rl_resolver *resolver)
{
    rl_address addresses[RL_ADDRESSES_MAX];
    rl_lookup *l = rl_resolver_look_up(resolver, "redis.test");

    is_int(read_in_time(l, addresses), 1, "a name has an address");
    is_str(addresses[0].text, "0.0.0.0", "in numbers");
    rl_lookup_end(l);
    l = rl_resolver_look_up(resolver, "redis.invalid");
    is_int(read_in_time(l, addresses), 0, "another has none");
    rl_lookup_end(l);
    is_int(atomic_load(&asked), 2, "each was looked up once");
}

/* As a child tries three sentinels in turn while DNS hangs. */
static void test_few_names(rl_resolver *resolver)
{
    static const char *const names[] = {"s1.test", "s2.test", "s3.test"};
    rl_address addresses[RL_ADDRESSES_MAX];
    int before = threads(), open = descriptors(), hung = 0;
    rl_lookup *l, *other;

    atomic_store(&asked, 0);
    atomic_store(&hangs, 1);
    for (int i = 0; i < 300; i++) {
        l = rl_resolver_look_up(resolver, names[i % 3]);
        hung += rl_lookup_read(l, addresses) == -1;
        rl_lookup_end(l);
    }
    is_int(hung, 300, "no lookup is answered while DNS hangs");
    wait_for(&under_way, 3);
    is_int(atomic_load(&asked), 3, "each of three names is looked up once, not each time");
    ok(threads() <= before + 3, "by three threads");
    ok(descriptors() <= open + 3, "with three descriptors");
    l = rl_resolver_look_up(resolver, "s1.test");
    other = rl_resolver_look_up(resolver, "s1.test");
    atomic_store(&hangs, 0);
    is_int(read_in_time(l, addresses), 1, "a late answer is used");
    is_int(read_in_time(other, addresses), 1, "by every caller that waits for it");
    rl_lookup_end(l);
    rl_lookup_end(other);
    wait_for(&under_way, 0);
    l = rl_resolver_look_up(resolver, "s2.test");
    is_int(read_in_time(l, addresses), 1, "and by a caller that comes soon after");
    rl_lookup_end(l);
    is_int(atomic_load(&asked), 3, "without another lookup");
    l = rl_resolver_look_up(resolver, "s2.test");
    is_int(read_in_time(l, addresses), 1, "a caller that comes after it was read");
    is_int(atomic_load(&asked), 4, "has it looked up again: the address may have changed");
    rl_lookup_end(l);
}

static void test_many_names(rl_resolver *resolver)
{
    rl_address addresses[RL_ADDRESSES_MAX];
    rl_lookup *all[3 * RL_LOOKUPS_MAX];
    int before = threads(), answered = 0;
    char name[32];

    atomic_store(&asked, 0);
    atomic_store(&hangs, 1);
    for (int i = 0; i < 3 * RL_LOOKUPS_MAX; i++) {
        snprintf(name, sizeof(name), "n%d.test", i);
        all[i] = rl_resolver_look_up(resolver, name);
    }
    wait_for(&under_way, RL_LOOKUPS_MAX);
    for (int i = 0; i < 3 * RL_LOOKUPS_MAX; i++)
        answered += rl_lookup_read(all[i], addresses) >= 0;
    is_int(answered, 0, "no lookup is answered");
    ok(threads() <= before + RL_LOOKUPS_MAX, "many names take a bounded number of threads");
    is_int(atomic_load(&asked), RL_LOOKUPS_MAX, "the others wait for their turn");
    atomic_store(&hangs, 0);
    for (int i = 0; i < 3 * RL_LOOKUPS_MAX; i++)
        answered += read_in_time(all[i], addresses) == 1;
    is_int(answered, 3 * RL_LOOKUPS_MAX, "which comes");
    for (int i = 0; i < 3 * RL_LOOKUPS_MAX; i++)
        rl_lookup_end(all[i]);
}

static void test_end(rl_resolver *resolver)
{
    int open;

    rl_resolver_close(resolver);
    wait_for(&under_way, 0);
    open = descriptors();
    atomic_store(&hangs, 1);
    rl_resolver_look_up(resolver, "late.test");
    wait_for(&under_way, 1);
    rl_resolver_close(resolver);
    pass("closing does not wait for an answer");
    atomic_store(&hangs, 0);
    wait_for(&under_way, 0);
    for (int i = 0; i < 10000 && descriptors() != open; i++)
        usleep(1000);
    is_int(descriptors(), open, "and a late answer frees the last of its lookup");
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
