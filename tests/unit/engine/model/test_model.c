/* Shapes and binding: one thing wrong with a model at a time, and the sentence that says so. */
#include "engine/model/model.h"

#include "tests/unit/engine/model/model_file.h"

static const struct bad {
    struct model_file file;
    enum { AT_SHAPE, AT_OPEN } where; /* found from the headers, or when weights are read */
    const char *message, *param;
} bad[] = {
    {{.arch = "qwen2"}, AT_SHAPE, "expected bitnet-b1.58, bitnet-25, bitnet, llama or qwen3", "general.architecture"},
    {{.drop_key = "block_count"}, AT_SHAPE, "key bitnet-b1.58.block_count is missing", "bitnet-b1.58.block_count"},
    {{.drop_key = "attention.layer_norm_rms_epsilon"}, AT_SHAPE, "layer_norm_rms_epsilon is missing", NULL},
    {{.u32_key = "block_count", .u32_value = 0}, AT_SHAPE, "expected 1 to 1024, found 0", NULL},
    {{.u32_key = "block_count", .u32_value = 3}, AT_SHAPE, "tensor blk.2.attn_norm.weight is missing", NULL},
    {{.u32_key = "block_count", .u32_value = 1}, AT_SHAPE, "tensor blk.1.attn_norm.weight is not part of", NULL},
    {{.u32_key = "embedding_length", .u32_value = 4000000000},
     AT_SHAPE,
     "expected 32 to 65536, found 4000000000",
     NULL},
    {{.u32_key = "attention.head_count_kv", .u32_value = 3}, AT_SHAPE, "no multiple of 3 KV heads", NULL},
    {{.u32_key = "attention.head_count_kv", .u32_value = 8}, AT_SHAPE, "expected 1 to 4, found 8", NULL},
    {{.u32_key = "attention.key_length", .u32_value = 0}, AT_SHAPE, "key_length: expected 2 to 256, found 0", NULL},
    {{.u32_key = "attention.value_length", .u32_value = 16}, AT_SHAPE, "expected 32 to 32, found 16", NULL},
    {{.u32_key = "rope.dimension_count", .u32_value = 33}, AT_SHAPE, "expected 2 to 32, found 33", NULL},
    {{.u32_key = "rope.dimension_count", .u32_value = 7}, AT_SHAPE, "expected even numbers", NULL},
    {{.u32_key = "expert_count", .u32_value = 8}, AT_SHAPE, "expert_count: expected 0 to 0, found 8", NULL},
    {{.f32_key = "rope.freq_base", .f32_value = -1.0f}, AT_SHAPE, "rope.freq_base: expected", NULL},
    {{.f32_key = "rope.freq_base", .f32_value = 1.0f / 0.0f}, AT_SHAPE, "expected a finite number", NULL},
    {{.f32_key = "rope.scaling.factor", .f32_value = -2.0f}, AT_SHAPE, "rope.scaling.factor: expected", NULL},
    {{.string_key = "rope.scaling.type", .string_value = "yarn"},
     AT_SHAPE,
     "expected none or linear, found yarn",
     NULL},
    {{.string_key = "block_count", .string_value = "x", .drop_key = "block_count"},
     AT_SHAPE,
     "block_count: expected an integer, found string",
     NULL},
    {{.drop_tensor = "token_embd.weight"}, AT_SHAPE, "tensor token_embd.weight is missing", "token_embd.weight"},
    {{.drop_tensor = "output_norm.weight"}, AT_SHAPE, "tensor output_norm.weight is missing", NULL},
    {{.drop_tensor = "blk.1.ffn_sub_norm.weight"}, AT_SHAPE, "tensor blk.1.ffn_sub_norm.weight is missing", NULL},
    {{.change_tensor = "blk.1.ffn_up.weight", .rows = 128},
     AT_SHAPE,
     "tensor blk.1.ffn_up.weight: expected 128 x 160 (columns x rows), found 128 x 128",
     "blk.1.ffn_up.weight"},
    {{.change_tensor = "blk.0.attn_norm.weight", .cols = 64}, AT_SHAPE, "expected 128 weights, found 64", NULL},
    {{.change_tensor = "blk.0.attn_q.weight", .type = 12},
     AT_SHAPE,
     "tensor blk.0.attn_q.weight: unsupported type 12 (Q4_K): this server runs models with ternary weights",
     NULL},
    {{.change_tensor = "blk.0.attn_q.weight", .type = TENSOR_F16, .arch = "llama"},
     AT_SHAPE,
     "unsupported type 1 (F16): this server runs models with ternary weights",
     NULL},
    {{.change_tensor = "token_embd.weight", .type = 14, .cols = 256},
     AT_SHAPE,
     "tensor token_embd.weight: expected 128 x 96",
     NULL},
    {{.change_tensor = "token_embd.weight", .type = 134},
     AT_SHAPE,
     "unsupported type 134 (IQ1_BN): expected F32, F16",
     NULL},
    {{.change_tensor = "token_embd.weight", .type = TENSOR_I2_S},
     AT_SHAPE,
     "unsupported type 36 (I2_S): expected F32",
     NULL},
    {{.change_tensor = "output_norm.weight", .type = TENSOR_Q8_0}, AT_SHAPE, "expected F32, F16 or BF16", NULL},
    {{.separate_head = true, .change_tensor = "output.weight", .rows = 95},
     AT_SHAPE,
     "tensor output.weight: expected 128 x 96 (columns x rows), found 128 x 95",
     NULL},
    {{.extra_tensor = "blk.0.attn_norm.scale"}, AT_SHAPE, "tensor blk.0.attn_norm.scale is not part of", NULL},
    {{.extra_tensor = "blk.0.attn_q.bias"}, AT_SHAPE, "tensor blk.0.attn_q.bias is not part of", NULL},
    {{.extra_tensor = "blk.00.attn_q.weight"}, AT_SHAPE, "tensor blk.00.attn_q.weight is not part of", NULL},
    {{.rope_freqs = true, .change_tensor = "rope_freqs.weight", .cols = 8},
     AT_SHAPE,
     "expected 16 weights of type F32",
     NULL},
    {{.arch = "qwen3", .drop_tensor = "blk.1.attn_k_norm_in.weight"}, AT_SHAPE, "tensor blk.1.attn_k_norm_in.weight is missing", NULL},
    {{.arch = "qwen3", .change_tensor = "blk.0.attn_q_norm.weight", .cols = 128}, AT_SHAPE, "expected 64 weights, found 128", NULL},
    {{.arch = "qwen3", .extra_tensor = "blk.0.attn_sub_norm.weight"}, AT_SHAPE, "attn_sub_norm.weight is not part of a qwen3 model", NULL},
    {{.arch = "llama", .extra_tensor = "blk.0.attn_q_norm_in.weight"}, AT_SHAPE, "is not part of a llama model", NULL},
    {{.arch = "gemma3"}, AT_SHAPE, "found gemma3: its GELU, its norms after attention", "general.architecture"},
    {{.bad_code = "blk.1.attn_v.weight"}, AT_OPEN, "tensor blk.1.attn_v.weight: ", "blk.1.attn_v.weight"},
    {{.bad_scale = "blk.0.ffn_down.weight"}, AT_OPEN, "tensor blk.0.ffn_down.weight: ", "blk.0.ffn_down.weight"},
};

static struct backend *open_backend(void)
{
    struct backend *be;
    struct error err = {0};
    const struct backend_options options = {.device = "cpu", .n_threads = 1};
    ck_assert_msg(!backend_open(&options, &be, &err), "%s", err.message);
    return be;
}

START_TEST(refused)
{
    const struct bad *b = &bad[_i];
    struct error err = {0};
    struct model_shape shape;
    struct gguf *g;
    mf_write(&b->file, mf_path());
    ck_assert_msg(!gguf_open(mf_path(), &g, &err), "%s", err.message);
    enum error_code code = model_shape_read(g, &shape, &err);
    gguf_close(g);
    if (b->where == AT_OPEN) {
        ck_assert_msg(!code, "%s", err.message);
        struct model *m = NULL;
        struct backend *be = open_backend();
        const struct model_options options = {.path = mf_path(), .i2s_order = -1};
        code = model_open(&options, be, &m, &err);
        backend_close(be);
    }
    unlink(mf_path());
    ck_assert_int_eq(code, ERROR_MODEL_LOAD_FAILED);
    ck_assert_int_eq(err.code, code);
    ck_assert_msg(strstr(err.message, b->message) != NULL, "expected \"%s\" in: %s", b->message, err.message);
    if (b->param)
        ck_assert_str_eq(err.param, b->param);
}
END_TEST

static const struct good {
    struct model_file file;
    struct model_shape shape;
} good[] = {
    {{0}, {.arch = ARCH_BITNET_B158, .rope_style = ROPE_NEOX, .ffn_act = FFN_RELU2, .has_sub_norms = true}},
    {{.arch = "bitnet-25"},
     {.arch = ARCH_BITNET_B158, .rope_style = ROPE_NEOX, .ffn_act = FFN_RELU2, .has_sub_norms = true}},
    {{.arch = "bitnet"}, {.arch = ARCH_BITNET, .rope_style = ROPE_NEOX, .ffn_act = FFN_SILU, .has_sub_norms = true}},
    {{.arch = "llama", .separate_head = true, .rope_freqs = true},
     {.arch = ARCH_LLAMA, .rope_style = ROPE_NORM, .ffn_act = FFN_SILU}},
    {{.arch = "qwen3"}, {.arch = ARCH_QWEN3, .rope_style = ROPE_NEOX, .ffn_act = FFN_SILU, .has_input_norms = true}},
};

START_TEST(opened)
{
    const struct good *want = &good[_i];
    struct error err = {0};
    struct model *m;
    struct forward *f;
    struct backend *be = open_backend();
    const struct model_options options = {.path = mf_path(), .i2s_order = -1, .context_length = 32};
    mf_write(&want->file, mf_path());
    ck_assert_msg(!model_open(&options, be, &m, &err), "%s", err.message);
    ck_assert_int_eq(m->shape.arch, want->shape.arch);
    ck_assert_int_eq(m->shape.rope_style, want->shape.rope_style);
    ck_assert_int_eq(m->shape.ffn_act, want->shape.ffn_act);
    ck_assert_int_eq(m->shape.has_sub_norms, want->shape.has_sub_norms);
    ck_assert_uint_eq(m->shape.vocab_size, MF_VOCAB);
    ck_assert_int_eq(m->shape.has_input_norms, want->shape.has_input_norms);
    ck_assert_uint_eq(m->shape.head_dim, mf_head_dim(&want->file));
    ck_assert_uint_eq(m->shape.rope_dims, mf_head_dim(&want->file));
    ck_assert_int_eq(m->head != m->embedding, want->file.separate_head);
    ck_assert_int_eq(m->layers[1].attn_sub_norm != NULL, want->shape.has_sub_norms || want->shape.has_input_norms);
    ck_assert_int_eq(m->layers[1].q_head_norm != NULL, want->shape.has_input_norms);
    ck_assert_uint_gt(m->weight_bytes, 0);
    size_t head = mf_head_dim(&want->file), heads = MF_HEADS * head, kv_heads = MF_KV_HEADS * head;
    size_t layer = MF_DIM * (2 * heads + 2 * kv_heads + 3 * (size_t)MF_FFN) + 2 * MF_DIM;
    layer += want->shape.has_sub_norms ? heads + MF_FFN : 0;
    layer += want->shape.has_input_norms ? heads + MF_FFN + 2 * head + 5 * (size_t)MF_DIM : 0;
    ck_assert_uint_eq(m->n_parameters,
                      MF_LAYERS * layer + MF_DIM + (size_t)MF_DIM * MF_VOCAB * (1 + want->file.separate_head));
    ck_assert_msg(!forward_open(m, 4, &f, &err), "%s", err.message);
    ck_assert_uint_gt(forward_memory_bytes(f), 4 * 4 * MF_DIM * sizeof(float));
    forward_close(f);
    model_close(m);
    backend_close(be);
    unlink(mf_path());
}
END_TEST

START_TEST(missing_file)
{
    struct error err = {0};
    struct model *m = NULL;
    struct backend *be = open_backend();
    const struct model_options options = {.path = "/nonexistent/model.gguf", .i2s_order = -1};
    ck_assert_int_eq(model_open(&options, be, &m, &err), ERROR_NOT_FOUND);
    ck_assert_ptr_null(m);
    model_close(m);
    backend_close(be);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *tests = tcase_create("model");
    tcase_add_loop_test(tests, refused, 0, sizeof bad / sizeof bad[0]);
    tcase_add_loop_test(tests, opened, 0, sizeof good / sizeof good[0]);
    tcase_add_test(tests, missing_file);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
