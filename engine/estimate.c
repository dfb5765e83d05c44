#include "engine/estimate.h"

#include "engine/kvcache.h"
#include "engine/loop.h"

#define DEFAULT_SEQUENCES 64
#define DEFAULT_BATCH_TOKENS 512
#define AVERAGE_POSITIONS 512 /* of a sequence, when the KV cache is sized without being told */

size_t engine_max_sequences(const struct engine_options *o)
{
    return o->max_sequences ? o->max_sequences : DEFAULT_SEQUENCES;
}

size_t engine_max_rows(const struct engine_options *o)
{
    return o->max_batch_tokens ? o->max_batch_tokens : DEFAULT_BATCH_TOKENS;
}

size_t engine_max_out(const struct engine_options *o)
{
    return engine_max_sequences(o) + (o->no_speculation ? 0 : DRAFT_MAX * DRAFT_MAX_SEQUENCES) + LOOP_MAX_SCORES;
}

size_t engine_kv_blocks(const struct model_shape *s, const struct engine_options *o, size_t context_length, size_t memory_bytes)
{
    size_t block_bytes = kv_cache_block_bytes(o->kv_type, s->n_layers, s->n_kv_heads, s->head_dim);
    size_t full = kvcache_blocks_for(context_length), n_sequences = engine_max_sequences(o);
    if (o->kv_cache_bytes) {
        size_t n = o->kv_cache_bytes / block_bytes;
        return n < full * n_sequences ? n : full * n_sequences;
    }
    size_t average = context_length < AVERAGE_POSITIONS ? context_length : AVERAGE_POSITIONS;
    size_t n = kvcache_blocks_for(average) * n_sequences, most = memory_bytes / 4 / block_bytes;
    n = n < most ? n : most;
    return n > full ? n : full;
}

/* As the kernels keep a tensor: ternary ones repacked at two bits, vectors as F32, tables where they lie. */
static uint64_t tensor_estimate(const struct gguf_tensor *t)
{
    uint64_t n_rows = t->dims[1] * t->dims[2] * t->dims[3], n_cols = t->dims[0];
    if (tensor_type_is_ternary(t->type))
        return (n_rows + 15) / 16 * 16 * ((n_cols + 127) / 128 * 128) / 4;
    return t->n_dims < 2 ? n_cols * sizeof(float) : t->n_bytes;
}

uint64_t engine_estimate_bytes(const struct gguf *g, const struct model_shape *s, const struct engine_options *o, size_t memory_bytes)
{
    size_t context_length = o->context_length && o->context_length < s->context_length ? o->context_length : s->context_length;
    uint64_t n_rows = engine_max_rows(o), q = (uint64_t)s->n_heads * s->head_dim, kv = (uint64_t)s->n_kv_heads * s->head_dim;
    uint64_t widest = q > s->ffn_dim ? q : s->ffn_dim, n_bytes = 0;
    widest = widest > s->dim ? widest : s->dim;
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        n_bytes += tensor_estimate(gguf_tensor_at(g, i));
    n_bytes += (uint64_t)s->vocab_size * ((s->dim + 255) / 256 * 256 + 4 * sizeof(float));           /* the head's screen */
    n_bytes += n_rows * (sizeof(float) * (2 * s->dim + 2 * q + 2 * kv + 2 * s->ffn_dim) + widest + 512); /* activations */
    n_bytes += (engine_max_out(o) + 8) * (uint64_t)s->vocab_size * sizeof(float);                      /* logits, sampler */
    return n_bytes + engine_kv_blocks(s, o, context_length, memory_bytes) *
                         kv_cache_block_bytes(o->kv_type, s->n_layers, s->n_kv_heads, s->head_dim);
}
