/* RMSNorm and quantisation. */
#include "tests/kernels/support.h"

#include <stdlib.h>

static const size_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 255, 256, 2560, 6912};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

START_TEST(rmsnorm_variants_agree)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int kind = 0; kind < 3; kind++) {
            size_t n = sizes[s];
            float *x = guarded_alloc(n * 4, 4), *w = guarded_alloc(n * 4, 4), *a = guarded_alloc(n * 4, 4),
                  *b = guarded_alloc(n * 4, 4);
            random_floats(w, n, 2.0f);
            if (kind == 0)
                random_floats(x, n, 10.0f);
            else if (kind == 1)
                wild_floats(x, n, false);
            else
                memset(x, 0, n * 4);
            variants()->portable.rmsnorm(x, w, 1e-5f, n, a);
            variants()->best.rmsnorm(x, w, 1e-5f, n, b);
            expect_same("rmsnorm", a, b, n, 4);
            variants()->best.rmsnorm(x, w, 1e-5f, n, x);
            expect_same("rmsnorm in place", a, x, n, 4);
            guarded_free(x), guarded_free(w), guarded_free(a), guarded_free(b);
        }
}
END_TEST

START_TEST(rmsnorm_is_what_it_says)
{
    float x[2560], w[2560], y[2560];
    double ss = 0;
    random_floats(x, 2560, 4.0f);
    random_floats(w, 2560, 1.0f);
    for (int i = 0; i < 2560; i++)
        ss += (double)x[i] * (double)x[i];
    variants()->best.rmsnorm(x, w, 1e-5f, 2560, y);
    for (int i = 0; i < 2560; i++)
        ck_assert_double_eq_tol(y[i], (double)x[i] / sqrt(ss / 2560 + 1e-5) * (double)w[i], 1e-5);
}
END_TEST

static void compare_quantize(const float *x, size_t n)
{
    int8_t *qa = guarded_alloc(n, 1), *qb = guarded_alloc(n, 1);
    float scale[2];
    int32_t sum[2], expected = 0;
    variants()->portable.quantize(x, n, qa, &scale[0], &sum[0]);
    variants()->best.quantize(x, n, qb, &scale[1], &sum[1]);
    expect_same("q", qa, qb, n, 1);
    expect_same("scale", &scale[0], &scale[1], 1, 4);
    for (size_t i = 0; i < n; i++)
        expected += qa[i];
    ck_assert_int_eq(sum[0], expected);
    ck_assert_int_eq(sum[1], expected);
    guarded_free(qa);
    guarded_free(qb);
}

START_TEST(quantize_variants_agree)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int kind = 0; kind < 40; kind++) {
            float *x = guarded_alloc(sizes[s] * 4, 4);
            if (kind % 4 == 0)
                wild_floats(x, sizes[s], kind % 8 == 0);
            else
                random_floats(x, sizes[s], kind % 4 == 1 ? 1e-7f : 127.0f);
            if (kind % 4 == 3) /* halves, which round to even */
                for (size_t i = 0; i < sizes[s]; i++)
                    x[i] = rintf(x[i]) + 0.5f;
            compare_quantize(x, sizes[s]);
            guarded_free(x);
        }
}
END_TEST

START_TEST(quantize_follows_its_definition)
{
    float x[] = {127.0f, 0.5f, 1.5f, -2.5f, -127.0f, 126.5f, -0.4f}, scale;
    int8_t q[7], expected[] = {127, 0, 2, -2, -127, 126, 0};
    int32_t sum;
    variants()->best.quantize(x, 7, q, &scale, &sum);
    ck_assert_float_eq(scale, 1.0f);
    expect_same("q", expected, q, 7, 1);
    ck_assert_int_eq(sum, 126);
    memset(x, 0, sizeof x);
    variants()->best.quantize(x, 7, q, &scale, &sum);
    ck_assert_float_eq(scale, 127.0f / 1e-5f);
    ck_assert_int_eq(sum, 0);
}
END_TEST

START_TEST(values_that_are_not_finite_count_as_zero)
{
    float x[19], scale;
    int8_t q[19];
    int32_t sum;
    for (int i = 0; i < 19; i++)
        x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? (i % 2 ? INFINITY : -INFINITY) : 2.0f;
    variants()->best.quantize(x, 19, q, &scale, &sum);
    ck_assert_float_eq(scale, 63.5f);
    for (int i = 0; i < 19; i++)
        ck_assert_int_eq(q[i], i % 3 == 2 ? 127 : 0);
    compare_quantize(x, 19);
}
END_TEST

START_TEST(rows_are_padded_with_zeros)
{
    struct backend *be = open_backend(NULL, 2);
    struct activations a;
    float *x = backend_alloc(be, 3 * 200 * 4);
    random_floats(x, 600, 1.0f);
    ck_assert(activations_open(be, 4, 300, &a));
    ck_assert_uint_eq(a.stride, 384);
    memset(a.q, 99, 4 * a.stride);
    op_quantize(be, x, 3, 200, &a);
    for (size_t r = 0; r < 3; r++)
        for (size_t i = 200; i < a.stride; i++)
            ck_assert_int_eq(a.q[r * a.stride + i], 0);
    ck_assert_int_eq(a.q[3 * a.stride], 99);
    activations_close(be, &a);
    backend_free(be, x);
    backend_close(be);
}
END_TEST

/* The operations that stand for several, against these one by one. */
START_TEST(joined_operations_give_what_single_ones_give)
{
    enum { N = 5, DIM = 1111 };
    struct backend *be = open_backend(NULL, 2);
    struct activations single, joined;
    float *gate = backend_alloc(be, N * DIM * 4), *up = backend_alloc(be, N * DIM * 4), *weight = backend_alloc(be, DIM * 4);
    float *y = backend_alloc(be, N * DIM * 4), *z = backend_alloc(be, N * DIM * 4);
    ck_assert(activations_open(be, N, DIM, &single) && activations_open(be, N, DIM, &joined));
    for (int kind = 0; kind < 8; kind++) {
        enum ffn_act act = kind & 1 ? FFN_SILU : FFN_RELU2;
        const float *w = kind & 2 ? weight : NULL;
        random_floats(gate, N * DIM, 3.0f);
        random_floats(up, N * DIM, 3.0f);
        random_floats(weight, DIM, 1.0f);
        memset(joined.q, 77, N * joined.stride);
        if (kind & 4) {
            op_ffn_act(be, act, gate, up, N * DIM, y);
            op_ffn_quantize(be, act, gate, up, w, 1e-5f, N, DIM, z, &joined);
        } else {
            memcpy(y, gate, N * DIM * sizeof *y);
            op_norm_quantize(be, gate, w, 1e-5f, N, DIM, z, &joined);
        }
        if (w)
            op_rmsnorm(be, y, w, 1e-5f, N, DIM, y);
        op_quantize(be, y, N, DIM, &single);
        expect_same("q", single.q, joined.q, N * joined.stride, 1);
        expect_same("scale", single.scale, joined.scale, N, 4);
        expect_same("sum", single.sum, joined.sum, N, 4);
    }
    activations_close(be, &single);
    activations_close(be, &joined);
    for (size_t i = 0; i < 5; i++)
        backend_free(be, ((float *[]){gate, up, weight, y, z})[i]);
    backend_close(be);
}
END_TEST

RUN_SUITE("kernels/norm", rmsnorm_variants_agree, rmsnorm_is_what_it_says, quantize_variants_agree,
          quantize_follows_its_definition, values_that_are_not_finite_count_as_zero, rows_are_padded_with_zeros,
          joined_operations_give_what_single_ones_give)
