/* The int8 screen, AVX-512 with VNNI: q + 128 is unsigned; what that adds is 128 times the sum of the half. */
#include "kernels/cpu.h"

#include <immintrin.h>

void screen_i8_avx512(const int8_t *rows, size_t stride, size_t n_rows, const struct screen_x *x, int32_t *high, int32_t *low)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (size_t r = 0; r < n_rows; r++, rows += stride) {
        __m512i h = _mm512_setzero_si512(), l = h;
        for (size_t i = 0; i < stride; i += 64) {
            __m512i q = _mm512_xor_si512(_mm512_load_si512(rows + i), flip);
            _mm_prefetch((const char *)rows + i + 4096, _MM_HINT_T0);
            h = _mm512_dpbusd_epi32(h, q, _mm512_load_si512(x->high + i));
            l = _mm512_dpbusd_epi32(l, q, _mm512_load_si512(x->low + i));
        }
        high[r] = _mm512_reduce_add_epi32(h) - 128 * x->high_sum;
        low[r] = _mm512_reduce_add_epi32(l) - 128 * x->low_sum;
    }
}
