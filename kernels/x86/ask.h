/* Memory that is asked for before it is read. */
#ifndef KERNELS_X86_ASK_H
#define KERNELS_X86_ASK_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum ask_cache { FIRST_CACHE, SECOND_CACHE };

/* Asks for the lines from part `begin` of n_parts of n_bytes to part `end`, into the first cache or, where they take no room from
 * what is in use, the second. A core waits for only so many lines at a time: what is needed later is asked for part by
 * part. Inlined, as gcc takes a function that only prefetches to do nothing. */
static inline __attribute__((always_inline)) void ask(const uint8_t *p, size_t n_bytes, size_t begin, size_t end, size_t n_parts, const enum ask_cache cache)
{
    for (size_t i = n_bytes * begin / n_parts & ~(size_t)63; i < n_bytes * end / n_parts; i += 64)
        if (cache == FIRST_CACHE) /* a hint must be a constant before anything is inlined */
            _mm_prefetch((const char *)p + i, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

#endif
