/* Plans of `bitnet bench` from lists and by name; reports written and read back, and what is no report. */
#include "tools/bench.h"

#include "tests/suite.h"

static const struct bench_lists lists = {.prompt = "512",
                                         .generate = "128",
                                         .batch = "1",
                                         .depth = "0",
                                         .sampling = "greedy",
                                         .threads = "0",
                                         .quantization = "auto"};

static struct bench_plan plan;
static struct bench_report report, again;

START_TEST(combinations)
{
    struct bench_lists l = {"512,64", "16,8", "1,4", "0,128", "greedy,none", "1,2,0", "i2s,auto,tl2"};
    static const struct bench_test expected[] = {
        {false, 512, 1, 0, BENCH_GREEDY}, {false, 64, 1, 0, BENCH_GREEDY}, {true, 16, 1, 0, BENCH_GREEDY},
        {true, 16, 1, 0, BENCH_NONE},     {true, 8, 1, 0, BENCH_GREEDY},
    };
    static const enum ternary_format formats[] = {TERNARY_I2S, TERNARY_AUTO, TERNARY_TL2};
    struct error err = {0};
    ck_assert(!bench_plan_loads(&l, &plan, &err) && !bench_plan_tests(&l, &plan, &err));
    ck_assert_uint_eq(plan.n_tests, 2 + 2 * 2 * 2 * 2);
    for (size_t i = 0; i < 5; i++)
        ck_assert(bench_same_test(&plan.tests[i], &expected[i]));
    for (size_t i = 1; i < plan.n_tests; i++) /* contexts grow */
        ck_assert_uint_ge(plan.tests[i].depth, plan.tests[i - 1].depth);
    ck_assert_uint_eq(plan.n_threads, 3);
    ck_assert(plan.threads[0] == 1 && plan.threads[1] == 2 && plan.threads[2] == 0);
    ck_assert_uint_eq(plan.n_formats, 3);
    ck_assert_mem_eq(plan.formats, formats, sizeof formats);
}
END_TEST

START_TEST(left_out_and_twice)
{
    struct bench_lists l = lists;
    struct error err = {0};
    l.prompt = "0";
    l.batch = "8,8";
    ck_assert(!bench_plan_tests(&l, &plan, &err));
    ck_assert_uint_eq(plan.n_tests, 1);
    ck_assert(plan.tests[0].decode && plan.tests[0].batch == 8);
    l.generate = "0";
    plan.n_tests = 0;
    ck_assert_int_eq(bench_plan_tests(&l, &plan, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "nothing to measure") != NULL, "%s", err.message);
}
END_TEST

START_TEST(bad_lists)
{
    static const char *const numbers[] = {"",
                                          ",",
                                          "1,",
                                          ",1",
                                          "1,,2",
                                          "x",
                                          "1x",
                                          "-1",
                                          "+1",
                                          " 1",
                                          "1 ",
                                          "1.5",
                                          "0",
                                          "1025",
                                          "99999999999999999999999",
                                          "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"};
    static const char *const words[] = {"", ",", "greedy,", "Greedy", "greed", "greedyx", "greedy topk", "1"};
    struct error err = {0};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct bench_lists l = lists;
        l.batch = numbers[i];
        ck_assert_msg(bench_plan_tests(&l, &plan, &err) == ERROR_VALIDATION_FAILED, "\"%s\"", numbers[i]);
        ck_assert_str_eq(err.param, "batch");
        ck_assert_msg(strstr(err.message, "--batch: expected up to 16 numbers from 1 to 1024") != NULL, "%s",
                      err.message);
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct bench_lists l = lists;
        l.sampling = words[i];
        ck_assert_msg(bench_plan_tests(&l, &plan, &err) == ERROR_VALIDATION_FAILED, "\"%s\"", words[i]);
        ck_assert_msg(strstr(err.message, "of greedy, topk, full, none") != NULL, "%s", err.message);
    }
    struct bench_lists l = lists;
    l.quantization = "i2_s";
    ck_assert_int_eq(bench_plan_loads(&l, &plan, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "quantization");
    l = lists;
    l.threads = "513";
    ck_assert_int_eq(bench_plan_loads(&l, &plan, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "threads");
    l = (struct bench_lists){"0", "1,2,3,4,5,6", "1,2,3,4", "0,1,2,3", "greedy,topk,full,none", "1", "auto"};
    ck_assert_int_eq(bench_plan_tests(&l, &plan, &err), ERROR_VALIDATION_FAILED); /* 384 */
}
END_TEST

START_TEST(sets)
{
    struct error err = {0};
    char name[24];
    ck_assert(!bench_plan_set("standard", &plan, &err));
    size_t n = plan.n_tests;
    ck_assert_uint_ge(n, 6);
    ck_assert_str_eq(bench_test_name(&plan.tests[0], name), "pp512");
    plan.n_tests = 0;
    ck_assert(!bench_plan_set("quick", &plan, &err));
    ck_assert(plan.n_tests > 0 && plan.n_tests < n);
    ck_assert_int_eq(bench_plan_set("slow", &plan, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

static void fill_report(void)
{
    report = (struct bench_report){.version = "1",
                                   .device = "cpu",
                                   .device_name = "a \"CPU\" \\ \xc3\xa4",
                                   .n_cpus = 2,
                                   .model = "m",
                                   .architecture = "bitnet",
                                   .n_parameters = 1e6,
                                   .file_bytes = 12345};
    report.n_loads = 2;
    report.loads[0] = (struct bench_load){1, TERNARY_AUTO, "i2s", "avx2", 0.5, 1e6, 2e6, 3e10, 4e11};
    report.loads[1] = (struct bench_load){2, TERNARY_TL1, "tl1", "avx2", 0.25, 1e6, 0, 0, 0};
    report.n_figures = 3;
    report.figures[0] = (struct bench_figure){{false, 512, 1, 0, BENCH_GREEDY}, 0, 5, 100, 90, 110, 0.5, 1e9, 2e11, 2e10, 4e11};
    report.figures[1] = (struct bench_figure){{true, 16, 8, 128, BENCH_FULL}, 1, 3, 50.5, 50.5, 50.5, 6.25, 1e9, 0, 0, 0};
    report.figures[2] = (struct bench_figure){{true, 1, 1, 0, BENCH_NONE}, 1, 1, 0.125, 0.0625, 2, 0.125, 0, 0, 0, 0};
}

static struct buffer text;

static void write_report(void)
{
    fill_report();
    buffer_init(&text, 1 << 20);
    bench_report_write(&report, &text);
}

START_TEST(there_and_back)
{
    struct error err = {0};
    write_report();
    ck_assert_msg(!bench_report_read(text.data, text.n_bytes, &again, &err), "%s", err.message);
    ck_assert_mem_eq(&again, &report, sizeof report);
    buffer_fini(&text);
}
END_TEST

START_TEST(shares)
{
    fill_report();
    ck_assert_float_eq_tol((float)bench_read_share(&report.figures[0]), 0.5f * 1e9f / 2e10f, 1e-6f);
    ck_assert_float_eq_tol((float)bench_int8_share(&report.figures[0]), 0.25f, 1e-6f);
    ck_assert(bench_read_share(&report.figures[1]) == 0); /* no limit is known */
    ck_assert(bench_int8_share(&report.figures[1]) == 0);
}
END_TEST

/* Every prefix of a report is refused, and nothing is read beyond it. */
START_TEST(cut_reports)
{
    write_report();
    for (size_t n = 0; n + 1 < text.n_bytes; n++) { /* the last byte is a newline */
        char *copy = malloc(n ? n : 1);
        struct error err = {0};
        memcpy(copy, text.data, n);
        ck_assert_msg(bench_report_read(copy, n, &again, &err) == ERROR_VALIDATION_FAILED, "%zu bytes", n);
        free(copy);
    }
    buffer_fini(&text);
}
END_TEST

/* What is JSON but no report: the member and its place are named. */
START_TEST(bad_reports)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"threads\":2", "\"threads\":0", "\"threads\" of loads[1]"},
        {"\"threads\":2", "\"threads\":1.5", "a whole number as \"threads\" of loads[1]"},
        {"\"threads\":2", "\"threads\":\"2\"", "\"threads\" of loads[1]"},
        {"\"isa\"", "\"isb\"", "\"isa\" of loads[0]"},
        {"\"tl1\"", "\"tl9\"", "\"quantization_asked\" of loads[1]"},
        {"\"load\":1", "\"load\":2", "from 0 to 1 as \"load\" of results[1]"},
        {"\"pp512\"", "\"pp\"", "\"test\" of results[0]"},
        {"\"pp512\"", "\"pp0512\"", "\"test\" of results[0]"},
        {"\"pp512\"", "\"xx512\"", "\"test\" of results[0]"},
        {"\"pp512\"", "\"pp999999999\"", "\"test\" of results[0]"},
        {"\"pp512\"", "\"p\"", "\"test\" of results[0]"},
        {"\"full\"", "\"none of these at all\"", "\"sampling\" of results[1]"},
        {"\"tokens_per_second\":100.0", "\"tokens_per_second\":0.0", "\"tokens_per_second\" of results[0]"},
        {"\"min\":90.0", "\"min\":100.5", "from min to max"},
        {"\"machine\"", "\"mashine\"", "\"device\" of machine"},
        {"\"model\":{", "\"model\":[],\"x\":{", "\"id\" of model"},
        {"\"results\":[", "\"results\":[],\"x\":[", "\"results\" of the report"},
        {"\"loads\":[", "\"loads\":{},\"x\":[", "\"loads\" of the report"},
        {"\"version\":\"1\"", "\"version\":1", "\"version\" of the report"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        struct buffer changed;
        write_report();
        buffer_init(&changed, 1 << 20);
        const char *at = strstr(text.data, cases[i].from);
        ck_assert_msg(at != NULL, "%s", cases[i].from);
        buffer_append(&changed, text.data, (size_t)(at - text.data));
        buffer_append_str(&changed, cases[i].to);
        buffer_append_str(&changed, at + strlen(cases[i].from));
        ck_assert_int_eq(bench_report_read(changed.data, changed.n_bytes, &again, &err), ERROR_VALIDATION_FAILED);
        ck_assert_msg(strstr(err.message, cases[i].message) != NULL, "%s -> %s", cases[i].to, err.message);
        buffer_fini(&changed);
        buffer_fini(&text);
    }
    struct error err = {0};
    ck_assert_int_eq(bench_report_read("[]", 2, &again, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

SUITE("bench", combinations, left_out_and_twice, bad_lists, sets, there_and_back, shares, cut_reports, bad_reports)
