/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Redis fails and recovers thousands of times while callers ask. The breaker must open and close
 * each time, and the client must have as many descriptors, threads and bytes at the end as after
 * the first tenth. STORM_CYCLES sets the number of cycles. Skipped without redis-server.
 *
 * Redis fails in four ways: it closes its port and its connections, it is out of memory, it forbids
 * the script, or it does not answer. It is addressed by a name, so each reconnect resolves one.
 */
#include <dirent.h>
#include <limits.h>
#include <malloc.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <apr_general.h>

#include "client.h"
#include "redis.h"
#include "tap.h"

#define CALLERS 8
#define TIMEOUT_MS 50 /* long enough for a busy machine */
#define CONNECT_MS 100
#define PATIENCE_US INT64_C(20000000)
#define HEAP_MORE 8192
#define RESIDENT_MORE_KB 512

/* The allocator of a sanitizer keeps freed memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static const rl_breaker_options retry = {1, 4};
static rl_client *client;
static rl_breaker *breaker;
static atomic_int stop;
static int port;

/* --- Redis -------------------------------------------------------------------------------- */

/* Reserves a port, as Ports.pm does, until this program ends. Returns 0 if it is taken. */
static int claim(int number)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_INET, SOCK_STREAM, 0), lock = socket(AF_UNIX, SOCK_DGRAM, 0), length;
    int claimed;

    length = 1 + snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "ratelimit-test-port-%d",
                          number);
    claimed = !bind(fd, (struct sockaddr *)&address, sizeof(address))
        && !bind(lock, (struct sockaddr *)&name,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length));
    close(fd);
    if (!claimed)
        close(lock);
    return claimed;
}

/*
 * A port below those that the kernel takes for outgoing connections. Such a connection would keep
 * Redis from binding the port again, also for a minute after its end.
 */
static int free_port(void)
{
    for (int i = 0; i < 500; i++) {
        int number = 12000 + (getpid() * 31 + i * 7) % 20000;

        if (claim(number))
            return number;
    }
    abort();
}

static void refuse(int goes)
{
    const char *said = ask("CONFIG SET port %d", goes ? 0 : port);

    if (strcmp(said, "OK"))
        diag("port %d: %s", port, said);
    if (goes)
        ask("CLIENT KILL TYPE normal SKIPME yes");
}

static void say_nothing(int goes)
{
    kill(server, goes ? SIGSTOP : SIGCONT);
}

static void fill_memory(int goes)
{
    ask("CONFIG SET maxmemory %d", goes);
}

static void forbid(int goes)
{
    ask("ACL SETUSER default %s", goes ? "-evalsha" : "+evalsha");
}

static void (*const ways[])(int goes) = {refuse, fill_memory, forbid};

/* Not answering takes as long as the timeouts, so it comes more rarely. */
static void turn(int n, int goes)
{
    (n % 16 == 15 ? say_nothing : ways[n % 3])(goes);
}

/* --- Callers ------------------------------------------------------------------------------ */

static rl_failure decide(int caller)
{
    rl_limit limit = {.algorithm = RL_SLIDING_WINDOW, .quota = RL_COUNT_MAX, .window_ms = 1000,
                      .burst = RL_COUNT_MAX};
    char key[64];
    rl_ask a = {.key = key, .limit = &limit, .cost = 1};
    int charged;

    snprintf(key, sizeof(key), "rl:{ip:10.0.0.%d}:page:sliding-window:1s", caller);
    return rl_client_decide(client, &a, 1, 0, rl_link_clock() + TIMEOUT_MS * 1000, &charged);
}

/* Requests of a site, which go on whether Redis answers or not. */
static void *call(void *number)
{
    while (!atomic_load(&stop)) {
        if (decide((int)(size_t)number) != RL_ANSWERED)
            usleep(500);
    }
    return NULL;
}

/* Asks until the breaker is open and a call was not answered, or closed and one was. */
static int reaches(int open)
{
    int64_t until_us = rl_link_clock() + PATIENCE_US;

    while (rl_link_clock() < until_us) {
        int answered = decide(0) == RL_ANSWERED;

        rl_client_probe(client);
        if ((rl_breaker_read(breaker) == RL_BREAKER_OPEN) == open && answered == !open)
            return 1;
        if (!answered)
            usleep(200);
    }
    return 0;
}

/* --- What it costs ------------------------------------------------------------------------ */

typedef struct {
    long fds;
    long threads;
    long heap; /* bytes in use; pools map other memory */
    long resident_kb;
} resources;

/*
 * glibc keeps some freed memory for the thread that freed it, and counts it as in use. That grows
 * for thousands of cycles, until each thread has met each size, which looks like a leak or hides
 * one. It can be switched off only when a program starts, so this one starts itself again.
 */
static void keep_nothing_back(char **args)
{
    static const char tunable[] = "glibc.malloc.tcache_count=0";
    const char *set = getenv("GLIBC_TUNABLES");

    if (set && !strcmp(set, tunable))
        return;
    setenv("GLIBC_TUNABLES", tunable, 1);
    execv("/proc/self/exe", args);
}

static long entries(const char *path)
{
    DIR *dir = opendir(path);
    long n = -3; /* itself, . and .. */

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Calls in flight use memory, so this takes the least of several readings. */
static long heap_in_use(void)
{
    long least = LONG_MAX;

    for (int i = 0; i < 20; i++) {
        long now = (long)mallinfo2().uordblks;

        least = now < least ? now : least;
        usleep(500);
    }
    return least;
}

static resources measure(void)
{
    FILE *statm = fopen("/proc/self/statm", "r");
    resources r = {entries("/proc/self/fd"), entries("/proc/self/task"), heap_in_use(), 0};

    if (fscanf(statm, "%*d %ld", &r.resident_kb) != 1)
        abort();
    fclose(statm);
    r.resident_kb *= sysconf(_SC_PAGESIZE) / 1024;
    return r;
}

/* A name may be being resolved while the link is down, so this measures while it is up. */
static int settles(void)
{
    int64_t until_us = rl_link_clock() + PATIENCE_US;
    resources r = measure();

    while (rl_link_clock() < until_us) {
        long fds = r.fds, threads = r.threads;

        for (int i = 0; i < 20; i++) {
            decide(0);
            usleep(1000);
        }
        r = measure();
        if (r.fds == fds && r.threads == threads)
            return 1;
    }
    return 0;
}

/* --- The storm ---------------------------------------------------------------------------- */

static int cycle(int n)
{
    int opens, closes;

    turn(n, 1);
    opens = reaches(1);
    turn(n, 0);
    closes = reaches(0);
    if (!opens || !closes)
        diag("cycle %d: %s", n, opens ? "it does not close" : "it does not open");
    return opens && closes;
}

static void storm(const char *what, apr_pool_t *parent, int threaded, int cycles)
{
    pthread_t threads[CALLERS];
    int callers = threaded ? CALLERS : 0, done = 0;
    resources early = {0}, late;
    char url[64], name[RL_BREAKER_NAME];
    apr_pool_t *pool;

    apr_pool_create(&pool, parent);
    memset(&client_breakers, 0, sizeof(client_breakers));
    atomic_store(&stop, 0);
    snprintf(url, sizeof(url), "redis://localhost:%d", port);
    client = client_of(pool, url, threaded, TIMEOUT_MS, CONNECT_MS, retry);
    breaker = client ? rl_breaker_at(&client_breakers, 0, name) : NULL;
    ok(breaker && reaches(0), "%s: Redis answers at first", what);
    if (!breaker)
        return;
    for (int i = 0; i < callers; i++)
        pthread_create(&threads[i], NULL, call, (void *)(size_t)(i + 1));
    while (done < cycles && cycle(done)) {
        if (++done == cycles / 10) {
            settles();
            early = measure();
        }
    }
    is_int(done, cycles, "%s: the breaker opens and closes in each cycle", what);
    ok(settles(), "%s: then the link stays up", what);
    late = measure();
    /* Early on, a thread that resolves a name may have been at work. */
    ok(late.fds <= early.fds, "%s: no more descriptors than early on: %ld and %ld", what,
       early.fds, late.fds);
    ok(late.threads <= early.threads, "%s: no more threads: %ld and %ld", what, early.threads,
       late.threads);
    ok(SANITIZED || late.heap - early.heap < HEAP_MORE, "%s: as many bytes: %ld and %ld", what,
       early.heap, late.heap);
    ok(SANITIZED || late.resident_kb - early.resident_kb < RESIDENT_MORE_KB,
       "%s: as much memory: %ld and %ld kB", what, early.resident_kb, late.resident_kb);
    atomic_store(&stop, 1);
    for (int i = 0; i < callers; i++)
        pthread_join(threads[i], NULL);
    rl_client_stop(client);
    apr_pool_destroy(pool);
}

int main(int count, char **args)
{
    const char *times = getenv("STORM_CYCLES");
    int cycles = times ? atoi(times) : 300;
    apr_pool_t *pool;

    (void)count;
    keep_nothing_back(args);
    if (!start_redis()) {
        printf("1..0 # SKIP no redis-server\n");
        return 0;
    }
    apr_initialize();
    apr_pool_create(&pool, NULL);
    port = free_port();
    refuse(0);
    storm("with an I/O thread", pool, 1, cycles / 2);
    storm("without an I/O thread", pool, 0, cycles / 2);
    return done_testing();
}
