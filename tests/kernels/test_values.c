/* Operations on values one by one: addition, FFN activations, rope, conversions. */
#include "tests/kernels/support.h"

static const size_t sizes[] = {1, 3, 7, 8, 9, 16, 23, 64, 255, 1031};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

static void fill(float *x, size_t n, int kind)
{
    if (kind == 0)
        random_floats(x, n, 8.0f);
    else if (kind == 1)
        random_floats(x, n, 100.0f);
    else
        wild_floats(x, n, false);
}

static void compare_act(relu2_fn *portable, relu2_fn *best, const char *what)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int kind = 0; kind < 3; kind++) {
            size_t n = sizes[s];
            float *gate = guarded_alloc(4 * n, 4), *up = guarded_alloc(4 * n, 4), *a = guarded_alloc(4 * n, 4);
            fill(gate, n, kind);
            fill(up, n, kind);
            portable(gate, up, n, a);
            best(gate, up, n, gate); /* in place */
            expect_same(what, a, gate, n, 4);
            guarded_free(gate), guarded_free(up), guarded_free(a);
        }
}

START_TEST(activations_agree)
{
    compare_act(variants()->portable.relu2, variants()->best.relu2, "relu2");
    compare_act(variants()->portable.silu, variants()->best.silu, "silu");
}
END_TEST

START_TEST(silu_runs_through_all_of_exp)
{
    float gate[8], up[8] = {1, 1, 1, 1, 1, 1, 1, 1}, a[8], b[8];
    for (uint32_t bits = 0; bits < 0xff800000u; bits += 8 * 1009) {
        for (uint32_t i = 0; i < 8; i++) {
            gate[i] = arith_float(bits + 1009 * i);
            if (gate[i] != gate[i])
                gate[i] = 0.0f;
        }
        variants()->portable.silu(gate, up, 8, a);
        variants()->best.silu(gate, up, 8, b);
        expect_same("silu", a, b, 8, 4);
        if (bits > 0xffffffffu - 8 * 1009)
            break;
    }
}
END_TEST

START_TEST(activations_are_what_they_say)
{
    float gate[] = {-2.0f, 0.0f, 3.0f, 1.0f}, up[] = {5.0f, 5.0f, 2.0f, -1.0f}, y[4];
    variants()->best.relu2(gate, up, 4, y);
    ck_assert_float_eq(y[0], 0.0f);
    ck_assert_float_eq(y[1], 0.0f);
    ck_assert_float_eq(y[2], 18.0f);
    ck_assert_float_eq(y[3], -1.0f);
    variants()->best.silu(gate, up, 4, y);
    for (int i = 0; i < 4; i++)
        ck_assert_double_eq_tol(y[i], (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i], 1e-6);
}
END_TEST

START_TEST(a_nan_is_no_positive_gate)
{
    float gate[17], up[17], y[17];
    for (int i = 0; i < 17; i++)
        gate[i] = NAN, up[i] = 1.0f;
    variants()->best.relu2(gate, up, 17, y);
    for (int i = 0; i < 17; i++)
        ck_assert_float_eq(y[i], 0.0f);
    variants()->best.silu(gate, up, 17, y);
    for (int i = 0; i < 17; i++)
        ck_assert(y[i] != y[i]);
}
END_TEST

START_TEST(addition_agrees)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        size_t n = sizes[s];
        float *a = guarded_alloc(4 * n, 4), *b = guarded_alloc(4 * n, 4), *y = guarded_alloc(4 * n, 4);
        wild_floats(a, n, false);
        wild_floats(y, n, false);
        memcpy(b, a, 4 * n);
        variants()->portable.add(a, y, n);
        variants()->best.add(b, y, n);
        expect_same("add", a, b, n, 4);
        guarded_free(a), guarded_free(b), guarded_free(y);
    }
}
END_TEST

START_TEST(rope_agrees)
{
    for (size_t s = 0; s < 8; s++)
        for (int style = 0; style < 2; style++) {
            size_t half = sizes[s];
            const struct cpu_kernels *p = &variants()->portable, *v = &variants()->best;
            float *a = guarded_alloc(8 * half, 4), *b = guarded_alloc(8 * half, 4), *c = guarded_alloc(4 * half, 4),
                  *t = guarded_alloc(4 * half, 4);
            random_floats(a, 2 * half, 9.0f);
            random_floats(c, half, 1.0f);
            random_floats(t, half, 1.0f);
            memcpy(b, a, 8 * half);
            (style ? p->rope_neox : p->rope_norm)(a, c, t, half);
            (style ? v->rope_neox : v->rope_norm)(b, c, t, half);
            expect_same(style ? "neox" : "norm", a, b, 2 * half, 4);
            guarded_free(a), guarded_free(b), guarded_free(c), guarded_free(t);
        }
}
END_TEST

/* The whole operation against double precision: 6 of 8 dimensions, 2 heads, with factors. */
static void check_rope(enum rope_style style, const float *factors)
{
    enum { ROWS = 3, HEADS = 2, DIM = 8, DIMS = 6 };
    const int32_t positions[ROWS] = {0, 7, 4000};
    struct backend *be = open_backend(NULL, 2);
    struct rope *r = rope_open(be, style, DIMS, 4096, 500000.0, factors);
    float *x = backend_alloc(be, ROWS * HEADS * DIM * sizeof *x), before[ROWS * HEADS * DIM];
    ck_assert_ptr_nonnull(r);
    random_floats(before, ROWS * HEADS * DIM, 1.0f);
    backend_upload(be, x, before, sizeof before);
    op_rope(be, r, x, ROWS, HEADS, DIM, positions);
    for (size_t h = 0; h < ROWS * HEADS; h++) {
        const float *from = before + h * DIM, *to = x + h * DIM;
        for (size_t i = 0; i < DIMS / 2; i++) {
            double angle = positions[h / HEADS] * pow(500000.0, -2.0 * (double)i / DIMS) / (factors ? (double)factors[i] : 1.0);
            size_t i0 = style == ROPE_NEOX ? i : 2 * i, i1 = style == ROPE_NEOX ? i + DIMS / 2 : 2 * i + 1;
            double x0 = (double)from[i0], x1 = (double)from[i1];
            ck_assert_double_eq_tol(to[i0], x0 * cos(angle) - x1 * sin(angle), 1e-6);
            ck_assert_double_eq_tol(to[i1], x0 * sin(angle) + x1 * cos(angle), 1e-6);
        }
        expect_same("not rotated", from + DIMS, to + DIMS, DIM - DIMS, 4);
    }
    rope_close(be, r);
    backend_free(be, x);
    backend_close(be);
}

START_TEST(rope_is_what_it_says)
{
    const float factors[3] = {1.0f, 2.0f, 8.0f};
    check_rope(ROPE_NEOX, NULL);
    check_rope(ROPE_NORM, NULL);
    check_rope(ROPE_NEOX, factors);
}
END_TEST

START_TEST(conversions_agree)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int round = 0; round < 50; round++) {
            size_t n = sizes[s];
            float *x = guarded_alloc(4 * n, 4), *fa = guarded_alloc(4 * n, 4), *fb = guarded_alloc(4 * n, 4);
            uint16_t *a = guarded_alloc(2 * n, 2), *b = guarded_alloc(2 * n, 2);
            wild_floats(x, n, true);
            if (round % 2) /* the range of F16 */
                for (size_t i = 0; i < n; i++)
                    x[i] = ldexpf(1.0f + fabsf(random_float(1.0f)), (int)(random_next() >> 58) - 40);
            variants()->portable.to_f16(x, n, a);
            variants()->best.to_f16(x, n, b);
            expect_same("to F16", a, b, n, 2);
            variants()->portable.row_f16(a, n, fa);
            variants()->best.row_f16(a, n, fb);
            expect_same("from F16", fa, fb, n, 4);
            variants()->portable.row_bf16(a, n, fa);
            variants()->best.row_bf16(a, n, fb);
            expect_same("from BF16", fa, fb, n, 4);
            guarded_free(x), guarded_free(fa), guarded_free(fb), guarded_free(a), guarded_free(b);
        }
}
END_TEST

START_TEST(block_formats_agree)
{
    for (size_t n = 256; n <= 2560; n += 256)
        for (int format = 0; format < 2; format++) {
            size_t bytes = tensor_bytes(format ? TENSOR_Q6_K : TENSOR_Q8_0, 1, n), block = format ? 210 : 34;
            uint8_t *src = guarded_alloc(bytes, 1);
            float *a = guarded_alloc(4 * n, 4), *b = guarded_alloc(4 * n, 4);
            for (size_t i = 0; i < bytes; i++)
                src[i] = (uint8_t)(random_next() >> 40);
            for (size_t i = 0; i < bytes; i += block) /* finite scales */
                src[i + (format ? 209 : 1)] &= 0xbf;
            row_f16_fn *portable = format ? variants()->portable.row_q6_k : variants()->portable.row_q8_0;
            portable(src, n, a);
            (format ? variants()->best.row_q6_k : variants()->best.row_q8_0)(src, n, b);
            expect_same(format ? "Q6_K" : "Q8_0", a, b, n, 4);
            guarded_free(src), guarded_free(a), guarded_free(b);
        }
}
END_TEST

/* Large enough to be split: three backends, one result. */
START_TEST(threads_give_the_same_bits)
{
    enum { N = 100003 };
    float *gate = malloc(N * 4), *up = malloc(N * 4), *expected = malloc(N * 4);
    random_floats(gate, N, 20.0f);
    random_floats(up, N, 3.0f);
    variants()->portable.silu(gate, up, N, expected);
    variants()->portable.add(expected, up, N);
    for (int threads = 1; threads <= 3; threads++) {
        struct backend *be = open_backend(NULL, threads);
        float *y = guarded_alloc(N * 4, 4);
        op_ffn_act(be, FFN_SILU, gate, up, N, y);
        op_add(be, y, up, N);
        expect_same("silu, add", expected, y, N, 4);
        guarded_free(y);
        backend_close(be);
    }
    free(gate), free(up), free(expected);
}
END_TEST

START_TEST(rows_are_kept)
{
    enum { DIM = 3, N = 7 };
    const int32_t some[] = {1, 2, 5, 6}, all[] = {0, 1, 2, 3, 4, 5, 6};
    float x[N * DIM];
    struct backend *be = open_backend(NULL, 1);
    for (int i = 0; i < N * DIM; i++)
        x[i] = (float)i;
    ck_assert(op_keep_rows(be, x, DIM, all, N));
    for (int i = 0; i < N * DIM; i++)
        ck_assert(x[i] == (float)i);
    ck_assert(op_keep_rows(be, x, DIM, some, 4));
    for (int i = 0; i < 4 * DIM; i++)
        ck_assert(x[i] == (float)(some[i / DIM] * DIM + i % DIM));
    backend_close(be);
}
END_TEST

RUN_SUITE("kernels/values", activations_agree, silu_runs_through_all_of_exp, activations_are_what_they_say, a_nan_is_no_positive_gate,
          addition_agrees, rows_are_kept,
          rope_agrees, rope_is_what_it_says, conversions_agree, block_formats_agree, threads_give_the_same_bits)
