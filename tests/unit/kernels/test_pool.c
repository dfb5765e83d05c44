/* The thread pool: every thread runs once, ranges cover, an idle pool sleeps; and what the cgroup says. */
#include "kernels/pool.h"

#include "kernels/machine.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct counts {
    atomic_int runs[8];
    int n_threads;
    long total; /* written by the caller between runs, read by workers */
};

static void count(void *arg, int thread, int n_threads)
{
    struct counts *c = arg;
    ck_assert_int_eq(n_threads, c->n_threads);
    atomic_fetch_add(&c->runs[thread], 1 + (int)(c->total & 1));
}

START_TEST(every_thread_runs_once)
{
    for (int n = 1; n <= 8; n++) {
        struct pool *p = pool_open(n);
        struct counts c = {.n_threads = n};
        ck_assert_ptr_nonnull(p);
        ck_assert_int_eq(pool_size(p), n);
        for (int i = 0; i < 2000; i++) {
            c.total = i;
            pool_run(p, count, &c);
        }
        for (int t = 0; t < 8; t++)
            ck_assert_int_eq(atomic_load(&c.runs[t]), t < n ? 3000 : 0);
        pool_close(p);
    }
}
END_TEST

static void enter(void *arg, int thread)
{
    struct counts *c = arg;
    atomic_fetch_add(&c->runs[thread], 1);
}

START_TEST(every_thread_enters)
{
    struct counts c = {.n_threads = 4};
    struct pool *p = pool_open_placed(4, enter, &c);
    ck_assert_ptr_nonnull(p);
    ck_assert_int_eq(atomic_load(&c.runs[0]), 0);
    pool_adopt(p);
    for (int i = 0; i < 3; i++)
        pool_run(p, count, &c);
    for (int t = 0; t < 4; t++)
        ck_assert_int_eq(atomic_load(&c.runs[t]), t ? 5 : 4); /* workers again when they are started anew */
    pool_close(p);
    pool_adopt(NULL);
}
END_TEST

static int own_priority(void)
{
    return getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
}

static void note_priority(void *arg, int thread, int n_threads)
{
    (void)n_threads;
    ((int *)arg)[thread] = own_priority();
}

static void *open_at_low_priority(void *arg)
{
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
    *(struct pool **)arg = pool_open(4);
    return NULL;
}

/* Workers of a pool that was opened at low priority have that of who adopts it. */
START_TEST(adopted_workers_have_the_priority_of_their_caller)
{
    struct pool *p = NULL;
    pthread_t thread;
    int seen[4] = {-99, -99, -99, -99};
    ck_assert(!pthread_create(&thread, NULL, open_at_low_priority, &p));
    pthread_join(thread, NULL);
    pool_run(p, note_priority, seen);
    for (int t = 1; t < 4; t++)
        ck_assert_int_eq(seen[t], 19);
    pool_adopt(p);
    pool_run(p, note_priority, seen);
    for (int t = 0; t < 4; t++)
        ck_assert_int_eq(seen[t], own_priority());
    pool_close(p);
}
END_TEST

START_TEST(no_pool_runs_on_the_caller)
{
    struct counts c = {.n_threads = 1};
    pool_run(NULL, count, &c);
    ck_assert_int_eq(atomic_load(&c.runs[0]), 1);
    pool_close(NULL);
}
END_TEST

START_TEST(ranges_cover_without_overlap)
{
    for (size_t n = 0; n < 40; n++)
        for (int threads = 1; threads < 9; threads++) {
            size_t next = 0, begin, end;
            for (int t = 0; t < threads; t++) {
                pool_range(n, t, threads, &begin, &end);
                ck_assert_uint_eq(begin, next);
                ck_assert_uint_le(end - begin, n / (size_t)threads + 1);
                next = end;
            }
            ck_assert_uint_eq(next, n);
        }
}
END_TEST

static void pause_ms(long ms) { nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL); }

START_TEST(an_idle_pool_uses_no_cpu)
{
    struct pool *p = pool_open(4);
    struct counts c = {.n_threads = 4};
    struct timespec before, after;
    pool_run(p, count, &c);
    pause_ms(50);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    pause_ms(300);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    ck_assert_msg(used < 0.02, "%g s of CPU time in 0.3 s of rest", used);
    for (int i = 0; i < 20; i++) { /* it wakes from its sleep */
        pause_ms(2);
        pool_run(p, count, &c);
    }
    for (int t = 0; t < 4; t++)
        ck_assert_int_eq(atomic_load(&c.runs[t]), 21);
    pool_close(p);
}
END_TEST

static void slow_worker(void *arg, int thread, int n_threads)
{
    (void)n_threads;
    if (thread)
        pause_ms(20);
    atomic_fetch_add((atomic_int *)arg, 1);
}

START_TEST(the_caller_waits_for_slow_workers)
{
    struct pool *p = pool_open(3);
    atomic_int done = 0;
    for (int i = 1; i <= 5; i++) {
        pool_run(p, slow_worker, &done);
        ck_assert_int_eq(atomic_load(&done), 3 * i);
    }
    pool_close(p);
}
END_TEST

/* A tree of cgroup files in a directory of its own. */
static char root[64];

static void put(const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

START_TEST(the_cgroup_limits_threads)
{
    strcpy(root, "/tmp/test-pool-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_int_eq(machine_cgroup_cpus(root, "0::/a/b\n"), 0);
    put("a/b/cpu.max", "max 100000\n");
    ck_assert_int_eq(machine_cgroup_cpus(root, "0::/a/b\n"), 0);
    put("a/cpu.max", "350000 100000\n");
    ck_assert_int_eq(machine_cgroup_cpus(root, "0::/a/b\n"), 4); /* of the group above, rounded up */
    put("a/b/cpu.max", "50000 100000\n");
    ck_assert_int_eq(machine_cgroup_cpus(root, "0::/a/b\n"), 1);
    ck_assert_int_eq(machine_cgroup_cpus(root, "3:cpu:/x\n0::/a\n"), 4);
    ck_assert_int_eq(machine_cgroup_cpus(root, "0::/other\n"), 0);
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    ck_assert_int_eq(machine_cgroup_cpus(root, ""), 0);
    put("cpu/cpu.cfs_quota_us", "200000\n");
    ck_assert_int_eq(machine_cgroup_cpus(root, ""), 2);
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(one_cpu_of_many_is_left_to_io)
{
    static const int expected[] = {0, 1, 2, 3, 3, 4, 5};
    for (int n = 1; n <= 6; n++)
        ck_assert_int_eq(machine_default_threads(n), expected[n]);
    ck_assert_int_ge(machine_n_cpus(), 1);
    ck_assert_uint_gt(machine_memory_bytes(), 1u << 20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/pool");
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_thread_runs_once);
    tcase_add_test(tcase, every_thread_enters);
    tcase_add_test(tcase, adopted_workers_have_the_priority_of_their_caller);
    tcase_add_test(tcase, no_pool_runs_on_the_caller);
    tcase_add_test(tcase, ranges_cover_without_overlap);
    tcase_add_test(tcase, an_idle_pool_uses_no_cpu);
    tcase_add_test(tcase, the_caller_waits_for_slow_workers);
    tcase_add_test(tcase, the_cgroup_limits_threads);
    tcase_add_test(tcase, one_cpu_of_many_is_left_to_io);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
