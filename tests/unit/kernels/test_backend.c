/* Opening of devices and weights through the public border: what is accepted, what is refused, and with which words. */
#include "kernels/backend.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* An instruction set of this architecture, and one of another. */
#if defined(__aarch64__)
#define THIS_ISA ", neon"
#define OTHER_ISA "avx2"
#else
#define THIS_ISA ", avx2"
#define OTHER_ISA "neon"
#endif

#ifndef FEATURE_CPU /* portable alone */
#undef THIS_ISA
#define THIS_ISA ")"
#endif

static struct backend *open_cpu(const char *isa, int n_threads)
{
    struct backend *be;
    struct error err = {0};
    struct backend_options options = {.isa = isa, .n_threads = n_threads};
    ck_assert_msg(backend_open(&options, &be, &err) == ERROR_NONE, "%s", err.message);
    return be;
}

START_TEST(cpu_describes_itself)
{
    struct backend *be = open_cpu(NULL, 0);
    const struct backend_info *info = backend_info(be);
    ck_assert_str_eq(info->device, "cpu");
    ck_assert_uint_gt(strlen(info->name), 0);
    ck_assert_int_ge(info->n_threads, 1);
    ck_assert_uint_gt(info->memory_bytes, 0);
    backend_close(be);
    be = open_cpu("portable", 3);
    ck_assert_str_eq(backend_info(be)->isa, "portable");
    ck_assert_int_eq(backend_info(be)->n_threads, 3);
    backend_close(be);
    backend_close(NULL);
    struct error err;
    ck_assert_int_eq(backend_open(NULL, &be, &err), ERROR_NONE);
    backend_close(be);
}
END_TEST

START_TEST(unknown_devices_are_refused)
{
    static const struct {
        struct backend_options options;
        enum error_code code;
        const char *param, *message;
    } cases[] = {
        {{.device = "tpu"}, ERROR_VALIDATION_FAILED, "device", "expected device \"cpu\" or \"cuda:N\", found \"tpu\""},
        {{.device = "cuda"}, ERROR_VALIDATION_FAILED, "device", "found \"cuda\""},
        {{.device = "cuda:"}, ERROR_VALIDATION_FAILED, "device", "found \"cuda:\""},
        {{.device = "cuda:-1"}, ERROR_VALIDATION_FAILED, "device", "found \"cuda:-1\""},
        {{.device = "cuda:1x"}, ERROR_VALIDATION_FAILED, "device", "found \"cuda:1x\""},
        {{.device = "cuda:999"}, ERROR_VALIDATION_FAILED, "device", "found \"cuda:999\""},
        {{.device = "cuda:250"}, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:250"},
        {{.isa = "sse9"}, ERROR_VALIDATION_FAILED, "isa", "found \"sse9\""},
        {{.isa = OTHER_ISA}, ERROR_VALIDATION_FAILED, "isa", "architecture (portable" THIS_ISA},
        {{.n_threads = -1}, ERROR_VALIDATION_FAILED, "threads", "found -1"},
        {{.n_threads = 100000}, ERROR_VALIDATION_FAILED, "threads", "found 100000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct backend *be = (struct backend *)&cases; /* not NULL */
        struct error err = {0};
        ck_assert_int_eq(backend_open(&cases[i].options, &be, &err), cases[i].code);
        ck_assert_ptr_null(be);
        ck_assert_int_eq(err.code, cases[i].code);
        ck_assert_str_eq(err.param, cases[i].param);
        ck_assert_msg(strstr(err.message, cases[i].message), "case %zu: %s", i, err.message);
    }
}
END_TEST

START_TEST(memory_is_zeroed_and_aligned)
{
    struct backend *be = open_cpu(NULL, 1);
    for (size_t n = 0; n < 300; n += 37) {
        uint8_t *p = backend_alloc(be, n), back[300];
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            ck_assert_uint_eq(p[i], 0);
        memset(back, 7, sizeof back);
        backend_upload(be, p, back, n);
        memset(back, 0, sizeof back);
        backend_download(be, back, p, n);
        for (size_t i = 0; i < n; i++)
            ck_assert_uint_eq(back[i], 7);
        backend_free(be, p);
    }
    backend_free(be, NULL);
    ck_assert_ptr_null(backend_alloc(be, SIZE_MAX));
    struct activations a;
    ck_assert(!activations_open(be, SIZE_MAX / 4, 4096, &a));
    struct kv_cache kv;
    struct error err = {0};
    ck_assert_int_eq(kv_cache_open(be, KV_F16, SIZE_MAX / 8, 8, 8, 128, &kv, &err), ERROR_MEMORY_EXHAUSTED);
    ck_assert_int_eq(kv_cache_open(be, KV_INT8, 1, SIZE_MAX / 9000, 1, 128, &kv, &err), ERROR_MEMORY_EXHAUSTED);
    ck_assert_int_eq(kv_cache_open(be, KV_F16, 1, 1, 1, 512, &kv, &err), ERROR_VALIDATION_FAILED);
    ck_assert_uint_eq(kv_cache_block_bytes(KV_F16, 30, 5, 128), (size_t)30 * 5 * 128 * KV_BLOCK_SIZE * 4);
    ck_assert_uint_eq(kv_cache_block_bytes(KV_INT8, 30, 5, 128), (size_t)30 * 5 * (128 + 4) * KV_BLOCK_SIZE * 2);
    ck_assert_uint_eq(kv_cache_block_bytes(KV_F16, SIZE_MAX, 5, 128), 0);
    ck_assert_uint_eq(kv_cache_block_bytes(KV_INT8, 1, 1, SIZE_MAX), 0);
    ck_assert_int_eq(backend_sync(be, &err), ERROR_NONE);
    backend_close(be);
}
END_TEST

START_TEST(int8_cache_needs_a_device_that_reads_it)
{
    const struct backend_ops ops = {0};
    struct backend be = {.ops = &ops, .info = {.device = "cuda:7"}};
    struct kv_cache kv;
    struct error err = {0};
    ck_assert_int_eq(kv_cache_open(&be, KV_INT8, 1, 1, 1, 64, &kv, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "kv_type");
    ck_assert_ptr_nonnull(strstr(err.message, "cuda:7"));
}
END_TEST

START_TEST(tables_are_checked)
{
    static const struct {
        uint32_t type;
        size_t n_rows, n_cols, n_bytes;
        const char *message;
    } cases[] = {
        {TENSOR_I2_S, 1, 128, 64, "expected a tensor of type F32, F16, BF16, Q8_0, Q6_K or Q4_0, found type 36 (I2_S)"},
        {12, 1, 128, 640, "found type 12 (unknown)"},
        {TENSOR_F16, 2, 100, 399, "expected 400 bytes of F16 for 2 x 100 weights, found 399"},
        {TENSOR_Q8_0, 2, 100, 640, "expected Q8_0 rows of a multiple of 32 weights, found 2 rows of 100"},
        {TENSOR_F32, 0, 100, 640, "found 0 rows of 100"},
    };
    static const uint8_t data[640];
    struct backend *be = open_cpu(NULL, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tensor_view v = {.type = (enum tensor_type)cases[i].type,
                                .data = data,
                                .n_bytes = cases[i].n_bytes,
                                .n_rows = cases[i].n_rows,
                                .n_cols = cases[i].n_cols};
        struct dense *w;
        struct error err = {0};
        ck_assert_int_eq(dense_open(be, &v, &w, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_ptr_null(w);
        ck_assert_msg(strstr(err.message, cases[i].message), "case %zu: %s", i, err.message);
    }
    backend_close(be);
}
END_TEST

START_TEST(vectors_become_f32)
{
    const float f32[3] = {1.0f, -2.5f, 1e30f};
    const uint16_t f16[3] = {0x3c00, 0xc100, 0x0001}, bf16[3] = {0x3f80, 0xc020, 0x7149};
    struct backend *be = open_cpu(NULL, 1);
    struct tensor_view views[] = {
        {.type = TENSOR_F32, .data = f32, .n_bytes = 12, .n_rows = 1, .n_cols = 3},
        {.type = TENSOR_F16, .data = f16, .n_bytes = 6, .n_rows = 1, .n_cols = 3},
        {.type = TENSOR_BF16, .data = bf16, .n_bytes = 6, .n_rows = 1, .n_cols = 3},
    };
    const float last[] = {1e30f, 0x1p-24f, 0x1.92p99f};
    struct error err = {0};
    float *v;
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(vector_open(be, &views[i], &v, &err) == ERROR_NONE, "%s", err.message);
        ck_assert_float_eq(v[0], 1.0f);
        ck_assert_float_eq(v[1], -2.5f);
        ck_assert_float_eq(v[2], last[i]);
        backend_free(be, v);
    }
    views[0].type = TENSOR_Q8_0;
    ck_assert_int_eq(vector_open(be, &views[0], &v, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "expected a tensor of type F32, F16 or BF16, found type 8 (Q8_0)"), "%s", err.message);
    backend_close(be);
}
END_TEST

START_TEST(a_backend_says_what_auto_is_and_why)
{
    uint8_t data[4 * 64 + 32];
    float scale = 0.25f;
    memset(data, 0x55, sizeof data);
    memcpy(data + 4 * 64, &scale, sizeof scale);
    struct tensor_view v = {.type = TENSOR_I2_S, .data = data, .n_bytes = sizeof data, .n_rows = 4, .n_cols = 256};
    const struct backend_options options[] = {
        {.n_threads = 1}, {.n_threads = 1, .isa = "portable"}, {.n_threads = 1, .map_weights = true}};
    for (int i = 0; i < 3; i++) {
        struct backend *be;
        struct ternary *w;
        struct error err = {0};
        ck_assert_int_eq(backend_open(&options[i], &be, &err), ERROR_NONE);
        ck_assert_int_eq(ternary_open(be, &v, TERNARY_AUTO, &w, &err), ERROR_NONE);
        ck_assert_int_eq(ternary_format(w), backend_info(be)->auto_format);
        ck_assert_uint_gt(strlen(backend_info(be)->auto_reason), 0);
        if (i > 0)
            ck_assert_int_eq(ternary_format(w), TERNARY_I2S);
        ternary_close(be, w);
        backend_close(be);
    }
}
END_TEST

START_TEST(ternary_weights_are_used_in_place_or_repacked)
{
    uint8_t data[4 * 64 + 32];
    float scale = 0.25f;
    memset(data, 0x55, sizeof data);
    memcpy(data + 4 * 64, &scale, sizeof scale);
    struct tensor_view v = {.type = TENSOR_I2_S, .data = data, .n_bytes = sizeof data, .n_rows = 4, .n_cols = 256};
    struct backend_options mapped = {.n_threads = 2, .map_weights = true};
    struct backend *be = open_cpu(NULL, 2);
    struct ternary *w;
    struct error err = {0};
    static const struct {
        enum ternary_format format;
        size_t n_bytes;
    } repacked[] = {{TERNARY_I2S, 16 * 64}, {TERNARY_TL1, 64 * 64}, {TERNARY_TL2, 3 * 320}};
    for (int i = 0; i < 3; i++) { /* groups of 16 or 64 rows */
        ck_assert_int_eq(ternary_open(be, &v, repacked[i].format, &w, &err), ERROR_NONE);
        ck_assert_int_eq(ternary_format(w), repacked[i].format);
        ck_assert_uint_eq(ternary_memory_bytes(w), repacked[i].n_bytes);
        ternary_close(be, w);
    }
    backend_close(be);
    ck_assert_int_eq(backend_open(&mapped, &be, &err), ERROR_NONE);
    ck_assert_int_eq(ternary_open(be, &v, TERNARY_AUTO, &w, &err), ERROR_NONE);
    ck_assert_uint_eq(ternary_memory_bytes(w), 0);
    ck_assert_int_eq(ternary_format(w), TERNARY_I2S);
    ternary_close(be, w);
    v.order = I2S_ORDER_64;
    ck_assert_int_eq(ternary_open(be, &v, TERNARY_TL1, &w, &err), ERROR_NONE);
    ck_assert_int_eq(ternary_format(w), TERNARY_I2S); /* mapped rows have no other */
    ck_assert_uint_eq(ternary_memory_bytes(w), 4 * 64);
    ternary_close(be, w);
    data[0] = 0xff;
    ck_assert_int_eq(ternary_open(be, &v, TERNARY_AUTO, &w, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_null(w);
    ternary_close(be, NULL);
    backend_close(be);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/backend");
    TCase *tcase = tcase_create("backend");
    tcase_add_test(tcase, cpu_describes_itself);
    tcase_add_test(tcase, unknown_devices_are_refused);
    tcase_add_test(tcase, memory_is_zeroed_and_aligned);
    tcase_add_test(tcase, int8_cache_needs_a_device_that_reads_it);
    tcase_add_test(tcase, tables_are_checked);
    tcase_add_test(tcase, vectors_become_f32);
    tcase_add_test(tcase, a_backend_says_what_auto_is_and_why);
    tcase_add_test(tcase, ternary_weights_are_used_in_place_or_repacked);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
