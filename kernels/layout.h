/*
 * layout: the forms in which the CPU holds a ternary matrix. op_matmul cuts each matrix into groups of rows and hands runs of groups to
 * the layout's multiply, on all threads; what differs between layouts is in one table each. All give the same integers.
 *
 *   rows    as the file has them, mapped (kernels/matmul.c)            I2S
 *   tiles   2-bit codes for multiply-add (kernels/tiles.h)             I2S
 *   tl1     table lookups of the sums of two weights (kernels/tl1.h)   TL1
 *   triples three weights a table index of 5 bits (kernels/triples.h)  TL2
 */
#ifndef KERNELS_LAYOUT_H
#define KERNELS_LAYOUT_H

#include "kernels/cpu.h"

/* One op_matmul. */
struct matmul_call {
    const struct ternary *const *w; /* [n_mats] */
    float *const *y;                /* [n_mats] */
    size_t n_mats;
    const struct activations *a;
    size_t n; /* tokens, at least 1 */
};

/* n_cols is a multiple of 128 here; a layout pads further by itself. Scratch belongs to one thread for one call of op_matmul and is 64-byte aligned. */
struct cpu_layout {
    enum ternary_format format;
    size_t group_rows;
    /* Bytes of a matrix, and of the scratch of a thread. */
    size_t (*bytes)(size_t n_rows, size_t n_cols);
    size_t (*scratch_bytes)(size_t n_cols);
    /* Fills `out` from rows, in parallel. */
    void (*pack)(struct pool *pool, const struct ternary_packed *packed, uint8_t *out);
    /* Fills the scratch of a thread with what all matrices of the call share; NULL: nothing. */
    void (*prepare)(const struct cpu *cpu, const struct matmul_call *c, uint8_t *scratch);
    /* Groups begin .. end - 1 of matrix `mat`. */
    void (*multiply)(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                     uint8_t *scratch);
};

extern const struct cpu_layout layout_rows, layout_tiles, layout_tl1, layout_triples;

static inline size_t layout_n_groups(const struct cpu_layout *l, size_t n_rows)
{
    return (n_rows + l->group_rows - 1) / l->group_rows;
}

/* Rows of groups begin .. end - 1; the last group may be short. */
static inline size_t layout_n_rows(const struct cpu_layout *l, size_t n_rows, size_t begin, size_t end)
{
    size_t last = end * l->group_rows;
    return (last < n_rows ? last : n_rows) - begin * l->group_rows;
}

#endif
