/* Nodes and cores as a system describes them, read from a tree of files of our own. */
#include "kernels/topology.h"

#include "tests/suite.h"

#include <sched.h>
#include <sys/stat.h>

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

/* Two nodes of two cores of two threads each, a node without memory of ours between, and one that is not online. */
static void make_machine(void)
{
    char path[64], list[16];
    strcpy(root, "/tmp/test-topology-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    put("node/online", "0-1,4\n");
    put("node/node0/cpulist", "0-1,4-5\n");
    put("node/node1/cpulist", "16-20\n");
    put("node/node4/cpulist", "2-3,6-7\n");
    put("node/node3/cpulist", "0-7\n");
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "cpu/cpu%d/topology/thread_siblings_list", i);
        snprintf(list, sizeof list, "%d,%d\n", i % 4, i % 4 + 4);
        put(path, list);
    }
}

static void remove_machine(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", root);
    ck_assert_int_eq(system(command), 0);
}

static void check(const struct topology *t, const struct topology_cpu *expected, int n)
{
    ck_assert_int_eq(t->n_cpus, n);
    for (int i = 0; i < n; i++)
        ck_assert_msg(memcmp(&t->cpus[i], &expected[i], sizeof *expected) == 0, "CPU at %d: %d on node %d, rank %d", i,
                      t->cpus[i].id, t->cpus[i].node, t->cpus[i].rank);
}

START_TEST(nodes_and_cores_are_found)
{
    static const int all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const struct topology_cpu expected[] = {{0, 0, 0}, {1, 0, 0}, {4, 0, 1}, {5, 0, 1},
                                                   {2, 1, 0}, {3, 1, 0}, {6, 1, 1}, {7, 1, 1}};
    static const struct topology_cpu joined[] = {{0, 0, 0}, {1, 0, 0}, {2, 0, 0}, {3, 0, 0},
                                                 {4, 0, 1}, {5, 0, 1}, {6, 0, 1}, {7, 0, 1}};
    struct topology t;
    make_machine();
    topology_read(root, all, 8, &t);
    check(&t, expected, 8);
    ck_assert_int_eq(t.n_nodes, 2);
    ck_assert_int_eq(t.node_ids[0], 0);
    ck_assert_int_eq(t.node_ids[1], 4);
    topology_join_nodes(&t);
    check(&t, joined, 8);
    ck_assert_int_eq(t.n_nodes, 1);
    remove_machine();
}
END_TEST

START_TEST(only_our_cpus_count)
{
    static const int some[] = {2, 6, 7};
    static const struct topology_cpu expected[] = {{2, 0, 0}, {7, 0, 0}, {6, 0, 1}};
    struct topology t;
    make_machine();
    topology_read(root, some, 3, &t);
    check(&t, expected, 3);
    ck_assert_int_eq(t.n_nodes, 1);
    ck_assert_int_eq(t.node_ids[0], 4);
    remove_machine();
}
END_TEST

START_TEST(a_silent_system_is_one_node)
{
    static const int cpus[] = {3, 1000};
    static const struct topology_cpu expected[] = {{3, 0, 0}, {1000, 0, 0}};
    struct topology t;
    topology_read("/nowhere", cpus, 2, &t);
    check(&t, expected, 2);
    ck_assert_int_eq(t.n_nodes, 1);
}
END_TEST

START_TEST(this_process_has_its_mask)
{
    cpu_set_t set;
    struct topology t;
    topology_of_process(&t);
    ck_assert_int_ge(t.n_nodes, 1);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        ck_assert_int_eq(t.n_cpus, CPU_COUNT(&set));
    int one = t.cpus[t.n_cpus - 1].id;
    CPU_ZERO(&set);
    CPU_SET(one, &set);
    ck_assert_int_eq(sched_setaffinity(0, sizeof set, &set), 0);
    topology_of_process(&t);
    ck_assert_int_eq(t.n_cpus, 1);
    ck_assert_int_eq(t.cpus[0].id, one);
}
END_TEST

SUITE("kernels/topology", nodes_and_cores_are_found, only_our_cpus_count, a_silent_system_is_one_node,
      this_process_has_its_mask)
