/*
 * kernels: the arithmetic of a ternary transformer, behind an opaque backend. No model, no request, no socket.
 *
 * A backend (one CPU with its thread pool, or one CUDA device) owns memory, weights in the layout its kernels read, and
 * the operations of a forward pass. An operation works on a batch of `n` rows; a row is one token of some sequence, and
 * rows of different sequences, in prefill and in decode, share a batch. The result of a row never depends on the other
 * rows, on the thread count or on the instruction set: see kernels/arith.h for the definitions that all variants follow.
 *
 * Threads: a backend is used by one thread at a time (the engine's loop). Weights are immutable once made.
 * Memory: `dev` pointers come from backend_alloc and belong to the backend's address space (plain memory on a CPU);
 * the others are host memory. Operations may run asynchronously until backend_sync; host arrays passed to them are
 * read before they return.
 * Errors: operations return nothing; a device that failed reports it from the next backend_sync. Broken preconditions
 * (null, sizes that are no multiple, positions out of the table) are assertions.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tensor types that are understood, with GGUF's numbers (ggml.h; 36, 38 and 39 as in Microsoft's fork). */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,   /* 32 weights: f16 scale, 16 bytes of two 4-bit values */
    TENSOR_Q8_0 = 8,   /* 32 weights: f16 scale, 32 int8 */
    TENSOR_Q6_K = 14,  /* 256 weights in 210 bytes */
    TENSOR_BF16 = 30,
    TENSOR_TQ1_0 = 34, /* 256 ternary weights in 52 bytes + f16 scale */
    TENSOR_TQ2_0 = 35, /* 256 ternary weights in 64 bytes + f16 scale */
    TENSOR_I2_S = 36,  /* 2-bit codes, one f32 scale a tensor at byte n/4, n/4 + 32 bytes in all */
    TENSOR_TL1 = 38,   /* two weights an index of 4 bits, tiled by shape (kernels/tensor_tl.c); scale and size as I2_S */
    TENSOR_TL2 = 39,   /* three weights an index of 4 bits and a sign, tiled by shape; one f32 scale a tensor */
    TENSOR_Q2_0 = 42,  /* 2-bit codes with an f16 scale for 128 or for 64 weights: the number means both, n_bytes tells */
};

/* How the codes of an I2_S tensor are packed; the type number is the same for both. */
enum i2s_order {
    I2S_ORDER_128, /* x86 files, flat over the tensor: 128 weights in 32 bytes, byte j holds j, 32+j, 64+j, 96+j from the high bits down */
    I2S_ORDER_64,  /* some ARM builds: 64 weights in 16 bytes, byte j holds j, 16+j, 32+j, 48+j likewise */
};

/* A row-major matrix as it lies in a file: rows x cols weights, cols contiguous. Borrowed: must outlive what is made
 * from it, as a backend may read it in place. */
struct tensor_view {
    enum tensor_type type;
    enum i2s_order order;  /* I2_S only */
    const void *data;
    size_t n_bytes;
    size_t n_rows, n_cols;
    float factor;          /* ternary: multiplies the scale, rounded once; 0 = 1 */
    bool mapped;           /* the data is a mapping of a file that nobody writes: pages that were read may be dropped from memory */
    int fd;                /* mapped: that file, where the data begins at `offset`; open as long as the data is there */
    uint64_t offset;
};

/* "F16" for a type's number, NULL when it is not understood. Any thread. */
const char *tensor_type_name(uint32_t type);
/* Bytes that rows x cols weights of `type` take in a file, or 0 when the type is not understood, cols is no multiple of
 * its block, or the product overflows. Any thread. */
size_t tensor_bytes(uint32_t type, size_t n_rows, size_t n_cols);
/* True for TQ1_0, TQ2_0, Q2_0, I2_S, TL1 and TL2. */
bool tensor_type_is_ternary(uint32_t type);
/* True for what embeddings and heads may have: F32, F16, BF16, Q8_0, Q6_K and Q4_0. */
bool tensor_type_is_dense(uint32_t type);

/* ---- weights as they lie in files: for tools that read and write them. Any thread. */

/* Row `row` of a tensor of a dense type as f32: the values that the file means. out: [n_cols]. */
void tensor_read_row(const struct tensor_view *view, size_t row, float *out);
/* Row `row` of a ternary tensor as codes 0, 1, 2 for -1, 0, +1 (3 where the file is bad). codes: [n_cols]. */
void tensor_unpack_codes(const struct tensor_view *view, size_t row, uint8_t *codes);
/* Refuses what ternary_open refuses, and yields the scale. */
enum error_code tensor_check_ternary(const struct tensor_view *view, float *scale, struct error *err);
/* Writes a row of n values, a multiple of the type's block, as a dense type; F16, BF16 to nearest even, the others to least error. `out` gets
 * tensor_bytes(type, 1, n) bytes. */
void tensor_write_row(uint32_t type, const float *x, size_t n, void *out);
/* Writes a row of n codes as I2_S (I2S_ORDER_128, without the scale behind all rows; n a multiple of 128), TQ1_0 or TQ2_0 (multiples
 * of 256, whose scale F16 can hold). */
void tensor_write_codes(uint32_t type, const uint8_t *codes, size_t n, float scale, void *out);
/* True when `value` is one of F16's. */
bool tensor_fits_f16(float value);

/* ---- backend ---------------------------------------------------------------------------------------------------- */

struct backend;

/* The ternary layouts that kernels read at run time; all give the same integers. I2S: 2-bit codes for multiply-add; TL1: table lookups of
 * the sums of two weights; TL2: three weights an index. Mapped weights and CUDA have I2S only: ternary_format() says what is in use. */
enum ternary_format { TERNARY_AUTO, TERNARY_I2S, TERNARY_TL1, TERNARY_TL2 };

struct backend_options {
    const char *device;       /* "cpu" or "cuda:N"; NULL = "cpu" */
    int n_threads;            /* compute threads, the caller's included; 0 = what the machine and its cgroup offer */
    const char *isa;          /* highest instruction set to use: "portable", then on x86-64 "avx2", "avx512", "amx", on aarch64 "neon",
                               * "dotprod"; NULL = the best there is. One that the CPU lacks gives the best below it (see
                               * backend_info), one of another architecture is an error */
    bool pin;                 /* CPU: each compute thread keeps to a CPU of its own, of those that the process may use;
                               * backend_spare_thread keeps others off them */
    bool idle_priority;       /* CPU: compute threads run when no other thread of the machine wants to */
    const char *numa;         /* CPU, of several memory nodes: "auto" (or NULL): each thread's part of the weights lies on its node, and threads
                               * stay there; "interleave": weights lie evenly over all nodes; "off": as the system does */
    bool map_weights;         /* CPU: read ternary weights where the file lies when a kernel can, instead of repacking them for speed */
    void (*pace)(void *user); /* CPU with one thread: called about each millisecond of the portable kernels, within operations, and may wait; or
                               * NULL */
    void *pace_user;
};

struct backend_info {
    const char *device;       /* "cpu", "cuda:0" */
    const char *name;         /* CPU or GPU model name */
    const char *isa;          /* "portable", "avx512", "neon", "sm_90" */
    int n_threads;
    size_t memory_bytes;      /* of the device; for a CPU the machine's or the cgroup's limit */
    enum ternary_format auto_format; /* what TERNARY_AUTO is here: the fastest for one token, measured beforehand */
    const char *auto_reason;         /* why, in words */
};

/* Opens a device. ERROR_DEVICE_UNAVAILABLE when it (or, for cuda, its library libbitnet-cuda.so) is not there;
 * ERROR_VALIDATION_FAILED for an unknown device or instruction set. The caller closes it, after all that it made. */
enum error_code backend_open(const struct backend_options *options, struct backend **out, struct error *err);
void backend_close(struct backend *be);
/* A GPU of the machine, whether a backend can be opened on it or not. */
struct backend_device {
    char id[16], name[128], isa[16]; /* "cuda:0", its model, "sm_90" */
    size_t memory_bytes;
};
/* Lists the GPUs by their numbers: returns how many there are, of which the first `max` are written. With none *why (may be NULL) says
 * why not. Any thread. */
size_t backend_gpus(struct backend_device *out, size_t max, struct error *why);
/* Makes the calling thread the backend's: it gets the place and the priority of a compute thread, for good, and workers are started anew that
 * inherit its own. Whoever will call operations does this once; without it only the workers have them. */
void backend_adopt_thread(struct backend *be);
/* Keeps the calling thread, and those that it will make, to the CPUs that no compute thread has for its own (option `pin`), where there are
 * any: for threads that wait for networks and files. */
void backend_spare_thread(struct backend *be);
/* Strings live as long as the backend. Any thread. */
const struct backend_info *backend_info(const struct backend *be);

/* The null device computes nothing, holds nothing and answers at once: row r of the logits has one token far above all others, a function of
 * the row's position alone. No name opens it, so that nobody gets it by mistake. */
struct null_options {
    int64_t step_ns;             /* a forward pass takes at least this */
    bool (*fails)(void *user);   /* asked once a pass, from its thread: true makes backend_sync report a device error. For tests; or NULL */
    void *user;
};
enum error_code backend_open_null(const struct null_options *options, struct backend **out, struct error *err);
/* The tokens that a null device chooses from, copied: at position p it is ids[kernel_null_choice(p, n)]. Without a list it is any of the
 * vocabulary. False when memory is out. */
bool backend_null_choices(struct backend *be, const uint32_t *ids, size_t n);
uint32_t kernel_null_choice(uint32_t position, uint32_t n); /* below n */

/* Zeroed device memory, 64-byte aligned, or NULL when there is none. Freed by backend_free (NULL is allowed). */
void *backend_alloc(struct backend *be, size_t n_bytes);
void backend_free(struct backend *be, void *dev);
/* ERROR_MEMORY_EXHAUSTED, with what is needed and what is free, when n_bytes in all would not fit on the device now; where the system shares its
 * memory out as it is used, there is no such limit. */
enum error_code backend_room(struct backend *be, size_t n_bytes, struct error *err);
/* Copies; returns when the bytes have arrived (download waits for the operations before it). */
void backend_upload(struct backend *be, void *dev, const void *host, size_t n_bytes);
void backend_download(struct backend *be, void *host, const void *dev, size_t n_bytes);
/* Waits for all operations; reports a device error since the last call. */
enum error_code backend_sync(struct backend *be, struct error *err);

/* What the device does at most, measured now with its threads and instruction set, for benchmarks: bytes a second that it reads from
 * memory in a stream; int8 multiply-adds a second out of registers. Takes less than a second and 256 MB or 32 MB a thread. 0 when the
 * device has no such measurement or memory is out. */
enum backend_limit { LIMIT_READ_BYTES, LIMIT_INT8 };
double backend_measure(struct backend *be, enum backend_limit limit);

/* ---- weights ---------------------------------------------------------------------------------------------------- */

struct ternary; /* n_rows x n_cols of {-1, 0, +1} and one f32 scale */
struct dense;   /* n_rows x n_cols, F32 F16 BF16 Q8_0 Q6_K or Q4_0, kept in the file's type: embedding and LM head */

/* Makes the runtime form of a ternary matrix: repacked, or with map_weights read in place where a kernel can. n_cols must be a multiple
 * of 128 or is padded with zeros when repacked (needs a multiple of 32). Refuses (ERROR_MODEL_LOAD_FAILED): other
 * types, n_bytes that do not fit, a scale that is not finite and positive, a code 3, TQ block scales that differ within the
 * tensor (a block of zeros may have scale 0). The message names the first bad row and column. `format` TERNARY_AUTO lets
 * the backend choose. */
enum error_code ternary_open(struct backend *be, const struct tensor_view *view, enum ternary_format format,
                             struct ternary **out, struct error *err);
void ternary_close(struct backend *be, struct ternary *w);
enum ternary_format ternary_format(const struct ternary *w);
size_t ternary_memory_bytes(const struct ternary *w); /* allocated, not mapped */
/* Prepares `be` for a matrix that another backend made, so that operations of both may read it at the same time. It stays the owner's, which
 * must outlive its use. False when `be` cannot read what `owner` makes, or memory is out. Where it can, dev memory and ropes of the two are
 * for both, too. */
bool ternary_share(struct backend *be, const struct backend *owner, const struct ternary *w);

enum error_code dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err);
void dense_close(struct backend *be, struct dense *w);
size_t dense_memory_bytes(const struct dense *w);
/* Adds an eight-bit copy of the table that op_logits_needed screens rows with (kernels/screen.h): faster, no other result. The file's
 * rows are then read one by one only. False when it would not help (the device has none, a row is not finite) or memory is out. */
bool dense_screen(struct backend *be, struct dense *w);

/* A vector of n F32, F16 or BF16 weights (a norm) as F32 on the device; freed with backend_free. */
enum error_code vector_open(struct backend *be, const struct tensor_view *view, float **dev_out, struct error *err);

/* ---- operations: x, y are dev f32, row-major, rows contiguous ---------------------------------------------------- */

/* Activations quantised to int8, one scale a row (absmax): q = clamp(rint(x * s), -128, 127), s = 127 / max(absmax, 1e-5).
 * A value that is not finite counts as 0. */
struct activations {
    int8_t *q;      /* dev [max_rows][stride], zero beyond n_cols */
    float *scale;   /* dev [max_rows]: s */
    int32_t *sum;   /* dev [max_rows]: sum of the row's q */
    size_t max_rows, max_cols, stride;
};
/* Room for max_rows x max_cols; false when memory is out. */
bool activations_open(struct backend *be, size_t max_rows, size_t max_cols, struct activations *out);
void activations_close(struct backend *be, struct activations *a);

/* y[i] = row ids[i] of the table, as f32. y [n][n_cols]. */
void op_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y);

/* x[i] = x[rows[i]] for n rows that ascend; x [..][dim]. False, and nothing done, where the device cannot. */
bool op_keep_rows(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n);

/* y[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight. x, y [n][dim]; y may be x. */
void op_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y);

/* Quantises x [n][dim] into `a`. */
void op_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a);

/* op_rmsnorm, then op_quantize of y: a row passes while it is in the cache. Without weight (NULL) x is quantised, y left alone. */
void op_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                      struct activations *a);

/* y[m][i][r] = (sum_k q[i][k] * t[m][r][k]) / s[i] * scale[m], for n_mats matrices (at most 4) of the same n_cols that read the same
 * activations (q, k, v; gate, up). y[m] is [n][rows of m]. The integer sum is exact. */
void op_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
               const struct activations *a, size_t n);

/* x[i] += y[i], n_values in all. */
void op_add(struct backend *be, float *x, const float *y, size_t n_values);

/* op_add of add [n][dim] to x, then op_norm_quantize of x; y may be add. */
void op_add_norm_quantize(struct backend *be, float *x, const float *add, const float *weight, float eps, size_t n, size_t dim, float *y,
                          struct activations *a);

/* Gated FFN activation: RELU2: y = relu(gate)^2 * up; SILU: y = gate * sigmoid(gate) * up. y may be gate. */
enum ffn_act { FFN_RELU2, FFN_SILU };
void op_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y);

/* op_ffn_act of [n][dim] into y, which may be gate, then op_norm_quantize of y in place. */
void op_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                     size_t n, size_t dim, float *y, struct activations *a);

/* Rotary position embedding. NEOX rotates (i, i + d/2), NORM rotates (2i, 2i+1). The table of cos and sin is made once, in
 * double precision, for positions 0..n_positions-1; factors ([n_dims/2], divides each frequency) may be NULL. */
enum rope_style { ROPE_NEOX, ROPE_NORM };
struct rope;
struct rope *rope_open(struct backend *be, enum rope_style style, size_t n_dims, size_t n_positions, double freq_base,
                       const float *factors);
void rope_close(struct backend *be, struct rope *r);
/* In place on x [n][n_heads][head_dim]; the first n_dims of each head are rotated. positions: host [n]. */
void op_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
             const int32_t *positions);

/*
 * Paged KV cache of one model: for each layer, n_blocks blocks of `block_size` positions.
 *   k, v: [n_layers][n_blocks][n_kv_heads][block_size][head_dim], F16 or int8
 *   k_scale, v_scale: [n_layers][n_blocks][n_kv_heads][block_size], what the int8 values of a position and head are multiplied with
 */
enum kv_type { KV_F16, KV_INT8 };
#define KV_BLOCK_SIZE 32 /* positions; divides the attention segment of 256 */
struct kv_cache {
    void *k, *v;             /* dev */
    float *k_scale, *v_scale; /* dev; NULL for F16 */
    enum kv_type type;
    size_t n_layers, n_blocks, n_kv_heads, head_dim;
};
/* Room for the cache. ERROR_MEMORY_EXHAUSTED; ERROR_VALIDATION_FAILED when head_dim is above 256 or the device has no such type. */
enum error_code kv_cache_open(struct backend *be, enum kv_type type, size_t n_layers, size_t n_blocks, size_t n_kv_heads,
                              size_t head_dim, struct kv_cache *out, struct error *err);
void kv_cache_close(struct backend *be, struct kv_cache *kv);
/* K and V of one block, scales included; 0 when that overflows. */
size_t kv_cache_block_bytes(enum kv_type type, size_t n_layers, size_t n_kv_heads, size_t head_dim);

/* Where the rows of a batch live. Host arrays, borrowed for the call. */
struct batch_view {
    size_t n;                    /* rows */
    const int32_t *positions;    /* [n] position of each row in its sequence, from 0 */
    const int32_t *sequences;    /* [n] index of its block table */
    const int32_t *block_tables; /* [n_sequences][max_blocks] block ids in order of position */
    size_t n_sequences, max_blocks;
};

/* A pass: the operations between op_pass_begin and op_pass_end, which read no other positions, sequences, tables and ids than these, and
 * what is computed of them. A device that has its own memory takes a copy of them once. One that `repeats` is of the same operations on the same
 * memory whenever `of` and batch->n are the same, so that a device may record it: where op_pass_begin is false, a recording has been run,
 * and neither the operations nor op_pass_end are called. */
struct op_pass {
    uint64_t of;                 /* whose passes these are: no others ever have the same */
    const struct kv_cache *kv;
    const struct batch_view *batch;
    const int32_t *ids;          /* [n] */
    bool repeats;
};
bool op_pass_begin(struct backend *be, const struct op_pass *p);
void op_pass_end(struct backend *be);

/* Stores k, v [n][n_kv_heads][head_dim], rounded to F16 or quantised (arith.h), at each row's position of `layer`. */
void op_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                 const float *k, const float *v);

/* op_rope of q [n][n_heads][head_dim] and of k, then op_kv_write. */
void op_rope_write(struct backend *be, const struct rope *r, float *q, size_t n_heads, float *k, const float *v, const struct kv_cache *kv,
                   size_t layer, const struct batch_view *batch);

/* Causal attention: row i attends to positions 0..positions[i] of its sequence as they lie in the cache (write first).
 * q is rounded to F16 (int8: to 16 bits); scores are scaled by 1/sqrt(head_dim). q, y [n][n_heads][head_dim]; head h reads KV head
 * h / (n_heads / n_kv_heads). */
void op_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                  const float *q, size_t n_heads, float *y);

/* logits[j][r] = dot(table[r], x[rows[j]]) for n_out chosen rows of x [.][n_cols] -> host logits [n_out][table rows].
 * Blocks until they are there. round_f16: x is rounded to F16 first, as bitnet.cpp does for a batch of one token. */
void op_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
               bool round_f16, float *logits);

/* What will be read of one row of logits, so that the rest need not be computed: the listed rows, whatever their logits, and of the
 * others what one of `top`, `within` and `temperature` says. All three 0: every logit. */
#define LOGITS_MAX_LISTS 3
struct logits_need {
    size_t top;        /* the `top` largest, and what is equal to the last of them */
    float within;      /* > 0: those at most this far below the largest */
    float temperature; /* > 0: those that may be the argmax of logit / temperature + kernel_gumbel(seed, choice, position, row), computed
                        * in double */
    uint64_t seed;
    uint32_t choice, position;
    struct logits_list {
        const uint32_t *ids; /* [n] `stride` words apart; borrowed; may repeat */
        size_t n, stride;
    } lists[LOGITS_MAX_LISTS];
    const uint64_t *allowed; /* a bit a row, n_allowed of them set: no other row is read, listed or not; NULL: all are allowed */
    size_t n_allowed;
};

/* As op_logits without round_f16, for rows of which needs[j] says what will be read: those logits are exactly op_logits',
 * others may be -infinity instead. */
void op_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                      const struct logits_need *needs, float *logits);

/* Bytes of a table that op_logits_needed must read for a row of such a need (NULL: for all logits), exact rows after a screen
 * not counted. */
size_t dense_read_bytes(struct backend *be, const struct dense *table, const struct logits_need *need);

/* ---- scalar definitions that samplers share with devices (see arith.h) ------------------------------------------ */

float kernel_exp(float x); /* e^x */
float kernel_log(float x); /* natural logarithm of a positive, normal x */
/* Gumbel(0,1) noise of a token: a function of its four arguments only (Philox4x32-10; see arith.h). */
float kernel_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id);
/* Noise of tokens first .. first + KERNEL_GUMBELS - 1 at once; first is a multiple of 4. */
#define KERNEL_GUMBELS 64
void kernel_gumbels(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float out[KERNEL_GUMBELS]);
/* A 64-bit hash of bytes for cache keys and known answers (FNV-1a, 64 bits). */
uint64_t kernel_hash(uint64_t seed, const void *data, size_t n_bytes);

#endif
