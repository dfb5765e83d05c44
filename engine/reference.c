/* The second pass over an engine's weights. See reference.h. */
#include "engine/reference.h"

#include "engine/loop.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ROWS 32 /* of a chunk: the head's rows are read once for all of them */
#define CHUNK_NS (100 * CLOCK_NS_PER_MS)

struct reference {
    struct reference_options options;
    struct backend *backend; /* of one thread */
    struct model *model;     /* a view of the engine's, or loaded */
    bool loaded;
    struct forward *forward;
    struct kv_cache kv;
    struct sampler *sampler;
    size_t n_positions, n_blocks;
    size_t chunk;          /* rows of the next one, by how long the last took */
    int32_t *block_table;  /* [n_blocks]: one sequence has all blocks, in order */
    float *logits;         /* [MAX_ROWS][vocab_size] */
    int32_t ids[MAX_ROWS], positions[MAX_ROWS], sequences[MAX_ROWS], out_rows[MAX_ROWS];
};

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static enum error_code open_backend(struct reference *r, const char *isa, struct error *err)
{
    const struct backend_options options = {
        .device = "cpu", .isa = isa, .n_threads = 1, .numa = "off", .pace = r->options.pace, .pace_user = r->options.pace_user};
    return backend_open(&options, &r->backend, err);
}

static enum error_code load_model(struct reference *r, const struct engine *e, struct error *err)
{
    const struct model_options options = {.path = engine_model(e)->path,
                                          .i2s_order = (int)e->model->i2s_order,
                                          .context_length = r->n_positions};
    backend_close(r->backend);
    r->backend = NULL;
    enum error_code code = open_backend(r, NULL, err);
    if (!code)
        code = model_open(&options, r->backend, &r->model, err);
    r->loaded = !code;
    return code;
}

/* A view of weights that lie on the CPU. */
static enum error_code view_model(struct reference *r, struct engine *e, struct error *err)
{
    pthread_mutex_lock(&e->model_lock);
    enum error_code code = model_view_open(e->model, r->backend, &r->model, err);
    pthread_mutex_unlock(&e->model_lock);
    return code;
}

static enum error_code open_model(struct reference *r, struct engine *e, struct error *err)
{
    if (strcmp(engine_model(e)->device, "null") == 0)
        return error_set(err, ERROR_DEVICE_UNAVAILABLE, "the null model computes nothing that could be compared");
    enum error_code code = open_backend(r, "portable", err);
    if (!code)
        code = view_model(r, e, err);
    return code == ERROR_DEVICE_UNAVAILABLE && r->options.load ? load_model(r, e, err) : code;
}

static enum error_code open_memory(struct reference *r, enum kv_type kv_type, struct error *err)
{
    const struct model_shape *s = &r->model->shape;
    enum error_code code = forward_open(r->model, MAX_ROWS, &r->forward, err);
    if (!code)
        code = sampler_open(s->vocab_size, &r->sampler, err);
    if (!code)
        code = kv_cache_open(r->backend, kv_type, s->n_layers, r->n_blocks, s->n_kv_heads, s->head_dim, &r->kv, err);
    if (code)
        return code;
    r->block_table = malloc(r->n_blocks * sizeof *r->block_table);
    r->logits = calloc(MAX_ROWS, s->vocab_size * sizeof *r->logits);
    if (!r->block_table || !r->logits)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a reference of %zu positions", r->n_positions);
    for (size_t i = 0; i < r->n_blocks; i++)
        r->block_table[i] = (int32_t)i;
    return ERROR_NONE;
}

enum error_code reference_open(struct engine *e, const struct reference_options *o, struct reference **out, struct error *err)
{
    struct reference *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a reference");
    r->options = *o;
    r->n_positions = o->n_positions < e->limits.context_length ? o->n_positions : e->limits.context_length;
    r->n_blocks = (r->n_positions + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE;
    r->chunk = 1;
    enum error_code code = open_model(r, e, err);
    if (!code)
        code = open_memory(r, e->kv.type, err);
    if (code) {
        reference_close(r);
        return code;
    }
    *out = r;
    return ERROR_NONE;
}

void reference_close(struct reference *r)
{
    if (!r)
        return;
    if (r->kv.k)
        kv_cache_close(r->backend, &r->kv);
    forward_close(r->forward);
    sampler_close(r->sampler);
    if (r->loaded)
        model_close(r->model);
    else
        model_view_close(r->model);
    backend_close(r->backend);
    free(r->block_table);
    free(r->logits);
    free(r);
}

size_t reference_memory_bytes(const struct reference *r)
{
    const struct model_shape *s = &r->model->shape;
    return forward_memory_bytes(r->forward) + sampler_memory_bytes(r->sampler) + MAX_ROWS * s->vocab_size * sizeof *r->logits +
           r->n_blocks * kv_cache_block_bytes(r->kv.type, s->n_layers, s->n_kv_heads, s->head_dim) +
           (r->loaded ? r->model->weight_bytes : 0);
}

/* ---- passes ------------------------------------------------------------------------------------------------------ */

static enum error_code check_tokens(const struct reference *r, const uint32_t *tokens, size_t n, size_t n_rows, struct error *err)
{
    if (n_rows > r->n_positions)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected at most %zu positions, found %zu", r->n_positions, n_rows);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] >= r->model->shape.vocab_size)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected token ids below %u, found %u at %zu",
                                   r->model->shape.vocab_size, tokens[i], i);
    return ERROR_NONE;
}

/* Runs tokens `at` .. at + n - 1; those from `first_out` on get logits. */
static enum error_code run(struct reference *r, const uint32_t *tokens, size_t at, size_t n, size_t first_out, float *logits,
                           struct error *err)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        r->ids[i] = (int32_t)tokens[at + i];
        r->positions[i] = (int32_t)(at + i);
        if (at + i >= first_out)
            r->out_rows[n_out++] = (int32_t)i;
    }
    const struct batch_view batch = {.n = n,
                                     .positions = r->positions,
                                     .sequences = r->sequences,
                                     .block_tables = r->block_table,
                                     .n_sequences = 1,
                                     .max_blocks = r->n_blocks};
    return forward_run(r->forward, &r->kv, &batch, r->ids, r->out_rows, n_out, NULL, false, logits, err);
}

/* run of the next chunk of n_rows rows, *n of them, and learns how many CHUNK_NS hold. */
static enum error_code run_chunk(struct reference *r, const uint32_t *tokens, size_t at, size_t n_rows, size_t first_out, float *logits,
                                 size_t *n, struct error *err)
{
    int64_t start_ns = clock_now_ns();
    *n = n_rows - at < r->chunk ? n_rows - at : r->chunk;
    enum error_code code = run(r, tokens, at, *n, first_out, logits, err);
    int64_t ns = clock_now_ns() - start_ns;
    if (ns > CHUNK_NS && r->chunk > 1)
        r->chunk /= 2;
    else if (ns < CHUNK_NS / 2 && *n == r->chunk && r->chunk < MAX_ROWS)
        r->chunk *= 2;
    return code;
}

/* Draws the tokens behind positions `at` .. at + n - 1 that have logits. Where these are no numbers none is drawn, which is not the same. */
static void draw_again(struct reference *r, const uint32_t *tokens, size_t n_prompt, const struct sampling *sampling, size_t at, size_t n,
                       struct agreement *out)
{
    float *logits = r->logits;
    for (size_t i = at < n_prompt ? n_prompt : at + 1; i <= at + n; i++, logits += r->model->shape.vocab_size) {
        const struct sample_input in = {
            .prompt = tokens, .n_prompt = n_prompt, .generated = tokens + n_prompt, .n_generated = i - n_prompt};
        struct sample drawn;
        bool is_drawn = !sampler_draw(r->sampler, sampling, &in, logits, &drawn, NULL);
        out->n_compared++;
        out->n_same += is_drawn && drawn.id == tokens[i];
    }
}

enum error_code reference_compare(struct reference *r, const uint32_t *tokens, size_t n_prompt, size_t n, const struct sampling *sampling,
                                  bool (*go_on)(void *user), void *user, struct agreement *out, struct error *err)
{
    *out = (struct agreement){0};
    if (!n_prompt || n <= n_prompt)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected tokens behind a prompt, found %zu of prompt and %zu in all",
                               n_prompt, n);
    enum error_code code = check_tokens(r, tokens, n, n - 1, err);
    for (size_t at = 0, m; !code && at < n - 1 && (!go_on || go_on(user)); at += m) {
        code = run_chunk(r, tokens, at, n - 1, n_prompt - 1, r->logits, &m, err);
        if (!code)
            draw_again(r, tokens, n_prompt, sampling, at, m, out);
    }
    model_view_forget(r->model);
    return code;
}

enum error_code reference_logits(struct reference *r, const uint32_t *tokens, size_t n, size_t n_last, float *logits, struct error *err)
{
    if (!n || n_last > n)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected 1 to %zu tokens with logits, found %zu", n, n_last);
    enum error_code code = check_tokens(r, tokens, n, n, err);
    for (size_t at = 0, m; !code && at < n; at += m) {
        code = run_chunk(r, tokens, at, n, n - n_last, logits, &m, err);
        if (at + m > n - n_last)
            logits += (at + m - (at > n - n_last ? at : n - n_last)) * r->model->shape.vocab_size;
    }
    model_view_forget(r->model);
    return code;
}
