/* Layouts of files: sizes, unpacking of hand-made blocks, and what ternary_prepare refuses. */
#include "kernels/tensor.h"

#include "kernels/arith.h"
#include "kernels/pool.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

START_TEST(names_and_sizes)
{
    static const struct {
        uint32_t type;
        const char *name;
        size_t n_rows, n_cols, bytes;
    } cases[] = {
        {TENSOR_F32, "F32", 3, 5, 60},
        {TENSOR_F16, "F16", 3, 5, 30},
        {TENSOR_BF16, "BF16", 3, 5, 30},
        {TENSOR_Q8_0, "Q8_0", 2, 64, 136},
        {TENSOR_Q8_0, "Q8_0", 2, 48, 0},
        {TENSOR_Q6_K, "Q6_K", 2, 512, 840},
        {TENSOR_Q6_K, "Q6_K", 2, 128, 0},
        {TENSOR_TQ1_0, "TQ1_0", 1, 256, 54},
        {TENSOR_TQ2_0, "TQ2_0", 2, 256, 132},
        {TENSOR_I2_S, "I2_S", 4, 128, 160},
        {TENSOR_I2_S, "I2_S", 4, 100, 0},
        {TENSOR_F32, "F32", SIZE_MAX / 2, 8, 0},
        {TENSOR_I2_S, "I2_S", SIZE_MAX / 32, 128, 0},
        {TENSOR_Q4_0, "Q4_0", 2, 64, 72},
        {TENSOR_Q4_0, "Q4_0", 2, 48, 0},
        {TENSOR_Q2_0, "Q2_0", 2, 256, 136},
        {TENSOR_Q2_0, "Q2_0", 2, 192, 108},
        {TENSOR_Q2_0, "Q2_0", 2, 96, 0},
        {TENSOR_TL1, "TL1", 1536, 4096, 1536 * 4096 / 4 + 32},
        {TENSOR_TL2, "TL2", 1536, 4096, 3840 * 512 * 5 / 8 + 256 * 1536 / 4 + 32},
        {3, NULL, 4, 128, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_uint_eq(tensor_bytes(cases[i].type, cases[i].n_rows, cases[i].n_cols), cases[i].bytes);
        if (cases[i].name)
            ck_assert_str_eq(tensor_type_name(cases[i].type), cases[i].name);
        else
            ck_assert_ptr_null(tensor_type_name(cases[i].type));
    }
    ck_assert(tensor_type_is_ternary(TENSOR_I2_S) && tensor_type_is_ternary(TENSOR_TQ1_0));
    ck_assert(tensor_type_is_ternary(TENSOR_TQ2_0) && !tensor_type_is_ternary(TENSOR_F16));
}
END_TEST

START_TEST(i2s_of_128)
{
    uint8_t data[32 + 32] = {0}, codes[128];
    struct tensor_view v = {
        .type = TENSOR_I2_S, .order = I2S_ORDER_128, .data = data, .n_bytes = 64, .n_rows = 1, .n_cols = 128};
    data[0] = 0x80 | 0x10 | 0x00 | 0x02; /* 2, 1, 0, 2 */
    data[31] = 0x40;                     /* 1, 0, 0, 0 */
    tensor_unpack_codes(&v, 0, codes);
    for (size_t i = 0; i < 128; i++)
        ck_assert_uint_eq(codes[i], i == 0 || i == 96 ? 2 : i == 32 || i == 31 ? 1 : 0);
}
END_TEST

START_TEST(i2s_of_64)
{
    uint8_t data[32 + 32] = {0}, codes[64];
    struct tensor_view v = {.type = TENSOR_I2_S, .order = I2S_ORDER_64, .data = data, .n_bytes = 64, .n_rows = 2, .n_cols = 64};
    data[16] = 0x80 | 0x10 | 0x00 | 0x02;
    data[31] = 0x40;
    tensor_unpack_codes(&v, 1, codes);
    for (size_t i = 0; i < 64; i++)
        ck_assert_uint_eq(codes[i], i == 0 || i == 48 ? 2 : i == 16 || i == 15 ? 1 : 0);
}
END_TEST

START_TEST(tq2_0_block)
{
    uint8_t data[66] = {0}, codes[256];
    struct tensor_view v = {.type = TENSOR_TQ2_0, .data = data, .n_bytes = 66, .n_rows = 1, .n_cols = 256};
    data[0] = 0x02 | 0x04; /* element 0: 2, element 32: 1 */
    data[33] = 0x80;       /* element 128 + 96 + 1: 2 */
    tensor_unpack_codes(&v, 0, codes);
    for (size_t i = 0; i < 256; i++)
        ck_assert_uint_eq(codes[i], i == 0 || i == 225 ? 2 : i == 32 ? 1 : 0);
}
END_TEST

/* The byte of five (or four, with a zero behind) trits, as ggml writes it. */
static uint8_t trits(const uint8_t *codes, size_t stride, int n)
{
    unsigned value = 0;
    for (int t = 0; t < 5; t++)
        value = value * 3 + (t < n ? codes[(size_t)t * stride] : 0);
    return (uint8_t)((value * 256 + 242) / 243);
}

static void make_tq1_0(const uint8_t *codes, uint8_t *block)
{
    for (size_t i = 0; i < 32; i++)
        block[i] = trits(codes + i, 32, 5);
    for (size_t i = 0; i < 16; i++)
        block[32 + i] = trits(codes + 160 + i, 16, 5);
    for (size_t i = 0; i < 4; i++)
        block[48 + i] = trits(codes + 240 + i, 4, 4);
}

START_TEST(tq1_0_block)
{
    uint8_t data[2 * 54] = {0}, codes[512], found[256];
    struct tensor_view v = {.type = TENSOR_TQ1_0, .data = data, .n_bytes = sizeof data, .n_rows = 2, .n_cols = 256};
    for (size_t i = 0; i < 512; i++)
        codes[i] = (uint8_t)(i * i / 7 % 3);
    make_tq1_0(codes, data);
    make_tq1_0(codes + 256, data + 54);
    for (size_t r = 0; r < 2; r++) {
        tensor_unpack_codes(&v, r, found);
        for (size_t i = 0; i < 256; i++)
            ck_assert_uint_eq(found[i], codes[256 * r + i]);
    }
}
END_TEST

START_TEST(packing_pads_with_zero_weights)
{
    uint8_t codes[160], packed[64], found[256];
    struct tensor_view v = {.type = TENSOR_I2_S, .data = packed, .n_bytes = 64, .n_rows = 1, .n_cols = 256};
    memset(codes, 2, sizeof codes);
    tensor_pack_codes(codes, 160, packed);
    tensor_unpack_codes(&v, 0, found);
    for (size_t i = 0; i < 256; i++)
        ck_assert_uint_eq(found[i], i < 160 ? 2 : 1);
}
END_TEST

START_TEST(q8_0_and_q6_k_rows)
{
    uint8_t q8[34] = {0x00, 0x38}, q6[210] = {0};
    float out[256];
    for (int i = 0; i < 32; i++)
        q8[2 + i] = (uint8_t)(i - 16);
    tensor_row_q8_0(q8, 32, out);
    for (int i = 0; i < 32; i++)
        ck_assert(out[i] == 0.5f * (float)(i - 16));
    /* element 1: low 5, high 2 -> 37 - 32 = 5; element 128 + 64 + 17: low 15 in the upper nibble, high 3 -> 63 - 32 = 31 */
    q6[1] = 0x05;
    q6[128 + 1] = 0x02;
    q6[64 + 17] = 0xf0;
    q6[128 + 32 + 17] = 0x30;
    for (int i = 0; i < 16; i++)
        q6[192 + i] = (uint8_t)(i + 1);
    q6[208] = 0x00, q6[209] = 0x40; /* 2 */
    tensor_row_q6_k(q6, 256, out);
    for (int i = 0; i < 256; i++) {
        int q = i == 1 ? 5 : i == 209 ? 31 : -32;
        ck_assert(out[i] == 2.0f * (float)(i / 16 + 1) * (float)q);
    }
}
END_TEST

START_TEST(q4_0_row)
{
    uint8_t q4[18] = {0x00, 0x38}; /* 0.5 */
    float out[32];
    for (int i = 0; i < 16; i++)
        q4[2 + i] = (uint8_t)(i | (15 - i) << 4);
    tensor_row_q4_0(q4, 32, out);
    for (int i = 0; i < 16; i++)
        ck_assert(out[i] == 0.5f * (float)(i - 8) && out[16 + i] == 0.5f * (float)(7 - i));
}
END_TEST

/* 256 weights in blocks of 128 and of 64; which it is follows from the bytes. */
START_TEST(q2_0_blocks)
{
    for (size_t block = 64; block <= 128; block += 64) {
        uint8_t data[4 * 18] = {0}, codes[256];
        size_t n_bytes = 256 / block * (2 + block / 4);
        for (size_t i = 0; i < 256; i++) {
            uint8_t *b = data + i / block * (2 + block / 4);
            b[1] = 0x38;
            b[2 + i % block / 4] |= (uint8_t)(i * i / 3 % 3 << 2 * (i % 4));
        }
        struct tensor_view v = {.type = TENSOR_Q2_0, .data = data, .n_bytes = n_bytes, .n_rows = 1, .n_cols = 256};
        tensor_unpack_codes(&v, 0, codes);
        for (size_t i = 0; i < 256; i++)
            ck_assert_uint_eq(codes[i], i * i / 3 % 3);
        struct ternary_packed packed;
        struct error err = {0};
        ck_assert_int_eq(ternary_prepare(NULL, &v, &packed, &err), ERROR_NONE);
        ck_assert(packed.scale == 0.5f);
        free(packed.owned);
        data[1 + 2 + block / 4] = 0x3c; /* the second block's scale */
        ck_assert_int_eq(ternary_prepare(NULL, &v, &packed, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strstr(err.message, "expected one scale for all blocks (0.5), found another at row 0, column") != NULL, "%s",
                      err.message);
    }
}
END_TEST

/* A scale beside the tensor multiplies its own. */
START_TEST(factor_of_the_scale)
{
    uint8_t data[64] = {0};
    const float scale = 0.75f;
    struct ternary_packed packed;
    struct error err = {0};
    struct tensor_view v = {.type = TENSOR_I2_S, .data = data, .n_bytes = 64, .n_rows = 1, .n_cols = 128, .factor = 0.1f};
    memcpy(data + 32, &scale, sizeof scale);
    ck_assert_int_eq(ternary_prepare(NULL, &v, &packed, &err), ERROR_NONE);
    ck_assert(packed.scale == 0.75f * 0.1f);
    v.factor = -1.0f;
    ck_assert_int_eq(ternary_prepare(NULL, &v, &packed, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert(strstr(err.message, "finite and positive scale, found -0.75"));
}
END_TEST

static float wave(size_t i) { return sinf((float)i * 0.7f) * (1.0f + (float)(i % 5)) * 0.02f; }

/* What is written reads back to the nearest that the type can say. */
START_TEST(rows_written)
{
    static const struct {
        uint32_t type;
        float error; /* of the largest of a block */
    } cases[] = {{TENSOR_F32, 0.0f}, {TENSOR_F16, 0x1p-11f}, {TENSOR_BF16, 0x1p-8f}, {TENSOR_Q8_0, 0.5f / 127 + 0x1p-10f},
                 {TENSOR_Q6_K, 0.6f / 31}, {TENSOR_Q4_0, 1.0f / 7}};
    float x[512], y[512];
    uint8_t out[2049];
    for (size_t i = 0; i < 512; i++)
        x[i] = i / 32 == 5 ? 0.0f : wave(i);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        size_t n_bytes = tensor_bytes(cases[k].type, 1, 512);
        memset(out, 0xa5, sizeof out);
        tensor_write_row(cases[k].type, x, 512, out);
        ck_assert_uint_eq(out[n_bytes], 0xa5);
        struct tensor_view v = {.type = (enum tensor_type)cases[k].type, .data = out, .n_bytes = n_bytes, .n_rows = 1, .n_cols = 512};
        tensor_read_row(&v, 0, y);
        for (size_t i = 0; i < 512; i++)
            ck_assert_msg(fabsf(x[i] - y[i]) <= 0.11f * cases[k].error, "%s %zu: %g became %g", tensor_type_name(cases[k].type), i,
                          (double)x[i], (double)y[i]);
        uint8_t again[2049];
        tensor_write_row(cases[k].type, y, 512, again);
        if (cases[k].type <= TENSOR_F16 || cases[k].type == TENSOR_BF16)
            ck_assert(memcmp(again, out, n_bytes) == 0);
    }
}
END_TEST

START_TEST(codes_written)
{
    static const uint32_t types[] = {TENSOR_I2_S, TENSOR_TQ1_0, TENSOR_TQ2_0};
    uint8_t codes[512], found[512], out[512];
    for (size_t i = 0; i < 512; i++)
        codes[i] = (uint8_t)(i * i / 5 % 3);
    for (size_t k = 0; k < 3; k++) {
        struct tensor_view v = {.type = (enum tensor_type)types[k], .data = out, .n_bytes = sizeof out, .n_rows = 1, .n_cols = 512};
        tensor_write_codes(types[k], codes, 512, 0.5f, out);
        tensor_unpack_codes(&v, 0, found);
        ck_assert(memcmp(found, codes, 512) == 0);
    }
    ck_assert(tensor_fits_f16(0.5f) && tensor_fits_f16(-0.0009765625f) && !tensor_fits_f16(0.1f) && !tensor_fits_f16(1e6f));
}
END_TEST

/* What ternary_prepare says about a good I2_S tensor of 4 x 256 after `damage` changed it. */
struct refusal {
    const char *expected; /* a part of the message */
    void (*damage)(uint8_t *data, struct tensor_view *view);
};

static void set_scale(uint8_t *data, float scale) { memcpy(data + 256, &scale, sizeof scale); }
static void scale_zero(uint8_t *data, struct tensor_view *v) { set_scale(data, 0.0f), (void)v; }
static void scale_negative(uint8_t *data, struct tensor_view *v) { set_scale(data, -1.0f), (void)v; }
static void scale_nan(uint8_t *data, struct tensor_view *v) { set_scale(data, NAN), (void)v; }
static void scale_infinite(uint8_t *data, struct tensor_view *v) { set_scale(data, INFINITY), (void)v; }
static void too_short(uint8_t *data, struct tensor_view *v) { v->n_bytes = 287, (void)data; }
static void other_type(uint8_t *data, struct tensor_view *v) { v->type = TENSOR_F16, (void)data; }
static void unknown_type(uint8_t *data, struct tensor_view *v) { v->type = (enum tensor_type)40, (void)data; }
static void odd_columns(uint8_t *data, struct tensor_view *v) { v->n_cols = 250, (void)data; }
static void no_rows(uint8_t *data, struct tensor_view *v) { v->n_rows = 0, (void)data; }
static void odd_total(uint8_t *data, struct tensor_view *v) { v->n_rows = 1, v->n_cols = 160, (void)data; }
static void code_3(uint8_t *data, struct tensor_view *v) { data[2 * 64 + 32 + 5] |= 0x0c, (void)v; }
static void code_3_of_64(uint8_t *data, struct tensor_view *v)
{
    data[3 * 64 + 16 + 1] |= 0x30;
    v->order = I2S_ORDER_64;
}

START_TEST(bad_tensors_are_refused_by_name)
{
    static const struct refusal cases[] = {
        {"expected a finite and positive scale, found 0", scale_zero},
        {"expected a finite and positive scale, found -1", scale_negative},
        {"expected a finite and positive scale, found", scale_nan},
        {"expected a finite and positive scale, found inf", scale_infinite},
        {"expected 288 bytes of I2_S for 4 x 256 weights, found 287", too_short},
        {"found type 1 (F16)", other_type},
        {"found type 40 (unknown)", unknown_type},
        {"found 4 rows of 250", odd_columns},
        {"found 0 rows of 256", no_rows},
        {"expected a multiple of 128 weights in an I2_S tensor, found 1 x 160", odd_total},
        {"found 3 at row 2, column 197", code_3},
        {"found 3 at row 3, column 81", code_3_of_64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int threads = 1; threads <= 2; threads++) {
            uint8_t data[288] = {0};
            struct tensor_view v = {.type = TENSOR_I2_S, .data = data, .n_bytes = sizeof data, .n_rows = 4, .n_cols = 256};
            struct ternary_packed packed;
            struct error err = {0};
            struct pool *pool = threads == 1 ? NULL : pool_open(threads);
            set_scale(data, 0.5f);
            cases[i].damage(data, &v);
            ck_assert_int_eq(ternary_prepare(pool, &v, &packed, &err), ERROR_MODEL_LOAD_FAILED);
            ck_assert_msg(strstr(err.message, cases[i].expected), "case %zu: expected \"%s\", found \"%s\"", i,
                          cases[i].expected, err.message);
            pool_close(pool);
        }
}
END_TEST

START_TEST(code_3_is_found_anywhere)
{
    for (size_t e = 0; e < 4 * 256; e++) {
        uint8_t data[288] = {0};
        struct tensor_view v = {.type = TENSOR_I2_S, .data = data, .n_bytes = sizeof data, .n_rows = 4, .n_cols = 256};
        struct ternary_packed packed;
        struct error err = {0};
        char expected[64];
        set_scale(data, 0.5f);
        memset(data, 0x66, 256); /* codes 1 2 1 2: neighbours' bits must not be taken together */
        data[e / 128 * 32 + e % 32] |= (uint8_t)(3 << (6 - 2 * (e / 32 % 4)));
        snprintf(expected, sizeof expected, "at row %zu, column %zu:", e / 256, e % 256);
        ck_assert_int_eq(ternary_prepare(NULL, &v, &packed, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strstr(err.message, expected), "expected \"%s\", found \"%s\"", expected, err.message);
    }
}
END_TEST

static enum error_code prepare_tq2_0(uint8_t *data, struct ternary_packed *packed, struct error *err)
{
    struct tensor_view v = {.type = TENSOR_TQ2_0, .data = data, .n_bytes = 4 * 66, .n_rows = 2, .n_cols = 512};
    return ternary_prepare(NULL, &v, packed, err);
}

START_TEST(tq_blocks_must_share_their_scale)
{
    uint8_t data[4 * 66];
    struct ternary_packed packed;
    struct error err = {0};
    memset(data, 0x55, sizeof data);
    for (int b = 0; b < 4; b++)
        data[66 * b + 64] = 0x00, data[66 * b + 65] = 0x38;
    ck_assert_int_eq(prepare_tq2_0(data, &packed, &err), ERROR_NONE);
    ck_assert(packed.scale == 0.5f && packed.owned_bytes == 2 * 128);
    free(packed.owned);
    data[66 * 3 + 65] = 0x3c;
    ck_assert_int_eq(prepare_tq2_0(data, &packed, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "found another at row 1, column 256"), "%s", err.message);
    data[66 * 3 + 65] = 0; /* scale 0, and all its weights are 0 */
    ck_assert_int_eq(prepare_tq2_0(data, &packed, &err), ERROR_NONE);
    free(packed.owned);
    data[66 * 3] = 0x56; /* scale 0, but a weight is not */
    ck_assert_int_eq(prepare_tq2_0(data, &packed, &err), ERROR_MODEL_LOAD_FAILED);
    data[66 * 3] = 0x57;
    ck_assert_int_eq(prepare_tq2_0(data, &packed, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "found 3 at row 1, column 256"), "%s", err.message);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/tensor");
    TCase *tcase = tcase_create("tensor");
    tcase_add_test(tcase, names_and_sizes);
    tcase_add_test(tcase, i2s_of_128);
    tcase_add_test(tcase, i2s_of_64);
    tcase_add_test(tcase, tq2_0_block);
    tcase_add_test(tcase, tq1_0_block);
    tcase_add_test(tcase, packing_pads_with_zero_weights);
    tcase_add_test(tcase, q8_0_and_q6_k_rows);
    tcase_add_test(tcase, q4_0_row);
    tcase_add_test(tcase, q2_0_blocks);
    tcase_add_test(tcase, factor_of_the_scale);
    tcase_add_test(tcase, rows_written);
    tcase_add_test(tcase, codes_written);
    tcase_add_test(tcase, bad_tensors_are_refused_by_name);
    tcase_add_test(tcase, code_3_is_found_anywhere);
    tcase_add_test(tcase, tq_blocks_must_share_their_scale);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
