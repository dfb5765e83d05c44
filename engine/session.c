/*
 * Direct evaluation for tools: one model, driven by the caller's thread, without queue and loop. A sequence takes blocks of the
 * cache as it grows.
 * Defaults where an option is 0: one sequence, 512 rows a step.
 */
#include "engine/describe.h"
#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/sampler.h"

#include "base/clock.h"

#include <stdio.h>
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
    size_t *n_held;        /* [n_sequences]: blocks that the sequence has */
    int32_t *free_blocks;  /* [n_free], a stack */
    size_t n_free;
    int32_t *n_tokens;     /* [n_sequences]: positions in the cache */
    int32_t *next;         /* [n_sequences]: n_tokens as it will be after the step that is being built */
    int32_t *ids, *positions, *sequences, *out_rows; /* [max_rows] */
    /* For session_sample, else NULL: */
    struct sampler *sampler;
    float *logits;             /* [n_sequences][vocab_size] */
    struct logits_need *needs; /* [n_sequences] */
};

static bool open_arrays(struct session *s, size_t n_blocks)
{
    s->block_tables = calloc(s->n_sequences * s->max_blocks, sizeof *s->block_tables);
    s->n_held = calloc(s->n_sequences, sizeof *s->n_held);
    s->free_blocks = calloc(n_blocks, sizeof *s->free_blocks);
    s->n_tokens = calloc(s->n_sequences, sizeof *s->n_tokens);
    s->next = calloc(s->n_sequences, sizeof *s->next);
    s->ids = calloc(s->max_rows, sizeof *s->ids);
    s->positions = calloc(s->max_rows, sizeof *s->positions);
    s->sequences = calloc(s->max_rows, sizeof *s->sequences);
    s->out_rows = calloc(s->max_rows, sizeof *s->out_rows);
    if (!s->block_tables || !s->n_held || !s->free_blocks || !s->n_tokens || !s->next || !s->ids || !s->positions ||
        !s->sequences || !s->out_rows)
        return false;
    for (s->n_free = 0; s->n_free < n_blocks; s->n_free++)
        s->free_blocks[s->n_free] = (int32_t)(n_blocks - 1 - s->n_free);
    return true;
}

static enum error_code open_sampling(struct session *s, struct error *err)
{
    size_t vocab_size = s->model->shape.vocab_size;
    s->logits = calloc(s->n_sequences, vocab_size * sizeof *s->logits);
    s->needs = calloc(s->n_sequences, sizeof *s->needs);
    if (!s->logits || !s->needs)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu sequences of %zu logits", s->n_sequences,
                         vocab_size);
    enum error_code code = sampler_open((uint32_t)vocab_size, &s->sampler, err);
    if (!code)
        s->description.model.scratch_bytes +=
            sampler_memory_bytes(s->sampler) + s->n_sequences * vocab_size * sizeof *s->logits;
    return code;
}

/* Blocks of the cache: what all sequences could need, or what the option says, each sequence's last block being part empty.
 * 0 = too many. */
static size_t choose_blocks(const struct session *s, const struct engine_options *options)
{
    size_t n;
    if (__builtin_mul_overflow(s->n_sequences, s->max_blocks, &n))
        return 0;
    size_t told = options->kv_positions / KV_BLOCK_SIZE + s->n_sequences;
    return options->kv_positions && told < n ? told : n;
}

static enum error_code open_memory(struct session *s, const struct engine_options *options, struct error *err)
{
    const struct model_shape *shape = &s->model->shape;
    size_t block_bytes = kv_cache_block_bytes(options->kv_type, shape->n_layers, shape->n_kv_heads, shape->head_dim);
    s->n_sequences = options->max_sequences ? options->max_sequences : 1;
    s->max_rows = options->max_batch_tokens ? options->max_batch_tokens : 512;
    s->context_length = model_context_length(s->model, options);
    s->max_blocks = (s->context_length + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE;
    size_t n_blocks = choose_blocks(s, options);
    if (n_blocks == 0 || n_blocks > INT32_MAX || n_blocks > SIZE_MAX / block_bytes)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "max_sequences",
                               "max_sequences: %zu sequences of %u positions are too many", s->n_sequences,
                               s->context_length);
    enum error_code code = forward_open(s->model, s->max_rows, &s->forward, err);
    if (code)
        return code;
    if (!open_arrays(s, n_blocks))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the tables of %zu sequences of %u positions",
                         s->n_sequences, s->context_length);
    code = kv_cache_open(s->backend, options->kv_type, shape->n_layers, n_blocks, shape->n_kv_heads, shape->head_dim,
                         &s->kv, err);
    if (code)
        return code;
    s->description.model.kv_bytes = n_blocks * block_bytes;
    s->description.model.n_kv_blocks = (uint32_t)n_blocks;
    s->description.model.scratch_bytes = forward_memory_bytes(s->forward);
    return options->sampling ? open_sampling(s, err) : ERROR_NONE;
}

static enum error_code bind(void *user, struct backend *be, struct error *err)
{
    return model_bind(user, be, NULL, NULL, err);
}

static enum error_code load(struct session *s, const struct engine_options *options, struct error *err)
{
    int64_t start = clock_now_ns();
    char reason[DEVICE_REASON_BYTES];
    const struct model_options wanted = {.path = options->model_path,
                                         .format = options->format,
                                         .i2s_order = options->i2s_order,
                                         .context_length = options->context_length,
                                         .screen_head = options->sampling};
    enum error_code code = model_open(&wanted, NULL, &s->model, err);
    if (!code)
        code = devices_open(options, NULL, &(struct device_load){.open = bind, .user = s->model}, &s->backend, reason, err);
    if (code)
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
    sampler_close(s->sampler);
    free(s->logits);
    free(s->needs);
    free(s->block_tables);
    free(s->n_held);
    free(s->free_blocks);
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

void session_truncate(struct session *s, uint32_t sequence, size_t n_tokens)
{
    if (sequence >= s->n_sequences)
        return;
    if (n_tokens < (size_t)s->n_tokens[sequence])
        s->n_tokens[sequence] = (int32_t)n_tokens;
    while (s->n_held[sequence] * KV_BLOCK_SIZE >= n_tokens + KV_BLOCK_SIZE)
        s->free_blocks[s->n_free++] = s->block_tables[sequence * s->max_blocks + --s->n_held[sequence]];
}

void session_reset(struct session *s, uint32_t sequence)
{
    session_truncate(s, sequence, 0);
}

/* The block of the sequence's next position; false when none is free. One that a refused step took stays with the sequence. */
static bool hold_block(struct session *s, uint32_t sequence)
{
    size_t *n = &s->n_held[sequence];
    if ((size_t)s->next[sequence] < *n * KV_BLOCK_SIZE)
        return true;
    if (!s->n_free)
        return false;
    s->block_tables[sequence * s->max_blocks + (*n)++] = s->free_blocks[--s->n_free];
    return true;
}

static enum error_code check_row(struct session *s, const struct session_row *row, size_t i, struct error *err)
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
    if (!hold_block(s, row->sequence))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sequence",
                               "row %zu: no block of the KV cache is left for sequence %u", i, row->sequence);
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

/* Checks n_rows and builds the batch; *n_out rows want logits. */
static enum error_code begin(struct session *s, const struct session_row *rows, size_t n_rows, size_t *n_out,
                             struct error *err)
{
    if (n_rows > s->max_rows)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "n_rows", "n_rows: expected at most %zu rows, found %zu",
                               s->max_rows, n_rows);
    return build(s, rows, n_rows, n_out, err);
}

/* Runs what was begun; needs and round_head_f16 as for forward_run. */
static enum error_code run(struct session *s, size_t n_rows, size_t n_out, const struct logits_need *needs,
                           bool round_head_f16, float *logits, struct error *err)
{
    const struct batch_view batch = {.n = n_rows,
                                     .positions = s->positions,
                                     .sequences = s->sequences,
                                     .block_tables = s->block_tables,
                                     .n_sequences = s->n_sequences,
                                     .max_blocks = s->max_blocks};
    enum error_code code =
        forward_run(s->forward, &s->kv, &batch, s->ids, s->out_rows, n_out, needs, round_head_f16, logits, err);
    for (size_t i = 0; !code && i < s->n_sequences; i++)
        s->n_tokens[i] = s->next[i];
    return code;
}

enum error_code session_step(struct session *s, const struct session_row *rows, size_t n_rows, bool round_head_f16,
                             float *logits, struct error *err)
{
    size_t n_out;
    if (n_rows == 0)
        return ERROR_NONE;
    enum error_code code = begin(s, rows, n_rows, &n_out, err);
    if (code)
        return code;
    if (n_out && !logits)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "logits",
                               "logits: %zu rows want logits and there is no room", n_out);
    return run(s, n_rows, n_out, NULL, round_head_f16, logits, err);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

/* The next token of a batch's row as the sampler sees it: the tokens before it count, what they are does not matter. */
static struct sample_input input_of(const struct session *s, int32_t row)
{
    return (struct sample_input){.n_prompt = (size_t)s->positions[row] + 1, .choice = (uint32_t)s->sequences[row]};
}

static enum error_code check_sampling(const struct session *s, const struct sampling *p, struct error *err)
{
    if (!s->sampler)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sampling",
                               "sampling: the session was not opened for it");
    if ((p->repetition_penalty != 0 && p->repetition_penalty != 1) || p->presence_penalty != 0 ||
        p->frequency_penalty != 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sampling",
                               "sampling: expected no penalties, as a session keeps no tokens");
    return ERROR_NONE;
}

enum error_code session_sample(struct session *s, const struct session_row *rows, size_t n_rows,
                               const struct sampling *sampling, uint32_t *ids, struct error *err)
{
    size_t n_out, vocab_size = s->model->shape.vocab_size;
    enum error_code code = check_sampling(s, sampling, err);
    if (code || n_rows == 0)
        return code;
    if ((code = begin(s, rows, n_rows, &n_out, err)))
        return code;
    if (n_out > s->n_sequences)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "rows",
                               "rows: expected at most %zu that want logits, found %zu", s->n_sequences, n_out);
    for (size_t i = 0; i < n_out; i++) {
        struct sample_input in = input_of(s, s->out_rows[i]);
        s->needs[i] = sampler_need(sampling, &in);
    }
    code = run(s, n_rows, n_out, s->needs, false, s->logits, err);
    for (size_t i = 0; !code && i < n_out; i++) {
        struct sample_input in = input_of(s, s->out_rows[i]);
        struct sample drawn = {0};
        code = sampler_draw(s->sampler, sampling, &in, s->logits + i * vocab_size, &drawn, err);
        ids[i] = drawn.id;
    }
    return code;
}

void session_work(const struct session *s, size_t n_rows, size_t n_positions, const struct sampling *sampling,
                  struct session_work *out)
{
    const struct model *m = s->model;
    const struct engine_model *about = &s->description.model;
    struct sample_input in = {0};
    struct logits_need need = {0};
    if (sampling)
        need = sampler_need(sampling, &in);
    *out = (struct session_work){
        .weight_bytes = m->layers_bytes,
        .head_bytes = dense_read_bytes(m->backend, m->head, sampling ? &need : NULL),
        .kv_bytes = about->kv_bytes / about->n_kv_blocks * n_positions / KV_BLOCK_SIZE,
        .multiply_adds = m->n_ternary * n_rows,
    };
}

void session_measure(struct session *s, struct engine_limits *out)
{
    struct backend *be = s->backend;
    const struct backend_info *info = backend_info(be);
    *out = (struct engine_limits){.read_bytes_per_s = backend_measure(be, LIMIT_READ_BYTES),
                                  .int8_per_s = backend_measure(be, LIMIT_INT8),
                                  .n_threads = info->n_threads};
    snprintf(out->device, sizeof out->device, "%s", info->device);
    snprintf(out->device_name, sizeof out->device_name, "%s", info->name);
    snprintf(out->isa, sizeof out->isa, "%s", info->isa);
}
