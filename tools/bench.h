/*
 * Measuring the speed of a model: a plan says what, bench_run measures it, a report holds the figures and is JSON outside.
 *
 *   plan: tests x numbers of threads x formats  ->  one load of the model for each (threads, format)  ->  figures
 *
 * A prefill test (pp) is one prompt of so many tokens into an empty sequence, with its first token drawn. A decode test (tg) is so
 * many steps in which each of `batch` sequences gets one token, after `depth` tokens of its own. Tokens are drawn as requests' are
 * (session_sample), and fed back; before that they are random. One thread uses all of this.
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "base/buffer.h"
#include "engine/engine.h"

#define BENCH_MAX_LIST 16
#define BENCH_MAX_TESTS 256
#define BENCH_MAX_LOADS 64
#define BENCH_MAX_FIGURES 1024
#define BENCH_MAX_BATCH 1024
#define BENCH_MAX_TOKENS 131072
#define BENCH_MAX_RUNS 100

/* greedy; temperature 0.7, top-k 50, top-p 0.9; temperature 1 over all tokens; all logits computed and no token drawn. */
enum bench_sampling { BENCH_GREEDY, BENCH_TOPK, BENCH_FULL, BENCH_NONE, BENCH_N_SAMPLINGS };

struct bench_test {
    bool decode;
    size_t tokens; /* of the prompt, or steps of decoding */
    size_t batch;  /* sequences decoded together; 1 for a prefill */
    size_t depth;  /* tokens in each before; 0 for a prefill */
    enum bench_sampling sampling;
};

struct bench_plan {
    struct bench_test tests[BENCH_MAX_TESTS];
    size_t n_tests;
    int threads[BENCH_MAX_LIST]; /* 0 = what the machine offers */
    size_t n_threads;
    enum ternary_format formats[BENCH_MAX_LIST];
    size_t n_formats;
    size_t n_runs;
};

/* What the options of a command say: numbers or words separated by commas. */
struct bench_lists {
    const char *prompt, *generate, *batch, *depth, *sampling; /* prompt or generate "0" leave that test out */
    const char *threads, *quantization;
};

/* Fills threads and formats. VALIDATION_FAILED names the option, as the two below. */
enum error_code bench_plan_loads(const struct bench_lists *lists, struct bench_plan *plan, struct error *err);
/* Adds the tests of all combinations; depth by depth, so that contexts only grow. */
enum error_code bench_plan_tests(const struct bench_lists *lists, struct bench_plan *plan, struct error *err);
/* Adds a fixed set of tests: "standard" or "quick". */
enum error_code bench_plan_set(const char *name, struct bench_plan *plan, struct error *err);

/* "pp512"; returns `out`. */
char *bench_test_name(const struct bench_test *t, char out[24]);
bool bench_same_test(const struct bench_test *a, const struct bench_test *b);
extern const char *const bench_sampling_names[BENCH_N_SAMPLINGS];
extern const char *const bench_format_names[4]; /* of enum ternary_format */

/* ---- report ------------------------------------------------------------------------------------------------------ */

/* One load of the model. */
struct bench_load {
    int threads;
    enum ternary_format asked;
    char format[8], isa[16]; /* in use */
    double load_seconds;
    double weight_bytes;
    double peak_rss_bytes;               /* resident at most, mapped file included; 0 = not known */
    double read_bytes_per_s, int8_per_s; /* the machine's limits with these threads, after the load; 0 = not known */
};

struct bench_figure {
    struct bench_test test;
    size_t load; /* index of its load */
    size_t n_runs;
    double median, min, max;              /* tokens a second, all sequences together */
    double steps_per_s;                   /* of the median run */
    double bytes_per_step, macs_per_step; /* that a step must read and multiply: see session_work */
    double read_bytes_per_s, int8_per_s;  /* the limits around its runs, medians */
};

struct bench_report {
    char version[64];
    char device[16], device_name[64];
    int n_cpus; /* that this process may use */
    char model[128], architecture[32];
    double n_parameters, file_bytes;
    struct bench_load loads[BENCH_MAX_LOADS];
    size_t n_loads;
    struct bench_figure figures[BENCH_MAX_FIGURES];
    size_t n_figures;
};

/* Shares of the machine's limits, 0..; 0 when the limit is not known. */
double bench_read_share(const struct bench_figure *f);
double bench_int8_share(const struct bench_figure *f);

/* One JSON object, a load and a figure a line. docs/performance.md describes it. */
void bench_report_write(const struct bench_report *r, struct buffer *out);
/* Reads it back. VALIDATION_FAILED says where it is not one. */
enum error_code bench_report_read(const char *text, size_t n_bytes, struct bench_report *out, struct error *err);

/* ---- measuring --------------------------------------------------------------------------------------------------- */

/* What a command does while bench_run works. Each may be NULL. */
struct bench_observer {
    void *user;
    /* A load is open, the last of the report; an error ends the run. */
    enum error_code (*on_load)(void *user, const struct bench_report *r, struct error *err);
    /* A figure was measured for the n-th time, from 0; true = measure it again, and keep the better of both. */
    bool (*on_figure)(void *user, const struct bench_report *r, const struct bench_figure *f, int n);
    /* The last load is done. */
    void (*on_load_end)(void *user, const struct bench_report *r);
};

/* Measures the plan with the model and device of `options`, whose threads, format, sizes and sampling are ignored. Tests that the
 * model's context has no room for are left out, which is said on stderr. */
enum error_code bench_run(const struct bench_plan *plan, const struct engine_options *options,
                          const struct bench_observer *observer, struct bench_report *out, struct error *err);

#endif
