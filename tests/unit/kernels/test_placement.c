/* Threads over nodes and cores, memory on the nodes of its threads, and results that do not know of either. */
#include "kernels/placement.h"

#include "kernels/cpu.h"
#include "kernels/machine.h"
#include "kernels/memory.h"
#include "tests/suite.h"

#include <pthread.h>
#include <sched.h>
#ifdef HAVE_NUMA
#include <numaif.h>
#endif

#define MB ((size_t)1 << 20)

/* n_nodes nodes with the ids 0, 1, .. of `cores` cores of two threads each. */
static void machine(struct topology *t, int n_nodes, int cores)
{
    *t = (struct topology){.n_nodes = n_nodes};
    for (int node = 0; node < n_nodes; node++) {
        t->node_ids[node] = node;
        for (int i = 0; i < 2 * cores; i++)
            t->cpus[t->n_cpus++] = (struct topology_cpu){.id = 100 * node + i, .node = node, .rank = i / cores};
    }
}

static const struct {
    int n_nodes, cores, n_threads;
    int expected_nodes, first[4], cpus[9];
} spreads[] = {
    {1, 2, 1, 1, {0, 1}, {0}},
    {1, 2, 3, 1, {0, 3}, {0, 1, 2}},
    {1, 1, 5, 1, {0, 5}, {0, 1, 0, 1, 0}}, /* more threads than CPUs */
    {2, 2, 1, 1, {0, 1}, {0}},             /* a node without threads */
    {2, 2, 4, 2, {0, 2, 4}, {0, 1, 100, 101}},
    {2, 2, 7, 2, {0, 4, 7}, {0, 1, 2, 3, 100, 101, 102}},
    {3, 1, 5, 3, {0, 2, 4, 5}, {0, 1, 100, 101, 200}},
};

START_TEST(threads_are_spread)
{
    struct topology t;
    static struct placement p;
    machine(&t, spreads[_i].n_nodes, spreads[_i].cores);
    placement_spread(&p, &t, spreads[_i].n_threads);
    ck_assert_int_eq(p.n_threads, spreads[_i].n_threads);
    ck_assert_int_eq(p.n_nodes, spreads[_i].expected_nodes);
    for (int i = 0; i <= p.n_nodes; i++)
        ck_assert_int_eq(p.first_thread[i], spreads[_i].first[i]);
    for (int i = 0; i < p.n_threads; i++)
        ck_assert_int_eq(p.cpus[i], spreads[_i].cpus[i]);
    for (size_t n = 0; n < 30; n++) { /* the parts of nodes follow each other, and hold those of their threads */
        size_t next = 0, begin, end, from, to;
        for (int node = 0; node < p.n_nodes; node++) {
            placement_range(&p, node, n, &begin, &end);
            ck_assert_uint_eq(begin, next);
            for (int i = p.first_thread[node]; i < p.first_thread[node + 1]; i++) {
                pool_range(n, i, p.n_threads, &from, &to);
                ck_assert(from >= begin && to <= end);
            }
            next = end;
        }
        ck_assert_uint_eq(next, n);
    }
}
END_TEST

START_TEST(a_small_node_gets_what_it_has)
{
    struct topology t = {.n_cpus = 5, .n_nodes = 2, .cpus = {{1, 0, 0}, {2, 1, 0}, {3, 1, 0}, {4, 1, 0}, {5, 1, 0}}};
    static struct placement p;
    placement_spread(&p, &t, 5);
    ck_assert_int_eq(p.first_thread[1], 1);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(p.cpus[i], i + 1);
}
END_TEST

struct seen {
    struct placement *placement;
    int n_cpus, cpu, policy;
};

/* What a thread of its own has after it entered. */
static void *enter(void *arg)
{
    struct seen *s = arg;
    cpu_set_t set;
    placement_enter(s->placement, 1);
    ck_assert_int_eq(sched_getaffinity(0, sizeof set, &set), 0);
    s->n_cpus = CPU_COUNT(&set);
    s->cpu = sched_getcpu();
    s->policy = sched_getscheduler(0);
    return NULL;
}

static struct seen seen_with(struct backend_options options, int n_threads)
{
    static struct placement p;
    struct seen s = {.placement = &p};
    struct error err;
    pthread_t thread;
    memset(&p, 0, sizeof p);
    ck_assert(!placement_open(&p, &options, n_threads, &err));
    ck_assert(!pthread_create(&thread, NULL, enter, &s));
    pthread_join(thread, NULL);
    return s;
}

START_TEST(threads_take_their_places)
{
    struct topology t;
    topology_of_process(&t);
    struct seen s = seen_with((struct backend_options){0}, 2);
    ck_assert_int_eq(s.policy, SCHED_OTHER);
    if (t.n_nodes == 1)
        ck_assert_int_eq(s.n_cpus, t.n_cpus);
    s = seen_with((struct backend_options){.idle_priority = true}, 2);
    ck_assert_int_eq(s.policy, SCHED_IDLE);
    s = seen_with((struct backend_options){.pin = true}, t.n_cpus + 1); /* not a CPU for each */
    ck_assert_int_gt(s.n_cpus, t.n_cpus > 1 && t.n_nodes == 1);
    if (t.n_cpus < 2)
        return;
    s = seen_with((struct backend_options){.pin = true, .numa = "off"}, 2);
    ck_assert_int_eq(s.n_cpus, 1);
    ck_assert_int_eq(s.cpu, s.placement->cpus[1]);
    ck_assert_int_ne(s.placement->cpus[0], s.placement->cpus[1]);
}
END_TEST

/* Others keep off the CPUs of pinned threads, and a backend that is opened then still finds all CPUs. */
START_TEST(other_threads_are_kept_off)
{
    static struct placement p;
    struct topology before, after;
    struct error err;
    cpu_set_t set;
    topology_of_process(&before);
    if (before.n_cpus < 2)
        return;
    ck_assert(!placement_open(&p, &(struct backend_options){0}, 1, &err));
    placement_spare(&p); /* nothing is pinned */
    ck_assert_int_eq(sched_getaffinity(0, sizeof set, &set), 0);
    ck_assert_int_eq(CPU_COUNT(&set), before.n_cpus);
    ck_assert(!placement_open(&p, &(struct backend_options){.pin = true}, before.n_cpus, &err));
    placement_spare(&p); /* there are no others */
    ck_assert_int_eq(sched_getaffinity(0, sizeof set, &set), 0);
    ck_assert_int_eq(CPU_COUNT(&set), before.n_cpus);
    ck_assert(!placement_open(&p, &(struct backend_options){.pin = true}, 1, &err));
    placement_spare(&p);
    ck_assert_int_eq(sched_getaffinity(0, sizeof set, &set), 0);
    ck_assert_int_eq(CPU_COUNT(&set), before.n_cpus - 1);
    ck_assert(!CPU_ISSET(p.cpus[0], &set));
    topology_of_process(&after);
    ck_assert_int_eq(after.n_cpus, before.n_cpus);
    ck_assert_int_ge(machine_n_cpus(), 1);
}
END_TEST

START_TEST(unknown_words_are_refused)
{
    struct backend_options options = {.numa = "everywhere"};
    struct backend *be;
    struct error err = {0};
    ck_assert_int_eq(backend_open(&options, &be, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "numa");
    ck_assert_msg(strstr(err.message, "found \"everywhere\""), "%s", err.message);
}
END_TEST

#ifdef HAVE_NUMA
/* The policy of the page at p, -1 when there is none to ask. */
static int policy_of(void *p)
{
    int mode = -1;
    return get_mempolicy(&mode, NULL, 0, p, MPOL_F_ADDR) == 0 ? mode : -1;
}

static int node_of_page(void *p)
{
    int node = -1;
    *(volatile char *)p = 1;
    return get_mempolicy(&node, NULL, 0, p, MPOL_F_NODE | MPOL_F_ADDR) == 0 ? node : -1;
}

START_TEST(memory_asks_for_nodes)
{
    static const int zero[] = {0, 0};
    char *p = memory_alloc_weights(NULL, 4 * MB);
    ck_assert_ptr_nonnull(p);
    if (policy_of(p) < 0) {
        printf("skip memory_asks_for_nodes the system has no memory policies\n");
        return;
    }
    ck_assert_int_eq(policy_of(p), MPOL_DEFAULT);
    ck_assert(memory_place(p, MB, zero, 1));
    ck_assert(memory_place(p + 2 * MB, MB, zero, 2));
    ck_assert_int_eq(policy_of(p), MPOL_PREFERRED);
    ck_assert_int_eq(policy_of(p + MB - 1), MPOL_PREFERRED);
    ck_assert_int_eq(policy_of(p + MB), MPOL_DEFAULT);
    ck_assert_int_eq(policy_of(p + 2 * MB), MPOL_INTERLEAVE);
    ck_assert_int_eq(node_of_page(p), 0);
    ck_assert(memory_place(p + 1, 10, zero, 1)); /* no page begins there */
    ck_assert(!memory_place(p, MB, (const int[]){1000}, 1));
    memory_free_weights(p);
}
END_TEST

/* Two nodes are made out of one: rows of the first are asked for there, on one node nothing is asked for. */
START_TEST(rows_lie_on_the_nodes_of_their_threads)
{
    static struct placement p;
    struct topology t;
    char *rows = memory_alloc_weights(NULL, 4 * MB);
    ck_assert_ptr_nonnull(rows);
    if (policy_of(rows) < 0) {
        printf("skip rows_lie_on_the_nodes_of_their_threads the system has no memory policies\n");
        return;
    }
    machine(&t, 1, 2);
    placement_spread(&p, &t, 2);
    placement_of_rows(&p, rows, 4, MB);
    placement_of_shared(&p, rows, 4 * MB);
    ck_assert_int_eq(policy_of(rows), MPOL_DEFAULT);
    machine(&t, 2, 1);
    t.node_ids[0] = 1000; /* is not there, and changes nothing */
    t.node_ids[1] = 0;
    placement_spread(&p, &t, 4);
    placement_of_rows(&p, rows, 4, MB);
    ck_assert_int_eq(policy_of(rows + 2 * MB - 1), MPOL_DEFAULT);
    ck_assert_int_eq(policy_of(rows + 2 * MB), MPOL_PREFERRED);
    p.node_ids[0] = 0;
    p.interleave = true;
    placement_of_rows(&p, rows, 4, MB);
    ck_assert_int_eq(policy_of(rows), MPOL_INTERLEAVE);
    memory_free_weights(rows);
}
END_TEST
#endif

#define ROWS_A ((size_t)100)
#define ROWS_B ((size_t)37)
#define COLS ((size_t)128)

static void nothing(void *arg, int thread, int n_threads) { (void)arg, (void)thread, (void)n_threads; }

/* y of two matrices on a backend whose threads are on n_nodes nodes. */
static void multiply(int n_nodes, float *y)
{
    static uint8_t data[ROWS_A * COLS / 4 + 32];
    struct backend *be;
    struct ternary *a, *b;
    struct activations q;
    struct topology t;
    struct error err = {0};
    float x[COLS], scale = 0.5f;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37 & 0x55) | (uint8_t)(~(i * 37) & i >> 3 & 0x55) << 1; /* no code is 3 */
    memcpy(data + ROWS_A * COLS / 4, &scale, sizeof scale);
    for (size_t i = 0; i < COLS; i++)
        x[i] = (float)(i % 7) - 2.5f;
    ck_assert(!backend_open(&(struct backend_options){.n_threads = 3}, &be, &err));
    pool_run(be->pool, nothing, NULL); /* workers have looked at their places */
    machine(&t, n_nodes, 1);
    placement_spread(&((struct cpu *)be)->placement, &t, 3);
    struct tensor_view v = {
        .type = TENSOR_I2_S, .data = data, .n_bytes = sizeof data, .n_rows = ROWS_A, .n_cols = COLS};
    ck_assert_msg(!ternary_open(be, &v, TERNARY_AUTO, &a, &err), "%s", err.message);
    memcpy(data + ROWS_B * COLS / 4, &scale, sizeof scale);
    v.n_rows = ROWS_B;
    ck_assert_msg(!ternary_open(be, &v, TERNARY_AUTO, &b, &err), "%s", err.message);
    ck_assert(activations_open(be, 64, COLS, &q));
    for (size_t i = 0; i < 64; i++) /* enough for several threads */
        op_quantize(be, x, 1, COLS,
                    &(struct activations){q.q + i * q.stride, q.scale + i, q.sum + i, 1, COLS, q.stride});
    op_matmul(be, (const struct ternary *const[]){a, b}, (float *const[]){y, y + 64 * ROWS_A}, 2, &q, 64);
    activations_close(be, &q);
    ternary_close(be, a);
    ternary_close(be, b);
    backend_close(be);
}

START_TEST(nodes_do_not_change_results)
{
    static float one[64 * (ROWS_A + ROWS_B)], other[64 * (ROWS_A + ROWS_B)];
    multiply(1, one);
    for (int n_nodes = 2; n_nodes <= 3; n_nodes++) {
        memset(other, 0xff, sizeof other);
        multiply(n_nodes, other);
        ck_assert_mem_eq(one, other, sizeof one);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/placement");
    TCase *tcase = tcase_create("placement");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, threads_are_spread, 0, sizeof spreads / sizeof *spreads);
    tcase_add_test(tcase, a_small_node_gets_what_it_has);
    tcase_add_test(tcase, threads_take_their_places);
    tcase_add_test(tcase, other_threads_are_kept_off);
    tcase_add_test(tcase, unknown_words_are_refused);
#ifdef HAVE_NUMA
    tcase_add_test(tcase, memory_asks_for_nodes);
    tcase_add_test(tcase, rows_lie_on_the_nodes_of_their_threads);
#endif
    tcase_add_test(tcase, nodes_do_not_change_results);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
