#include "base/metrics.h"
#include "tests/suite.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

/* The whole page; lives until the next call. */
static const char *page(struct metrics *m, int openmetrics)
{
    static struct buffer out = {.max_bytes = 1 << 20};
    buffer_clear(&out);
    metrics_write(m, &out, openmetrics);
    ck_assert(!out.failed);
    return out.data ? out.data : "";
}

static const double bounds[] = {0.25, 1, 2.5};

START_TEST(counters_and_gauges)
{
    struct metrics *m = metrics_open();
    struct metrics_family *c = metrics_add(m, METRICS_COUNTER, "a_total", "As.", "model,kind", NULL, 0);
    struct metrics_family *g = metrics_add(m, METRICS_GAUGE, "b", "Bs.", "", NULL, 0);
    metrics_inc(metrics_get(c, "m1", "x"), 1);
    metrics_inc(metrics_get(c, "m1", "x"), 2.5);
    metrics_get(c, "m1", "y");
    metrics_set(metrics_get(g), 7);
    metrics_inc(metrics_get(g), -9);
    ck_assert_str_eq(page(m, 0), "# HELP a_total As.\n# TYPE a_total counter\n"
                                 "a_total{model=\"m1\",kind=\"x\"} 3.5\n"
                                 "a_total{model=\"m1\",kind=\"y\"} 0\n"
                                 "# HELP b Bs.\n# TYPE b gauge\nb -2\n");
    ck_assert_double_eq(metrics_value(metrics_get(c, "m1", "x")), 3.5);
    metrics_close(m);
}
END_TEST

START_TEST(histogram_buckets_are_cumulative_and_include_their_bound)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_HISTOGRAM, "d_seconds", "D.", "model", bounds, 3);
    static const double values[] = {0.1, 0.25, 0.26, 1, 2.5, 99, NAN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        metrics_observe(metrics_get(f, "m"), values[i]);
    ck_assert_str_eq(page(m, 0), "# HELP d_seconds D.\n# TYPE d_seconds histogram\n"
                                 "d_seconds_bucket{model=\"m\",le=\"0.25\"} 2\n"
                                 "d_seconds_bucket{model=\"m\",le=\"1\"} 4\n"
                                 "d_seconds_bucket{model=\"m\",le=\"2.5\"} 5\n"
                                 "d_seconds_bucket{model=\"m\",le=\"+Inf\"} 6\n"
                                 "d_seconds_sum{model=\"m\"} 103.11\n"
                                 "d_seconds_count{model=\"m\"} 6\n");
    ck_assert_double_eq(metrics_value(metrics_get(f, "m")), 6);
    metrics_close(m);
}
END_TEST

START_TEST(openmetrics_page)
{
    struct metrics *m = metrics_open();
    metrics_inc(metrics_get(metrics_add(m, METRICS_COUNTER, "a_total", "Say \"a\".", "", NULL, 0)), 2);
    metrics_get(metrics_add(m, METRICS_COUNTER, "b", "B.", "", NULL, 0));
    metrics_get(metrics_add(m, METRICS_HISTOGRAM, "h", "H.", "", bounds, 2));
    ck_assert_str_eq(page(m, 1), "# HELP a Say \\\"a\\\".\n# TYPE a counter\na_total 2\n"
                                 "# HELP b B.\n# TYPE b counter\nb_total 0\n"
                                 "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.25\"} 0\nh_bucket{le=\"1.0\"} 0\n"
                                 "h_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n"
                                 "# EOF\n");
    metrics_close(m);
}
END_TEST

START_TEST(values_are_escaped)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_GAUGE, "g", "Back\\slash,\nnew \"line\".", "v", NULL, 0);
    metrics_get(f, "a\"b\\c\nd\xFF\xC3\xA9");
    ck_assert_str_eq(page(m, 0), "# HELP g Back\\\\slash,\\nnew \"line\".\n# TYPE g gauge\n"
                                 "g{v=\"a\\\"b\\\\c\\nd\xEF\xBF\xBD\xC3\xA9\"} 0\n");
    metrics_close(m);
}
END_TEST

START_TEST(numbers_read_back)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {{0, "g 0\n"},
                 {0.1, "g 0.1\n"},
                 {1.0 / 3, "g 0.33333333333333331\n"},
                 {1e15, "g 1e+15\n"},
                 {123456789, "g 123456789\n"},
                 {-2.5, "g -2.5\n"},
                 {NAN, "g NaN\n"},
                 {INFINITY, "g +Inf\n"},
                 {-INFINITY, "g -Inf\n"}};
    struct metrics *m = metrics_open();
    struct metrics_series *s = metrics_get(metrics_add(m, METRICS_GAUGE, "g", "G.", "", NULL, 0));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        metrics_set(s, cases[i].v);
        ck_assert_msg(strstr(page(m, 0), cases[i].text), "%s: %s", cases[i].text, page(m, 0));
    }
    metrics_close(m);
}
END_TEST

START_TEST(same_values_give_the_same_series)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_GAUGE, "g", "G.", "a,b", NULL, 0);
    char x[] = "x";
    struct metrics_series *s = metrics_get(f, x, "yz");
    x[0] = 'q'; /* the value was copied */
    ck_assert_ptr_eq(metrics_get(f, "x", "yz"), s);
    ck_assert_ptr_ne(metrics_get(f, "xy", "z"), s);
    ck_assert_ptr_ne(metrics_get(f, "x", ""), s);
    metrics_close(m);
}
END_TEST

START_TEST(name_added_twice_gives_the_first_family)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_GAUGE, "g", "G.", "", NULL, 0);
    ck_assert_ptr_eq(metrics_add(m, METRICS_GAUGE, "g", "Other.", "", NULL, 0), f);
    ck_assert_ptr_ne(metrics_add(m, METRICS_GAUGE, "h", "H.", "", NULL, 0), f);
    metrics_close(m);
}
END_TEST

START_TEST(series_are_bounded)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_COUNTER, "c_total", "C.", "v", NULL, 0);
    char value[16];
    for (int i = 0; i < 1010; i++) {
        snprintf(value, sizeof value, "v%d", i);
        metrics_inc(metrics_get(f, value), 1);
    }
    ck_assert_ptr_nonnull(strstr(page(m, 0), "{v=\"v999\"} 1\n"));
    ck_assert_ptr_null(strstr(page(m, 0), "{v=\"v1000\"}"));
    ck_assert_ptr_eq(metrics_get(f, "v1001"), metrics_get(f, "v1002"));
    metrics_close(m);
}
END_TEST

START_TEST(what_is_gone_is_not_shown)
{
    struct metrics *m = metrics_open();
    struct metrics_family *f = metrics_add(m, METRICS_GAUGE, "g", "G.", "v", NULL, 0);
    struct metrics_series *s = metrics_get(f, "a");
    metrics_set(metrics_get(f, "b"), 2);
    metrics_hide(s);
    metrics_set(s, 5); /* it is still somebody's */
    ck_assert_ptr_null(strstr(page(m, 0), "{v=\"a\"}"));
    ck_assert_ptr_nonnull(strstr(page(m, 0), "{v=\"b\"} 2\n"));
    ck_assert_ptr_eq(metrics_get(f, "a"), s);
    ck_assert_ptr_nonnull(strstr(page(m, 0), "{v=\"a\"} 5\n"));
    metrics_hide(s);
    ck_assert_ptr_null(strstr(page(m, 0), "{v=\"a\"}"));
    metrics_show(s);
    ck_assert_ptr_nonnull(strstr(page(m, 0), "{v=\"a\"} 5\n"));
    metrics_close(m);
}
END_TEST

START_TEST(series_of_no_family_can_be_used)
{
    struct metrics_series *s = metrics_get(NULL, "x");
    ck_assert_ptr_nonnull(s);
    metrics_inc(s, 1);
    metrics_set(s, 1);
    metrics_observe(s, 1);
}
END_TEST

START_TEST(counters_never_fall)
{
    struct metrics *m = metrics_open();
    struct metrics_series *s = metrics_get(metrics_add(m, METRICS_COUNTER, "c_total", "C.", "", NULL, 0));
    metrics_inc(s, 2);
    metrics_inc(s, -1);
    metrics_inc(s, NAN);
    ck_assert_double_eq(metrics_value(s), 2);
    metrics_close(m);
}
END_TEST

static void collect(void *user)
{
    metrics_inc(user, 1);
}

START_TEST(collect_runs_before_each_page)
{
    struct metrics *m = metrics_open();
    struct metrics_series *s = metrics_get(metrics_add(m, METRICS_GAUGE, "g", "G.", "", NULL, 0));
    metrics_on_collect(m, collect, s);
    ck_assert_ptr_nonnull(strstr(page(m, 0), "g 1\n"));
    ck_assert_ptr_nonnull(strstr(page(m, 0), "g 2\n"));
    metrics_close(m);
}
END_TEST

static void *work(void *user)
{
    struct metrics_family *const *families = user;
    for (int i = 0; i < 20000; i++) {
        metrics_inc(metrics_get(families[0], i % 2 ? "a" : "b"), 1);
        metrics_observe(metrics_get(families[1]), i % 3);
    }
    return NULL;
}

START_TEST(no_update_is_lost_between_threads)
{
    struct metrics *m = metrics_open();
    struct metrics_family *families[] = {metrics_add(m, METRICS_COUNTER, "c_total", "C.", "v", NULL, 0),
                                         metrics_add(m, METRICS_HISTOGRAM, "h", "H.", "", bounds, 3)};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, families), 0);
    page(m, 0); /* while they are at it */
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_double_eq(metrics_value(metrics_get(families[0], "a")), 40000);
    ck_assert_double_eq(metrics_value(metrics_get(families[0], "b")), 40000);
    ck_assert_double_eq(metrics_value(metrics_get(families[1])), 80000);
    ck_assert_ptr_nonnull(strstr(page(m, 0), "h_sum 79996\n"));
    metrics_close(m);
}
END_TEST

static double sample(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    ck_assert_msg(at, "%s", name);
    return strtod(at + strlen(name), NULL);
}

static void *wait_for_the_lock(void *lock)
{
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

START_TEST(process_threads)
{
    struct metrics *m = metrics_open();
    metrics_add_process(m);
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    double before = sample(page(m, 0), "\nbitnet_process_threads ");
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, wait_for_the_lock, &lock), 0);
    /* A sanitizer's own thread may start with the first of them. */
    double more = sample(page(m, 0), "\nbitnet_process_threads ") - before;
    ck_assert_msg(before >= 1 && (more == 2 || more == 3), "%g threads more than %g", more, before);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    metrics_close(m);
}
END_TEST

START_TEST(process_collector)
{
    struct metrics *m = metrics_open();
    metrics_add_process(m);
    const char *text = page(m, 0);
    ck_assert_double_gt(sample(text, "\nbitnet_process_resident_memory_bytes "), 100e3);
    ck_assert_double_gt(sample(text, "\nbitnet_process_virtual_memory_bytes "),
                        sample(text, "\nbitnet_process_resident_memory_bytes "));
    ck_assert_double_ge(sample(text, "\nbitnet_process_cpu_seconds_total "), 0);
    ck_assert_double_gt(sample(text, "\nbitnet_process_start_time_seconds "), 1.5e9);
    ck_assert_double_gt(sample(text, "\nbitnet_process_max_fds "), 10);
    double before = sample(text, "\nbitnet_process_open_fds "), n_open = 0;
    for (int fd = 0; fd < 1024; fd++)
        n_open += fcntl(fd, F_GETFD) >= 0;
    ck_assert_double_eq(before, n_open);
    int extra = dup(1);
    ck_assert_double_eq(sample(page(m, 0), "\nbitnet_process_open_fds "), before + 1);
    close(extra);
    metrics_close(m);
}
END_TEST

#define TRACE_A "0123456789abcdef0123456789abcdef"
#define TRACE_B "fedcba9876543210fedcba9876543210"

START_TEST(exemplars_are_of_openmetrics_pages_only)
{
    struct metrics *m = metrics_open();
    struct metrics_series *h = metrics_get(metrics_add(m, METRICS_HISTOGRAM, "h", "H.", "", bounds, 2));
    metrics_observe_traced(h, 0.1, TRACE_A);
    metrics_observe_traced(h, 0.2, TRACE_B); /* the last one of a bucket stands */
    metrics_observe_traced(h, 0.5, NULL);
    metrics_observe_traced(h, 9, "not a trace's id: it is much too long to be one");
    ck_assert_ptr_null(strstr(page(m, 0), "trace_id"));
    const char *text = page(m, 1), *shown = strstr(text, "h_bucket{le=\"0.25\"} 2 # {trace_id=\"" TRACE_B "\"} 0.2 ");
    ck_assert_msg(shown != NULL, "%s", text);
    double at_s = strtod(strstr(shown, "} 0.2 ") + 6, NULL);
    ck_assert(at_s > 1.7e9 && at_s < 1e11);
    ck_assert_ptr_nonnull(strstr(text, "h_bucket{le=\"1.0\"} 3\n"));
    ck_assert_ptr_nonnull(strstr(text, "h_bucket{le=\"+Inf\"} 4\n"));
    ck_assert_double_eq(metrics_value(h), 4);
    metrics_close(m);
}
END_TEST

SUITE("metrics", counters_and_gauges, histogram_buckets_are_cumulative_and_include_their_bound, openmetrics_page,
      values_are_escaped, numbers_read_back, same_values_give_the_same_series, name_added_twice_gives_the_first_family,
      series_are_bounded, what_is_gone_is_not_shown, series_of_no_family_can_be_used, counters_never_fall, collect_runs_before_each_page,
      no_update_is_lost_between_threads, exemplars_are_of_openmetrics_pages_only, process_threads, process_collector)
