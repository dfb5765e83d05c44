/*
 * head: what an LM head keeps beside its table: the screen, and the scratch of one call of op_logits_needed (kernels/logits.c). Made by
 * cpu_dense_screen, freed with the table.
 */
#ifndef KERNELS_HEAD_H
#define KERNELS_HEAD_H

#include "kernels/cpu.h"

#define CHUNK SCREEN_CHUNK /* rows that meet all rows of x while they are in the cache */
#define GROUP ((size_t)SCREEN_GROUP)
#define GROUPS (CHUNK / GROUP) /* of a chunk */
#define PROBES 16              /* rows beyond the wanted ones */
#define MAX_PROBES (CPU_LOGITS_MAX_COUNT + PROBES)

struct cpu_head {
    struct screen screen;
    size_t n_chunks;
    struct screen_x x[CPU_LOGITS_ROWS];
    int8_t *halves;   /* [2][n_x][stride]: of one call's rows of x; allocated for CPU_LOGITS_ROWS */
    uint64_t *listed;     /* [CPU_LOGITS_ROWS][n_chunks]: a bit a row */
    uint64_t *aside;      /* the same of rows that take no part in the screening: listed, or not allowed */
    float *lower, *upper; /* [CPU_LOGITS_ROWS][n_chunks * GROUPS]: largest bounds of a group's rows that take part */
    float *best; /* [CPU_LOGITS_ROWS][MAX_PROBES]: heaps of the largest lower bounds */
    uint32_t *probes; /* [CPU_LOGITS_ROWS][MAX_PROBES]: rows */
    float *probed;    /* [CPU_LOGITS_ROWS][MAX_PROBES]: their quantities, rounded down */
    size_t n_probes[CPU_LOGITS_ROWS];
    float least[CPU_LOGITS_ROWS];
};

#endif
