/* Plans: lists of options and their combinations, and the fixed sets. */
#include "tools/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const bench_sampling_names[BENCH_N_SAMPLINGS] = {"greedy", "topk", "full", "none"};
const char *const bench_format_names[4] = {"auto", "i2s", "tl1", "tl2"};

struct list {
    size_t values[BENCH_MAX_LIST], n;
};

static enum error_code parse_numbers(const char *option, const char *text, size_t min, size_t max, struct list *out,
                                     struct error *err)
{
    out->n = 0;
    for (const char *p = text; *p >= '0' && *p <= '9' && out->n < BENCH_MAX_LIST;) {
        char *end;
        unsigned long long v = strtoull(p, &end, 10);
        if (v < min || v > max || (*end && *end != ','))
            break;
        out->values[out->n++] = (size_t)v;
        if (!*end)
            return ERROR_NONE;
        p = end + 1;
    }
    return error_set_param(err, ERROR_VALIDATION_FAILED, option,
                           "--%s: expected up to %d numbers from %zu to %zu separated by commas, found \"%.100s\"",
                           option, BENCH_MAX_LIST, min, max, text);
}

/* Index of the word of n bytes at p among names, n_names when it is none. */
static size_t find_word(const char *p, size_t n, const char *const *names, size_t n_names)
{
    size_t i = 0;
    while (i < n_names && (strlen(names[i]) != n || memcmp(names[i], p, n) != 0))
        i++;
    return i;
}

static enum error_code parse_words(const char *option, const char *text, const char *const *names, size_t n_names,
                                   struct list *out, struct error *err)
{
    char expected[100] = "";
    out->n = 0;
    for (const char *p = text; out->n < BENCH_MAX_LIST;) {
        size_t n = strcspn(p, ","), word = find_word(p, n, names, n_names);
        if (word == n_names)
            break;
        out->values[out->n++] = word;
        if (!p[n])
            return ERROR_NONE;
        p += n + 1;
    }
    for (size_t i = 0; i < n_names; i++)
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%s", i ? ", " : "", names[i]);
    return error_set_param(err, ERROR_VALIDATION_FAILED, option,
                           "--%s: expected up to %d of %s separated by commas, found \"%.100s\"", option,
                           BENCH_MAX_LIST, expected, text);
}

static enum error_code add_test(struct bench_plan *plan, const struct bench_test *t, struct error *err)
{
    for (size_t i = 0; i < plan->n_tests; i++)
        if (bench_same_test(&plan->tests[i], t))
            return ERROR_NONE;
    if (plan->n_tests == BENCH_MAX_TESTS)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected at most %d combinations", BENCH_MAX_TESTS);
    plan->tests[plan->n_tests++] = *t;
    return ERROR_NONE;
}

enum error_code bench_plan_loads(const struct bench_lists *lists, struct bench_plan *plan, struct error *err)
{
    struct list threads, formats;
    enum error_code code = parse_numbers("threads", lists->threads, 0, 512, &threads, err);
    if (!code)
        code = parse_words("quantization", lists->quantization, bench_format_names, 4, &formats, err);
    if (code)
        return code;
    if (threads.n * formats.n > BENCH_MAX_LOADS)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected at most %d combinations of threads and formats",
                         BENCH_MAX_LOADS);
    for (plan->n_threads = 0; plan->n_threads < threads.n; plan->n_threads++)
        plan->threads[plan->n_threads] = (int)threads.values[plan->n_threads];
    for (plan->n_formats = 0; plan->n_formats < formats.n; plan->n_formats++)
        plan->formats[plan->n_formats] = (enum ternary_format)formats.values[plan->n_formats];
    return ERROR_NONE;
}

/* All decode tests of one depth. */
static enum error_code add_decodes(struct bench_plan *plan, const struct list *generate, const struct list *batch,
                                   const struct list *sampling, size_t depth, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (size_t b = 0; b < batch->n; b++)
        for (size_t g = 0; g < generate->n; g++)
            for (size_t s = 0; !code && generate->values[g] && s < sampling->n; s++)
                code = add_test(plan,
                                &(struct bench_test){true, generate->values[g], batch->values[b], depth,
                                                     (enum bench_sampling)sampling->values[s]},
                                err);
    return code;
}

enum error_code bench_plan_tests(const struct bench_lists *lists, struct bench_plan *plan, struct error *err)
{
    struct list prompt, generate, batch, depth, sampling;
    enum error_code code;
    if ((code = parse_numbers("prompt", lists->prompt, 0, BENCH_MAX_TOKENS, &prompt, err)) ||
        (code = parse_numbers("generate", lists->generate, 0, BENCH_MAX_TOKENS, &generate, err)) ||
        (code = parse_numbers("batch", lists->batch, 1, BENCH_MAX_BATCH, &batch, err)) ||
        (code = parse_numbers("depth", lists->depth, 0, BENCH_MAX_TOKENS, &depth, err)) ||
        (code = parse_words("sampling", lists->sampling, bench_sampling_names, BENCH_N_SAMPLINGS, &sampling, err)))
        return code;
    /* A prefill draws one token: which way makes no difference to speak of. */
    for (size_t i = 0; !code && i < prompt.n; i++)
        if (prompt.values[i])
            code = add_test(
                plan, &(struct bench_test){false, prompt.values[i], 1, 0, (enum bench_sampling)sampling.values[0]},
                err);
    for (size_t i = 0; !code && i < depth.n; i++)
        code = add_decodes(plan, &generate, &batch, &sampling, depth.values[i], err);
    if (!code && !plan->n_tests)
        code = error_set(err, ERROR_VALIDATION_FAILED, "nothing to measure: --prompt and --generate are 0");
    return code;
}

enum error_code bench_plan_set(const char *name, struct bench_plan *plan, struct error *err)
{
    static const struct bench_test standard[] = {
        {false, 512, 1, 0, BENCH_GREEDY},  {true, 64, 1, 128, BENCH_GREEDY},  {true, 64, 1, 128, BENCH_TOPK},
        {true, 64, 1, 128, BENCH_FULL},    {true, 32, 8, 128, BENCH_GREEDY},  {true, 32, 32, 128, BENCH_GREEDY},
        {true, 64, 1, 1024, BENCH_GREEDY}, {true, 64, 1, 4096, BENCH_GREEDY},
    };
    static const struct bench_test quick[] = {
        {false, 64, 1, 0, BENCH_GREEDY},
        {true, 16, 1, 0, BENCH_GREEDY},
        {true, 16, 1, 0, BENCH_TOPK},
        {true, 8, 4, 0, BENCH_GREEDY},
    };
    bool is_quick = strcmp(name, "quick") == 0;
    if (!is_quick && strcmp(name, "standard") != 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "set",
                               "--set: expected standard or quick, found \"%.100s\"", name);
    size_t n = is_quick ? sizeof quick / sizeof quick[0] : sizeof standard / sizeof standard[0];
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; !code && i < n; i++)
        code = add_test(plan, is_quick ? &quick[i] : &standard[i], err);
    return code;
}

char *bench_test_name(const struct bench_test *t, char out[24])
{
    snprintf(out, 24, "%s%zu", t->decode ? "tg" : "pp", t->tokens);
    return out;
}

bool bench_same_test(const struct bench_test *a, const struct bench_test *b)
{
    return a->decode == b->decode && a->tokens == b->tokens && a->batch == b->batch && a->depth == b->depth &&
           a->sampling == b->sampling;
}
