/*
 * cpu: the inside of the CPU backend. A kernel works on one row, tile or segment and knows no thread; an operation
 * (cpu_op_*) cuts its work into items and runs kernels on the pool. CPU_KERNELS declares each kernel once; from it come its type, the
 * prototypes of all variants and its entry in the table, so that they cannot drift apart.
 *
 * All variants of a kernel give the same bits (kernels/arith.h). Pointers to weights need no alignment.
 */
#ifndef KERNELS_CPU_H
#define KERNELS_CPU_H

#include "kernels/backend.h"
#include "kernels/placement.h"
#include "kernels/screen.h"
#include "kernels/tiles.h"
#include "kernels/tl1.h"
#include "kernels/triples.h"

#include <stdatomic.h>

/* Rows of packed ternary weights times tokens. y[t * y_stride + r], t < n_tokens, r < n_rows. */
struct matmul_tile {
    const uint8_t *rows;     /* [n_rows][row_bytes], I2S_ORDER_128 */
    size_t row_bytes, n_rows;
    const int8_t *q;         /* [n_tokens][q_stride], 4 * row_bytes of them are read */
    size_t q_stride;
    const float *q_scale;    /* [n_tokens] */
    const int32_t *q_sum;    /* [n_tokens] */
    size_t n_tokens;
    float scale;             /* of the weights */
    float *y;
    size_t y_stride;
};

/* Scores and weighted sum over one segment, for rows of one sequence and the query heads that share a KV head. Row r attends to
 * n_positions + r positions, ARITH_SEGMENT at most: rows follow each other in the sequence. */
struct attention_segment {
    enum kv_type type;
    const void *k, *v;       /* of one layer and KV head, in block 0 */
    const float *k_scale, *v_scale; /* likewise; KV_INT8 only */
    const int32_t *blocks;   /* block ids of the segment */
    size_t block_stride;     /* values from block to block; scales: block_stride / head_dim */
    size_t n_positions;      /* 1..ARITH_SEGMENT: of row 0 */
    size_t head_dim;
    float scale;             /* 1 / sqrt(head_dim) */
    size_t n_rows, n_heads;  /* their product is 1..CPU_MAX_QUERIES */
    const float *q;          /* [n_rows][q_stride]: n_heads heads each */
    size_t q_stride;
    float *out;              /* [n_rows * n_heads][CPU_HEAD_STRIDE(head_dim)]; what is behind head_dim is not defined */
    float *max, *sum;        /* [n_rows * n_heads] */
};
#define CPU_MAX_QUERIES 32 /* rows times query heads that are worked on together */
#define CPU_HEAD_STRIDE(head_dim) (((head_dim) + 15) / 16 * 16)
#define KV_TYPE_BYTES(type) ((type) == KV_F16 ? sizeof(uint16_t) : sizeof(int8_t))

#define CPU_KERNELS(X)                                                                                                 \
    X(void, matmul_i2s_i8, (const struct matmul_tile *tile))                                                           \
    X(void, matmul_tiles_i8, (const struct matmul_tiles *tiles))                                                       \
    X(void, matmul_triples_i8, (const struct matmul_tiles *triples))                                                   \
    /* one token by lookups; its tables, q [n_cols]; a group of 64 rows as 4 groups of tiles */                        \
    X(void, matmul_tl1_i8, (const struct matmul_tl1 *tl1))                                                             \
    X(void, tl1_tables, (const int8_t *q, size_t n_cols, uint8_t *tables))                                             \
    X(void, tl1_unpack, (const uint8_t *group, size_t n_cols, uint8_t *tiles))                                         \
    X(void, screen_i8, (const struct screen_tile *tile))                                                               \
    X(void, screen_bounds, (const struct screen_chunk *chunk))                                                         \
    X(uint64_t, screen_reaching, (const struct screen_chunk *chunk, float least))                                      \
    /* out[j * out_stride] = dot(row, x + j * x_stride), j < n_x */                                                    \
    X(void, dots_f32, (const float *row, const float *x, size_t x_stride, size_t n_x, size_t n, float *out,            \
                       size_t out_stride))                                                                             \
    /* out[r] = dot(row r, x) */                                                                                       \
    X(void, dots_f16, (const void *rows, size_t row_bytes, size_t n_rows, const float *x, size_t n, float *out))       \
    X(void, row_f16, (const void *src, size_t n, float *out))                                                          \
    X(void, row_bf16, (const void *src, size_t n, float *out))                                                         \
    X(void, row_q8_0, (const void *src, size_t n, float *out))                                                         \
    X(void, row_q6_k, (const void *src, size_t n, float *out))                                                         \
    X(void, to_f16, (const float *x, size_t n, uint16_t *out))                                                         \
    X(void, rmsnorm, (const float *x, const float *weight, float eps, size_t n, float *y))                             \
    X(void, quantize, (const float *x, size_t n, int8_t *q, float *scale, int32_t *sum))                               \
    X(void, add, (float *x, const float *y, size_t n))                                                                 \
    X(void, relu2, (const float *gate, const float *up, size_t n, float *y))                                           \
    X(void, silu, (const float *gate, const float *up, size_t n, float *y))                                            \
    /* rotates one head; cos and sin [half] */                                                                         \
    X(void, rope_neox, (float *x, const float *cos, const float *sin, size_t half))                                    \
    X(void, rope_norm, (float *x, const float *cos, const float *sin, size_t half))                                    \
    X(void, attention_segment, (const struct attention_segment *segment))                                              \
    /* joins segment b into a, which comes before it */                                                                \
    X(void, attention_merge, (float *out_a, float *max_a, float *sum_a, const float *out_b, float max_b, float sum_b,  \
                              size_t head_dim))                                                                        \
    /* arith_exp, arith_log, arith_gumbel: where fma is an instruction they need no call; KERNEL_GUMBELS at once */    \
    X(float, exp_one, (float x))                                                                                       \
    X(float, log_one, (float x))                                                                                       \
    X(float, gumbel_one, (uint64_t seed, uint32_t choice, uint32_t position, uint32_t id))                             \
    X(void, gumbels, (uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float *out))                  \
    /* measure.c: the xor of n bytes, in 64-bit words; n a multiple of READ_BYTES_STEP */                              \
    X(uint64_t, read_bytes, (const uint8_t *p, size_t n))                                                              \
    /* n_rounds of int8 multiply-adds in registers; returns how many of these that was */                              \
    X(uint64_t, peak_i8, (uint64_t n_rounds))
#define READ_BYTES_STEP ((size_t)256)

#define CPU_DECLARE(ret, name, args)                                                                                   \
    typedef ret name##_fn args;                                                                                        \
    ret name##_portable args;                                                                                          \
    ret name##_avx2 args;
CPU_KERNELS(CPU_DECLARE)
#undef CPU_DECLARE
/* Variants beyond AVX2 exist where they pay. */
matmul_tiles_i8_fn matmul_tiles_i8_avx512, matmul_tiles_i8_amx;
matmul_triples_i8_fn matmul_triples_i8_vbmi, matmul_triples_i8_amx;
matmul_tl1_i8_fn matmul_tl1_i8_avx512;
tl1_tables_fn tl1_tables_avx512;
screen_i8_fn screen_i8_avx512;
gumbels_fn gumbels_avx512;
attention_segment_fn attention_segment_avx512;
read_bytes_fn read_bytes_avx512;
peak_i8_fn peak_i8_avx512, peak_i8_amx;

/* On aarch64: what has a NEON form, and of these what has another with dot products. The portable code serves the others. */
#define CPU_KERNELS_NEON(X)                                                                                            \
    X(matmul_i2s_i8) X(matmul_tiles_i8) X(screen_i8) X(dots_f32) X(dots_f16) X(row_f16) X(row_bf16) X(row_q8_0)        \
    X(row_q6_k) X(to_f16) X(rmsnorm) X(quantize) X(add) X(relu2) X(silu) X(rope_neox) X(rope_norm)                     \
    X(attention_segment) X(attention_merge) X(peak_i8)
#define CPU_KERNELS_DOTPROD(X) X(matmul_i2s_i8) X(matmul_tiles_i8) X(screen_i8) X(peak_i8)

#define CPU_DECLARE(name) name##_fn name##_neon;
CPU_KERNELS_NEON(CPU_DECLARE)
#undef CPU_DECLARE
#define CPU_DECLARE(name) name##_fn name##_dotprod;
CPU_KERNELS_DOTPROD(CPU_DECLARE)
#undef CPU_DECLARE

#define CPU_ENTRY(ret, name, args) name##_fn *name;
struct cpu_kernels {
    CPU_KERNELS(CPU_ENTRY)
    enum ternary_format auto_format; /* the layout whose decode is fastest with these */
    const char *auto_reason;
};
#undef CPU_ENTRY

/* Attention of a long context is cut into (unit, segment) pieces; the thread that ends a unit's last one joins them. */
struct cpu_pieces {
    float *partials;         /* [n_floats]: results of pieces; pages that no context needs stay untouched */
    size_t n_floats;
    atomic_uint *n_done;     /* [CPU_UNITS_A_THREAD * n_threads]: pieces of a unit that have ended; 0 between operations */
};
#define CPU_UNITS_A_THREAD 16 /* a unit that is more than a share of this size is cut */

struct cpu {
    struct backend base;
    struct cpu_kernels kernels;
    struct placement placement;
    char name[64];
    struct cpu_pieces pieces;
    atomic_size_t next_item;
    bool map_weights;
    void (*pace)(void *user);     /* see backend_options; NULL when there are several threads */
    void *pace_user;
    uint8_t *scratch;             /* [n_threads][scratch_bytes]: of op_matmul */
    size_t scratch_bytes;         /* for the widest matrix so far */
};

struct cpu_ternary {
    struct ternary base;
    const struct cpu_layout *layout; /* kernels/layout.h */
    struct ternary_packed packed;    /* rows and owned are NULL when it was repacked */
    uint8_t *data;                   /* what the layout's pack made; NULL: mapped rows */
};

struct cpu_dense {
    struct dense base;
    const uint8_t *data; /* borrowed */
    bool mapped;         /* of a file: */
    int fd;
    uint64_t offset;
    uint8_t *raw;        /* [n_threads][row_bytes]: a row as the file has it; of a large mapped table, else NULL */
    float *row;          /* [n_threads][n_cols]: a converted row */
    float *x;            /* [CPU_LOGITS_ROWS][n_cols]: the rows of x, rounded */
    struct cpu_head *head; /* logits.c: the screen and its scratch; NULL: none */
};
#define CPU_LOGITS_ROWS 32 /* rows of x that meet a converted row of the table */
#define CPU_LOGITS_MAX_COUNT ((size_t)4096) /* beyond it a screen does not pay */

/* Fills the table for an instruction set that detection found or an option asked for; returns its name, NULL when `isa`
 * is none of this architecture's. NULL asks for the best; one that the CPU lacks gives the best below it. */
const char *cpu_kernels_init(struct cpu_kernels *k, const char *isa);

/* The instruction sets of the architecture that this is built for, each with all before it. kernels/x86 and kernels/arm say what they are. */
struct cpu_level {
    const char *name;
    void (*fill)(struct cpu_kernels *k); /* puts its kernels over those of the level before */
};
extern const struct cpu_level cpu_levels[]; /* "portable" first; name is NULL behind the last */
/* Index of the highest one that this CPU and its operating system offer. */
size_t cpu_best_level(void);
void cpu_fill_portable(struct cpu_kernels *k);

/* Items begin .. end - 1 of an operation, on `thread`. */
typedef void cpu_items_fn(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread);

/* Splits n items into one contiguous part a thread; on the caller alone when n * cost is small (cost: about that many
 * values touched an item). */
void cpu_for(struct cpu *cpu, size_t n, size_t cost, cpu_items_fn *fn, const void *call);
/* Hands items out one by one, for items of unlike cost. */
void cpu_for_each(struct cpu *cpu, size_t n, size_t cost, cpu_items_fn *fn, const void *call);

enum error_code cpu_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                 struct ternary **out, struct error *err);
void cpu_ternary_close(struct backend *be, struct ternary *w);
bool cpu_ternary_share(struct backend *be, const struct ternary *w);
enum error_code cpu_dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err);
void cpu_dense_close(struct backend *be, struct dense *w);

void cpu_op_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y);
void cpu_op_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y);
void cpu_op_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a);
void cpu_op_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                          struct activations *a);
void cpu_op_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                         size_t n, size_t dim, float *y, struct activations *a);
/* One row: normalised to y unless weight is NULL, then quantised into row `row` of `a`. */
void cpu_norm_quantize_row(const struct cpu *cpu, const float *x, const float *weight, float eps, size_t dim, float *y,
                           const struct activations *a, size_t row);
void cpu_op_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                   const struct activations *a, size_t n);
void cpu_op_add(struct backend *be, float *x, const float *y, size_t n_values);
void cpu_op_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y);
void cpu_op_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
                 const int32_t *positions);
void cpu_op_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                     const float *k, const float *v);
void cpu_op_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                      const float *q, size_t n_heads, float *y);
void cpu_op_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                   bool round_f16, float *logits);
bool cpu_dense_screen(struct backend *be, struct dense *w);
void cpu_screen_free(struct cpu_dense *w);
void cpu_op_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                          const struct logits_need *needs, float *logits);
size_t cpu_dense_read_bytes(const struct dense *table, const struct logits_need *need);
double cpu_measure(struct backend *be, enum backend_limit limit);
/* Row `row` of a table as f32. */
void cpu_dense_row(const struct cpu *cpu, const struct cpu_dense *w, size_t row, float *out);
/* The same of a row whose neighbours are not wanted: of a large mapped table it is read from the file, so that no page becomes resident. */
void cpu_dense_single_row(const struct cpu *cpu, const struct cpu_dense *w, size_t row, int thread, float *out);
/* Drops rows begin .. end - 1 from resident memory when they are a file's. */
void cpu_dense_drop(const struct cpu_dense *w, size_t begin, size_t end);

#endif
