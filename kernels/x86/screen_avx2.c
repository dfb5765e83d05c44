/* The int8 screen, AVX2: |q| times the half with q's sign; a pair sum is at most 2 * 127 * 127 and fits int16. */
#include "kernels/cpu.h"

#include <immintrin.h>

static inline int32_t reduce(__m256i v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

void screen_i8_avx2(const int8_t *rows, size_t stride, size_t n_rows, const struct screen_x *x, int32_t *high, int32_t *low)
{
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t r = 0; r < n_rows; r++, rows += stride) {
        __m256i h = _mm256_setzero_si256(), l = h;
        for (size_t i = 0; i < stride; i += 32) {
            __m256i q = _mm256_load_si256((const __m256i *)(rows + i)), size = _mm256_abs_epi8(q);
            __m256i a = _mm256_sign_epi8(_mm256_load_si256((const __m256i *)(x->high + i)), q);
            __m256i b = _mm256_sign_epi8(_mm256_load_si256((const __m256i *)(x->low + i)), q);
            _mm_prefetch((const char *)rows + i + 2048, _MM_HINT_T0);
            h = _mm256_add_epi32(h, _mm256_madd_epi16(_mm256_maddubs_epi16(size, a), ones));
            l = _mm256_add_epi32(l, _mm256_madd_epi16(_mm256_maddubs_epi16(size, b), ones));
        }
        high[r] = reduce(h);
        low[r] = reduce(l);
    }
}
