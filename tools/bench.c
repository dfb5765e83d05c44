/* bitnet bench: the options, the table, the JSON. What is measured and how is in tools/bench.h. */
#include "tools/bench.h"

#include "tools/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    struct model_flags flags;
    struct bench_lists lists;
    const char *set;
    int64_t runs;
    bool json;
};

#define LIST(name_, field, default_, unit_, help_)                                                                     \
    {                                                                                                                  \
        .name = name_, .type = OPTION_STRING, .offset = offsetof(struct config, lists.field),                          \
        .default_value = default_, .unit = unit_, .help = help_                                                        \
    }

static const struct option_def defs[] = {
    MODEL_FLAGS_FIXED,
    LIST("prompt", prompt, "512", "tokens", "prefill of so many tokens (-p); 0 = leave out"),
    LIST("generate", generate, "128", "tokens", "decode so many steps (-n); 0 = leave out"),
    LIST("batch", batch, "1", NULL, "sequences decoded together (-b)"),
    LIST("depth", depth, "0", "tokens", "tokens in each sequence before decoding (-d)"),
    LIST("sampling", sampling, "greedy", NULL,
         "greedy; topk: temperature 0.7, top-k 50, top-p 0.9; full: temperature 1 over all tokens; none: all logits, "
         "no token drawn"),
    LIST("threads", threads, "0", NULL, "compute threads (-t); 0 = what the machine and its cgroup offer"),
    LIST("quantization", quantization, "auto", NULL, "layouts that the ternary kernels read: auto, i2s, tl1, tl2"),
    {.name = "set",
     .type = OPTION_CHOICE,
     .offset = offsetof(struct config, set),
     .default_value = "lists",
     .choices = "lists|standard|quick",
     .help = "what to measure: what the lists say, or a fixed set in place of -p -n -b -d and --sampling"},
    {.name = "runs",
     .type = OPTION_INT,
     .offset = offsetof(struct config, runs),
     .default_value = "5",
     .min = 1,
     .max = BENCH_MAX_RUNS,
     .help = "timed runs of each figure (-r), after a short one that warms up"},
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet bench",
    "usage: bitnet bench --model FILE [-p 512] [-n 128] [-b 1,8,32] [-d 0,4096] [-t 1,2] [--sampling greedy,topk] "
    "[--json]\n"
    "Lists are separated by commas; all combinations are measured, with one load of the model for each number of "
    "threads and\n"
    "layout. Figures are medians. \"of read\" is the share of the read bandwidth, \"of int8\" of the peak of int8 "
    "multiply-adds;\n"
    "both limits are measured beside the figures. docs/performance.md says what the figures mean and describes the JSON.\n",
    defs};

static enum error_code print_load(void *user, const struct bench_report *r, struct error *err)
{
    const struct bench_load *l = &r->loads[r->n_loads - 1];
    (void)user, (void)err;
    if (r->n_loads == 1)
        printf("%s (%s, %.2f M weights) on %s, %s, %d CPUs, %s\n", r->model, r->architecture, r->n_parameters / 1e6,
               r->device, r->device_name, r->n_cpus, l->isa);
    const char *asked = bench_format_names[l->asked];
    printf("\n%d threads, %s%s%s: loaded in %.2f s, weights %.1f MB", l->threads, l->format,
           strcmp(asked, l->format) == 0 ? "" : " for ", strcmp(asked, l->format) == 0 ? "" : asked, l->load_seconds,
           l->weight_bytes / 1e6);
    if (l->read_bytes_per_s > 0)
        printf("; limits: %.1f GB/s read, %.1f G int8 multiply-adds/s", l->read_bytes_per_s / 1e9, l->int8_per_s / 1e9);
    printf("\n%-8s %5s %6s %-8s %10s  %-23s %10s %8s %10s %8s\n", "test", "batch", "depth", "sampling", "tokens/s",
           "min .. max", "MB/step", "of read", "MMAC/step", "of int8");
    fflush(stdout);
    return ERROR_NONE;
}

static void print_share(double share)
{
    if (share > 0)
        printf(" %6.1f %%", 100 * share);
    else
        printf(" %8s", "-");
}

static bool print_figure(void *user, const struct bench_report *r, const struct bench_figure *f, int n)
{
    char name[24], range[32];
    (void)user, (void)r, (void)n;
    snprintf(range, sizeof range, "%.2f .. %.2f", f->min, f->max);
    printf("%-8s %5zu %6zu %-8s %10.2f  %-23s %10.1f", bench_test_name(&f->test, name), f->test.batch, f->test.depth,
           bench_sampling_names[f->test.sampling], f->median, range, f->bytes_per_step / 1e6);
    print_share(bench_read_share(f));
    printf(" %10.1f", f->macs_per_step / 1e6);
    print_share(bench_int8_share(f));
    putchar('\n');
    fflush(stdout);
    return false;
}

static void print_load_end(void *user, const struct bench_report *r)
{
    double peak = r->loads[r->n_loads - 1].peak_rss_bytes;
    (void)user;
    if (peak > 0)
        printf("peak resident memory %.0f MB\n", peak / 1e6);
}

static void print_json(const struct bench_report *r)
{
    struct buffer text;
    buffer_init(&text, 4 << 20);
    bench_report_write(r, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
}

static bool make_plan(const struct config *c, struct bench_plan *plan, struct error *err)
{
    *plan = (struct bench_plan){.n_runs = (size_t)c->runs};
    if (bench_plan_loads(&c->lists, plan, err))
        return false;
    return (c->set[0] == 'l' ? bench_plan_tests(&c->lists, plan, err) : bench_plan_set(c->set, plan, err)) ==
           ERROR_NONE;
}

int command_bench(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "p", "--prompt", "n", "--generate", "b", "--batch",
                                      "d", "--depth", "r", "--runs",   "t", "--threads",  NULL};
    static const struct bench_observer shown = {NULL, print_load, print_figure, print_load_end}, silent;
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    struct engine_options options;
    command_engine_options(&c.flags, &options);
    struct error err = {0};
    struct bench_plan *plan = calloc(1, sizeof *plan);
    struct bench_report *report = calloc(1, sizeof *report);
    int status = 1;
    if (!plan || !report)
        error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory to measure");
    else if (!make_plan(&c, plan, &err))
        status = 2;
    else if (!bench_run(plan, &options, c.json ? &silent : &shown, report, &err))
        status = 0;
    if (status)
        command_fail(&err);
    else if (c.json)
        print_json(report);
    free(plan);
    free(report);
    option_free(&table, &c);
    return status;
}
