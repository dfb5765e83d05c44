/*
 * Direct evaluation for tools: one model, driven by the caller's thread, without queue and loop. Sequence i owns blocks
 * i * max_blocks to (i + 1) * max_blocks - 1 of the cache for good, so that a block table never changes.
 * Defaults where an option is 0: one sequence, 512 rows a step.
 */
#include "engine/describe.h"
#include "engine/engine.h"
#include "engine/model/model.h"

#include "base/clock.h"

#include <stdlib.h>

struct session {
    struct backend *backend;
    struct model *model;
    struct forward *forward;
    struct kv_cache kv;
    struct model_description description;
    size_t n_sequences, max_rows, max_blocks;
    uint32_t context_length;
    int32_t *block_tables; /* [n_sequences][max_blocks] */
    int32_t *n_tokens;     /* [n_sequences]: positions in the cache */
    int32_t *next;         /* [n_sequences]: n_tokens as it will be after the step that is being built */
    int32_t *ids, *positions, *sequences, *out_rows; /* [max_rows] */
};

static bool open_arrays(struct session *s)
{
    s->block_tables = calloc(s->n_sequences * s->max_blocks, sizeof *s->block_tables);
    s->n_tokens = calloc(s->n_sequences, sizeof *s->n_tokens);
    s->next = calloc(s->n_sequences, sizeof *s->next);
    s->ids = calloc(s->max_rows, sizeof *s->ids);
    s->positions = calloc(s->max_rows, sizeof *s->positions);
    s->sequences = calloc(s->max_rows, sizeof *s->sequences);
    s->out_rows = calloc(s->max_rows, sizeof *s->out_rows);
    if (!s->block_tables || !s->n_tokens || !s->next || !s->ids || !s->positions || !s->sequences || !s->out_rows)
        return false;
    for (size_t i = 0; i < s->n_sequences * s->max_blocks; i++)
        s->block_tables[i] = (int32_t)i;
    return true;
}

static enum error_code open_memory(struct session *s, const struct engine_options *options, struct error *err)
{
    const struct model_shape *shape = &s->model->shape;
    size_t n_blocks, block_bytes = kv_cache_block_bytes(shape->n_layers, shape->n_kv_heads, shape->head_dim);
    s->n_sequences = options->max_sequences ? options->max_sequences : 1;
    s->max_rows = options->max_batch_tokens ? options->max_batch_tokens : 512;
    s->context_length = model_context_length(s->model, options);
    s->max_blocks = (s->context_length + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE;
    if (__builtin_mul_overflow(s->n_sequences, s->max_blocks, &n_blocks) || n_blocks > INT32_MAX ||
        n_blocks > SIZE_MAX / block_bytes)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "max_sequences",
                               "max_sequences: %zu sequences of %u positions are too many", s->n_sequences,
                               s->context_length);
    enum error_code code = forward_open(s->model, s->max_rows, &s->forward, err);
    if (code)
        return code;
    if (!open_arrays(s) ||
        !kv_cache_open(s->backend, shape->n_layers, n_blocks, shape->n_kv_heads, shape->head_dim, &s->kv))
        return error_set(err, ERROR_MEMORY_EXHAUSTED,
                         "no memory for the KV cache of %zu sequences of %u positions (%zu bytes)", s->n_sequences,
                         s->context_length, n_blocks * block_bytes);
    s->description.model.kv_bytes = n_blocks * block_bytes;
    s->description.model.n_kv_blocks = (uint32_t)n_blocks;
    s->description.model.scratch_bytes = forward_memory_bytes(s->forward);
    return ERROR_NONE;
}

static enum error_code load(struct session *s, const struct engine_options *options, struct error *err)
{
    int64_t start = clock_now_ns();
    char reason[ENGINE_FALLBACK_BYTES];
    const struct model_options wanted = {.path = options->model_path,
                                         .format = options->format,
                                         .i2s_order = options->i2s_order,
                                         .context_length = options->context_length};
    enum error_code code = engine_backend_open(options, &s->backend, reason, sizeof reason, err);
    if (code)
        return code;
    if ((code = model_open(&wanted, s->backend, &s->model, err)))
        return code;
    model_describe(s->model, options, reason, &s->description);
    code = open_memory(s, options, err);
    s->description.model.load_seconds = (double)(clock_now_ns() - start) / (double)CLOCK_NS_PER_S;
    return code;
}

enum error_code session_open(const struct engine_options *options, struct session **out, struct error *err)
{
    if (!options->model_path)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model_path",
                               "model_path: expected the path of a GGUF file");
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open a session");
    enum error_code code = load(s, options, err);
    if (code) {
        session_close(s);
        return code;
    }
    *out = s;
    return ERROR_NONE;
}

void session_close(struct session *s)
{
    if (!s)
        return;
    if (s->kv.k)
        kv_cache_close(s->backend, &s->kv);
    forward_close(s->forward);
    model_close(s->model);
    if (s->backend)
        backend_close(s->backend);
    free(s->block_tables);
    free(s->n_tokens);
    free(s->next);
    free(s->ids);
    free(s->positions);
    free(s->sequences);
    free(s->out_rows);
    free(s);
}

const struct engine_model *session_model(const struct session *s)
{
    return &s->description.model;
}

const struct tokenizer *session_tokenizer(const struct session *s)
{
    return s->model->tokenizer;
}

void session_reset(struct session *s, uint32_t sequence)
{
    if (sequence < s->n_sequences)
        s->n_tokens[sequence] = 0;
}

static enum error_code check_row(const struct session *s, const struct session_row *row, size_t i, struct error *err)
{
    if (row->sequence >= s->n_sequences)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sequence",
                               "row %zu: expected a sequence below %zu, found %u", i, s->n_sequences, row->sequence);
    if (row->token >= s->model->shape.vocab_size)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "token", "row %zu: expected a token id below %u, found %u",
                               i, s->model->shape.vocab_size, row->token);
    if ((uint32_t)s->next[row->sequence] >= s->context_length)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sequence",
                               "row %zu: sequence %u is full: the context has %u positions", i, row->sequence,
                               s->context_length);
    return ERROR_NONE;
}

/* Turns rows into batch arrays; nothing of the session's state is changed yet. */
static enum error_code build(struct session *s, const struct session_row *rows, size_t n, size_t *n_out,
                             struct error *err)
{
    for (size_t i = 0; i < s->n_sequences; i++)
        s->next[i] = s->n_tokens[i];
    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        enum error_code code = check_row(s, &rows[i], i, err);
        if (code)
            return code;
        s->ids[i] = (int32_t)rows[i].token;
        s->sequences[i] = (int32_t)rows[i].sequence;
        s->positions[i] = s->next[rows[i].sequence]++;
        if (rows[i].want_logits)
            s->out_rows[(*n_out)++] = (int32_t)i;
    }
    return ERROR_NONE;
}

enum error_code session_step(struct session *s, const struct session_row *rows, size_t n_rows, bool round_head_f16,
                             float *logits, struct error *err)
{
    size_t n_out;
    if (n_rows == 0)
        return ERROR_NONE;
    if (n_rows > s->max_rows)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "n_rows", "n_rows: expected at most %zu rows, found %zu",
                               s->max_rows, n_rows);
    enum error_code code = build(s, rows, n_rows, &n_out, err);
    if (code)
        return code;
    if (n_out && !logits)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "logits",
                               "logits: %zu rows want logits and there is no room", n_out);
    const struct batch_view batch = {.n = n_rows,
                                     .positions = s->positions,
                                     .sequences = s->sequences,
                                     .block_tables = s->block_tables,
                                     .n_sequences = s->n_sequences,
                                     .max_blocks = s->max_blocks};
    code = forward_run(s->forward, &s->kv, &batch, s->ids, s->out_rows, n_out, NULL, round_head_f16, logits, err);
    for (size_t i = 0; !code && i < s->n_sequences; i++)
        s->n_tokens[i] = s->next[i];
    return code;
}
