/* The rule of a comparison, what may be compared, and the folder of baselines. */
#include "tools/compare.h"

#include "tests/suite.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

START_TEST(rule)
{
    static const struct {
        double base[3], now[3]; /* min, median, max */
        enum verdict verdict;
    } cases[] = {
        {{99, 100, 101}, {99, 100, 101}, VERDICT_SAME},
        {{99, 100, 101}, {94, 95.1, 96}, VERDICT_SAME}, /* within 5 % */
        {{99, 100, 101}, {93, 94.9, 96}, VERDICT_SLOWER},
        {{90, 100, 101}, {85, 88, 90}, VERDICT_SAME}, /* one run was as fast as the slowest of the baseline */
        {{90, 100, 101}, {85, 88, 89.9}, VERDICT_SLOWER},
        {{99, 100, 101}, {40, 50, 120}, VERDICT_SAME}, /* noise */
        {{99, 100, 101}, {103, 104.9, 106}, VERDICT_SAME},
        {{99, 100, 101}, {103, 105.1, 106}, VERDICT_FASTER},
        {{99, 100, 110}, {109, 120, 121}, VERDICT_SAME},
        {{99, 100, 110}, {111, 120, 121}, VERDICT_FASTER},
        {{100, 100, 100}, {94, 94, 94}, VERDICT_SLOWER}, /* one run each */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bench_figure base = {.min = cases[i].base[0], .median = cases[i].base[1], .max = cases[i].base[2]};
        struct bench_figure now = {.min = cases[i].now[0], .median = cases[i].now[1], .max = cases[i].now[2]};
        ck_assert_msg(compare_figures(&base, &now, 0.05) == cases[i].verdict, "case %zu", i);
    }
}
END_TEST

START_TEST(thresholds)
{
    static const struct {
        const char *text;
        double expected; /* negative: refused */
    } cases[] = {{"5%", 0.05}, {"5", 0.05}, {"0", 0},    {"0.5%", 0.005}, {"99.9%", 0.999}, {"100%", -1}, {"-1%", -1},
                 {"", -1},     {"%", -1},   {"5%%", -1}, {"5 %", -1},     {"x", -1},        {"nan", -1},  {"1e9", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double found = -1;
        bool ok = compare_threshold(cases[i].text, &found);
        ck_assert_msg(ok == (cases[i].expected >= 0), "%s", cases[i].text);
        if (ok)
            ck_assert_msg(found > cases[i].expected - 1e-12 && found < cases[i].expected + 1e-12, "%s", cases[i].text);
    }
}
END_TEST

static struct bench_report base, now;

/* Two loads, of 1 and 2 threads, with the same test. */
static void fill(struct bench_report *r)
{
    *r = (struct bench_report){.version = "1",
                               .device = "cpu",
                               .device_name = "CPU",
                               .n_cpus = 2,
                               .model = "m",
                               .architecture = "bitnet",
                               .n_parameters = 1e6,
                               .file_bytes = 12345};
    for (int t = 1; t <= 2; t++) {
        r->loads[r->n_loads] = (struct bench_load){t, TERNARY_AUTO, "i2s", "avx2", 0.5, 1e6, 2e6, 3e10, 4e11};
        r->figures[r->n_figures++] =
            (struct bench_figure){{true, 16, 1, 0, BENCH_GREEDY}, r->n_loads++, 5, 100 * t, 90, 999, 6, 1e9, 0, 0, 0};
    }
}

START_TEST(counterparts)
{
    fill(&base);
    fill(&now);
    ck_assert_ptr_eq(compare_find(&base, &now, &now.figures[1], false), &base.figures[1]);
    base.loads[0].threads = 2; /* in another order */
    base.loads[1].threads = 1;
    ck_assert_ptr_eq(compare_find(&base, &now, &now.figures[1], false), &base.figures[0]);
    ck_assert_ptr_eq(compare_find(&base, &now, &now.figures[1], true), &base.figures[1]);
    now.loads[1].threads = 4;
    ck_assert_ptr_null(compare_find(&base, &now, &now.figures[1], false));
    now.figures[0].test.depth = 1;
    ck_assert_ptr_null(compare_find(&base, &now, &now.figures[0], false));
    ck_assert_ptr_null(compare_find(&base, &now, &now.figures[0], true));
    fill(&now);
    now.loads[1].asked = TERNARY_TL1;
    ck_assert_ptr_null(compare_find(&base, &now, &now.figures[1], false));
}
END_TEST

static const char *differences(void)
{
    static char text[4096];
    struct buffer out;
    buffer_init(&out, sizeof text);
    ck_assert_int_eq(compare_setup(&base, &now, &out), out.n_bytes == 0);
    snprintf(text, sizeof text, "%s", out.data ? out.data : "");
    buffer_fini(&out);
    return text;
}

START_TEST(setups)
{
    fill(&base);
    fill(&now);
    ck_assert_str_eq(differences(), "");
    strcpy(now.version, "2"); /* which is what comparing is for */
    strcpy(now.loads[1].format, "tl2");
    ck_assert_str_eq(differences(), "");
    strcpy(now.device_name, "GPU");
    now.n_cpus = 4;
    ck_assert_str_eq(differences(), "machine: CPU in the baseline, GPU now; CPUs: 2 in the baseline, 4 now");
    fill(&now);
    now.file_bytes++;
    strcpy(now.model, "n");
    ck_assert_str_eq(differences(),
                     "model: m in the baseline, n now; bytes of the file: 12345 in the baseline, 12346 now");
    fill(&now);
    now.loads[1].threads = 3;
    ck_assert_str_eq(differences(), "threads: 1 in the baseline, 3 now");
    fill(&now);
    now.loads[1].asked = TERNARY_TL2;
    strcpy(now.loads[1].isa, "portable");
    ck_assert_str_eq(
        differences(),
        "quantization: auto in the baseline, tl2 now; instruction set: avx2 in the baseline, portable now");
}
END_TEST

/* ---- the folder -------------------------------------------------------------------------------------------------- */

static char folder[256];

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitnet-baselines-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static char *below(const char *name)
{
    static char path[BASELINE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void set_age(const char *name, long seconds)
{
    struct timespec times[2] = {{1000000 - seconds, 0}, {1000000 - seconds, 0}};
    ck_assert_int_eq(utimensat(AT_FDCWD, below(name), times, 0), 0);
}

static const char *find(const char *which)
{
    static char path[BASELINE_PATH_BYTES];
    struct error err = {0};
    return baseline_find(folder, which, path, &err) ? NULL : path;
}

START_TEST(saved_and_found)
{
    struct error err = {0};
    char deep[300];
    make_folder();
    ck_assert_ptr_null(find("latest"));
    snprintf(deep, sizeof deep, "%s/x/y", folder);
    fill(&base);
    ck_assert_msg(!baseline_save(deep, "a-1.b_2", &base, &err), "%s", err.message);
    ck_assert(!baseline_save(folder, "old", &base, &err) && !baseline_save(folder, "new", &base, &err));
    set_age("old.json", 0);
    set_age("new.json", 10);
    ck_assert_str_eq(find("latest"), below("old.json"));
    set_age("new.json", -10);
    ck_assert_str_eq(find("latest"), below("new.json"));
    set_age("old.json", -10); /* as late: the last by name */
    ck_assert_str_eq(find("latest"), below("old.json"));
    ck_assert_str_eq(find("new"), below("new.json"));
    ck_assert_str_eq(find(below("new.json")), below("new.json"));
    ck_assert_ptr_null(find("other"));
    ck_assert_ptr_null(find("other.json"));
    ck_assert_ptr_null(find(below("other")));
    ck_assert(!baseline_load(below("new.json"), &now, &err));
    ck_assert_mem_eq(&now, &base, sizeof now);
    ck_assert_int_ne(access(below("new.json.part"), F_OK), 0);
    remove_folder();
}
END_TEST

START_TEST(bad_names_and_places)
{
    static const char *const names[] = {"", ".", "..", ".x", "a/b", "a b", "latest", "x.json", "\xc3\xa4"};
    struct error err = {0};
    make_folder();
    fill(&base);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_msg(baseline_save(folder, names[i], &base, &err) == ERROR_VALIDATION_FAILED, "\"%s\"", names[i]);
    ck_assert(!baseline_save(folder, "file", &base, &err));
    ck_assert_int_eq(baseline_save(below("file.json"), "x", &base, &err), ERROR_INTERNAL);
    ck_assert_int_eq(baseline_load(below("none.json"), &now, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(truncate(below("file.json"), 500), 0);
    ck_assert_int_eq(baseline_load(below("file.json"), &now, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "file.json: JSON: expected") != NULL, "%s", err.message);
    ck_assert_int_eq(truncate(below("file.json"), 0), 0);
    ck_assert_int_eq(baseline_load(below("file.json"), &now, &err), ERROR_VALIDATION_FAILED);
    remove_folder();
}
END_TEST

START_TEST(folders)
{
    struct error err = {0};
    char path[BASELINE_PATH_BYTES];
    setenv("XDG_STATE_HOME", "/state", 1);
    setenv("HOME", "/home/x", 1);
    ck_assert(!baseline_folder("here", path, &err));
    ck_assert_str_eq(path, "here");
    ck_assert(!baseline_folder(NULL, path, &err));
    ck_assert_str_eq(path, "/state/bitnet/benchmarks");
    setenv("XDG_STATE_HOME", "relative", 1);
    ck_assert(!baseline_folder("", path, &err));
    ck_assert_str_eq(path, "/home/x/.local/state/bitnet/benchmarks");
    unsetenv("XDG_STATE_HOME");
    unsetenv("HOME");
    ck_assert_int_eq(baseline_folder(NULL, path, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

SUITE("compare", rule, thresholds, counterparts, setups, saved_and_found, bad_names_and_places, folders)
