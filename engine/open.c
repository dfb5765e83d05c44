/* Opening and closing an engine: backend -> model -> memory -> locks -> thread, and back. */
#include "engine/accuracy.h"
#include "engine/loop.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/background.h"
#include "engine/estimate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_QUEUE 256
#define MAX_SEQUENCES 4096
#define MAX_BATCH_TOKENS 65536
#define MAX_QUEUE 1000000
#define MAX_QUEUE_TOKENS 1000000000000

static enum error_code check_options(const struct engine_options *o, struct error *err)
{
    const struct {
        const char *name;
        size_t value, max;
    } fields[] = {
        {"max_sequences", o->max_sequences, MAX_SEQUENCES},
        {"max_batch_tokens", o->max_batch_tokens, MAX_BATCH_TOKENS},
        {"queue_limit", o->queue_limit, MAX_QUEUE},
        {"queue_tokens", o->queue_tokens, MAX_QUEUE_TOKENS},
    };
    const struct {
        const char *name;
        double value;
    } shares[] = {{"accuracy_share", o->accuracy_share}, {"accuracy_threshold", o->accuracy_threshold}};
    if (!o->model_path)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model_path",
                               "expected the path of a GGUF file, found none");
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value > fields[i].max)
            return error_set_param(err, ERROR_VALIDATION_FAILED, fields[i].name, "expected at most %zu, found %zu",
                                   fields[i].max, fields[i].value);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        if (!(shares[i].value >= 0 && shares[i].value <= 1))
            return error_set_param(err, ERROR_VALIDATION_FAILED, shares[i].name, "expected 0 to 1, found %g", shares[i].value);
    return ERROR_NONE;
}

static enum error_code open_model(struct engine *e, const struct engine_options *o, struct error *err)
{
    const struct model_options mo = {.path = o->model_path,
                                     .format = o->format,
                                     .i2s_order = o->i2s_order,
                                     .context_length = o->context_length,
                                     .opener = o->opener,
                                     .screen_head = true};
    return model_open(&mo, NULL, &e->model, err);
}

static enum error_code open_kv(struct engine *e, const struct engine_options *o, struct error *err)
{
    const struct model_shape *s = &e->model->shape;
    size_t block_bytes = kv_cache_block_bytes(o->kv_type, s->n_layers, s->n_kv_heads, s->head_dim);
    uint32_t context_length = model_context_length(e->model, o);
    if (!s->causal && context_length > e->loop.scheduler.max_rows) {
        log_warn("engine", "a text of this model is computed in one step: the context is cut to max_batch_tokens",
                 LOG_INT("context_length", context_length), LOG_INT("max_batch_tokens", e->loop.scheduler.max_rows));
        context_length = (uint32_t)e->loop.scheduler.max_rows;
    }
    size_t n_blocks = engine_kv_blocks(s, o, context_length, backend_info(e->model->backend)->memory_bytes);
    if (n_blocks == 0 || n_blocks > INT32_MAX)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "kv_cache_bytes",
                               "expected room for 1 to %d blocks of %zu bytes, found %zu bytes", INT32_MAX, block_bytes,
                               o->kv_cache_bytes);
    if (n_blocks * KV_BLOCK_SIZE < context_length) {
        log_warn("engine", "the KV cache is smaller than the context, which is cut to it",
                 LOG_INT("context_length", context_length), LOG_INT("positions", n_blocks * KV_BLOCK_SIZE));
        context_length = (uint32_t)n_blocks * KV_BLOCK_SIZE;
    }
    enum error_code code =
        kv_cache_open(e->model->backend, o->kv_type, s->n_layers, n_blocks, s->n_kv_heads, s->head_dim, &e->kv, err);
    if (code)
        return code;
    if (!kvcache_open(&e->loop.kvcache, (uint32_t)n_blocks, (uint32_t)e->loop.max_sequences,
                      kvcache_blocks_for(context_length), !o->no_prefix_cache && s->pooling == POOLING_NONE))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the tables of %zu KV blocks", n_blocks);
    if (!e->limits.context_length) /* another device's cache is never smaller than the context */
        e->limits.context_length = context_length;
    return ERROR_NONE;
}

/* What one token's text can be: its bytes, those held back before it, each replaced by U+FFFD at worst. */
static void measure_tokens(struct engine *e)
{
    const struct tokenizer *t = e->model->tokenizer;
    size_t longest = 1;
    for (uint32_t id = 0; id < tokenizer_n_tokens(t); id++) {
        size_t n_bytes = 0;
        if (tokenizer_piece(t, id, &n_bytes) && n_bytes > longest)
            longest = n_bytes;
    }
    e->limits.max_token_bytes = longest;
    e->max_stream_bytes = 3 * (longest + 4);
}

static bool alloc_arrays(struct loop *l, size_t n_outputs)
{
    size_t n = l->max_sequences, rows = l->scheduler.max_rows, n_out = l->max_out;
    l->running = calloc(n, sizeof *l->running);
    l->free_slots = calloc(n, sizeof *l->free_slots);
    l->known = calloc((size_t)l->kvcache.max_blocks * KV_BLOCK_SIZE, sizeof *l->known);
    l->items = calloc(n, sizeof *l->items);
    l->ids = calloc(rows, sizeof *l->ids);
    l->positions = calloc(rows, sizeof *l->positions);
    l->slots = calloc(rows, sizeof *l->slots);
    l->out_rows = calloc(n_out, sizeof *l->out_rows);
    l->out_sequences = calloc(n_out, sizeof *l->out_sequences);
    l->needs = calloc(n_out, sizeof *l->needs);
    l->masks = calloc(n_out, sizeof *l->masks);
    l->logits = calloc(n_out, n_outputs * sizeof *l->logits);
    return l->running && l->free_slots && l->known && l->items && l->ids && l->positions && l->slots && l->out_rows &&
           l->out_sequences && l->needs && l->masks && l->logits;
}

static enum error_code open_on(void *user, struct backend *be, struct error *err)
{
    struct engine *e = user;
    const struct engine_options *o = &e->options;
    enum error_code code = backend_room(be, engine_estimate_bytes(e->model->gguf, &e->model->shape, o, backend_info(be)->memory_bytes), err);
    if (!code)
        code = model_bind(e->model, be, o->on_load, o->on_load_user, err);
    if (!code && o->null_model)
        code = model_null_choices(e->model, err);
    if (!code)
        code = forward_open(e->model, e->loop.scheduler.max_rows, &e->loop.forward, err);
    return code ? code : open_kv(e, o, err);
}

static void close_on(void *user)
{
    struct engine *e = user;
    kvcache_close(&e->loop.kvcache);
    e->loop.kvcache = (struct kvcache){0};
    if (e->kv.k)
        kv_cache_close(e->model->backend, &e->kv);
    e->kv = (struct kv_cache){0};
    forward_close(e->loop.forward);
    e->loop.forward = NULL;
    if (e->model)
        model_unbind(e->model);
}

enum error_code engine_to_device(struct engine *e, const char *after, char reason[DEVICE_REASON_BYTES], struct error *err)
{
    close_on(e);
    backend_close(e->backend);
    e->backend = NULL;
    return devices_open(&e->options, after, &(struct device_load){open_on, close_on, e}, &e->backend, reason, err);
}

static enum error_code open_memory(struct engine *e, const struct engine_options *o, struct error *err)
{
    struct loop *l = &e->loop;
    size_t vocab_size = e->limits.vocab_size = e->model->shape.vocab_size;
    bool embeds = e->model->shape.pooling != POOLING_NONE;
    size_t n_outputs = embeds ? e->model->shape.dim : vocab_size;
    l->speculate = !o->no_speculation;
    e->limits.embedding_size = embeds ? e->model->shape.dim : 0;
    l->max_out = embeds ? l->scheduler.max_rows : engine_max_out(o);
    measure_tokens(e);
    enum error_code code = sampler_open((uint32_t)vocab_size, &l->sampler, err);
    if (code)
        return code;
    buffer_init(&l->text, e->max_stream_bytes);
    if (!alloc_arrays(l, n_outputs) || !buffer_reserve(&l->text, e->max_stream_bytes))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a batch of %zu rows of %zu outputs",
                         l->max_out, n_outputs);
    for (size_t i = 0; i < l->max_sequences; i++)
        l->free_slots[l->n_free_slots++] = (uint32_t)(l->max_sequences - 1 - i);
    return ERROR_NONE;
}

enum error_code engine_describe(struct engine *e, const char *reason, const char *lost_device, double load_seconds, struct error *err)
{
    struct model_description *d = calloc(1, sizeof *d);
    const struct loop *l = &e->loop;
    size_t n_outputs = e->limits.embedding_size ? e->limits.embedding_size : e->limits.vocab_size;
    if (!d)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a description");
    model_describe(e->model, &e->options, reason, d);
    struct engine_model *m = &d->model;
    m->n_kv_blocks = l->kvcache.n_blocks;
    m->kv_bytes = m->n_kv_blocks * kv_cache_block_bytes(e->kv.type, e->kv.n_layers, e->kv.n_kv_heads, e->kv.head_dim);
    m->kv_block_size = KV_BLOCK_SIZE;
    m->context_length = e->limits.context_length;
    m->scratch_bytes = forward_memory_bytes(l->forward) + sampler_memory_bytes(l->sampler) + l->max_out * n_outputs * sizeof *l->logits;
    m->load_seconds = load_seconds;
    if (lost_device) {
        snprintf(d->lost_device, sizeof d->lost_device, "%s", lost_device);
        m->lost_device = d->lost_device;
    }
    e->options.model_path = d->path;
    e->options.model_id = d->id;
    d->previous = atomic_load_explicit(&e->description, memory_order_relaxed);
    atomic_store_explicit(&e->description, d, memory_order_release);
    return ERROR_NONE;
}

static void close_descriptions(struct engine *e)
{
    for (struct model_description *d = atomic_load_explicit(&e->description, memory_order_relaxed), *previous; d; d = previous) {
        previous = d->previous;
        free(d);
    }
}

static bool open_sync(struct engine *e, const struct queue_options *queue)
{
    if (!waker_init(&e->waker))
        return false;
    if (pthread_mutex_init(&e->stats_lock, NULL))
        goto fail_stats;
    if (pthread_mutex_init(&e->masker_lock, NULL))
        goto fail_masker;
    if (pthread_mutex_init(&e->model_lock, NULL))
        goto fail_model;
    if (!waker_cond_init(&e->drained))
        goto fail_drained;
    if (!queue_init(&e->queue, queue))
        goto fail_queue;
    atomic_init(&e->drain_deadline_ns, CLOCK_NEVER);
    e->has_sync = true;
    return true;
fail_queue:
    pthread_cond_destroy(&e->drained);
fail_drained:
    pthread_mutex_destroy(&e->model_lock);
fail_model:
    pthread_mutex_destroy(&e->masker_lock);
fail_masker:
    pthread_mutex_destroy(&e->stats_lock);
fail_stats:
    waker_fini(&e->waker);
    return false;
}

/* What takes long of opening: on a thread of its own, and the workers that it makes are at its priority until the loop starts them anew. */
struct loading {
    struct engine *e;
    const struct engine_options *options;
    enum error_code code;
    struct error *err;
};

static void load(void *arg)
{
    struct loading *l = arg;
    struct engine *e = l->e;
    char reason[DEVICE_REASON_BYTES];
    int64_t start_ns = clock_now_ns();
    e->loop.max_sequences = engine_max_sequences(l->options);
    e->loop.scheduler.max_rows = engine_max_rows(l->options);
    e->loop.scheduler.target_ns = l->options->target_step_ns;
    l->code = open_model(e, l->options, l->err);
    if (!l->code)
        l->code = engine_to_device(e, NULL, reason, l->err);
    if (!l->code)
        l->code = open_memory(e, l->options, l->err);
    if (!l->code)
        l->code = engine_describe(e, reason, NULL, (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_S, l->err);
}

/* Strings that a move to another device needs are the engine's own. */
static bool keep_options(struct engine *e, const struct engine_options *o)
{
    e->options = *o;
    e->options.isa = e->isa = o->isa ? strdup(o->isa) : NULL;
    e->options.numa = e->numa = o->numa ? strdup(o->numa) : NULL;
    return (e->isa || !o->isa) && (e->numa || !o->numa);
}

static enum error_code start(struct engine *e, const struct engine_options *o, struct error *err)
{
    const struct queue_options queue = {.limit = o->queue_limit ? o->queue_limit : DEFAULT_QUEUE,
                                        .max_tokens = o->queue_tokens,
                                        .max_wait_ns = o->queue_wait_ns,
                                        .max_returned = e->loop.max_sequences};
    if (!open_sync(e, &queue))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the engine's locks");
    e->default_timeout_ns = o->default_timeout_ns;
    e->stall_timeout_ns = o->stall_timeout_ns;
    e->tokenizer = e->model->tokenizer;
    e->turn = strcmp(backend_info(e->backend)->device, "cpu") == 0 ? o->turn : NULL;
    e->stats.n_kv_blocks = e->loop.kvcache.n_blocks;
    e->stats.last_turn_ns = clock_now_ns();
    if (o->accuracy_share > 0) {
        enum error_code code = accuracy_open(e, o->accuracy_share, o->accuracy_threshold, o->idle_priority, &e->accuracy, err);
        if (code)
            return code;
    }
    return waker_thread_start(&e->thread, loop_main, e) ? ERROR_NONE
                                                        : error_set(err, ERROR_MEMORY_EXHAUSTED, "no thread for the engine's loop");
}

static void close_loop(struct loop *l)
{
    free(l->logits);
    free(l->needs);
    free(l->masks);
    free(l->out_sequences);
    free(l->out_rows);
    free(l->slots);
    free(l->positions);
    free(l->ids);
    free(l->items);
    free(l->free_slots);
    free(l->known);
    free(l->running);
    buffer_fini(&l->text);
    masker_close(l->masker);
    sampler_close(l->sampler);
}

/* Frees what there is of an engine whose thread is over. */
static void free_engine(struct engine *e)
{
    accuracy_close(e->accuracy);
    if (e->has_sync) {
        queue_fini(&e->queue);
        pthread_cond_destroy(&e->drained);
        pthread_mutex_destroy(&e->model_lock);
        pthread_mutex_destroy(&e->masker_lock);
        pthread_mutex_destroy(&e->stats_lock);
        waker_fini(&e->waker);
    }
    close_loop(&e->loop);
    close_on(e);
    model_close(e->model);
    backend_close(e->backend);
    close_descriptions(e);
    free(e->isa);
    free(e->numa);
    free(e);
}

enum error_code engine_open(const struct engine_options *options, struct engine **out, struct error *err)
{
    enum error_code code = check_options(options, err);
    if (code)
        return code;
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an engine");
    struct loading loading = {.e = e, .options = options, .err = err};
    if (!keep_options(e, options))
        loading.code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an engine");
    else if (options->load_in_background)
        background_run(load, &loading);
    else
        load(&loading);
    code = loading.code;
    e->options.on_load = NULL; /* a move is no load, and goes on from the device that failed */
    e->options.device = NULL;
    if (!code)
        code = start(e, options, err);
    if (code) {
        free_engine(e);
        return code;
    }
    const struct engine_model *m = engine_model(e);
    log_info("engine", "model loaded", LOG_STR("model", m->id), LOG_STR("device", m->device), LOG_STR("quantization", m->quantization),
             LOG_STR("quantization_reason", m->quantization_reason),
             LOG_INT("context_length", e->limits.context_length), LOG_INT("kv_blocks", e->loop.kvcache.n_blocks),
             LOG_FLOAT("load_seconds", m->load_seconds));
    *out = e;
    return ERROR_NONE;
}

void engine_stop(struct engine *e)
{
    if (atomic_exchange(&e->stopped, true))
        return;
    engine_drain(e, clock_now_ns());
    atomic_store_explicit(&e->closing, true, memory_order_release);
    waker_wake(&e->waker);
    pthread_join(e->thread, NULL);
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    engine_stop(e);
    free_engine(e);
}
