/*
 * bitnet bench: prefill (pp: tokens of one prompt a second) and decode (tg: tokens a second, all sequences together, one token each a
 * step, after a prompt of --depth tokens). Tokens are random: speed does not depend on them. Each figure is the median of
 * --runs runs after one that warms up.
 */
#include "base/clock.h"
#include "tools/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    struct model_flags flags;
    const char *batch;
    int64_t prompt, generate, depth, runs;
    bool json;
};

static const struct option_def defs[] = {
    MODEL_FLAGS,
    {.name = "prompt", .type = OPTION_INT, .offset = offsetof(struct config, prompt), .default_value = "512", .min = 0, .max = 131072,
     .unit = "tokens", .help = "prefill of so many tokens (-p); 0 = leave out"},
    {.name = "generate", .type = OPTION_INT, .offset = offsetof(struct config, generate), .default_value = "128", .min = 0,
     .max = 131072, .unit = "tokens", .help = "decode so many steps (-n); 0 = leave out"},
    {.name = "batch", .type = OPTION_STRING, .offset = offsetof(struct config, batch), .default_value = "1",
     .help = "sequences decoded together (-b): a list such as 1,8,32"},
    {.name = "depth", .type = OPTION_INT, .offset = offsetof(struct config, depth), .default_value = "0", .min = 0, .max = 131072,
     .unit = "tokens", .help = "tokens in each sequence before decoding is timed (-d)"},
    {.name = "runs", .type = OPTION_INT, .offset = offsetof(struct config, runs), .default_value = "3", .min = 1, .max = 100,
     .help = "timed runs of each figure (-r)"},
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet bench", "usage: bitnet bench --model FILE [-p 512] [-n 128] [-b 1,8,32] [-t THREADS] [--json]\n", defs};

enum { MAX_BATCHES = 16, MAX_BATCH = 1024 };

struct bench {
    const struct config *config;
    struct session *session;
    float *logits;
    uint64_t random;
    size_t n_results;
    struct progress progress;
};

static uint32_t next_token(struct bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (uint32_t)(b->random >> 33) % session_model(b->session)->vocab_size;
}

/* Feeds n tokens to a sequence, in steps of at most 512 rows; logits for the last one. */
static bool feed(struct bench *b, uint32_t sequence, size_t n, struct error *err)
{
    struct session_row rows[512];
    for (size_t at = 0; at < n;) {
        size_t m = n - at < 512 ? n - at : 512;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){sequence, next_token(b), at + i + 1 == n};
        if (session_step(b->session, rows, m, false, b->logits, err))
            return false;
        at += m;
    }
    return true;
}

/* Seconds of one prefill; negative on error. */
static double time_prefill(struct bench *b, size_t batch, struct error *err)
{
    (void)batch;
    session_reset(b->session, 0);
    int64_t start = clock_now_ns();
    if (!feed(b, 0, (size_t)b->config->prompt, err))
        return -1;
    return (double)(clock_now_ns() - start) / 1e9;
}

/* Seconds of `generate` steps of `batch` sequences; negative on error. */
static double time_decode(struct bench *b, size_t batch, struct error *err)
{
    struct session_row rows[MAX_BATCH];
    for (uint32_t s = 0; s < batch; s++) {
        session_reset(b->session, s);
        if (!feed(b, s, (size_t)b->config->depth, err))
            return -1;
    }
    int64_t start = clock_now_ns();
    for (int64_t step = 0; step < b->config->generate; step++) {
        for (uint32_t s = 0; s < batch; s++)
            rows[s] = (struct session_row){s, next_token(b), true};
        if (session_step(b->session, rows, batch, false, b->logits, err))
            return -1;
    }
    return (double)(clock_now_ns() - start) / 1e9;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times one figure and prints it. */
static bool measure(struct bench *b, const char *name, double n_tokens, size_t batch,
                    double (*time_once)(struct bench *, size_t, struct error *), struct error *err)
{
    double seconds[100];
    size_t runs = (size_t)b->config->runs;
    for (size_t i = 0; i <= runs; i++) {
        double t = time_once(b, batch, err);
        if (t < 0)
            return false;
        if (i > 0)
            seconds[i - 1] = t;
        progress_show(&b->progress, name, (double)i, (double)runs + 1, "runs");
    }
    progress_end(&b->progress);
    qsort(seconds, runs, sizeof seconds[0], compare_doubles);
    double median = seconds[runs / 2];
    if (b->config->json)
        printf("%s{\"test\":\"%s\",\"batch\":%zu,\"depth\":%lld,\"tokens_per_second\":%.2f,\"min\":%.2f,\"max\":%.2f,\"runs\":%zu}",
               b->n_results ? "," : "", name, batch, (long long)b->config->depth, n_tokens / median, n_tokens / seconds[runs - 1],
               n_tokens / seconds[0], runs);
    else
        printf("%-10s batch %4zu  %10.2f tokens/s  (%.2f to %.2f, %zu runs)\n", name, batch, n_tokens / median,
               n_tokens / seconds[runs - 1], n_tokens / seconds[0], runs);
    fflush(stdout);
    b->n_results++;
    return true;
}

static bool parse_batches(const char *list, size_t out[MAX_BATCHES], size_t *n, size_t *largest, struct error *err)
{
    *n = *largest = 0;
    for (const char *p = list; *n < MAX_BATCHES;) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || v < 1 || v > MAX_BATCH || (*end && *end != ','))
            break;
        out[(*n)++] = v;
        *largest = v > *largest ? v : *largest;
        if (!*end)
            return true;
        p = end + 1;
    }
    error_set(err, ERROR_VALIDATION_FAILED, "--batch: expected up to %d numbers from 1 to %d separated by commas, found \"%s\"",
              MAX_BATCHES, MAX_BATCH, list);
    return false;
}

/* Peak resident memory in bytes, the mapped file included. */
static long long peak_rss_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb * 1024;
}

static bool run_all(struct bench *b, const size_t *batches, size_t n_batches, struct error *err)
{
    char name[32];
    const struct config *c = b->config;
    snprintf(name, sizeof name, "pp%lld", (long long)c->prompt);
    if (c->prompt && !measure(b, name, (double)c->prompt, 1, time_prefill, err))
        return false;
    snprintf(name, sizeof name, "tg%lld", (long long)c->generate);
    for (size_t i = 0; c->generate && i < n_batches; i++)
        if (!measure(b, name, (double)c->generate * (double)batches[i], batches[i], time_decode, err))
            return false;
    return true;
}

static void print_head(const struct config *c, const struct engine_model *m, int n_threads_asked)
{
    if (c->json)
        printf("{\"model\":\"%s\",\"architecture\":\"%s\",\"device\":\"%s\",\"isa\":\"%s\",\"quantization\":\"%s\",\"threads\":%d,"
               "\"load_seconds\":%.3f,\"weight_bytes\":%llu,\"results\":[",
               m->id, m->architecture, m->device, m->isa, m->quantization, n_threads_asked, m->load_seconds,
               (unsigned long long)m->weight_bytes);
    else
        printf("%s on %s (%s, %s), %s, loaded in %.2f s\n", m->id, m->device, m->device_name, m->isa, m->quantization,
               m->load_seconds);
}

int command_bench(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model",   "p", "--prompt", "n", "--generate", "b", "--batch", "d", "--depth",
                                      "r", "--runs", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    struct error err = {0};
    struct engine_options options;
    command_engine_options(&c.flags, &options);
    size_t batches[MAX_BATCHES], n_batches, largest;
    struct bench b = {.config = &c, .random = 1};
    bool ok = parse_batches(c.batch, batches, &n_batches, &largest, &err);
    if (ok) {
        int64_t decode = c.depth + c.generate;
        options.max_sequences = largest;
        options.max_batch_tokens = largest > 512 ? largest : 512;
        options.context_length = (size_t)(c.prompt > decode ? c.prompt : decode);
        ok = session_open(&options, &b.session, &err) == ERROR_NONE;
    }
    if (ok) {
        b.logits = malloc(largest * session_model(b.session)->vocab_size * sizeof *b.logits);
        if (!b.logits) {
            error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %zu sequences", largest);
            ok = false;
        }
    }
    if (ok) {
        print_head(&c, session_model(b.session), (int)c.flags.threads);
        ok = run_all(&b, batches, n_batches, &err);
        if (c.json)
            printf("],\"peak_rss_bytes\":%lld}\n", peak_rss_bytes());
        else
            printf("peak resident memory %.0f MB\n", (double)peak_rss_bytes() / 1e6);
    }
    free(b.logits);
    session_close(b.session);
    option_free(&table, &c);
    return ok ? 0 : command_fail(&err);
}
