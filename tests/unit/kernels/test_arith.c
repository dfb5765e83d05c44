/* The scalar definitions against double precision and published vectors. */
#include "kernels/arith.h"

#include "kernels/kernels.h"

#include <check.h>
#include <stdlib.h>

/* Distance in units of the last place of the exact value's f32 neighbour. */
static double ulps(float found, double exact)
{
    int e;
    frexp(exact, &e);
    return fabs((double)found - exact) / ldexp(1.0, e - 24);
}

START_TEST(exp_is_within_2_ulp)
{
    double worst = 0;
    for (float x = -87.0f; x < 88.7f; x += 0.00037f) {
        double u = ulps(arith_exp(x), exp((double)x));
        worst = u > worst ? u : worst;
        ck_assert(arith_bits(kernel_exp(x)) == arith_bits(arith_exp(x)));
    }
    ck_assert_msg(worst < 2.0, "worst error %g ulp", worst);
}
END_TEST

START_TEST(exp_at_its_ends)
{
    ck_assert(arith_exp(0.0f) == 1.0f);
    ck_assert(arith_exp(-0.0f) == 1.0f);
    ck_assert(arith_exp(-88.0f) == 0.0f);
    ck_assert(arith_exp(-INFINITY) == 0.0f);
    ck_assert(arith_exp(INFINITY) == INFINITY);
    ck_assert(arith_exp(89.0f) == INFINITY);
    ck_assert(isnan(arith_exp(NAN)));
    ck_assert(isfinite(arith_exp(88.722f)) && arith_exp(88.722f) > 3.3e38f);
}
END_TEST

START_TEST(log_is_within_2_ulp)
{
    double worst = 0;
    for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 4999) {
        float x = arith_float(bits);
        double exact = log((double)x), u = fabs(exact) < 1e-3 ? 0 : ulps(arith_log(x), exact);
        worst = u > worst ? u : worst;
        ck_assert(arith_bits(kernel_log(x)) == arith_bits(arith_log(x)));
    }
    ck_assert_msg(worst < 2.0, "worst error %g ulp", worst);
    for (float x = 0.999f; x < 1.001f; x += 0x1p-23f)
        ck_assert_double_eq_tol(arith_log(x), log((double)x), 1e-10);
    ck_assert(arith_log(1.0f) == 0.0f);
}
END_TEST

START_TEST(half_floats_make_the_round_trip)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = arith_from_f16((uint16_t)h);
        uint32_t exponent = h >> 10 & 31, mantissa = h & 1023;
        if (exponent == 31) {
            ck_assert(mantissa ? isnan(x) : isinf(x));
            ck_assert_uint_eq(arith_to_f16(x), mantissa ? h | 0x200 : h);
            continue;
        }
        double exact = exponent ? ldexp(1024 + (double)mantissa, (int)exponent - 25) : ldexp((double)mantissa, -24);
        ck_assert(fabs((double)x) == exact && !signbit(x) == !(h >> 15));
        ck_assert_uint_eq(arith_to_f16(x), h);
    }
}
END_TEST

START_TEST(half_floats_round_to_nearest_even)
{
    /* between each pair of neighbours: the middle goes to the even one, what is beside it to the nearer one */
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = arith_from_f16((uint16_t)h), high = arith_from_f16((uint16_t)(h + 1)), middle = low + (high - low) / 2;
        ck_assert_uint_eq(arith_to_f16(middle), h % 2 ? h + 1 : h);
        ck_assert_uint_eq(arith_to_f16(-middle), 0x8000u | (h % 2 ? h + 1 : h));
        ck_assert_uint_eq(arith_to_f16(nextafterf(middle, 0.0f)), h);
        ck_assert_uint_eq(arith_to_f16(nextafterf(middle, 1e9f)), h + 1);
    }
    ck_assert_uint_eq(arith_to_f16(65519.996f), 0x7bff);
    ck_assert_uint_eq(arith_to_f16(65520.0f), 0x7c00);
    ck_assert_uint_eq(arith_to_f16(3.4e38f), 0x7c00);
    ck_assert_uint_eq(arith_to_f16(0x1p-25f), 0x0000);
    ck_assert_uint_eq(arith_to_f16(nextafterf(0x1p-25f, 1.0f)), 0x0001);
    ck_assert_uint_eq(arith_to_f16(0x1p-149f), 0x0000);
}
END_TEST

START_TEST(tree_adds_in_its_order)
{
    float lane[16] = {0x1p24f, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    ck_assert(arith_tree(lane) == 0x1p24f); /* each 1 is lost against 2^24 alone; together they would not be */
}
END_TEST

/* Vectors of Random123's kat_vectors for philox4x32-10. */
START_TEST(philox_gives_the_published_vectors)
{
    uint32_t zero[4] = {0, 0, 0, 0}, ones[4] = {~0u, ~0u, ~0u, ~0u},
             pi[4] = {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u};
    static const uint32_t of_zero[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u},
                          of_ones[4] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu},
                          of_pi[4] = {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u};
    arith_philox(zero, 0);
    arith_philox(ones, UINT64_MAX);
    arith_philox(pi, UINT64_C(0x299f31d0a4093822));
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq(zero[i], of_zero[i]);
        ck_assert_uint_eq(ones[i], of_ones[i]);
        ck_assert_uint_eq(pi[i], of_pi[i]);
    }
}
END_TEST

START_TEST(gumbel_words_follow_the_formula)
{
    for (uint64_t word = 0; word < UINT64_C(1) << 32; word += 65521) {
        double v = ((double)(word >> 1) + 0.5) * 0x1p-31, exact = -log(-log1p(-v));
        float found = arith_gumbel_word((uint32_t)word);
        ck_assert(isfinite(found));
        if (v < 0.999) /* v itself is rounded: near 1 that moves the lower tail, which never wins an argmax */
            ck_assert_double_eq_tol(found, exact, 4e-6 * (1 + fabs(exact)) + 0x1p-24 / (1 - v));
    }
    ck_assert(isfinite(arith_gumbel_word(0)) && isfinite(arith_gumbel_word(UINT32_MAX)));
    ck_assert(arith_gumbel_word(0) > 20.0f); /* the upper tail belongs to small words, where v has all its bits */
}
END_TEST

START_TEST(gumbel_has_its_mean_and_variance)
{
    enum { N = 1000000 };
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < N; i++) {
        double g = (double)kernel_gumbel(42, i >> 16, i >> 8 & 255, i & 255);
        sum += g;
        squares += g * g;
    }
    double mean = sum / N, variance = squares / N - mean * mean;
    ck_assert_double_eq_tol(mean, 0.57721566, 0.006);
    ck_assert_double_eq_tol(variance, 1.64493407, 0.012);
}
END_TEST

START_TEST(gumbel_is_a_function_of_its_four_arguments)
{
    float base = kernel_gumbel(1, 2, 3, 4);
    ck_assert(base == kernel_gumbel(1, 2, 3, 4));
    ck_assert(base == arith_gumbel(1, 2, 3, 4));
    ck_assert(base != kernel_gumbel(2, 2, 3, 4));
    ck_assert(base != kernel_gumbel(1, 3, 3, 4));
    ck_assert(base != kernel_gumbel(1, 2, 4, 4));
    ck_assert(base != kernel_gumbel(1, 2, 3, 5));
    uint32_t c[4] = {1, 3, 2, 0}; /* token 4 is word 0 of counter 1 */
    arith_philox(c, 1);
    ck_assert(base == arith_gumbel_word(c[0]));
    ck_assert(kernel_gumbel(1, 2, 3, 7) == arith_gumbel_word(c[3]));
    /* Known answers, so that a sampled text never changes between versions: philox's first word is 6627e8d5. */
    ck_assert_uint_eq(arith_bits(kernel_gumbel(0, 0, 0, 0)), 0x3f2cc257u);
    ck_assert_uint_eq(arith_bits(kernel_gumbel(UINT64_C(0x123456789abcdef0), 1, 77, 128255)), 0x3f4cd70fu);
}
END_TEST

START_TEST(sincos_and_pow_match_double_libm)
{
    for (int i = 0; i < 400000; i++) {
        double x = i % 2 ? i * 2.621 : i * 1e-5, s, c;
        arith_sincos(x, &s, &c);
        ck_assert_double_eq_tol(s, sin(x), 4e-16);
        ck_assert_double_eq_tol(c, cos(x), 4e-16);
    }
    for (int i = 0; i < 100000; i++) {
        double a = 1.5 + i * 13.7, b = -(i % 997) / 997.0, p = pow(a, b);
        ck_assert_double_eq_tol(arith_pow(a, b), p, 4e-16 * p);
    }
    ck_assert_double_eq(arith_pow(500000.0, 0.0), 1.0);
    ck_assert_double_eq(arith_pow(10000.0, 1.0), 10000.0);
}
END_TEST

START_TEST(hash_is_fnv1a)
{
    ck_assert_uint_eq(kernel_hash(0, "", 0), UINT64_C(0xcbf29ce484222325));
    ck_assert_uint_eq(kernel_hash(0, "a", 1), UINT64_C(0xaf63dc4c8601ec8c));
    ck_assert_uint_eq(kernel_hash(0, "foobar", 6), UINT64_C(0x85944171f73967e8));
    ck_assert_uint_ne(kernel_hash(1, "foobar", 6), kernel_hash(0, "foobar", 6));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/arith");
    TCase *tcase = tcase_create("arith");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, exp_is_within_2_ulp);
    tcase_add_test(tcase, exp_at_its_ends);
    tcase_add_test(tcase, log_is_within_2_ulp);
    tcase_add_test(tcase, half_floats_make_the_round_trip);
    tcase_add_test(tcase, half_floats_round_to_nearest_even);
    tcase_add_test(tcase, tree_adds_in_its_order);
    tcase_add_test(tcase, philox_gives_the_published_vectors);
    tcase_add_test(tcase, gumbel_words_follow_the_formula);
    tcase_add_test(tcase, gumbel_has_its_mean_and_variance);
    tcase_add_test(tcase, gumbel_is_a_function_of_its_four_arguments);
    tcase_add_test(tcase, sincos_and_pow_match_double_libm);
    tcase_add_test(tcase, hash_is_fnv1a);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
