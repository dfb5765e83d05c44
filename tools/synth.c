/*
 * Shapes and weights. Ternary weights are I2_S with P(-1, 0, +1) = (0.301, 0.398, 0.301); scales keep the
 * activations' size from layer to layer: a product of K weights has the standard deviation sqrt(0.6 K), which 1/scale
 * undoes. Embedding and norms are sums of three uniform bytes, near enough to normal and the same on every machine.
 */
#include "tools/synth.h"

#include "kernels/kernels.h"
#include "tools/synth_vocab.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define N_SUMS 766 /* values of a sum of three bytes */

/* Of a layer: that of its two blocks only, one before o and down too, or one before each projection and of each head. */
enum norms { NORMS_BLOCKS, NORMS_SUB, NORMS_INPUT };

struct preset {
    const char *name, *arch, *title;
    uint32_t dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, n_vocab, context_length;
    float freq_base;
    enum norms norms;
    bool tied;
};

static const struct preset presets[] = {
    {"2b4t", "bitnet-b1.58", "synthetic 2B4T", 2560, 30, 20, 5, 128, 6912, 128256, 4096, 500000.0f, NORMS_SUB, true},
    {"0.7b", "bitnet", "synthetic 0.7B", 1536, 24, 16, 16, 96, 4096, 32002, 2048, 10000.0f, NORMS_SUB, true},
    {"8b", "llama", "synthetic 8B", 4096, 32, 32, 8, 128, 14336, 128256, 8192, 500000.0f, NORMS_BLOCKS, false},
    {"0.6b", "qwen3", "synthetic 0.6B", 1024, 28, 16, 8, 128, 3072, 151936, 32768, 1000000.0f, NORMS_INPUT, true},
    {"tiny", "bitnet-b1.58", "synthetic tiny", 256, 4, 4, 2, 64, 768, 1280, 512, 500000.0f, NORMS_SUB, true},
    {"tiny-qwen3", "qwen3", "synthetic tiny", 256, 4, 4, 2, 128, 768, 1280, 512, 1000000.0f, NORMS_INPUT, true},
};

/* As the published files have them. */
static const char chat_bitnet[] =
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
static const char chat_llama3[] =
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

struct synth {
    const struct synth_options *options;
    struct preset p;
    struct gguf_writer *writer;
    uint64_t random;             /* state of the generator, set anew for each tensor */
    uint8_t *chunk;              /* [CHUNK_BYTES] */
    uint8_t code_pairs[65536];   /* two codes, 4 bits, from 16 random bits */
    uint16_t normal_f16[N_SUMS]; /* embedding values by sum of three bytes */
};

const char *synth_presets(void)
{
    return "2b4t|0.7b|8b|0.6b|tiny|tiny-qwen3";
}

/* splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). */
static uint64_t next_random(struct synth *s)
{
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static unsigned sum_of_bytes(uint64_t bits)
{
    return (unsigned)((bits & 255u) + (bits >> 8 & 255u) + (bits >> 16 & 255u));
}

/* Unit variance, mean 0: the sum of three bytes has the variance 3 (256^2 - 1) / 12 = 128^2. */
static float normal_of_sum(unsigned sum)
{
    return ((float)sum - 382.5f) / 128.0f;
}

/* To binary16, for values below 65504 in size; to nearest even. */
static uint16_t to_f16(float x)
{
    uint32_t u, sign, a;
    memcpy(&u, &x, sizeof u);
    sign = u >> 16 & 0x8000u;
    a = u & 0x7fffffffu;
    if (a < 0x38800000u) /* denormal in binary16: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(fabsf(x) * 0x1p24f));
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13));
}

static unsigned code_of(unsigned byte)
{
    return byte < 77 ? 0 : byte < 179 ? 1 : 2;
}

static void make_tables(struct synth *s)
{
    float deviation = 2.5f / sqrtf((float)s->p.dim); /* logits of a standard deviation of about 2.5 */
    for (unsigned i = 0; i < 65536; i++)
        s->code_pairs[i] = (uint8_t)(code_of(i >> 8) << 2 | code_of(i & 255u));
    for (unsigned i = 0; i < N_SUMS; i++)
        s->normal_f16[i] = to_f16(normal_of_sum(i) * deviation);
}

/* ---- data: chunks of a multiple of 8 bytes from the tensor's own random stream --------------------------------- */

static void fill_codes(struct synth *s, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 2) {
        uint64_t r = next_random(s);
        s->chunk[i] = (uint8_t)(s->code_pairs[r & 0xffffu] << 4 | s->code_pairs[r >> 16 & 0xffffu]);
        s->chunk[i + 1] = (uint8_t)(s->code_pairs[r >> 32 & 0xffffu] << 4 | s->code_pairs[r >> 48]);
    }
}

static void fill_f16(struct synth *s, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 4) {
        uint64_t r = next_random(s);
        memcpy(s->chunk + i, &s->normal_f16[sum_of_bytes(r)], 2);
        memcpy(s->chunk + i + 2, &s->normal_f16[sum_of_bytes(r >> 32)], 2);
    }
}

static void fill_norm(struct synth *s, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 4) {
        float weight = 1.0f + 0.1f * normal_of_sum(sum_of_bytes(next_random(s)));
        memcpy(s->chunk + i, &weight, 4);
    }
}

static void write_random(struct synth *s, void (*fill)(struct synth *, size_t), uint64_t n_bytes)
{
    while (n_bytes) {
        size_t n = n_bytes < CHUNK_BYTES ? (size_t)n_bytes : CHUNK_BYTES;
        fill(s, n);
        gguf_write_data(s->writer, s->chunk, n);
        n_bytes -= n;
        if (s->options->on_progress)
            s->options->on_progress(s->options->user, gguf_writer_done_bytes(s->writer),
                                    gguf_writer_data_bytes(s->writer));
    }
}

/* ---- tensors: declared in one walk over the model, written in a second ----------------------------------------- */

enum kind { KIND_NORM, KIND_TERNARY, KIND_DENSE };

/* One tensor of the walk; `gain` multiplies a ternary tensor's scale. */
static void tensor(struct synth *s, bool data, const char *name, enum kind kind, uint32_t cols, uint32_t rows,
                   float gain)
{
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_I2_S, TENSOR_F16};
    uint64_t dims[2] = {cols, rows}, n_bytes = tensor_bytes(types[kind], rows, cols);
    if (!data) {
        gguf_write_tensor(s->writer, name, types[kind], kind == KIND_NORM ? 1 : 2, dims, n_bytes);
        return;
    }
    s->random = kernel_hash(s->options->seed, name, strlen(name));
    if (kind == KIND_NORM)
        write_random(s, fill_norm, n_bytes);
    else if (kind == KIND_DENSE)
        write_random(s, fill_f16, n_bytes);
    else {
        float tail[8] = {gain / sqrtf(0.6f * (float)cols)};
        write_random(s, fill_codes, n_bytes - sizeof tail);
        gguf_write_data(s->writer, tail, sizeof tail);
    }
}

static void walk_layer(struct synth *s, bool data, uint32_t layer)
{
    const struct preset *p = &s->p;
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim;
    /* What o and down add is of the size of the embedding: the stream grows as the square root of the layers. */
    float gain = 2.5f / sqrtf((float)p->dim);
    const struct {
        const char *name;
        enum kind kind;
        uint32_t cols, rows;
        float gain;
        enum norms norms; /* only where the layer has these */
    } tensors[] = {
        {"attn_norm", KIND_NORM, p->dim, 1, 1, NORMS_BLOCKS},
        {"ffn_down", KIND_TERNARY, p->ffn_dim, p->dim, gain, NORMS_BLOCKS},
        {"ffn_sub_norm", KIND_NORM, p->ffn_dim, 1, 1, NORMS_SUB},
        {"ffn_gate", KIND_TERNARY, p->dim, p->ffn_dim, 1, NORMS_BLOCKS},
        {"ffn_up", KIND_TERNARY, p->dim, p->ffn_dim, 1, NORMS_BLOCKS},
        {"ffn_norm", KIND_NORM, p->dim, 1, 1, NORMS_BLOCKS},
        {"attn_sub_norm", KIND_NORM, q, 1, 1, NORMS_SUB},
        {"attn_k", KIND_TERNARY, p->dim, kv, 1, NORMS_BLOCKS},
        {"attn_output", KIND_TERNARY, q, p->dim, gain, NORMS_BLOCKS},
        {"attn_q", KIND_TERNARY, p->dim, q, 1, NORMS_BLOCKS},
        {"attn_v", KIND_TERNARY, p->dim, kv, 1, NORMS_BLOCKS},
        {"attn_q_norm_in", KIND_NORM, p->dim, 1, 1, NORMS_INPUT},
        {"attn_k_norm_in", KIND_NORM, p->dim, 1, 1, NORMS_INPUT},
        {"attn_v_norm_in", KIND_NORM, p->dim, 1, 1, NORMS_INPUT},
        {"attn_q_norm", KIND_NORM, p->head_dim, 1, 1, NORMS_INPUT},
        {"attn_k_norm", KIND_NORM, p->head_dim, 1, 1, NORMS_INPUT},
        {"attn_output_norm_in", KIND_NORM, q, 1, 1, NORMS_INPUT},
        {"ffn_gate_norm_in", KIND_NORM, p->dim, 1, 1, NORMS_INPUT},
        {"ffn_up_norm_in", KIND_NORM, p->dim, 1, 1, NORMS_INPUT},
        {"ffn_down_norm_in", KIND_NORM, p->ffn_dim, 1, 1, NORMS_INPUT},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[64];
        if (tensors[i].norms != NORMS_BLOCKS && tensors[i].norms != p->norms)
            continue;
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, tensors[i].name);
        tensor(s, data, name, tensors[i].kind, tensors[i].cols, tensors[i].rows, tensors[i].gain);
    }
}

static void walk(struct synth *s, bool data)
{
    tensor(s, data, "token_embd.weight", KIND_DENSE, s->p.dim, s->p.n_vocab, 1);
    for (uint32_t layer = 0; layer < s->p.n_layers; layer++)
        walk_layer(s, data, layer);
    tensor(s, data, "output_norm.weight", KIND_NORM, s->p.dim, 1, 1);
    if (!s->p.tied)
        tensor(s, data, "output.weight", KIND_DENSE, s->p.dim, s->p.n_vocab, 1);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static void write_number(struct synth *s, const char *suffix, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", s->p.arch, suffix);
    gguf_write_u32(s->writer, key, value);
}

static void write_real(struct synth *s, const char *suffix, float value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", s->p.arch, suffix);
    gguf_write_f32(s->writer, key, value);
}

static bool pools(const struct synth *s)
{
    return s->options->pooling && strcmp(s->options->pooling, "none") != 0;
}

static void write_pooling(struct synth *s)
{
    static const char *const names[] = {"none", "mean", "cls", "last"};
    const char *pooling = s->options->pooling ? s->options->pooling : names[0];
    char key[96];
    for (uint32_t i = 1; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], pooling) == 0)
            write_number(s, "pooling_type", i);
    snprintf(key, sizeof key, "%s.attention.causal", s->p.arch);
    if (s->options->not_causal)
        gguf_write_bool(s->writer, key, false);
}

static enum error_code write_keys(struct synth *s, struct error *err)
{
    const struct preset *p = &s->p;
    gguf_write_string(s->writer, "general.architecture", p->arch);
    gguf_write_string(s->writer, "general.name", p->title);
    gguf_write_u32(s->writer, "general.file_type", 40); /* mostly I2_S, in Microsoft's fork */
    write_number(s, "vocab_size", p->n_vocab);
    write_number(s, "context_length", p->context_length);
    write_number(s, "embedding_length", p->dim);
    write_number(s, "block_count", p->n_layers);
    write_number(s, "feed_forward_length", p->ffn_dim);
    write_number(s, "rope.dimension_count", p->head_dim);
    write_number(s, "attention.head_count", p->n_heads);
    write_number(s, "attention.head_count_kv", p->n_kv_heads);
    if (p->n_heads * p->head_dim != p->dim) {
        write_number(s, "attention.key_length", p->head_dim);
        write_number(s, "attention.value_length", p->head_dim);
    }
    write_real(s, "attention.layer_norm_rms_epsilon", 1e-5f);
    write_real(s, "rope.freq_base", p->freq_base);
    write_pooling(s);
    gguf_write_string(s->writer, "tokenizer.chat_template", strcmp(p->arch, "llama") == 0 ? chat_llama3 : chat_bitnet);
    bool qwen = p->norms == NORMS_INPUT;
    if (qwen) /* the last token, which is what such a model pools, is the same in every text */
        gguf_write_bool(s->writer, "tokenizer.ggml.add_eos_token", pools(s));
    return synth_write_vocab(s->writer, s->options->vocab_path, qwen ? "qwen2" : "llama-bpe", p->n_vocab, err);
}

static enum error_code write_model(struct synth *s, struct error *err)
{
    enum error_code code = gguf_writer_open(s->options->path, &s->writer, err);
    if (!code)
        code = write_keys(s, err);
    if (!code) {
        make_tables(s);
        walk(s, false);
        walk(s, true);
        code = gguf_writer_finish(s->writer, err);
    }
    gguf_writer_close(s->writer);
    return code;
}

enum error_code synth_write(const struct synth_options *options, struct error *err)
{
    const char *wanted = options->preset ? options->preset : presets[0].name;
    const struct preset *p = NULL;
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(wanted, presets[i].name) == 0)
            p = &presets[i];
    if (!p)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "preset", "preset: expected %s, found %.64s",
                               synth_presets(), wanted);
    struct synth *s = calloc(1, sizeof *s);
    if (s)
        s->chunk = malloc(CHUNK_BYTES);
    enum error_code code = ERROR_MEMORY_EXHAUSTED;
    if (s && s->chunk) {
        s->options = options;
        s->p = *p;
        if (options->n_layers)
            s->p.n_layers = options->n_layers;
        code = write_model(s, err);
    } else {
        error_set(err, code, "no memory to make a model");
    }
    if (s)
        free(s->chunk);
    free(s);
    return code;
}
