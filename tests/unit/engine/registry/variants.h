/* Models made of the bundled one: good ones that say other things, and ones that must not be served. */
#ifndef TESTS_UNIT_ENGINE_REGISTRY_VARIANTS_H
#define TESTS_UNIT_ENGINE_REGISTRY_VARIANTS_H

#include "tests/unit/engine/model/rewrite.h"
#include "tests/unit/engine/registry/support.h"

/* The bundled model, changed, as folder/name. */
static inline const char *variant(const char *name, void (*change)(struct rw_file *f))
{
    const char *path = at(name);
    struct rw_file *f = rw_open(TALES);
    change(f);
    rw_save(f, path);
    rw_close(f);
    return path;
}

static inline void set_key(struct rw_file *f, const char *key, uint32_t value)
{
    memcpy(rw_key(f, key)->raw + 4, &value, 4);
}

/* Surer of what it says: as good, and another model. */
static inline void surer(struct rw_file *f)
{
    struct rw_tensor *t = rw_tensor(f, "output_norm.weight");
    for (size_t i = 0; i < t->n_bytes / 4; i++) {
        float w;
        memcpy(&w, t->data + 4 * i, 4);
        w *= 1.1f;
        memcpy(t->data + 4 * i, &w, 4);
    }
}
static inline void short_context(struct rw_file *f)
{
    set_key(f, "bitnet-b1.58.context_length", 64);
}
static inline void wrong(struct rw_file *f)
{
    rw_swap(f, "blk.0.attn_q.weight", "blk.3.attn_q.weight");
    rw_swap(f, "blk.0.attn_output.weight", "blk.4.attn_output.weight");
}
static inline void scale_nan(struct rw_file *f)
{
    struct rw_tensor *t = rw_tensor(f, "blk.0.ffn_up.weight");
    memset(t->data + t->n_bytes - 32, 0xff, 4);
}
static inline void norm_nan(struct rw_file *f)
{
    memset(rw_tensor(f, "blk.1.ffn_sub_norm.weight")->data + 400, 0xff, 4);
}
static inline void down_exchanged(struct rw_file *f)
{
    rw_swap(f, "blk.1.ffn_down.weight", "blk.4.ffn_down.weight");
}
static inline void tensor_missing(struct rw_file *f)
{
    rw_tensor(f, "blk.2.attn_sub_norm.weight")->drop = true;
}
static inline void merges_missing(struct rw_file *f)
{
    rw_key(f, "tokenizer.ggml.merges")->drop = true;
}
static inline void wrong_rows(struct rw_file *f)
{
    struct rw_tensor *t = rw_tensor(f, "blk.1.ffn_down.weight");
    t->dims[0] = 384, t->dims[1] = 1024;
}

#endif
