/* Tiles times the activations of many tokens by lookups of sums; AVX2. */
#ifndef KERNELS_X86_LOOKUP_AVX2_H
#define KERNELS_X86_LOOKUP_AVX2_H

#include "kernels/tiles.h"

#define LOOKUP_TOKENS 16     /* of one table */
#define LOOKUP_MIN_GROUPS 32 /* of rows, from which on tables pay */

/* Computes whole multiples of LOOKUP_TOKENS tokens and takes them off m: its tokens and y are then those that are left. Does nothing when
 * there are few rows. */
void lookup_tokens(struct matmul_tiles *m);

#endif
