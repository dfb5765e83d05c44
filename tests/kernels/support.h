/* What the kernel tests share: random data, buffers with guard bytes, the variants to compare, and backends. Each test is
 * a program of its own and includes it once. */
#ifndef TESTS_KERNELS_SUPPORT_H
#define TESTS_KERNELS_SUPPORT_H

#include "kernels/arith.h"
#include "kernels/cpu.h"

#include <check.h>
#include <stdlib.h>

struct variants {
    struct cpu_kernels portable, best;
};

#define GUARD_BYTES 256
#define GUARD 0xa5

/* What guarded_alloc keeps before the first guard. */
struct guard_head {
    uint8_t *base;
    size_t n_bytes;
};

static uint64_t random_state = 88172645463325252u;

/* A reproducible sequence of 64-bit numbers. */
static inline uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1Du;
}

/* Evenly in [-limit, limit]. */
static inline float random_float(float limit) { return ((float)(random_next() >> 40) * 0x1p-23f - 1.0f) * limit; }

static inline void random_floats(float *out, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++)
        out[i] = random_float(limit);
}

/* Floats of all sizes, zeros, denormals and, when asked, infinities and NaN. */
static inline void wild_floats(float *out, size_t n, bool with_specials)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(random_next() >> 32);
        switch (random_next() >> 61) {
        case 0: bits &= 0x80000000u; break; /* zeros */
        case 1: bits &= 0x807fffffu; break; /* denormals */
        case 2: bits = (bits & 0x807fffffu) | 0x3f800000u; break; /* near 1 */
        default: break;
        }
        if ((bits & 0x7f800000u) == 0x7f800000u)
            bits = with_specials ? (bits & 0x80000000u) | 0x7f800000u | (bits & 1u) << 22 : bits & 0xbfffffffu;
        out[i] = arith_float(bits);
    }
}

/* The reference and the best variant of this machine (the reference again where there is no other). */
static inline const struct variants *variants(void)
{
    static struct variants v;
    if (!v.best.add) { /* once: cpuid is slow on a virtual machine */
        cpu_kernels_init(&v.portable, "portable");
        cpu_kernels_init(&v.best, NULL);
    }
    return &v;
}

/* BITNET_TEST_QUICK: under emulation a test that runs for seconds leaves out what is not about the instruction set. */
static inline bool quick(void) { return getenv("BITNET_TEST_QUICK") != NULL; }

/* n_bytes between guards, at an address that is aligned to `align` and no more; guarded_free checks the guards. */
static inline void *guarded_alloc(size_t n_bytes, size_t align)
{
    size_t all = sizeof(struct guard_head) + 2 * GUARD_BYTES + n_bytes + 128;
    uint8_t *base = malloc(all);
    ck_assert_ptr_nonnull(base);
    memset(base, GUARD, all);
    uintptr_t at = (uintptr_t)base + sizeof(struct guard_head) + GUARD_BYTES;
    at = (at + 63) / 64 * 64 + (align < 64 ? align : 0);
    struct guard_head head = {.base = base, .n_bytes = n_bytes};
    memcpy((uint8_t *)at - GUARD_BYTES - sizeof head, &head, sizeof head);
    return (uint8_t *)at;
}

static inline void guarded_free(void *p)
{
    uint8_t *at = p;
    struct guard_head head;
    memcpy(&head, at - GUARD_BYTES - sizeof head, sizeof head);
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        ck_assert_msg(at[-(ptrdiff_t)i - 1] == GUARD, "write %zu bytes before a buffer", i + 1);
        if (i < 64)
            ck_assert_msg(at[head.n_bytes + i] == GUARD, "write %zu bytes behind a buffer", i);
    }
    free(head.base);
}

/* A backend with that instruction set (NULL: the best) and thread count; the test fails when there is none. */
static inline struct backend *open_backend(const char *isa, int n_threads)
{
    struct backend_options options = {.device = "cpu", .n_threads = n_threads, .isa = isa};
    struct backend *be;
    struct error err = {0};
    ck_assert_msg(backend_open(&options, &be, &err) == ERROR_NONE, "%s", err.message);
    return be;
}

/* Random codes 0..2 of a matrix; freed with free. */
static inline uint8_t *make_codes(size_t n_rows, size_t n_cols)
{
    uint8_t *codes = malloc(n_rows * n_cols);
    ck_assert_ptr_nonnull(codes);
    for (size_t i = 0; i < n_rows * n_cols; i++)
        codes[i] = (uint8_t)(random_next() >> 33) % 3;
    return codes;
}

/* The codes as an I2_S file has them, and a view of it; freed with free. */
static inline uint8_t *make_i2s(const uint8_t *codes, size_t n_rows, size_t n_cols, enum i2s_order order, float scale,
                  struct tensor_view *view)
{
    size_t n = n_rows * n_cols, lane = order == I2S_ORDER_128 ? 32 : 16, n_bytes = n / 4 + 32;
    uint8_t *data = calloc(1, n_bytes);
    ck_assert_ptr_nonnull(data);
    for (size_t e = 0; e < n; e++)
        data[e / (4 * lane) * lane + e % lane] |= (uint8_t)(codes[e] << (6 - 2 * (e / lane % 4)));
    memcpy(data + n / 4, &scale, sizeof scale);
    *view = (struct tensor_view){
        .type = TENSOR_I2_S, .order = order, .data = data, .n_bytes = n_bytes, .n_rows = n_rows, .n_cols = n_cols};
    return data;
}

/* Fails with the first index at which two arrays differ in their bits. */
static inline void expect_same(const char *what, const void *expected, const void *found, size_t n, size_t value_bytes)
{
    const uint8_t *a = expected, *b = found;
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i * value_bytes, b + i * value_bytes, value_bytes) != 0) {
            uint32_t x = 0, y = 0;
            memcpy(&x, a + i * value_bytes, value_bytes);
            memcpy(&y, b + i * value_bytes, value_bytes);
            ck_abort_msg("%s: value %zu of %zu: expected %08x (%g), found %08x (%g)", what, i, n, x,
                         (double)arith_float(x), y, (double)arith_float(y));
        }
}

/* Runs one suite; returns main's exit code. */
static inline int run_suite(const char *name, const TTest *const *cases, size_t n_cases)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 120);
    for (size_t i = 0; i < n_cases; i++)
        tcase_add_test(tcase, cases[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}

#define RUN_SUITE(name, ...)                                                                                           \
    int main(void)                                                                                                     \
    {                                                                                                                  \
        const TTest *const cases[] = {__VA_ARGS__};                                                                    \
        return run_suite(name, cases, sizeof cases / sizeof cases[0]);                                                 \
    }

#endif
