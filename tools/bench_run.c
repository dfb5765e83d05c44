/*
 * Measuring. The contexts of a load grow from test to test: what a sequence holds already is kept or cut to the depth of the next
 * test, so that a long context is computed once. The machine's limits are measured again and again, as what else runs on it changes
 * them: between runs, unless that was a moment ago. Peak memory is counted around that.
 */
#include "base/clock.h"
#include "tools/bench.h"
#include "tools/command.h"
#include "version.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 512     /* rows of a prefill step, as an engine has by default */
#define MIN_RUN_S 0.1 /* what takes less is done again within a run, as a clock tick or a wake-up would show */
#define LIMITS_NS CLOCK_NS_PER_S /* limits are as old at most; measuring takes a third of it */
#define WARM_STEPS 8
#define WARM_TOKENS 64

static const struct sampling samplings[] = {
    [BENCH_GREEDY] = {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    [BENCH_TOPK] = {.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .repetition_penalty = 1},
    [BENCH_FULL] = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
};

struct bench {
    const struct bench_plan *plan;
    const struct bench_observer *observer;
    struct bench_report *report;
    struct session *session;
    size_t n_fed[BENCH_MAX_BATCH];  /* tokens of each sequence */
    uint32_t next[BENCH_MAX_BATCH]; /* the token that it gets next */
    float *logits;                  /* [largest batch][vocab_size], for BENCH_NONE */
    struct engine_limits limits;
    int64_t limits_at_ns;
    bool peak_known;
    double peak_bytes; /* up to when limits were measured */
    uint64_t random;
    struct progress progress;
};

static uint32_t random_token(struct bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (uint32_t)(b->random >> 33) % session_model(b->session)->vocab_size;
}

/* One step; the rows that want it get their next token into ids[]. */
static enum error_code step(struct bench *b, enum bench_sampling sampling, const struct session_row *rows,
                            size_t n_rows, uint32_t *ids, struct error *err)
{
    if (sampling != BENCH_NONE)
        return session_sample(b->session, rows, n_rows, &samplings[sampling], ids, err);
    for (size_t i = 0, n = 0; i < n_rows; i++)
        if (rows[i].want_logits)
            ids[n++] = random_token(b);
    return session_step(b->session, rows, n_rows, false, b->logits, err);
}

/* Appends n random tokens to a sequence; the last one, when asked, with a token drawn after it. */
static enum error_code feed(struct bench *b, uint32_t sequence, size_t n, bool draw, enum bench_sampling sampling,
                            struct error *err)
{
    struct session_row rows[CHUNK];
    enum error_code code = ERROR_NONE;
    for (size_t at = 0; !code && at < n;) {
        size_t m = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){sequence, random_token(b), draw && at + i + 1 == n};
        code = step(b, draw ? sampling : BENCH_GREEDY, rows, m, &b->next[sequence], err);
        at += m;
    }
    b->n_fed[sequence] += n;
    return code;
}

/* Brings the sequences of a test to its depth. */
static enum error_code to_depth(struct bench *b, const struct bench_test *t, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (uint32_t s = 0; !code && s < t->batch; s++) {
        if (b->n_fed[s] > t->depth) {
            session_truncate(b->session, s, t->depth);
            b->n_fed[s] = t->depth;
        } else if (b->n_fed[s] < t->depth) {
            code = feed(b, s, t->depth - b->n_fed[s], false, BENCH_GREEDY, err);
            progress_show(&b->progress, "context", (double)s + 1, (double)t->batch, "sequences");
        }
        b->next[s] = random_token(b);
    }
    return code;
}

/* n tokens of prefill or steps of decoding; *seconds is what they took. */
static enum error_code run_once(struct bench *b, const struct bench_test *t, size_t n, double *seconds,
                                struct error *err)
{
    struct session_row rows[BENCH_MAX_BATCH];
    enum error_code code = to_depth(b, t, err);
    int64_t start = clock_now_ns();
    if (!code && !t->decode)
        code = feed(b, 0, n, true, t->sampling, err);
    for (size_t i = 0; !code && t->decode && i < n; i++) {
        for (uint32_t s = 0; s < t->batch; s++) {
            rows[s] = (struct session_row){s, b->next[s], true};
            b->n_fed[s]++;
        }
        code = step(b, t->sampling, rows, t->batch, b->next, err);
    }
    *seconds = (double)(clock_now_ns() - start) / (double)CLOCK_NS_PER_S;
    return code;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof values[0], compare_doubles);
    return values[n / 2];
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* Peak resident memory in bytes, the mapped file included; 0 when it is not known. */
static double peak_rss_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return (double)kb * 1024;
}

/* Makes the peak what is resident now (proc(5), clear_refs); false where the system does not. */
static bool reset_peak_rss(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return false;
    bool ok = fputs("5", f) >= 0;
    return fclose(f) == 0 && ok;
}

/* Since the count began, what measuring took left out; 0 when it is not known. */
static double peak_so_far(const struct bench *b)
{
    double now = peak_rss_bytes();
    return !b->peak_known ? 0 : now > b->peak_bytes ? now : b->peak_bytes;
}

static void measure_limits(struct bench *b)
{
    b->peak_bytes = peak_so_far(b);
    session_measure(b->session, &b->limits);
    b->limits_at_ns = clock_now_ns();
    b->peak_known = reset_peak_rss() && b->peak_known;
}

/* The limits around the runs of a test. */
struct bench_limits {
    double read_bytes_per_s[BENCH_MAX_RUNS + 1], int8_per_s[BENCH_MAX_RUNS + 1];
    size_t n;
};

static void note_limits(struct bench *b, struct bench_limits *l)
{
    if (clock_now_ns() - b->limits_at_ns > LIMITS_NS)
        measure_limits(b);
    l->read_bytes_per_s[l->n] = b->limits.read_bytes_per_s;
    l->int8_per_s[l->n++] = b->limits.int8_per_s;
}

/* ---- a test ------------------------------------------------------------------------------------------------------ */

static size_t n_steps_of(const struct bench_test *t)
{
    return t->decode ? t->tokens : (t->tokens + CHUNK - 1) / CHUNK;
}

/* What a run must read and multiply, divided by its steps. */
static void count_work(const struct bench *b, struct bench_figure *f)
{
    const struct bench_test *t = &f->test;
    struct session_work work; /* of all rows; its weights and head are those of one step */
    size_t n_steps = n_steps_of(t), n_heads = t->decode ? n_steps : 1, n_positions = 0;
    for (size_t i = 1; i <= n_steps; i++)
        n_positions += t->decode ? t->batch * (t->depth + i) : i < n_steps ? i * CHUNK : t->tokens;
    session_work(b->session, t->tokens * t->batch, n_positions,
                 t->sampling == BENCH_NONE ? NULL : &samplings[t->sampling], &work);
    f->bytes_per_step = (double)work.weight_bytes +
                        ((double)work.head_bytes * (double)n_heads + (double)work.kv_bytes) / (double)n_steps;
    f->macs_per_step = (double)work.multiply_adds / (double)n_steps;
}

/* Seconds that the test takes once, on average of as often as a run needs. */
static enum error_code run_long(struct bench *b, const struct bench_test *t, double *seconds, struct error *err)
{
    double total = 0;
    int n = 0;
    enum error_code code = ERROR_NONE;
    while (!code && total < MIN_RUN_S) {
        double once = 0;
        code = run_once(b, t, t->tokens, &once, err);
        total += once;
        n++;
    }
    *seconds = total / n;
    return code;
}

static enum error_code measure(struct bench *b, struct bench_figure *f, struct error *err)
{
    double seconds[BENCH_MAX_RUNS];
    struct bench_limits limits = {.n = 0};
    const struct bench_test *t = &f->test;
    size_t warm = t->decode ? WARM_STEPS : WARM_TOKENS, n = b->plan->n_runs;
    char name[24];
    bench_test_name(t, name);
    enum error_code code = run_once(b, t, warm < t->tokens ? warm : t->tokens, &seconds[0], err);
    for (size_t i = 0; !code && i < n; i++) {
        progress_show(&b->progress, name, (double)i, (double)n, "runs");
        note_limits(b, &limits);
        code = run_long(b, t, &seconds[i], err);
    }
    progress_end(&b->progress);
    if (code)
        return code;
    note_limits(b, &limits);
    f->read_bytes_per_s = median(limits.read_bytes_per_s, limits.n);
    f->int8_per_s = median(limits.int8_per_s, limits.n);
    double n_tokens = (double)(t->tokens * t->batch);
    f->n_runs = n;
    f->median = n_tokens / median(seconds, n);
    f->min = n_tokens / seconds[n - 1];
    f->max = n_tokens / seconds[0];
    f->steps_per_s = (double)n_steps_of(t) / seconds[n / 2];
    return ERROR_NONE;
}

/* Measures a test, again as long as the observer asks; the best counts, as others only slow. */
static enum error_code measure_test(struct bench *b, const struct bench_test *t, struct error *err)
{
    struct bench_report *r = b->report;
    if (r->n_figures == BENCH_MAX_FIGURES)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected at most %d figures", BENCH_MAX_FIGURES);
    struct bench_figure *kept = &r->figures[r->n_figures];
    *kept = (struct bench_figure){.test = *t, .load = r->n_loads - 1};
    count_work(b, kept);
    for (int n = 0;; n++) {
        struct bench_figure f = *kept;
        enum error_code code = measure(b, &f, err);
        if (code)
            return code;
        if (f.median > kept->median)
            *kept = f;
        if (!b->observer->on_figure || !b->observer->on_figure(b->observer->user, r, kept, n))
            break;
    }
    r->n_figures++;
    return ERROR_NONE;
}

/* ---- a load ------------------------------------------------------------------------------------------------------ */

/* Sizes of a session for all tests: a sequence has as many tokens as the longest test that it is part of. */
static void size_session(const struct bench_plan *plan, struct engine_options *o)
{
    size_t longest[BENCH_MAX_BATCH] = {0};
    for (size_t i = 0; i < plan->n_tests; i++)
        for (size_t s = 0; s < plan->tests[i].batch; s++) {
            size_t n = plan->tests[i].depth + plan->tests[i].tokens;
            longest[s] = n > longest[s] ? n : longest[s];
        }
    o->kv_positions = 0;
    o->context_length = longest[0];
    for (o->max_sequences = 0; o->max_sequences < BENCH_MAX_BATCH && longest[o->max_sequences]; o->max_sequences++)
        o->kv_positions += longest[o->max_sequences];
    o->max_batch_tokens = o->max_sequences > CHUNK ? o->max_sequences : CHUNK;
    o->sampling = true;
}

static void describe(struct bench_report *r, const struct engine_model *m, const struct engine_limits *limits)
{
    cpu_set_t cpus;
    snprintf(r->version, sizeof r->version, "%s (%s)", BITNET_VERSION, BITNET_GIT_SHA);
    snprintf(r->device, sizeof r->device, "%s", limits->device);
    snprintf(r->device_name, sizeof r->device_name, "%s", limits->device_name);
    snprintf(r->model, sizeof r->model, "%s", m->id);
    snprintf(r->architecture, sizeof r->architecture, "%s", m->architecture);
    r->n_cpus = sched_getaffinity(0, sizeof cpus, &cpus) ? 0 : CPU_COUNT(&cpus);
    r->n_parameters = (double)m->n_parameters;
    r->file_bytes = (double)m->file_bytes;
}

static bool wants_logits(const struct bench_plan *plan)
{
    for (size_t i = 0; i < plan->n_tests; i++)
        if (plan->tests[i].sampling == BENCH_NONE)
            return true;
    return false;
}

static enum error_code open_load(struct bench *b, struct engine_options *o, struct error *err)
{
    size_session(b->plan, o);
    enum error_code code = session_open(o, &b->session, err);
    if (code)
        return code;
    const struct engine_model *m = session_model(b->session);
    measure_limits(b);
    describe(b->report, m, &b->limits);
    struct bench_load *load = &b->report->loads[b->report->n_loads++];
    *load = (struct bench_load){.threads = b->limits.n_threads,
                                .asked = o->format,
                                .load_seconds = m->load_seconds,
                                .weight_bytes = (double)m->weight_bytes,
                                .read_bytes_per_s = b->limits.read_bytes_per_s,
                                .int8_per_s = b->limits.int8_per_s};
    snprintf(load->format, sizeof load->format, "%s", m->quantization);
    snprintf(load->isa, sizeof load->isa, "%s", m->isa);
    if (!b->logits && wants_logits(b->plan) &&
        !(b->logits = calloc(o->max_sequences, m->vocab_size * sizeof *b->logits)))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %zu sequences", o->max_sequences);
    memset(b->n_fed, 0, sizeof b->n_fed);
    return b->observer->on_load ? b->observer->on_load(b->observer->user, b->report, err) : ERROR_NONE;
}

static enum error_code run_load(struct bench *b, struct engine_options *o, struct error *err)
{
    b->peak_known = reset_peak_rss();
    b->peak_bytes = 0;
    enum error_code code = open_load(b, o, err);
    for (size_t i = 0; !code && i < b->plan->n_tests; i++) {
        const struct bench_test *t = &b->plan->tests[i];
        char name[24];
        if (t->depth + t->tokens <= session_model(b->session)->context_length)
            code = measure_test(b, t, err);
        else
            fprintf(stderr, "%s at depth %zu is left out: the model's context has %u tokens\n",
                    bench_test_name(t, name), t->depth, session_model(b->session)->context_length);
    }
    if (!code) {
        b->report->loads[b->report->n_loads - 1].peak_rss_bytes = peak_so_far(b);
        if (b->observer->on_load_end)
            b->observer->on_load_end(b->observer->user, b->report);
    }
    session_close(b->session);
    b->session = NULL;
    return code;
}

enum error_code bench_run(const struct bench_plan *plan, const struct engine_options *options,
                          const struct bench_observer *observer, struct bench_report *out, struct error *err)
{
    struct engine_options o = *options;
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to measure");
    *b = (struct bench){.plan = plan, .observer = observer, .report = out, .random = 1};
    memset(out, 0, sizeof *out);
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; !code && i < plan->n_threads; i++) {
        o.n_threads = plan->threads[i];
        for (size_t k = 0; !code && k < plan->n_formats; k++) {
            o.format = plan->formats[k];
            code = run_load(b, &o, err);
        }
    }
    if (!code && !out->n_figures)
        code = error_set(err, ERROR_VALIDATION_FAILED, "nothing was measured: no test fits the model's context");
    free(b->logits);
    free(b);
    return code;
}
