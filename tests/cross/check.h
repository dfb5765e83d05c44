/*
 * A stand-in for Check in cross builds, where the library is not there for the other architecture: the part of its interface that
 * tests/kernels and tests/unit/kernels use, and the comparisons that they may. Each test runs in a process of its own with a time
 * limit; a line "ok NAME" or "not ok NAME" says how it ended, what failed goes to stderr, and the exit status is that of Check.
 * Native builds use Check itself.
 */
#ifndef TESTS_CROSS_CHECK_H
#define TESTS_CROSS_CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_MAX_TESTS 64
#define CHECK_TIMEOUT_S 60 /* of a test, unless tcase_set_timeout or CK_DEFAULT_TIMEOUT says otherwise */

typedef struct TTest {
    const char *name;
    void (*run)(int _i);
} TTest;

/* A program has one suite of one or more cases, so all three are the same list of tests. */
typedef struct TCase {
    const char *name;
    const TTest *tests[CHECK_MAX_TESTS];
    size_t n_tests;
    unsigned timeout_s;
    int n_failed;
} TCase, Suite, SRunner;

static TCase check_list;

enum print_output { CK_ENV };

#define START_TEST(test)                                                                                               \
    static void test##_run(int _i);                                                                                    \
    static const TTest test##_test = {#test, test##_run}, *const test = &test##_test;                                  \
    static void test##_run(int _i __attribute__((unused)))
#define END_TEST

static inline Suite *suite_create(const char *name)
{
    const char *limit = getenv("CK_DEFAULT_TIMEOUT");
    check_list.name = name;
    check_list.timeout_s = limit ? (unsigned)strtoul(limit, NULL, 10) : CHECK_TIMEOUT_S;
    return &check_list;
}

static inline TCase *tcase_create(const char *name)
{
    (void)name;
    return &check_list;
}

static inline void tcase_set_timeout(TCase *tcase, double seconds)
{
    tcase->timeout_s = (unsigned)seconds;
}

static inline void tcase_add_test(TCase *tcase, const TTest *test)
{
    if (tcase->n_tests == CHECK_MAX_TESTS)
        abort();
    tcase->tests[tcase->n_tests++] = test;
}

static inline void suite_add_tcase(Suite *suite, TCase *tcase)
{
    (void)suite, (void)tcase;
}

static inline SRunner *srunner_create(Suite *suite)
{
    return suite;
}

static inline void srunner_free(SRunner *runner)
{
    (void)runner;
}

static inline int srunner_ntests_failed(const SRunner *runner)
{
    return runner->n_failed;
}

/* CK_RUN_CASE, when it is set, is a word that the names of the tests to run have in them. */
static inline void srunner_run_all(SRunner *runner, enum print_output output)
{
    const char *filter = getenv("CK_RUN_CASE");
    (void)output;
    for (size_t i = 0; i < runner->n_tests; i++) {
        const TTest *test = runner->tests[i];
        int status = 1;
        if (filter && !strstr(test->name, filter))
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(runner->timeout_s);
            test->run(0);
            fflush(stdout);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            runner->n_failed++;
            if (child > 0 && WIFSIGNALED(status))
                fprintf(stderr, "%s: signal %d (%s)\n", test->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
        }
        printf("%s %s: %s\n", status == 0 ? "ok" : "not ok", runner->name, test->name);
    }
}

#define ck_abort_msg(...)                                                                                              \
    (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), _exit(1))
#define ck_assert_msg(expr, ...) ((expr) ? (void)0 : ck_abort_msg(__VA_ARGS__))
#define ck_assert(expr) ck_assert_msg(expr, "expected %s", #expr)

#define CHECK_COMPARE(type, format, x, op, y)                                                                          \
    do {                                                                                                               \
        type check_x = (x), check_y = (y);                                                                             \
        ck_assert_msg(check_x op check_y, "expected %s " #op " %s, found " format " and " format, #x, #y, check_x,     \
                      check_y);                                                                                        \
    } while (0)
#define ck_assert_int_eq(x, y) CHECK_COMPARE(intmax_t, "%jd", x, ==, y)
#define ck_assert_int_ne(x, y) CHECK_COMPARE(intmax_t, "%jd", x, !=, y)
#define ck_assert_int_lt(x, y) CHECK_COMPARE(intmax_t, "%jd", x, <, y)
#define ck_assert_int_le(x, y) CHECK_COMPARE(intmax_t, "%jd", x, <=, y)
#define ck_assert_int_gt(x, y) CHECK_COMPARE(intmax_t, "%jd", x, >, y)
#define ck_assert_int_ge(x, y) CHECK_COMPARE(intmax_t, "%jd", x, >=, y)
#define ck_assert_uint_eq(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, ==, y)
#define ck_assert_uint_ne(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, !=, y)
#define ck_assert_uint_lt(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, <, y)
#define ck_assert_uint_le(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, <=, y)
#define ck_assert_uint_gt(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, >, y)
#define ck_assert_uint_ge(x, y) CHECK_COMPARE(uintmax_t, "%ju", x, >=, y)
#define ck_assert_float_eq(x, y) CHECK_COMPARE(double, "%.9g", x, ==, y)
#define ck_assert_float_ne(x, y) CHECK_COMPARE(double, "%.9g", x, !=, y)
#define ck_assert_float_lt(x, y) CHECK_COMPARE(double, "%.9g", x, <, y)
#define ck_assert_float_le(x, y) CHECK_COMPARE(double, "%.9g", x, <=, y)
#define ck_assert_float_gt(x, y) CHECK_COMPARE(double, "%.9g", x, >, y)
#define ck_assert_float_ge(x, y) CHECK_COMPARE(double, "%.9g", x, >=, y)
#define ck_assert_double_eq(x, y) CHECK_COMPARE(double, "%.17g", x, ==, y)
#define ck_assert_double_ne(x, y) CHECK_COMPARE(double, "%.17g", x, !=, y)
#define ck_assert_double_lt(x, y) CHECK_COMPARE(double, "%.17g", x, <, y)
#define ck_assert_double_le(x, y) CHECK_COMPARE(double, "%.17g", x, <=, y)
#define ck_assert_double_gt(x, y) CHECK_COMPARE(double, "%.17g", x, >, y)
#define ck_assert_double_ge(x, y) CHECK_COMPARE(double, "%.17g", x, >=, y)
#define ck_assert_float_eq_tol(x, y, tolerance)                                                                        \
    CHECK_COMPARE(double, "%.17g", fabs((double)(x) - (double)(y)), <=, tolerance)
#define ck_assert_double_eq_tol(x, y, tolerance)                                                                       \
    CHECK_COMPARE(double, "%.17g", fabs((double)(x) - (double)(y)), <=, tolerance)
#define ck_assert_ptr_eq(x, y) ck_assert_msg((x) == (y), "expected %s == %s", #x, #y)
#define ck_assert_ptr_ne(x, y) ck_assert_msg((x) != (y), "expected %s != %s", #x, #y)
#define ck_assert_mem_eq(x, y, n)                                                                                      \
    ck_assert_msg(memcmp(x, y, n) == 0, "expected the bytes of %s to be those of %s", #x, #y)
#define ck_assert_ptr_null(x) ck_assert_msg((x) == NULL, "expected %s to be NULL", #x)
#define ck_assert_ptr_nonnull(x) ck_assert_msg((x) != NULL, "expected %s not to be NULL", #x)
#define ck_assert_str_eq(x, y)                                                                                         \
    do {                                                                                                               \
        const char *check_s = (x), *check_t = (y);                                                                     \
        ck_assert_msg(strcmp(check_s, check_t) == 0, "expected %s == %s, found \"%s\" and \"%s\"", #x, #y, check_s,    \
                      check_t);                                                                                        \
    } while (0)

#endif
