/*
 * The GGUF reader and the shape check against arbitrary bytes. What they accept is then walked: every key's value and every
 * tensor's bytes must lie in the input.
 */
#include "engine/model/gguf.h"
#include "engine/model/model.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(const uint8_t *data, size_t size, const void *part, size_t n)
{
    const uint8_t *p = part;
    CHECK(p >= data && p <= data + size && n <= (size_t)(data + size - p));
}

static void check_key(const struct gguf *g, const struct gguf_key *key, const uint8_t *data, size_t size)
{
    check_inside(data, size, key->name.data, key->name.n_bytes);
    for (uint64_t i = 0; i < key->n && key->strings; i++)
        check_inside(data, size, key->strings[i].data, key->strings[i].n_bytes);
    volatile double sum = 0;
    for (uint64_t i = 0; i < key->n && key->element_type != GGUF_STRING; i++)
        sum = gguf_number(key, i);
    (void)sum;
    char name[128];
    if (key->name.n_bytes >= sizeof name || memchr(key->name.data, 0, key->name.n_bytes))
        return;
    memcpy(name, key->name.data, key->name.n_bytes);
    name[key->name.n_bytes] = '\0';
    CHECK(gguf_find(g, name) == key);
}

static void check_tensor(const struct gguf_tensor *t, const uint8_t *data, size_t size)
{
    check_inside(data, size, t->name.data, t->name.n_bytes);
    CHECK((t->data == NULL) == (tensor_type_name(t->type) == NULL));
    if (t->data)
        check_inside(data, size, t->data, t->n_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct error err = {0};
    struct model_shape shape;
    if (gguf_open_memory(data, size, &g, &err)) {
        CHECK(err.code && err.message[0]);
        return 0;
    }
    for (size_t i = 0; i < gguf_n_keys(g); i++)
        check_key(g, gguf_key_at(g, i), data, size);
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        check_tensor(gguf_tensor_at(g, i), data, size);
    err = (struct error){0};
    enum error_code code = model_shape_read(g, &shape, &err);
    CHECK(!code == !err.code);
    CHECK(code || (shape.n_layers && shape.dim && shape.vocab_size && shape.n_heads % shape.n_kv_heads == 0));
    gguf_close(g);
    return 0;
}
