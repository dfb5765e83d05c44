/* logits: the product of a table with rows of x, on the device. Any number of rows gives a row the same bits. */
#ifndef KERNELS_CUDA_LOGITS_H
#define KERNELS_CUDA_LOGITS_H

#include "kernels/cuda/device.h"

#define LOGITS_ROWS ((size_t)128) /* of a chunk: what a table is read once or twice for, and memory has room for */

/* Floats of scratch memory that a product of n_x rows takes. */
size_t logits_scratch(const struct dense *table, size_t n_x);
/* logits: dev [n_x][n_rows] of rows rows[] (dev) of x. */
void logits_product(struct gpu *gpu, const struct dense *table, const float *x, const int32_t *rows, size_t n_x, bool round_f16, float *scratch,
                    float *logits);

#endif
