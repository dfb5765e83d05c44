/*
 * TL1 and TL2 tensors as bitnet.cpp's converter makes them: the same chain of reshapes and exchanges of neighbouring axes, one by one, on
 * whole arrays, so that nothing is shared with the reader. codes: [n_rows][n_cols] of 0, 1, 2.
 */
#ifndef TESTS_UNIT_KERNELS_TL_FILES_H
#define TESTS_UNIT_KERNELS_TL_FILES_H

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

struct tl_config { size_t M, K, BM, BY, bm; };

/* Exchanges axes `axis` and `axis` + 1 of an array of `n_dims` dimensions. */
static inline void tl_swap(uint8_t *a, const size_t *dims, size_t n_dims, size_t axis)
{
    size_t outer = 1, inner = 1, x = dims[axis], y = dims[axis + 1];
    for (size_t d = 0; d < axis; d++)
        outer *= dims[d];
    for (size_t d = axis + 2; d < n_dims; d++)
        inner *= dims[d];
    uint8_t *copy = malloc(x * y * inner);
    for (size_t o = 0; o < outer; o++, a += x * y * inner) {
        memcpy(copy, a, x * y * inner);
        for (size_t i = 0; i < x; i++)
            for (size_t j = 0; j < y; j++)
                memcpy(a + (j * x + i) * inner, copy + (i * y + j) * inner, inner);
    }
    free(copy);
}
#define TL_SWAP(a, axis, ...) tl_swap(a, (const size_t[]){__VA_ARGS__}, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), axis)

static inline int tl_weight(const uint8_t *codes, const struct tl_config *c, size_t stride, size_t row, size_t col)
{
    (void)c;
    return (int)codes[row * stride + col] - 1;
}

/* [M][n / group] values of `group` weights, by `value`. */
static inline uint8_t *tl_group(const uint8_t *codes, const struct tl_config *c, size_t stride, size_t first, size_t n, size_t group,
                                uint8_t (*value)(int))
{
    uint8_t *out = malloc(c->M * n / group + 1);
    for (size_t r = 0; r < c->M; r++)
        for (size_t g = 0; g < n / group; g++) {
            int sum = 0;
            for (size_t i = 0; i < group; i++)
                sum = 3 * sum + tl_weight(codes, c, stride, r, first + g * group + i);
            out[r * (n / group) + g] = value(sum);
        }
    return out;
}

static inline uint8_t tl_pair(int v) { return (uint8_t)(v + 4); }
static inline uint8_t tl_size(int v) { return (uint8_t)abs(v); }
static inline uint8_t tl_sign(int v) { return v < 0; }

static inline void tl1_write(const uint8_t *codes, const struct tl_config *c, uint8_t *out)
{
    size_t M = c->M, K = c->K, BM = c->BM, BY = c->BY, bm = c->bm, by = 256 / bm;
    uint8_t *w = tl_group(codes, c, K, 0, K, 2, tl_pair);
    TL_SWAP(w, 1, M / BM, BM, K / 2);
    TL_SWAP(w, 2, M / BM, K / BY, BY / 2, BM);
    TL_SWAP(w, 3, M / BM, K / BY, BM / bm, bm, BY / 2);
    TL_SWAP(w, 4, M / BM, K / BY, BM / bm, BY / by, by / 2, bm);
    TL_SWAP(w, 5, M / BM, K / BY, BM / bm, BY / by, bm / 16, 16, by / 2);
    TL_SWAP(w, 6, M / BM, K / BY, BM / bm, BY / by, bm / 16, by / 4, 2, 16);
    for (size_t i = 0; i < M * K / 4; i++)
        out[i] = (uint8_t)(w[2 * i] << 4 | w[2 * i + 1]);
    free(w);
}

/* Two values a byte, then groups 1 and 2 of eight bytes in each `bm` exchanged. */
static inline size_t tl2_bytes(const uint8_t *w, size_t n, size_t bm, uint8_t *out)
{
    for (size_t i = 0; i < n / 2; i++)
        out[i] = (uint8_t)(w[2 * i] << 4 | w[2 * i + 1]);
    for (size_t i = 0; i < n / 2; i += bm) {
        uint8_t group[8];
        memcpy(group, out + i + 8, 8);
        memcpy(out + i + 8, out + i + 16, 8);
        memcpy(out + i + 16, group, 8);
    }
    return n / 2;
}

static inline uint8_t *tl2_strips(const uint8_t *codes, const struct tl_config *c, size_t first, size_t n, size_t BY, size_t by,
                                  size_t group, uint8_t (*value)(int))
{
    size_t M = c->M, BM = c->BM, bm = c->bm;
    uint8_t *w = tl_group(codes, c, c->K, first, n, group, value);
    TL_SWAP(w, 1, M / BM, BM, n / group);
    TL_SWAP(w, 2, M / BM, n / BY, BY / group, BM);
    TL_SWAP(w, 3, M / BM, n / BY, BM / bm, bm, BY / group);
    TL_SWAP(w, 4, M / BM, n / BY, BM / bm, BY / by, by / group, bm);
    return w;
}

static inline size_t tl2_write(const uint8_t *codes, const struct tl_config *c, uint8_t *out)
{
    size_t M = c->M, BM = c->BM, BY = c->BY, bm = c->bm, by = 192 / bm, three = c->K / BY * BY, two = c->K - three, at = 0;
    uint8_t *w = tl2_strips(codes, c, 0, three, BY, by, 3, tl_size);
    at += tl2_bytes(w, M * three / 3, bm, out);
    free(w);
    w = tl_group(codes, c, c->K, 0, three, 3, tl_sign);
    TL_SWAP(w, 1, M / BM, BM, three / 3);
    TL_SWAP(w, 2, M / BM, three / BY, BY / 3, BM);
    TL_SWAP(w, 3, M / BM, three / BY, BM / bm, bm, BY / 3);
    TL_SWAP(w, 4, M / BM, three / BY, BM / bm, BY / (by * 4), by / 3 * 4, bm);
    TL_SWAP(w, 4, M / BM, three / BY, BM / bm, BY / (by * 4), bm, by / 3 * 4);
    for (size_t s = 0; s < M * three / 3; s += 16 * (bm / 2))
        for (size_t j = 0; j < bm / 2; j++) {
            unsigned word = 0;
            for (size_t i = 0; i < 16; i++)
                word |= (unsigned)w[s + i * (bm / 2) + j] << (15 - i);
            out[at++] = (uint8_t)word;
            out[at++] = (uint8_t)(word >> 8);
        }
    free(w);
    if (two) {
        w = tl2_strips(codes, c, three, two, 32, 4, 2, tl_pair);
        at += tl2_bytes(w, M * two / 2, bm, out + at);
        free(w);
    }
    return at;
}

#endif
