/*
 * A model: its file, weights bound to a backend, tokenizer, and the forward pass. Immutable once loaded but for the
 * scratch that a `struct forward` owns; used by one thread at a time.
 */
#ifndef ENGINE_MODEL_MODEL_H
#define ENGINE_MODEL_MODEL_H

#include "engine/engine.h"
#include "engine/model/gguf.h"

enum model_arch { ARCH_BITNET_B158, ARCH_BITNET, ARCH_LLAMA, ARCH_QWEN3 };

/* What becomes of the rows of a text: with POOLING_NONE logits, else one vector, with the numbers of GGUF's key. */
enum pooling { POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST };

/* Shapes, read from the metadata and validated against the tensors before anything runs. */
struct model_shape {
    enum model_arch arch;
    char arch_name[32];
    uint32_t n_layers, dim, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, context_length, rope_dims;
    double rope_freq_base;
    float norm_eps;
    enum rope_style rope_style;
    enum ffn_act ffn_act;
    bool has_sub_norms;   /* a norm before o and down */
    bool has_input_norms; /* one before each projection, over that of the block; and one of each head of q and k */
    enum pooling pooling;
    bool causal; /* a row attends to the positions up to its own; else to all of its text, which is then computed in one step */
};

struct model_layer {
    float *attn_norm, *ffn_norm;         /* dev [dim] */
    float *attn_sub_norm, *ffn_sub_norm; /* dev [n_heads * head_dim], [ffn_dim]: of what o and down read; NULL where the shape has neither */
    float *q_norm, *k_norm, *v_norm, *gate_norm, *up_norm; /* dev [dim]: of what that projection reads; NULL without has_input_norms */
    float *q_head_norm, *k_head_norm;                      /* dev [head_dim]: of each head, before rotation; likewise */
    struct ternary *q, *k, *v, *o, *gate, *up, *down;
};

struct model {
    struct gguf *gguf;           /* owned: weights may be read in place */
    char *path;                  /* owned; for errors */
    struct backend *backend;     /* borrowed; of the weights, while there are any */
    struct model_shape shape;
    enum i2s_order i2s_order;    /* of I2_S tensors */
    struct model_layer *layers;  /* [n_layers] */
    struct dense *embedding, *head; /* head is embedding when tied */
    bool head_screened;          /* of the file's head only single rows are read */
    float *output_norm;          /* dev [dim] */
    struct rope *rope;
    struct tokenizer *tokenizer; /* owned */
    uint64_t n_parameters;
    size_t context_length;       /* of the rope table; 0 = the model's */
    enum ternary_format asked;   /* layout that was asked for */
    bool screens_head;           /* see model_options */
    size_t weight_bytes;         /* allocated and mapped */
    size_t layers_bytes;         /* what a pass reads of the layers: matrices as kernels read them, norms */
    uint64_t n_ternary;          /* weights of ternary matrices: multiply-adds of a row */
    enum ternary_format format;
};

struct model_options {
    const char *path;
    enum ternary_format format;
    int i2s_order;               /* or -1: as the weights say; see model_i2s_order */
    size_t context_length;       /* rope table; 0 = the model's */
    const struct file_opener *opener; /* see engine_options */
    bool screen_head;            /* an eight-bit copy of the head, where the device has use for one; see dense_screen */
};

/* Reads and checks the shapes of an open file only: keys, every tensor's presence, type and dimensions. */
enum error_code model_shape_read(const struct gguf *g, struct model_shape *out, struct error *err);

/* Maps and validates, and binds when `be` is not NULL. Nothing is left behind on failure. */
enum error_code model_open(const struct model_options *options, struct backend *be, struct model **out, struct error *err);
void model_close(struct model *m);

/* Binds the weights of a model that has none to a backend, from the file as it was opened. on_load: see engine_options; or NULL. Nothing is bound on
 * failure. */
typedef bool load_progress(void *user, double share);
enum error_code model_bind(struct model *m, struct backend *be, load_progress *on_load, void *user, struct error *err);
/* Frees the weights on their device, if there are any. */
void model_unbind(struct model *m);

/* The model for another backend that reads the same memory (see ternary_share), used by one thread beside the first: it borrows the weights,
 * and reads embedding and head from the file, without a screen. `of` and its backend must outlive it. DEVICE_UNAVAILABLE when the backend cannot
 * read them. Closed with model_view_close. */
enum error_code model_view_open(const struct model *of, struct backend *be, struct model **out, struct error *err);
void model_view_close(struct model *view);
/* A view has read the whole head, of which its model needs single rows only: the file's pages leave memory, unless the model reads all of it. */
void model_view_forget(const struct model *view);

/* Activations of a forward pass for up to max_rows rows. */
struct forward;
enum error_code forward_open(struct model *m, size_t max_rows, struct forward **out, struct error *err);
void forward_close(struct forward *f);
size_t forward_memory_bytes(const struct forward *f);

/* Runs batch->n rows (token ids[i] at batch->positions[i]) through the model, writing K and V into `kv`, then the head for the n_out rows
 * out_rows[], ascending, -> host logits [n_out][vocab_size]. needs[j] says what will be read of row j (see op_logits_needed); NULL = all, and then
 * round_head_f16 as for op_logits. Allocates nothing. */
enum error_code forward_run(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch, const int32_t *ids,
                            const int32_t *out_rows, size_t n_out, const struct logits_need *needs, bool round_head_f16,
                            float *logits, struct error *err);

/* The same without the head, for a model that pools: the normalised hidden states -> host [n_out][dim]. Of a model that is not causal the
 * batch has whole texts. */
enum error_code forward_hidden(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch, const int32_t *ids,
                               const int32_t *out_rows, size_t n_out, float *hidden, struct error *err);

#endif
