/* What can be wrong with a file: a catalogue of changes to the bundled model, and what is said of each. */
#ifndef TESTS_UNIT_ENGINE_MODEL_BROKEN_H
#define TESTS_UNIT_ENGINE_MODEL_BROKEN_H

#include "kernels/kernels.h"
#include "tests/unit/engine/model/rewrite.h"

#define T(layer, name) "blk." #layer "." name ".weight"

static void put_f32(uint8_t *p, float v)
{
    memcpy(p, &v, sizeof v);
}
static uint8_t *scale_of(struct rw_file *f, const char *name)
{
    struct rw_tensor *t = rw_tensor(f, name);
    return t->data + t->n_bytes - 32;
}

/* ---- scales and values */
static void scale_sign(struct rw_file *f) { scale_of(f, T(2, "attn_q"))[3] ^= 0x80; }
static void scale_nan(struct rw_file *f) { put_f32(scale_of(f, T(0, "ffn_up")), 0.0f / 0.0f); }
static void scale_infinite(struct rw_file *f) { put_f32(scale_of(f, T(5, "ffn_down")), 1.0f / 0.0f); }
static void scale_zero(struct rw_file *f) { put_f32(scale_of(f, T(3, "attn_k")), 0.0f); }
static void scale_exponent(struct rw_file *f) { scale_of(f, T(4, "attn_v"))[3] ^= 0x04; }
static void norm_nan(struct rw_file *f) { put_f32(rw_tensor(f, T(1, "ffn_sub_norm"))->data + 400, 0.0f / 0.0f); }
static void norm_zero(struct rw_file *f) { memset(rw_tensor(f, T(3, "attn_norm"))->data, 0, 384 * 4); }
static void norm_huge(struct rw_file *f) { put_f32(rw_tensor(f, "output_norm.weight")->data + 16, 3e7f); }
static void embedding_nan(struct rw_file *f) { rw_tensor(f, "token_embd.weight")->data[2 * 384 * 1000 + 1] |= 0x7e; }
static void embedding_infinite(struct rw_file *f)
{
    uint8_t *p = rw_tensor(f, "token_embd.weight")->data + 2 * 384 * 7;
    p[0] = 0, p[1] = 0x7c;
}

/* ---- codes */
static void block_damaged(struct rw_file *f)
{
    uint8_t *p = rw_tensor(f, T(2, "ffn_gate"))->data + 96 * 500;
    for (int i = 0; i < 32; i++)
        p[i] ^= (uint8_t)(i * 73 + 41);
}
static void code_3(struct rw_file *f) { rw_tensor(f, T(5, "attn_output"))->data[4000] |= 0x0c; }
static void page_of_zeros(struct rw_file *f) { memset(rw_tensor(f, T(1, "ffn_up"))->data + 8192, 0, 4096); }
static void matrix_of_zeros(struct rw_file *f)
{
    struct rw_tensor *t = rw_tensor(f, T(4, "attn_output"));
    memset(t->data, 0x55, t->n_bytes - 32);
}
static void negate(struct rw_file *f, const char *name)
{
    struct rw_tensor *t = rw_tensor(f, name);
    for (size_t i = 0; i < t->n_bytes - 32; i++)
        t->data[i] = (uint8_t)(0xaa - t->data[i]);
}
static void negated(struct rw_file *f) { negate(f, T(0, "ffn_down")); }

/* Packs a tensor's codes 64 to a block. */
static void order_64(struct rw_file *f, const char *name)
{
    struct rw_tensor *t = rw_tensor(f, name);
    size_t n = t->n_bytes - 32;
    uint8_t *old = rw_copy(t->data, n);
    memset(t->data, 0, n);
    for (size_t e = 0; e < 4 * n; e++) {
        unsigned code = old[e / 128 * 32 + e % 32] >> (6 - 2 * (e % 128 / 32)) & 3;
        t->data[e / 64 * 16 + e % 16] |= (uint8_t)(code << (6 - 2 * (e % 64 / 16)));
    }
    free(old);
}
static void order_of_one(struct rw_file *f) { order_64(f, T(2, "ffn_down")); }
static void order_of_all(struct rw_file *f)
{
    for (size_t i = 0; i < f->n_tensors; i++)
        if (f->tensors[i].type == TENSOR_I2_S)
            order_64(f, f->tensors[i].name);
}

/* ---- tensors of others */
static void swapped_down(struct rw_file *f) { rw_swap(f, T(1, "ffn_down"), T(4, "ffn_down")); }
static void swapped_gate(struct rw_file *f) { rw_swap(f, T(0, "ffn_gate"), T(5, "ffn_gate")); }
static void swapped_gate_up(struct rw_file *f)
{
    char gate[64], up[64];
    for (int layer = 0; layer < 6; layer++) {
        snprintf(gate, sizeof gate, "blk.%d.ffn_gate.weight", layer);
        snprintf(up, sizeof up, "blk.%d.ffn_up.weight", layer);
        rw_swap(f, gate, up);
    }
}
static void swapped_k_v(struct rw_file *f)
{
    rw_swap(f, T(0, "attn_k"), T(0, "attn_v"));
    rw_swap(f, T(1, "attn_k"), T(1, "attn_v"));
}
static void swapped_q(struct rw_file *f) { rw_swap(f, T(0, "attn_q"), T(3, "attn_q")); }
static void swapped_v(struct rw_file *f) { rw_swap(f, T(0, "attn_v"), T(5, "attn_v")); }
static void swapped_o(struct rw_file *f) { rw_swap(f, T(0, "attn_output"), T(4, "attn_output")); }

/* ---- shapes and structure */
static void wrong_rows(struct rw_file *f)
{
    struct rw_tensor *t = rw_tensor(f, T(1, "ffn_down"));
    t->dims[0] = 384, t->dims[1] = 1024;
}
static void tensor_missing(struct rw_file *f) { rw_tensor(f, T(2, "attn_sub_norm"))->drop = true; }
static void tensor_strange(struct rw_file *f) { strcpy(rw_tensor(f, T(2, "attn_sub_norm"))->name, "blk.2.attn_q.bias"); }
static void type_unknown(struct rw_file *f) { rw_tensor(f, T(0, "attn_k"))->type = 77; }
static void set_u32(struct rw_file *f, const char *key, uint32_t value) { memcpy(rw_key(f, key)->raw + 4, &value, 4); }
static void heads(struct rw_file *f) { set_u32(f, "bitnet-b1.58.attention.head_count", 12); }
static void layers_fewer(struct rw_file *f) { set_u32(f, "bitnet-b1.58.block_count", 5); }
static void eps_missing(struct rw_file *f) { rw_key(f, "bitnet-b1.58.attention.layer_norm_rms_epsilon")->drop = true; }

/* ---- tokenizer */
static void merges_missing(struct rw_file *f) { rw_key(f, "tokenizer.ggml.merges")->drop = true; }
static void eos_outside(struct rw_file *f) { set_u32(f, "tokenizer.ggml.eos_token_id", 4096); }
static void pre_unknown(struct rw_file *f)
{
    struct rw_key *k = rw_key(f, "tokenizer.ggml.pre");
    memcpy(k->raw + 12, "xyzzy-bpe", 9);
}
/* Strings first .. first + n - 1 of an array, in the opposite order: the same bytes in all. */
static void reverse(struct rw_file *f, const char *key, size_t first, size_t n)
{
    struct rw_key *k = rw_key(f, key);
    uint8_t *out = k->raw + 16;
    const uint8_t *in = k->key->raw;
    in += 16;
    for (size_t i = 0; i < k->key->n; i++) {
        size_t from = i >= first && i < first + n ? first + n - 1 - (i - first) : i;
        uint64_t length = k->key->strings[from].n_bytes;
        memcpy(out, &length, 8);
        memcpy(out + 8, k->key->strings[from].data, length);
        out += 8 + length;
    }
    (void)in;
}
static void tokens_reversed(struct rw_file *f) { reverse(f, "tokenizer.ggml.tokens", 0, 4092); }
static void tokens_shifted(struct rw_file *f) { reverse(f, "tokenizer.ggml.tokens", 300, 3700); }

static const struct broken {
    const char *kind;
    void (*damage)(struct rw_file *f);
    const char *message; /* a part of what verify says */
    bool loads;          /* only reading all of it, or running it, tells */
    int i2s_order;       /* asked for, when not 0: + 1 */
} broken_catalogue[] = {
    {"a scale's sign", scale_sign, "tensor blk.2.attn_q.weight: expected a finite and positive scale, found -", false, 0},
    {"a scale is no number", scale_nan, "tensor blk.0.ffn_up.weight: expected a finite and positive scale", false, 0},
    {"an infinite scale", scale_infinite, "tensor blk.5.ffn_down.weight: expected a finite and positive scale, found inf", false, 0},
    {"a scale of 0", scale_zero, "tensor blk.3.attn_k.weight: expected a finite and positive scale, found 0", false, 0},
    {"a bit of a scale's exponent", scale_exponent, "tensor blk.4.attn_v.weight: its scale", true, 0},
    {"a norm is no number", norm_nan, "tensor blk.1.ffn_sub_norm.weight: expected finite weights below 1e+06, found", true, 0},
    {"a norm of zeros", norm_zero, "tensor blk.3.attn_norm.weight: all of its weights are 0", true, 0},
    {"a norm far too large", norm_huge, "tensor output_norm.weight: expected finite weights below 1e+06, found 3e+07", true, 0},
    {"an embedding is no number", embedding_nan, "tensor token_embd.weight: expected finite weights", true, 0},
    {"an infinite embedding", embedding_infinite, "tensor token_embd.weight: expected finite weights below 1e+06, found inf at row 7, column 0", true, 0},
    {"a damaged block", block_damaged, "tensor blk.2.ffn_gate.weight: expected codes 0, 1 and 2, found 3 at row 500", false, 0},
    {"one impossible code", code_3, "tensor blk.5.attn_output.weight: expected codes 0, 1 and 2, found 3 at row 41", false, 0},
    {"a page that did not arrive", page_of_zeros, "tensor blk.1.ffn_up.weight: all weights of row", true, 0},
    {"a matrix of zeros", matrix_of_zeros, "tensor blk.4.attn_output.weight: expected some of each of -1, 0 and +1", true, 0},
    {"a negated matrix", negated, "bits a byte", true, 0},
    {"one tensor in another order", order_of_one, "tensor blk.2.ffn_down.weight: its columns do not belong to the rows", true, 0},
    {"all tensors in another order than asked for", order_of_all, "I2_S tensors are packed 64 to a block, but were asked to be read as 128", true, 1 + I2S_ORDER_128},
    {"down of two layers exchanged", swapped_down, "tensor blk.1.ffn_down.weight: its columns do not belong", true, 0},
    {"gate of two layers exchanged", swapped_gate, "tensor blk.5.ffn_down.weight: its columns do not belong", true, 0},
    {"gate and up exchanged", swapped_gate_up, "bits a byte", true, 0},
    {"k and v exchanged", swapped_k_v, "bits a byte", true, 0},
    {"q of two layers exchanged", swapped_q, "bits a byte", true, 0},
    {"v of two layers exchanged", swapped_v, "bits a byte", true, 0},
    {"o of two layers exchanged", swapped_o, "bits a byte", true, 0},
    {"rows and columns exchanged", wrong_rows, "tensor blk.1.ffn_down.weight: expected 1024 x 384 (columns x rows), found 384 x 1024", false, 0},
    {"a tensor missing", tensor_missing, "tensor blk.2.attn_sub_norm.weight is missing", false, 0},
    {"a tensor of another architecture", tensor_strange, "tensor blk.2.attn_sub_norm.weight is missing", false, 0},
    {"a type that is not known", type_unknown, "tensor blk.0.attn_k.weight: unsupported type 77 (unknown)", false, 0},
    {"another number of heads", heads, "rope.dimension_count: expected 2 to 32, found 64", false, 0},
    {"fewer layers than tensors", layers_fewer, "tensor blk.5.attn_norm.weight is not part of", false, 0},
    {"a key missing", eps_missing, "layer_norm_rms_epsilon is missing", false, 0},
    {"no merges", merges_missing, "tokenizer.ggml.merges is missing", false, 0},
    {"a token beyond the vocabulary", eos_outside, "tokenizer.ggml.eos_token_id: token 4096, but the vocabulary has 4096 tokens", false, 0},
    {"another pre-tokenizer", pre_unknown, "tokenizer.ggml.pre: \"xyzzy-bpe\" is not known", false, 0},
    {"tokens of another vocabulary", tokens_reversed, "bits a byte", true, 0},
    {"tokens in another order", tokens_shifted, "bits a byte", true, 0},
};

#undef T

#endif
