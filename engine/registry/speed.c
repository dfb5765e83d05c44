/*
 * How fast two models are, side by side: some steps of each over views of their weights, the quickest counts. Up to the head, of which serving
 * reads a screen that views do not have: read whole, a head of another type would count for what it does not cost.
 */
#include "engine/loop.h"
#include "engine/registry/swap.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define N_STEPS 10

struct probe {
    struct backend *backend;
    struct model *model; /* a view */
    struct forward *forward;
    struct kv_cache kv;
    float *hidden; /* [dim] */
    int64_t best_ns;
};

static void probe_close(struct probe *p)
{
    free(p->hidden);
    if (p->kv.k)
        kv_cache_close(p->backend, &p->kv);
    forward_close(p->forward);
    model_view_close(p->model);
    backend_close(p->backend);
}

static enum error_code probe_open(struct probe *p, const struct engine *e, struct error *err)
{
    const struct model_shape *shape = &e->model->shape;
    const struct backend_options options = {.device = "cpu", .isa = backend_info(e->backend)->isa, .n_threads = 1, .numa = "off"};
    *p = (struct probe){.best_ns = CLOCK_NEVER};
    if (strcmp(engine_model(e)->device, "cpu") != 0)
        return error_set(err, ERROR_DEVICE_UNAVAILABLE, "the model is on device %s", engine_model(e)->device);
    enum error_code code = backend_open(&options, &p->backend, err);
    if (!code)
        code = model_view_open(e->model, p->backend, &p->model, err);
    if (!code)
        code = forward_open(p->model, 1, &p->forward, err);
    if (!code)
        code = kv_cache_open(p->backend, e->kv.type, shape->n_layers, 1, shape->n_kv_heads, shape->head_dim, &p->kv, err);
    if (!code && !(p->hidden = malloc(shape->dim * sizeof *p->hidden)))
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a hidden state");
    if (code) {
        probe_close(p);
        *p = (struct probe){0};
    }
    return code;
}

static enum error_code probe_step(struct probe *p, int32_t position, struct error *err)
{
    const int32_t block = 0, sequence = 0, id = 1, row = 0;
    const struct batch_view batch = {.n = 1, .positions = &position, .sequences = &sequence, .block_tables = &block, .n_sequences = 1,
                                     .max_blocks = 1};
    int64_t start_ns = clock_now_ns();
    enum error_code code = forward_hidden(p->forward, &p->kv, &batch, &id, &row, 1, p->hidden, err);
    int64_t ns = clock_now_ns() - start_ns;
    p->best_ns = ns < p->best_ns ? ns : p->best_ns;
    return code;
}

enum error_code speed_measure(struct engine *a, struct engine *b, double *a_per_second, double *b_per_second, struct error *err)
{
    struct probe x, y = {0};
    enum error_code code = probe_open(&x, a, err);
    if (code)
        return code;
    code = probe_open(&y, b, err);
    for (int32_t i = 0; !code && i < N_STEPS; i++)
        if (!(code = probe_step(&x, i, err)))
            code = probe_step(&y, i, err);
    *a_per_second = code ? -1 : (double)CLOCK_NS_PER_S / (double)x.best_ns;
    *b_per_second = code ? -1 : (double)CLOCK_NS_PER_S / (double)y.best_ns;
    probe_close(&x);
    probe_close(&y);
    return code;
}
