/*
 * check: every operation of a CUDA device against the portable reference, on random and extreme data. For a real device (check.c) and an
 * emulated one (tests/kernels/test_cuda.c).
 *
 * What may differ, for all cases. Exact: every bit, but of a NaN only that it is one.
 *   quantisation, ternary product, addition, squared ReLU, rope, K and V as stored, embedding: exact
 *   RMSNorm       NORM_BOUND of the value: the sum of squares has another order
 *   SiLU          SILU_BOUND of the value: another exp
 *   attention     ATTENTION_BOUND * (1 + largest score) * largest V: other orders, another exp, whose argument has an error like its size
 *   logits        LOGITS_BOUND * the sum of |weight * x|: another order, x in two parts
 * A result is finite where the reference's is, and only there. Operations that stand for others (norm and quantisation, FFN and
 * quantisation) give those others' bits on the device. Rows alone, and batches in parts of many sizes, give the bits of the whole batch.
 */
#ifndef KERNELS_CUDA_CHECK_H
#define KERNELS_CUDA_CHECK_H

#include "kernels/arith.h"
#include "kernels/backend.h"

#define NORM_BOUND 1e-6f
#define SILU_BOUND 1e-6f
#define ATTENTION_BOUND 5e-7f
#define LOGITS_BOUND 3e-6f

enum { REFERENCE, DEVICE };

struct check {
    struct backend *be[2];
    uint64_t random;   /* state */
    char failure[512]; /* the first; "" */
};

struct check_case {
    const char *name;
    void (*run)(struct check *c); /* frees what it makes, failed or not */
};
extern const struct check_case check_cases[]; /* name NULL behind the last */

/* Runs one case from its own random state; false with c->failure. */
bool check_run(struct check *c, const struct check_case *what);

/* ---- what cases are made of */

/* Keeps the first failure. */
void check_fail(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint32_t check_random(struct check *c);
/* Evenly in [-limit, limit]. */
float check_float(struct check *c, float limit);

enum fill {
    FILL_PLAIN,    /* evenly in [-2, 2] */
    FILL_ZERO,
    FILL_OUTLIERS, /* some 1,000 times as large */
    FILL_DENORMAL,
    FILL_WILD,     /* all finite bit patterns */
    FILL_SPECIAL,  /* these and infinities and NaN */
    N_FILLS
};
extern const char *const check_fill_names[N_FILLS];
/* n values; freed with free. */
float *check_floats(struct check *c, size_t n, enum fill fill);

/* The same bytes in the memory of both, with a guard behind them. */
struct twin {
    void *at[2];
    size_t n_bytes;
};
struct twin twin_open(struct check *c, const void *host, size_t n_bytes); /* host NULL: bytes that nobody expects */
void twin_close(struct check *c, const char *what, struct twin *t);       /* the guards are as they were */
void *twin_read(struct check *c, const struct twin *t, int which);        /* freed with free */

/* n floats: within bounds[i] (NULL: exact). */
void check_near(struct check *c, const char *what, const float *expected, const float *found, const float *bounds, size_t n);
void check_same(struct check *c, const char *what, const void *expected, const void *found, size_t n_bytes);

/* What an operation leaves for each row of a batch: in a twin, or in host memory. */
struct output {
    const char *what;
    const struct twin *dev;
    void *host[2];
    size_t row_bytes;
    bool is_float;
    const float *bounds; /* [n][row_bytes / 4]; NULL: exact */
};
#define MAX_OUTPUTS 4

struct row_check {
    /* The operation on rows first .. first + n - 1, there and back; what it changes in place is set before. */
    void (*run)(struct backend *be, int which, const void *arg, size_t first, size_t n);
    const void *arg;
    size_t n;
    struct output outputs[MAX_OUTPUTS]; /* as many as have a name */
};
/* The whole batch on both; then, on the device, each row alone and parts. */
void check_rows(struct check *c, const char *what, const struct row_check *r);

/* The rows of a part of activations. */
struct activations check_part(const struct activations *a, size_t first, size_t n);

/* ---- the cases, by file */

void check_norm(struct check *c);
void check_quantize(struct check *c);
void check_fused(struct check *c);
void check_values(struct check *c);
void check_rope(struct check *c);
void check_keep_rows(struct check *c);
void check_matmul(struct check *c);
void check_matmul_extremes(struct check *c);
void check_matmul_joint(struct check *c);
void check_kv_write(struct check *c);
void check_attention_f16(struct check *c);
void check_attention_int8(struct check *c);
void check_attention_extremes(struct check *c);
void check_attention_long(struct check *c);
void check_passes(struct check *c);
void check_embed(struct check *c);
void check_logits(struct check *c);
void check_logits_extremes(struct check *c);
void check_logits_needed(struct check *c);

#endif
