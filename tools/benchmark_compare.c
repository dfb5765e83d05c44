/*
 * bitnet benchmark-compare: measures a fixed set, compares it with a baseline, and keeps it as one. Exit status: 0 = no figure is
 * slower, 1 = one is, 2 = nothing could be compared (usage, files, another machine). Comparing is in tools/compare.h.
 */
#include "tools/command.h"
#include "tools/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_AGAIN 2 /* a figure that looks slower is measured again so many times */

struct config {
    struct model_flags flags;
    struct bench_lists lists;
    const char *baseline, *save, *baseline_dir, *threshold;
    int64_t runs;
    bool quick, force, json;
};

#define TEXT(name_, field, default_, help_)                                                                            \
    {                                                                                                                  \
        .name = name_, .type = OPTION_STRING, .offset = offsetof(struct config, field), .default_value = default_,     \
        .help = help_                                                                                                  \
    }

static const struct option_def defs[] = {
    MODEL_FLAGS_FIXED,
    TEXT("threads", lists.threads, "0", "compute threads (-t), a list; 0 = what the machine and its cgroup offer"),
    TEXT("quantization", lists.quantization, "auto",
         "layouts that the ternary kernels read, a list: auto, i2s, tl1, tl2"),
    TEXT("baseline", baseline, NULL,
         "latest: the one that was saved last; or a name, or a file of bitnet bench --json; latest by default without "
         "--save"),
    TEXT("save", save, NULL, "keep what was measured as the baseline of this name, unless a figure is slower"),
    TEXT("baseline-dir", baseline_dir, NULL,
         "folder of baselines; $XDG_STATE_HOME/bitnet/benchmarks by default, or ~/.local/state/bitnet/benchmarks"),
    TEXT("threshold", threshold, "5%", "how much slower a median may be"),
    {.name = "quick",
     .type = OPTION_BOOL,
     .offset = offsetof(struct config, quick),
     .help = "a set that takes seconds"},
    {.name = "runs",
     .type = OPTION_INT,
     .offset = offsetof(struct config, runs),
     .default_value = "5",
     .min = 1,
     .max = BENCH_MAX_RUNS,
     .help = "timed runs of each figure (-r)"},
    {.name = "force",
     .type = OPTION_BOOL,
     .offset = offsetof(struct config, force),
     .help = "compare even with another machine, model or number of threads"},
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet benchmark-compare",
    "usage: bitnet benchmark-compare [--model models/tales.gguf] --save NAME\n"
    "       bitnet benchmark-compare [--model models/tales.gguf] --baseline latest --threshold 5%\n"
    "A figure is slower when its median is below the baseline's by more than the threshold and all its runs are slower "
    "than all\n"
    "runs of the baseline; it is then measured again, twice at most, and the best counts. Exit status: 0 = none is "
    "slower, 1 = one\n"
    "is, 2 = they cannot be compared.\n",
    defs};

struct comparison {
    const struct config *config;
    double threshold;
    char folder[BASELINE_PATH_BYTES], path[BASELINE_PATH_BYTES]; /* path "": nothing to compare with */
    struct bench_plan plan;
    struct bench_report base, now;
    enum verdict verdicts[BENCH_MAX_FIGURES];
    size_t n_slower, n_compared;
};

static const struct bench_figure *base_of(const struct comparison *c, const struct bench_figure *f)
{
    return c->path[0] ? compare_find(&c->base, &c->now, f, c->config->force) : NULL;
}

static enum error_code on_load(void *user, const struct bench_report *r, struct error *err)
{
    struct comparison *c = user;
    const struct bench_load *l = &r->loads[r->n_loads - 1];
    enum error_code code = ERROR_NONE;
    struct buffer differs;
    buffer_init(&differs, 4096);
    if (c->path[0] && !c->config->force && !compare_setup(&c->base, r, &differs))
        code = error_set(err, ERROR_VALIDATION_FAILED, "%.200s is not comparable (--force compares all the same): %s",
                         c->path, differs.data);
    buffer_fini(&differs);
    if (code || c->config->json)
        return code;
    printf("%s on %s, %s, %d threads, %s\n%-8s %5s %6s %-8s %10s %10s %7s  %s\n", r->model, r->device_name, l->isa,
           l->threads, l->format, "test", "batch", "depth", "sampling", "baseline", "now", "ratio", "verdict");
    return ERROR_NONE;
}

static void print_row(const struct bench_figure *base, const struct bench_figure *f, enum verdict verdict)
{
    const struct bench_test *t = &f->test;
    char name[24];
    printf("%-8s %5zu %6zu %-8s", bench_test_name(t, name), t->batch, t->depth, bench_sampling_names[t->sampling]);
    if (base)
        printf(" %10.2f %10.2f %7.3f  %s\n", base->median, f->median, f->median / base->median, verdict_names[verdict]);
    else
        printf(" %10s %10.2f %7s  %s\n", "-", f->median, "-", verdict_names[verdict]);
    fflush(stdout);
}

static bool on_figure(void *user, const struct bench_report *r, const struct bench_figure *f, int n)
{
    struct comparison *c = user;
    const struct bench_figure *base = base_of(c, f);
    enum verdict verdict = base ? compare_figures(base, f, c->threshold) : VERDICT_NEW;
    if (verdict == VERDICT_SLOWER && n < MAX_AGAIN)
        return true;
    c->verdicts[f - r->figures] = verdict;
    c->n_slower += verdict == VERDICT_SLOWER;
    c->n_compared += base != NULL;
    if (!c->config->json)
        print_row(base, f, verdict);
    return false;
}

static void print_json(const struct comparison *c)
{
    struct buffer text;
    buffer_init(&text, 4 << 20);
    buffer_append_str(&text, "{\"baseline\":\"");
    buffer_append_json(&text, c->path, strlen(c->path));
    buffer_printf(&text, "\",\"threshold\":%.4f,\"slower\":%zu,\"compared\":%zu,\n\"figures\":[", c->threshold,
                  c->n_slower, c->n_compared);
    for (size_t i = 0; i < c->now.n_figures; i++) {
        const struct bench_figure *f = &c->now.figures[i], *base = base_of(c, f);
        const struct bench_load *l = &c->now.loads[f->load];
        char name[24];
        buffer_printf(&text, "%s\n{\"test\":\"%s\",\"batch\":%zu,\"depth\":%zu,\"sampling\":\"%s\",\"threads\":%d,",
                      i ? "," : "", bench_test_name(&f->test, name), f->test.batch, f->test.depth,
                      bench_sampling_names[f->test.sampling], l->threads);
        buffer_printf(&text, "\"quantization\":\"%s\",\"now\":%.4f,\"now_min\":%.4f,\"now_max\":%.4f,",
                      bench_format_names[l->asked], f->median, f->min, f->max);
        if (base)
            buffer_printf(&text, "\"baseline\":%.4f,\"baseline_min\":%.4f,\"baseline_max\":%.4f,\"ratio\":%.4f,",
                          base->median, base->min, base->max, f->median / base->median);
        buffer_printf(&text, "\"verdict\":\"%s\"}", verdict_names[c->verdicts[i]]);
    }
    buffer_append_str(&text, "\n]}\n");
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
}

/* What to measure and what to compare it with. */
static enum error_code prepare(struct comparison *c, struct error *err)
{
    const struct config *o = c->config;
    enum error_code code;
    c->plan.n_runs = (size_t)o->runs;
    if (!compare_threshold(o->threshold, &c->threshold))
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "--threshold: expected a percentage such as 5%%, found \"%.100s\"", o->threshold);
    if ((code = bench_plan_loads(&o->lists, &c->plan, err)) ||
        (code = bench_plan_set(o->quick ? "quick" : "standard", &c->plan, err)) ||
        (code = baseline_folder(o->baseline_dir, c->folder, err)) ||
        (o->save && (code = baseline_check_name(o->save, err))))
        return code;
    const char *which = o->baseline ? o->baseline : o->save ? NULL : "latest";
    if (!which)
        return ERROR_NONE;
    if ((code = baseline_find(c->folder, which, c->path, err)))
        return code;
    return baseline_load(c->path, &c->base, err);
}

/* Measures and compares; the exit status. */
static int run(struct comparison *c, struct error *err)
{
    const struct bench_observer observer = {.user = c, .on_load = on_load, .on_figure = on_figure};
    struct engine_options options;
    command_engine_options(&c->config->flags, &options);
    if (prepare(c, err) || bench_run(&c->plan, &options, &observer, &c->now, err))
        return 2;
    if (c->path[0] && !c->n_compared) {
        error_set(err, ERROR_VALIDATION_FAILED, "%.300s has none of the figures that were measured", c->path);
        return 2;
    }
    if (c->config->json)
        print_json(c);
    else if (c->path[0])
        printf("%zu of %zu figures slower than %s by more than %.1f %%\n", c->n_slower, c->n_compared, c->path,
               100 * c->threshold);
    if (c->n_slower)
        return 1;
    if (c->config->save && baseline_save(c->folder, c->config->save, &c->now, err))
        return 2;
    if (c->config->save && !c->config->json)
        printf("saved as %s in %s\n", c->config->save, c->folder);
    return 0;
}

int command_benchmark_compare(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "t", "--threads", "r", "--runs", NULL};
    struct config config = {0};
    struct option_result result = {0};
    struct error err = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &config, &result);
    if (!config.flags.model)
        config.flags.model = strdup("models/tales.gguf"); /* what a clone of the repository has */
    struct comparison *c = calloc(1, sizeof *c);
    int status = 2;
    if (c) {
        c->config = &config;
        status = run(c, &err);
    } else {
        error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory to compare");
    }
    if (err.code)
        command_fail(&err);
    free(c);
    option_free(&table, &config);
    return status;
}
