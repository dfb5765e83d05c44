/*
 * pass: what operations read of a batch, on the device: one copy for all operations of a pass, known again by the host's addresses; and the
 * recording of passes that repeat, as CUDA graphs.
 */
#ifndef KERNELS_CUDA_PASS_H
#define KERNELS_CUDA_PASS_H

#include "kernels/cuda/device.h"

/* Rows of one sequence that follow each other, whose attention is computed together. */
struct tile {
    int32_t row, n_rows; /* none: nothing to do */
    int32_t last;        /* the last position that one of them attends to */
};

#define WHOLE_ROWS 64 /* a stretch of a sequence of so many rows goes into tiles of its own kind, see attention.cu */

/* dev, but for the counts. */
struct gpu_batch {
    const int32_t *positions, *sequences; /* [n] */
    const int32_t *places;                /* [n]: block * KV_BLOCK_SIZE + where in it */
    const int32_t *tables;                /* [sequences][stride] */
    const struct tile *split, *whole;
    const struct tile *host_split;        /* the same on the host, as long as the copy is there */
    size_t n_split, n_whole, stride;
    int n_segments;                       /* that the longest of the split ones attends to, or more */
};

/* The pass' copy, or one that is made now and stays until the next call. height: rows of a tile; 0: tiles are not read. NULL, with the error
 * kept, when there is no memory. */
const struct gpu_batch *gpu_batch_of(struct gpu *gpu, const struct batch_view *batch, size_t height);

/* The same of the pass' positions or ids, or of other integers. */
const int32_t *gpu_ints_of(struct gpu *gpu, const int32_t *host, size_t n);

#endif
