/* What measures the machine does what it says: all bytes are read, multiply-adds are counted, limits are given. */
#include "tests/kernels/support.h"

START_TEST(every_byte_is_read)
{
    static const size_t sizes[] = {0, READ_BYTES_STEP, 3 * READ_BYTES_STEP, 64 * READ_BYTES_STEP};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *p = guarded_alloc(sizes[i], 64);
        for (size_t k = 0; k < sizes[i]; k++)
            p[k] = (uint8_t)random_next();
        uint64_t expected = variants()->portable.read_bytes(p, sizes[i]), words = 0;
        for (size_t k = 0; k < sizes[i]; k += sizeof words) {
            uint64_t word;
            memcpy(&word, p + k, sizeof word);
            words ^= word;
        }
        ck_assert_uint_eq(expected, words);
        ck_assert_uint_eq(variants()->best.read_bytes(p, sizes[i]), expected);
        guarded_free(p);
    }
}
END_TEST

START_TEST(multiply_adds_are_counted)
{
    const struct cpu_kernels *all[] = {&variants()->portable, &variants()->best};
    for (size_t i = 0; i < 2; i++) {
        uint64_t one = all[i]->peak_i8(1);
        ck_assert_uint_gt(one, 0);
        ck_assert_uint_eq(all[i]->peak_i8(0), 0);
        ck_assert_uint_eq(all[i]->peak_i8(1000), 1000 * one);
    }
}
END_TEST

/* Of which size they are is for benchmarks to say. */
START_TEST(limits_are_given)
{
    for (size_t i = 0; cpu_levels[i].name; i++) {
        struct backend *be = open_backend(cpu_levels[i].name, 2);
        ck_assert(backend_measure(be, LIMIT_READ_BYTES) > 0);
        ck_assert(backend_measure(be, LIMIT_INT8) > 0);
        backend_close(be);
    }
}
END_TEST

RUN_SUITE("measure", every_byte_is_read, multiply_adds_are_counted, limits_are_given)
