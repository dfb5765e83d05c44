/*
 * A second forward pass, written from the definitions and in double precision, one token after the other, to hold the
 * real one against for every architecture. It reads the tensors of the file by itself.
 */
#ifndef TESTS_UNIT_ENGINE_MODEL_REFERENCE_H
#define TESTS_UNIT_ENGINE_MODEL_REFERENCE_H

#include "engine/model/gguf.h"
#include "tests/unit/engine/model/model_file.h"

#include <math.h>

#define REF_MAX_TOKENS 16

/* At most. */
enum { REF_Q = MF_HEADS * MF_WIDE_HEAD_DIM, REF_KV = MF_KV_HEADS * MF_WIDE_HEAD_DIM };

struct reference {
    const struct gguf *g;
    bool neox, relu2, sub_norms;
    double k[MF_LAYERS][REF_MAX_TOKENS][REF_KV];
    double v[MF_LAYERS][REF_MAX_TOKENS][REF_KV];
};

static inline double ref_f16(const void *data, size_t i)
{
    uint16_t h;
    memcpy(&h, (const char *)data + 2 * i, 2);
    int exponent = h >> 10 & 31;
    double m = exponent ? ldexp(1024 + (h & 1023), exponent - 25) : ldexp(h & 1023, -24);
    return h & 0x8000 ? -m : m;
}

static inline double ref_round_f16(double x)
{
    int e;
    frexp(x, &e);
    double unit = ldexp(1, (e < -13 ? -13 : e) - 11);
    return rint(x / unit) * unit;
}

static inline const struct gguf_tensor *ref_tensor(const struct reference *r, int layer, const char *name)
{
    char full[64];
    if (layer < 0)
        snprintf(full, sizeof full, "%s.weight", name);
    else
        snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    return gguf_find_tensor(r->g, full);
}

static inline int ref_head_dim(const struct reference *r)
{
    return (int)ref_tensor(r, 0, "attn_q")->dims[1] / MF_HEADS;
}

static inline double ref_f32(const struct gguf_tensor *t, size_t i)
{
    float value;
    memcpy(&value, (const char *)t->data + 4 * i, 4);
    return (double)value;
}

static inline void ref_norm(const struct reference *r, int layer, const char *name, const double *x, size_t n,
                            double *y)
{
    const struct gguf_tensor *w = ref_tensor(r, layer, name);
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(square / (double)n + 1e-5) * ref_f32(w, i);
}

/* y = W x with x quantised to 8 bits; rows and columns are the tensor's. */
static inline void ref_linear(const struct reference *r, int layer, const char *name, const double *x, double *y)
{
    const struct gguf_tensor *w = ref_tensor(r, layer, name);
    const uint8_t *bytes = w->data;
    size_t cols = w->dims[0], rows = w->dims[1];
    double largest = 1e-5, scale = ref_f32(w, cols * rows / 16); /* the float at byte cols * rows / 4 */
    for (size_t i = 0; i < cols; i++)
        largest = fabs(x[i]) > largest ? fabs(x[i]) : largest;
    for (size_t row = 0; row < rows; row++) {
        double sum = 0;
        for (size_t i = 0; i < cols; i++) {
            size_t e = row * cols + i, in_block = e % 128;
            int code = bytes[e / 128 * 32 + in_block % 32] >> (6 - 2 * (in_block / 32)) & 3;
            sum += (code - 1) * rint(x[i] * 127 / largest);
        }
        y[row] = sum * largest / 127 * scale;
    }
}

static inline void ref_rope(const struct reference *r, double *x, int n_heads, int position)
{
    const struct gguf_tensor *factors = ref_tensor(r, -1, "rope_freqs");
    const int head = ref_head_dim(r), half = head / 2;
    for (int h = 0; h < n_heads; h++, x += head)
        for (int i = 0; i < half; i++) {
            double angle =
                position * pow(10000.0, -2.0 * i / head) / (factors ? ref_f32(factors, (size_t)i) : 1.0);
            double *a = r->neox ? &x[i] : &x[2 * i], *b = r->neox ? &x[i + half] : &x[2 * i + 1], old = *a;
            *a = old * cos(angle) - *b * sin(angle);
            *b = old * sin(angle) + *b * cos(angle);
        }
}

/* Attends to the positions up to `position`. */
static inline void ref_attention(const struct reference *r, int layer, const double *q, int position, double *y)
{
    const int head = ref_head_dim(r);
    for (int h = 0; h < MF_HEADS; h++) {
        int kv = h / (MF_HEADS / MF_KV_HEADS) * head;
        double p[REF_MAX_TOKENS], sum = 0;
        for (int j = 0; j <= position; j++) {
            double score = 0;
            for (int d = 0; d < head; d++)
                score += ref_round_f16(q[h * head + d]) * r->k[layer][j][kv + d];
            sum += p[j] = exp(score / sqrt(head));
        }
        for (int d = 0; d < head; d++) {
            double out = 0;
            for (int j = 0; j <= position; j++)
                out += p[j] / sum * r->v[layer][j][kv + d];
            y[h * head + d] = out;
        }
    }
}

/* y = W of x, normalised by the weights `norm` where the model has them. */
static inline void ref_linear_of(const struct reference *r, int layer, const char *name, const char *norm, const double *x, double *y)
{
    double own[MF_DIM];
    if (ref_tensor(r, layer, norm)) {
        ref_norm(r, layer, norm, x, MF_DIM, own);
        x = own;
    }
    ref_linear(r, layer, name, x, y);
}

/* Each head by itself, where the model has such a norm. */
static inline void ref_head_norm(const struct reference *r, int layer, const char *norm, int n_heads, double *x)
{
    const int head = ref_head_dim(r);
    for (int h = 0; h < n_heads && ref_tensor(r, layer, norm); h++)
        ref_norm(r, layer, norm, x + h * head, (size_t)head, x + h * head);
}

static inline void ref_project(struct reference *r, int layer, int position, const double *x, double *q)
{
    double h[MF_DIM], k[REF_KV], v[REF_KV];
    ref_norm(r, layer, "attn_norm", x, MF_DIM, h);
    ref_linear_of(r, layer, "attn_q", "attn_q_norm_in", h, q);
    ref_linear_of(r, layer, "attn_k", "attn_k_norm_in", h, k);
    ref_linear_of(r, layer, "attn_v", "attn_v_norm_in", h, v);
    ref_head_norm(r, layer, "attn_q_norm", MF_HEADS, q);
    ref_head_norm(r, layer, "attn_k_norm", MF_KV_HEADS, k);
    ref_rope(r, q, MF_HEADS, position);
    ref_rope(r, k, MF_KV_HEADS, position);
    for (int i = 0; i < MF_KV_HEADS * ref_head_dim(r); i++) {
        r->k[layer][position][i] = ref_round_f16(k[i]);
        r->v[layer][position][i] = ref_round_f16(v[i]);
    }
}

/* From q on; `last` is the last position that is attended to. */
static inline void ref_attend(const struct reference *r, int layer, int last, const double *q, double *x)
{
    double h[MF_DIM], a[REF_Q], gate[MF_FFN], up[MF_FFN], out[MF_DIM];
    ref_attention(r, layer, q, last, a);
    const char *inner = r->sub_norms ? "attn_sub_norm" : "attn_output_norm_in";
    if (r->sub_norms || ref_tensor(r, layer, inner))
        ref_norm(r, layer, inner, a, (size_t)(MF_HEADS * ref_head_dim(r)), a);
    ref_linear(r, layer, "attn_output", a, out);
    for (int i = 0; i < MF_DIM; i++)
        x[i] += out[i];
    ref_norm(r, layer, "ffn_norm", x, MF_DIM, h);
    ref_linear_of(r, layer, "ffn_gate", "ffn_gate_norm_in", h, gate);
    ref_linear_of(r, layer, "ffn_up", "ffn_up_norm_in", h, up);
    for (int i = 0; i < MF_FFN; i++) {
        double positive = gate[i] > 0 ? gate[i] : 0;
        gate[i] = up[i] * (r->relu2 ? positive * positive : gate[i] / (1 + exp(-gate[i])));
    }
    inner = r->sub_norms ? "ffn_sub_norm" : "ffn_down_norm_in";
    if (r->sub_norms || ref_tensor(r, layer, inner))
        ref_norm(r, layer, inner, gate, MF_FFN, gate);
    ref_linear(r, layer, "ffn_down", gate, out);
    for (int i = 0; i < MF_DIM; i++)
        x[i] += out[i];
}

static inline void ref_layer(struct reference *r, int layer, int position, double *x)
{
    double q[REF_Q];
    ref_project(r, layer, position, x, q);
    ref_attend(r, layer, position, q, x);
}

/* The normalised hidden states [n][MF_DIM] of a text. */
static inline void ref_text(struct reference *r, const uint32_t *tokens, int n, bool causal, double (*hidden)[MF_DIM])
{
    const struct gguf_tensor *embedding = ref_tensor(r, -1, "token_embd");
    double q[REF_MAX_TOKENS][REF_Q];
    for (int t = 0; t < n; t++)
        for (size_t i = 0; i < MF_DIM; i++)
            hidden[t][i] = ref_f16(embedding->data, tokens[t] * MF_DIM + i);
    for (int layer = 0; layer < MF_LAYERS; layer++) {
        for (int t = 0; t < n; t++)
            ref_project(r, layer, t, hidden[t], q[t]);
        for (int t = 0; t < n; t++)
            ref_attend(r, layer, causal ? t : n - 1, q[t], hidden[t]);
    }
    for (int t = 0; t < n; t++)
        ref_norm(r, -1, "output_norm", hidden[t], MF_DIM, hidden[t]);
}

/* Logits [MF_VOCAB] after `token` at `position`; positions come in order. */
static inline void ref_token(struct reference *r, uint32_t token, int position, double *logits)
{
    const struct gguf_tensor *embedding = ref_tensor(r, -1, "token_embd"), *head = ref_tensor(r, -1, "output");
    double x[MF_DIM];
    for (size_t i = 0; i < MF_DIM; i++)
        x[i] = ref_f16(embedding->data, token * MF_DIM + i);
    for (int layer = 0; layer < MF_LAYERS; layer++)
        ref_layer(r, layer, position, x);
    ref_norm(r, -1, "output_norm", x, MF_DIM, x);
    for (size_t t = 0; t < MF_VOCAB; t++) {
        logits[t] = 0;
        for (size_t i = 0; i < MF_DIM; i++)
            logits[t] += x[i] * ref_f16((head ? head : embedding)->data, t * MF_DIM + i);
    }
}

#endif
