/*
 * bitnet perplexity: how well a model predicts a text.
 *
 * The whole file is tokenised once, without special tokens, and cut into windows of ctx - 1 tokens. Each window is evaluated
 * behind BOS, every token of it is scored from the tokens before it. Bits per byte is the sum of -log2 p over the bytes of
 * the file, so that models of different vocabularies compare. models/train.py evaluates in the same way.
 */
#include "tools/command.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    struct model_flags flags;
    const char *file;
    int64_t ctx;
    bool json;
};

static const struct option_def defs[] = {
    MODEL_FLAGS,
    {.name = "file", .type = OPTION_STRING, .offset = offsetof(struct config, file), .default_value = "-",
     .help = "text to score; - is standard input"},
    {.name = "ctx", .type = OPTION_INT, .offset = offsetof(struct config, ctx), .default_value = "256", .min = 2, .max = 131072,
     .unit = "tokens", .help = "length of a window, BOS included"},
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet perplexity", "usage: bitnet perplexity --model FILE --file TEXT [--ctx N]\n", defs};

enum { CHUNK = 256 }; /* rows a step; their logits are what memory goes to */

/* -ln p of `target` under softmax(logits). */
static double token_nll(const float *logits, size_t n, uint32_t target)
{
    double max = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return log(sum) + max - logits[target];
}

/* Scores ids[0..n) behind BOS; adds to *nll. A model without BOS leaves the first token unscored. */
static bool score_window(struct session *s, const uint32_t *ids, size_t n, float *logits, double *nll, size_t *n_scored,
                         struct error *err)
{
    size_t vocab_size = session_model(s)->vocab_size;
    int64_t bos = tokenizer_bos(session_tokenizer(s));
    size_t skip = bos >= 0 ? 0 : 1;
    struct session_row rows[CHUNK];
    session_reset(s, 0);
    for (size_t at = skip; at < n;) {
        size_t m = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < m; i++) /* the row before each target */
            rows[i] = (struct session_row){0, at + i == 0 ? (uint32_t)bos : ids[at + i - 1], true};
        if (session_step(s, rows, m, false, logits, err))
            return false;
        for (size_t i = 0; i < m; i++)
            *nll += token_nll(logits + i * vocab_size, vocab_size, ids[at + i]);
        *n_scored += m;
        at += m;
    }
    return true;
}

static bool score_all(struct session *s, const struct token_list *ids, size_t window, double *nll, size_t *n_scored,
                      struct error *err)
{
    float *logits = malloc((size_t)CHUNK * session_model(s)->vocab_size * sizeof *logits);
    if (!logits) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %d tokens", CHUNK);
        return false;
    }
    struct progress progress = {0};
    bool ok = true;
    for (size_t at = 0; ok && at < ids->n; at += window) {
        ok = score_window(s, ids->ids + at, ids->n - at < window ? ids->n - at : window, logits, nll, n_scored, err);
        progress_show(&progress, "perplexity", (double)at, (double)ids->n, "tokens");
    }
    progress_end(&progress);
    free(logits);
    return ok;
}

static void print_result(const struct config *c, double nll, size_t n_scored, size_t n_bytes)
{
    double bits = nll / M_LN2 / (double)n_bytes, perplexity = exp(nll / (double)n_scored);
    if (c->json)
        printf("{\"bits_per_byte\":%.6f,\"perplexity\":%.6f,\"n_tokens\":%zu,\"n_bytes\":%zu,\"ctx\":%lld}\n", bits, perplexity,
               n_scored, n_bytes, (long long)c->ctx);
    else
        printf("bits per byte %.4f, perplexity %.3f (%zu tokens, %zu bytes, windows of %lld)\n", bits, perplexity, n_scored,
               n_bytes, (long long)c->ctx);
}

int command_perplexity(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "f", "--file", "c", "--ctx", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    struct error err = {0};
    struct engine_options options;
    struct session *s = NULL;
    struct token_list ids = {0};
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    command_engine_options(&c.flags, &options);
    options.max_sequences = 1;
    options.max_batch_tokens = CHUNK;
    double nll = 0;
    size_t n_scored = 0;
    bool ok = command_read_file(c.file, &text, &err) && session_open(&options, &s, &err) == ERROR_NONE;
    if (ok && c.ctx > session_model(s)->context_length) {
        error_set(&err, ERROR_VALIDATION_FAILED, "--ctx %lld is over the model's context of %u", (long long)c.ctx,
                  session_model(s)->context_length);
        ok = false;
    }
    ok = ok && tokenizer_encode(session_tokenizer(s), text.data ? text.data : "", text.n_bytes, false, false, &ids, &err) == ERROR_NONE;
    if (ok && ids.n < 2) {
        error_set(&err, ERROR_VALIDATION_FAILED, "the text has %zu tokens, at least 2 are needed", ids.n);
        ok = false;
    }
    ok = ok && score_all(s, &ids, (size_t)c.ctx - 1, &nll, &n_scored, &err);
    if (ok)
        print_result(&c, nll, n_scored, text.n_bytes);
    session_close(s);
    free(ids.ids);
    buffer_fini(&text);
    option_free(&table, &c);
    return ok ? 0 : command_fail(&err);
}
