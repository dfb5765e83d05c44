/* Small random models for tests, written as GGUF files with one thing about them changed: a tensor left out, of
 * another shape or type, a key of another value. Without a vocabulary: token ids only. */
#ifndef TESTS_UNIT_ENGINE_MODEL_MODEL_FILE_H
#define TESTS_UNIT_ENGINE_MODEL_MODEL_FILE_H

#include "kernels/kernels.h"
#include "tools/gguf_write.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MF_LAYERS = 2,
    MF_DIM = 128,
    MF_HEADS = 4,
    MF_KV_HEADS = 2,
    MF_HEAD_DIM = 32,
    MF_WIDE_HEAD_DIM = 64, /* of qwen3, whose heads are wider together than a row */
    MF_FFN = 160,
    MF_VOCAB = 96,
    MF_CONTEXT = 64,
    MF_MAX_TENSORS = 64
};

struct model_file {
    const char *arch; /* NULL = "bitnet-b1.58" */
    bool separate_head, rope_freqs;
    const char *drop_tensor;   /* left out */
    const char *change_tensor; /* gets what is not 0 of: */
    uint32_t type;
    uint64_t cols, rows;
    const char *extra_tensor; /* added: F32, one weight */
    const char *bad_code;     /* this I2_S tensor gets a code 3 */
    const char *bad_scale;    /* this I2_S tensor gets the scale -1 */
    const char *drop_key;     /* suffix after "<arch>." */
    const char *u32_key;      /* suffix that gets u32_value, instead of or beside the usual ones */
    uint32_t u32_value;
    bool not_causal;
    const char *f32_key;
    float f32_value;
    const char *string_key, *string_value;
    uint64_t seed;
};

struct mf_tensor {
    char name[64];
    uint32_t type, n_dims;
    uint64_t dims[2];
};
struct mf_list {
    struct mf_tensor t[MF_MAX_TENSORS];
    size_t n;
};

static inline uint64_t mf_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline void mf_add(const struct model_file *m, struct mf_list *list, const char *name, uint32_t type,
                          uint64_t cols, uint64_t rows)
{
    struct mf_tensor *t = &list->t[list->n];
    if (m->drop_tensor && strcmp(name, m->drop_tensor) == 0)
        return;
    snprintf(t->name, sizeof t->name, "%s", name);
    *t = (struct mf_tensor){.type = type, .n_dims = rows > 1 ? 2 : 1, .dims = {cols, rows}};
    snprintf(t->name, sizeof t->name, "%s", name);
    if (m->change_tensor && strcmp(name, m->change_tensor) == 0) {
        t->type = m->type ? m->type : t->type;
        t->dims[0] = m->cols ? m->cols : cols;
        t->dims[1] = m->rows ? m->rows : rows;
        t->n_dims = t->dims[1] > 1 ? 2 : 1;
    }
    list->n++;
}

static inline const char *mf_arch(const struct model_file *m)
{
    return m->arch ? m->arch : "bitnet-b1.58";
}

static inline uint32_t mf_head_dim(const struct model_file *m)
{
    return strcmp(mf_arch(m), "qwen3") == 0 ? MF_WIDE_HEAD_DIM : MF_HEAD_DIM;
}

/* Which tensors an architecture has: all, with sub norms, with a norm before each projection. */
enum mf_where { MF_ALL, MF_SUB, MF_INPUT };

static inline enum mf_where mf_norms(const struct model_file *m)
{
    return strcmp(mf_arch(m), "qwen3") == 0 ? MF_INPUT : strcmp(mf_arch(m), "llama") == 0 ? MF_ALL : MF_SUB;
}

static inline void mf_layer(const struct model_file *m, struct mf_list *list, int layer)
{
    const uint64_t head = mf_head_dim(m), q = MF_HEADS * head, kv = MF_KV_HEADS * head;
    const struct {
        const char *name;
        uint32_t type;
        uint64_t cols, rows;
        enum mf_where where;
    } all[] = {
        {"attn_norm", TENSOR_F32, MF_DIM, 1, MF_ALL},            {"attn_q", TENSOR_I2_S, MF_DIM, q, MF_ALL},
        {"attn_k", TENSOR_I2_S, MF_DIM, kv, MF_ALL},             {"attn_v", TENSOR_I2_S, MF_DIM, kv, MF_ALL},
        {"attn_sub_norm", TENSOR_F32, q, 1, MF_SUB},             {"attn_output", TENSOR_I2_S, q, MF_DIM, MF_ALL},
        {"ffn_norm", TENSOR_F32, MF_DIM, 1, MF_ALL},             {"ffn_gate", TENSOR_I2_S, MF_DIM, MF_FFN, MF_ALL},
        {"ffn_up", TENSOR_I2_S, MF_DIM, MF_FFN, MF_ALL},         {"ffn_sub_norm", TENSOR_F32, MF_FFN, 1, MF_SUB},
        {"ffn_down", TENSOR_I2_S, MF_FFN, MF_DIM, MF_ALL},       {"attn_q_norm", TENSOR_F32, head, 1, MF_INPUT},
        {"attn_k_norm", TENSOR_F32, head, 1, MF_INPUT},          {"attn_q_norm_in", TENSOR_F32, MF_DIM, 1, MF_INPUT},
        {"attn_k_norm_in", TENSOR_F32, MF_DIM, 1, MF_INPUT},     {"attn_v_norm_in", TENSOR_F32, MF_DIM, 1, MF_INPUT},
        {"attn_output_norm_in", TENSOR_F32, q, 1, MF_INPUT},     {"ffn_gate_norm_in", TENSOR_F32, MF_DIM, 1, MF_INPUT},
        {"ffn_up_norm_in", TENSOR_F32, MF_DIM, 1, MF_INPUT},     {"ffn_down_norm_in", TENSOR_F32, MF_FFN, 1, MF_INPUT},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char name[64];
        if (all[i].where != MF_ALL && all[i].where != mf_norms(m))
            continue;
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, all[i].name);
        mf_add(m, list, name, all[i].type, all[i].cols, all[i].rows);
    }
}

/* n values of about unit size: F32 as they are, F16 from a table of exact values. */
static inline void mf_floats(struct gguf_writer *w, uint32_t type, uint64_t n_bytes, float base, float spread,
                             uint64_t *random)
{
    for (uint64_t at = 0; at < n_bytes; at += type == TENSOR_F32 ? 4 : 2) {
        float value = base + spread * ((float)(mf_random(random) >> 40) * 0x1p-23f - 1.0f);
        uint16_t half = (uint16_t)((mf_random(random) & 0x83ff) | (12 + mf_random(random) % 3) << 10);
        gguf_write_data(w, type == TENSOR_F32 ? (void *)&value : (void *)&half, type == TENSOR_F32 ? 4 : 2);
    }
}

static inline void mf_codes(const struct model_file *m, struct gguf_writer *w, const struct mf_tensor *t,
                            uint64_t n_bytes, uint64_t *random)
{
    float tail[8] = {0.1f};
    if (m->bad_scale && strcmp(t->name, m->bad_scale) == 0)
        tail[0] = -1.0f;
    for (uint64_t at = 0; at < n_bytes - sizeof tail; at++) {
        uint64_t r = mf_random(random);
        uint8_t byte = (uint8_t)(r % 3 | (r >> 16) % 3 << 2 | (r >> 32) % 3 << 4 | (r >> 48) % 3 << 6);
        if (m->bad_code && at == 70 && strcmp(t->name, m->bad_code) == 0)
            byte |= 0x30;
        gguf_write_data(w, &byte, 1);
    }
    gguf_write_data(w, tail, sizeof tail);
}

static inline void mf_data(const struct model_file *m, struct gguf_writer *w, const struct mf_tensor *t,
                           uint64_t n_bytes)
{
    uint64_t random = kernel_hash(m->seed, t->name, strlen(t->name));
    if (t->type == TENSOR_I2_S)
        mf_codes(m, w, t, n_bytes, &random);
    else if (t->type == TENSOR_F32 || t->type == TENSOR_F16)
        mf_floats(w, t->type, n_bytes, strcmp(t->name, "rope_freqs.weight") == 0 ? 2.0f : 1.0f, 0.5f, &random);
    else
        for (uint64_t at = 0; at < n_bytes; at++)
            gguf_write_data(w, "", 1);
}

static inline void mf_keys(const struct model_file *m, struct gguf_writer *w)
{
    const struct {
        const char *suffix;
        uint32_t value;
    } numbers[] = {
        {"block_count", MF_LAYERS},      {"context_length", MF_CONTEXT},     {"embedding_length", MF_DIM},
        {"feed_forward_length", MF_FFN}, {"attention.head_count", MF_HEADS}, {"attention.head_count_kv", MF_KV_HEADS},
        {"attention.key_length", mf_head_dim(m)}, /* the last, and said only where it is not the row's share of a head */
    };
    const struct {
        const char *suffix;
        float value;
    } reals[] = {{"attention.layer_norm_rms_epsilon", 1e-5f}, {"rope.freq_base", 10000.0f}};
    char key[128];
    gguf_write_string(w, "general.architecture", mf_arch(m));
    for (size_t i = 0; i < (mf_head_dim(m) * MF_HEADS == MF_DIM ? 6u : 7u); i++) {
        bool other = m->u32_key && strcmp(m->u32_key, numbers[i].suffix) == 0;
        snprintf(key, sizeof key, "%s.%s", mf_arch(m), numbers[i].suffix);
        if (!other && !(m->drop_key && strcmp(m->drop_key, numbers[i].suffix) == 0))
            gguf_write_u32(w, key, numbers[i].value);
    }
    for (size_t i = 0; i < 2; i++) {
        bool other = m->f32_key && strcmp(m->f32_key, reals[i].suffix) == 0;
        snprintf(key, sizeof key, "%s.%s", mf_arch(m), reals[i].suffix);
        if (!other && !(m->drop_key && strcmp(m->drop_key, reals[i].suffix) == 0))
            gguf_write_f32(w, key, reals[i].value);
    }
    snprintf(key, sizeof key, "%s.%s", mf_arch(m), m->u32_key ? m->u32_key : "");
    if (m->u32_key)
        gguf_write_u32(w, key, m->u32_value);
    snprintf(key, sizeof key, "%s.attention.causal", mf_arch(m));
    if (m->not_causal)
        gguf_write_bool(w, key, false);
    snprintf(key, sizeof key, "%s.%s", mf_arch(m), m->f32_key ? m->f32_key : "");
    if (m->f32_key)
        gguf_write_f32(w, key, m->f32_value);
    snprintf(key, sizeof key, "%s.%s", mf_arch(m), m->string_key ? m->string_key : "");
    if (m->string_key)
        gguf_write_string(w, key, m->string_value);
}

/* Bytes of a tensor; of types that we do not know, some. */
static inline uint64_t mf_bytes(const struct mf_tensor *t)
{
    size_t n = tensor_bytes(t->type, (size_t)t->dims[1], (size_t)t->dims[0]);
    return n ? n : 64;
}

/* A path in the folder for temporary files that is this process's own. */
static inline const char *mf_path(void)
{
    static char path[256];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bitnet-model-%ld.gguf", folder ? folder : "/tmp", (long)getpid());
    return path;
}

/* Writes the model; the caller unlinks it. */
static inline void mf_write(const struct model_file *m, const char *path)
{
    struct gguf_writer *w;
    struct error err = {0};
    struct mf_list *list = calloc(1, sizeof *list);
    ck_assert_ptr_nonnull(list);
    ck_assert_msg(!gguf_writer_open(path, &w, &err), "%s", err.message);
    mf_keys(m, w);
    mf_add(m, list, "token_embd.weight", TENSOR_F16, MF_DIM, MF_VOCAB);
    for (int layer = 0; layer < MF_LAYERS; layer++)
        mf_layer(m, list, layer);
    mf_add(m, list, "output_norm.weight", TENSOR_F32, MF_DIM, 1);
    if (m->separate_head)
        mf_add(m, list, "output.weight", TENSOR_F16, MF_DIM, MF_VOCAB);
    if (m->rope_freqs)
        mf_add(m, list, "rope_freqs.weight", TENSOR_F32, mf_head_dim(m) / 2, 1);
    if (m->extra_tensor)
        mf_add(m, list, m->extra_tensor, TENSOR_F32, 1, 1);
    for (size_t i = 0; i < list->n; i++)
        gguf_write_tensor(w, list->t[i].name, list->t[i].type, list->t[i].n_dims, list->t[i].dims,
                          mf_bytes(&list->t[i]));
    for (size_t i = 0; i < list->n; i++)
        mf_data(m, w, &list->t[i], mf_bytes(&list->t[i]));
    ck_assert_msg(!gguf_writer_finish(w, &err), "%s", err.message);
    gguf_writer_close(w);
    free(list);
}

#endif
