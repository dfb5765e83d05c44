/* Triples times the activations of many tokens by lookups of sums; AVX-512 with VBMI. */
#ifndef KERNELS_X86_LOOKUP_VBMI_H
#define KERNELS_X86_LOOKUP_VBMI_H

#include "kernels/triples.h"

#define LOOKUP_MIN_TOKENS 8 /* from which on tables pay */

/* Computes the rows of whole bands of 64 and takes them off m: its tiles, n_groups, n_rows and y are then those of the rows left. */
void lookup_bands(struct matmul_tiles *m);

#endif
