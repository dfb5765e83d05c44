/* GET /v1/models, /v1/models/{id}, /v1/models/{id}/status: one answer that OpenAI's clients and ours read. */
#include "gateway/models.h"

#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/error.h"
#include "gateway/models_merge.h"
#include "gateway/query.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 5000
#define AT(member) .offset = offsetof(struct models_params, member)

struct models_params {
    struct value status, quantization_format, device;
};

/* The statuses stand in the order of ModelStatus, from 1. */
const struct field models_fields[] = {
    {"status", FIELD_WORDS, AT(status), .choices = "loading|active|failed|unloading"},
    {"quantization_format", FIELD_CHOICE, AT(quantization_format), .choices = "i2s|tl1|tl2"},
    {"device", FIELD_TEXT, AT(device), 1, 16, .pattern = "^(cpu|gpu|cuda:[0-9]+)$", .form = "cpu, gpu or cuda:N"},
    {0},
};

static const char *const status_names[] = {NULL, "loading", "active", "failed", "unloading"};

static const char *status_name(const Bitnet__V1__Model *m)
{
    return (unsigned)m->status < 5 ? status_names[m->status] : NULL;
}

static bool is_gpu(const char *device)
{
    return strncmp(device, "cuda", 4) == 0;
}

static void put_openai(struct buffer *b, const Bitnet__V1__Model *m)
{
    emit_key(b, "id");
    emit_text(b, m->id);
    emit_key(b, "object");
    emit_text(b, "model");
    emit_key(b, "created");
    emit_int(b, m->created_unix);
    emit_key(b, "owned_by");
    emit_text(b, "bitnetd");
}

static void put_mb(struct buffer *b, const char *key, uint64_t n_bytes)
{
    emit_fixed_if(b, key, n_bytes > 0, (double)n_bytes / 1048576.0, 2);
}

static void put_measured(struct buffer *b, const struct models_entry *e)
{
    const Bitnet__V1__Model *m = e->model;
    emit_key(b, "performance_metrics");
    emit_open(b, '{');
    if (m->avg_tokens_per_second > 0) {
        emit_key(b, "avg_tokens_per_second");
        emit_fixed(b, m->avg_tokens_per_second, 3);
    }
    if (m->avg_inference_time_ms > 0) {
        emit_key(b, "avg_inference_time_ms");
        emit_fixed(b, m->avg_inference_time_ms, 3);
    }
    if (m->_accuracy_case == BITNET__V1__MODEL___ACCURACY_ACCURACY) {
        emit_key(b, "accuracy_score");
        emit_fixed(b, m->accuracy, 6);
    }
    emit_key(b, "total_requests");
    emit_uint(b, m->total_requests);
    emit_close(b, '}');
    if (e->memory_bytes == 0 && e->gpu_memory_bytes == 0)
        return;
    emit_key(b, "resource_usage");
    emit_open(b, '{');
    put_mb(b, "memory_usage_mb", e->memory_bytes);
    put_mb(b, "gpu_memory_usage_mb", e->gpu_memory_bytes);
    emit_close(b, '}');
}

static void put_metadata(struct buffer *b, const Bitnet__V1__Model *m)
{
    emit_key(b, "model_metadata");
    emit_open(b, '{');
    emit_text_if(b, "architecture", m->architecture);
    emit_key(b, "parameter_count");
    emit_uint(b, m->parameter_count);
    emit_key(b, "vocab_size");
    emit_uint(b, m->vocab_size);
    emit_key(b, "context_length");
    emit_uint(b, m->context_length);
    emit_key(b, "file_size_bytes");
    emit_uint(b, m->file_size_bytes);
    emit_close(b, '}');
}

static void put_aliases(struct buffer *b, const Bitnet__V1__Model *m)
{
    if (m->n_aliases == 0)
        return;
    emit_key(b, "aliases");
    emit_open(b, '[');
    for (size_t i = 0; i < m->n_aliases; i++)
        emit_text(b, m->aliases[i]);
    emit_close(b, ']');
}

/* The fields of the contract's model; the braces are the caller's. */
static void put_ours(struct buffer *b, const struct models_entry *e)
{
    const Bitnet__V1__Model *m = e->model;
    emit_text_if(b, "status", status_name(m));
    emit_text_if(b, "message", m->message);
    emit_text_if(b, "path", m->path);
    emit_text_if(b, "quantization_format", m->quantization_format);
    emit_text_if(b, "device", m->device);
    if (m->load_seconds > 0) {
        emit_key(b, "load_time");
        emit_fixed(b, m->load_seconds, 3);
    }
    emit_key(b, "is_default");
    emit_bool(b, m->is_default);
    if (m->computes_embeddings) {
        emit_key(b, "computes_embeddings");
        emit_bool(b, true);
    }
    put_aliases(b, m);
    if (m->parameter_count > 0) /* its file has been read */
        put_metadata(b, m);
    put_measured(b, e);
}

/* ---- list ---- */

static bool device_fits(const struct value *wanted, const char *device)
{
    return !wanted->set || strcmp(wanted->text, device) == 0 || (strcmp(wanted->text, "gpu") == 0 && is_gpu(device));
}

static bool format_fits(const struct value *wanted, const char *format)
{
    static const char *const formats[] = {"i2s", "tl1", "tl2"};
    return !wanted->set || strcmp(formats[wanted->i], format) == 0;
}

static bool status_fits(const struct value *wanted, Bitnet__V1__ModelStatus status)
{
    return !wanted->set || (status > 0 && wanted->i >> (status - 1) & 1);
}

/* Takes the models that are not asked for out of an engine's list. */
static void filter(const struct models_params *p, Bitnet__V1__ListModelsResponse *list)
{
    size_t n = 0;
    for (size_t i = 0; i < list->n_models; i++) {
        Bitnet__V1__Model *m = list->models[i];
        if (format_fits(&p->quantization_format, m->quantization_format) && device_fits(&p->device, m->device))
            list->models[n++] = m;
        else
            bitnet__v1__model__free_unpacked(m, NULL);
    }
    list->n_models = n;
}

/* The models that are asked for, as models_merge gives them. Device and format are each engine's own; the status is that of
 * all engines together. */
static struct models_entry *wanted(const struct request *r, Bitnet__V1__ListModelsResponse **lists, size_t n_lists,
                                   size_t *n)
{
    struct models_params p = {0};
    struct failure f;
    json_t *holder = NULL;
    size_t n_all;
    failure_init(&f);
    query_parse(r, models_fields, &p, &holder, &f); /* as it was when the question was asked */
    for (size_t i = 0; i < n_lists; i++)
        filter(&p, lists[i]);
    struct models_entry *entries = models_merge(lists, n_lists, &n_all);
    *n = 0;
    for (size_t i = 0; entries && i < n_all; i++)
        if (status_fits(&p.status, entries[i].model->status))
            entries[(*n)++] = entries[i];
    json_decref(holder);
    failure_fini(&f);
    return entries;
}

static bool is_active(const struct models_entry *e)
{
    return e->model->status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
}

/* OpenAI's clients are told of models that answer. `whole`: with what only those who may read models see. */
static void put_list(struct buffer *b, const struct models_entry *entries, size_t n, bool whole)
{
    uint64_t n_active = 0;
    emit_open(b, '{');
    emit_key(b, "object");
    emit_text(b, "list");
    emit_key(b, "data");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++) {
        if (!is_active(&entries[i]))
            continue;
        n_active++;
        emit_open(b, '{');
        put_openai(b, entries[i].model);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    if (!whole) {
        emit_close(b, '}');
        return;
    }
    emit_key(b, "models");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++) {
        emit_open(b, '{');
        emit_key(b, "id");
        emit_text(b, entries[i].model->id);
        put_ours(b, &entries[i]);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    emit_key(b, "total_count");
    emit_uint(b, n);
    emit_key(b, "active_count");
    emit_uint(b, n_active);
    emit_close(b, '}');
}

static void put_one(struct buffer *b, const struct models_entry *e, bool whole)
{
    emit_open(b, '{');
    put_openai(b, e->model);
    if (whole)
        put_ours(b, e);
    emit_close(b, '}');
}

static void answer(struct request *r, const struct ask_all_answers *answers)
{
    size_t n;
    bool list = r->param[0] == '\0', whole = !r->access.restricted;
    Bitnet__V1__ListModelsResponse **lists = (Bitnet__V1__ListModelsResponse **)answers->messages;
    struct models_entry *entries = list ? wanted(r, lists, answers->n, &n) : models_merge(lists, answers->n, &n);
    if (!entries) {
        error_answer(r, ERROR_INTERNAL, "out of memory");
        return;
    }
    const struct models_entry *one = list ? NULL : models_find(entries, n, r->param);
    struct buffer body;
    buffer_init(&body, 16 << 20);
    if (list)
        put_list(&body, entries, n, whole);
    else if (one)
        put_one(&body, one, whole);
    if (list || one)
        request_json(r, 200, &body);
    else
        models_not_found(r, entries, n, r->param);
    buffer_fini(&body);
    free(entries);
}

static void ask(struct request *r)
{
    ask_engines(r, "/bitnet.v1.ModelService/List", "", 0, TIMEOUT_MS, &bitnet__v1__list_models_response__descriptor,
                answer);
}

void handle_models(struct request *r)
{
    struct models_params p = {0};
    struct failure f;
    json_t *holder = NULL;
    r->param[0] = '\0';
    failure_init(&f);
    if (query_parse(r, models_fields, &p, &holder, &f))
        ask(r);
    else
        error_respond(r, &f);
    json_decref(holder);
    failure_fini(&f);
}

void handle_model(struct request *r)
{
    if (query_empty(r))
        ask(r);
}

void handle_model_status(struct request *r)
{
    handle_model(r);
}
