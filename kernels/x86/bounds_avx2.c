/* Estimates of a chunk of a screen's rows and their bounds, AVX2: eight rows at a time, in the order of operations of kernels/screen.c. */
#include "kernels/cpu.h"

#include <immintrin.h>
#include <math.h>

/* 2 * sum - centre. */
static inline __m256 centred(const int32_t *sums, int32_t centre)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)sums);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_add_epi32(x, x), _mm256_set1_epi32(centre)));
}

static inline __m256 estimates(const struct screen_chunk *c, size_t r)
{
    __m256 q = _mm256_mul_ps(_mm256_set1_ps(254.0f), centred(c->high + r, c->high_centre));
    if (c->low)
        q = _mm256_add_ps(q, centred(c->low + r, c->low_centre));
    q = _mm256_mul_ps(q, _mm256_mul_ps(_mm256_set1_ps(c->bound->factor), _mm256_loadu_ps(c->scale + r)));
    return c->noise ? _mm256_add_ps(q, _mm256_loadu_ps(c->noise + r)) : q;
}

static inline __m256 slack(const struct screen_chunk *c, size_t r)
{
    const struct screen_bound *b = c->bound;
    __m256 by_error = _mm256_mul_ps(_mm256_set1_ps(b->per_error), _mm256_loadu_ps(c->error + r)),
           by_norm = _mm256_mul_ps(_mm256_set1_ps(b->per_norm), _mm256_loadu_ps(c->norm + r));
    return _mm256_add_ps(_mm256_add_ps(by_error, by_norm), _mm256_set1_ps(b->constant));
}

/* All bits of the rows that take no part. */
static inline __m256 aside(const struct screen_chunk *c, size_t r)
{
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(c->aside >> r & 0xff)), bits), bits));
}

static inline float largest(__m256 x)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)), two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

void screen_bounds_avx2(const struct screen_chunk *c)
{
    const __m256 none = _mm256_set1_ps(-INFINITY);
    for (size_t g = 0; g < SCREEN_CHUNK / SCREEN_GROUP; g++) {
        __m256 lower = none, upper = none;
        for (size_t r = g * SCREEN_GROUP; r < (g + 1) * SCREEN_GROUP; r += 8) {
            __m256 q = estimates(c, r), s = slack(c, r), out = aside(c, r);
            _mm256_storeu_ps(c->quantity + r, q);
            lower = _mm256_max_ps(_mm256_blendv_ps(_mm256_sub_ps(q, s), none, out), lower);
            upper = _mm256_max_ps(_mm256_blendv_ps(_mm256_add_ps(q, s), none, out), upper);
        }
        c->lower[g] = largest(lower);
        c->upper[g] = largest(upper);
    }
}

uint64_t screen_reaching_avx2(const struct screen_chunk *c, float least)
{
    uint64_t found = 0;
    for (size_t g = 0; g < SCREEN_CHUNK / SCREEN_GROUP; g++)
        for (size_t r = g * SCREEN_GROUP; c->upper[g] >= least && r < (g + 1) * SCREEN_GROUP; r += 8) {
            __m256 upper = _mm256_add_ps(_mm256_loadu_ps(c->quantity + r), slack(c, r));
            found |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(upper, _mm256_set1_ps(least), _CMP_GE_OQ)) << r;
        }
    return found & ~c->aside;
}
