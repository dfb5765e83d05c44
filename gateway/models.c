/* GET /v1/models, /v1/models/{id}, /v1/models/{id}/status: one answer that OpenAI's clients and ours read. */
#include "gateway/models.h"

#include "bitnet/v1/models.pb-c.h"
#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/error.h"
#include "gateway/query.h"

#include <stddef.h>
#include <string.h>

#define TIMEOUT_MS 5000
#define LIST "/bitnet.v1.ModelService/List"
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

static void put_if(struct buffer *b, const char *key, const char *text)
{
    if (!text || text[0] == '\0')
        return;
    emit_key(b, key);
    emit_text(b, text);
}

static void put_measured(struct buffer *b, const Bitnet__V1__Model *m)
{
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
    emit_key(b, "total_requests");
    emit_uint(b, m->total_requests);
    emit_close(b, '}');
    if (m->memory_bytes > 0) {
        emit_key(b, "resource_usage");
        emit_open(b, '{');
        emit_key(b, is_gpu(m->device) ? "gpu_memory_usage_mb" : "memory_usage_mb");
        emit_fixed(b, (double)m->memory_bytes / 1048576.0, 2);
        emit_close(b, '}');
    }
}

static void put_metadata(struct buffer *b, const Bitnet__V1__Model *m)
{
    emit_key(b, "model_metadata");
    emit_open(b, '{');
    put_if(b, "architecture", m->architecture);
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

/* The fields of the contract's model; the braces are the caller's. */
static void put_ours(struct buffer *b, const Bitnet__V1__Model *m)
{
    put_if(b, "status", status_name(m));
    put_if(b, "path", m->path);
    put_if(b, "quantization_format", m->quantization_format);
    put_if(b, "device", m->device);
    emit_key(b, "load_time");
    emit_fixed(b, m->load_seconds, 3);
    emit_key(b, "is_default");
    emit_bool(b, m->is_default);
    put_metadata(b, m);
    put_measured(b, m);
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

static bool fits(const struct models_params *p, const Bitnet__V1__Model *m)
{
    bool status = !p->status.set || (m->status > 0 && p->status.i >> (m->status - 1) & 1);
    return status && format_fits(&p->quantization_format, m->quantization_format) && device_fits(&p->device, m->device);
}

/* Takes the models that are not asked for out of the list. */
static void filter(const struct request *r, Bitnet__V1__ListModelsResponse *list)
{
    struct models_params p = {0};
    struct failure f;
    json_t *holder = NULL;
    size_t n = 0;
    failure_init(&f);
    query_parse(r, models_fields, &p, &holder, &f); /* as it was when the question was asked */
    for (size_t i = 0; i < list->n_models; i++) {
        Bitnet__V1__Model *m = list->models[i];
        if (fits(&p, m))
            list->models[n++] = m;
        else
            bitnet__v1__model__free_unpacked(m, NULL);
    }
    list->n_models = n;
    json_decref(holder);
    failure_fini(&f);
}

/* `whole`: with what only those who may read models see. */
static void put_list(struct buffer *b, const Bitnet__V1__ListModelsResponse *list, bool whole)
{
    uint64_t n_active = 0;
    emit_open(b, '{');
    emit_key(b, "object");
    emit_text(b, "list");
    emit_key(b, "data");
    emit_open(b, '[');
    for (size_t i = 0; i < list->n_models; i++) {
        const Bitnet__V1__Model *m = list->models[i];
        n_active += m->status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
        emit_open(b, '{');
        put_openai(b, m);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    if (!whole) {
        emit_close(b, '}');
        return;
    }
    emit_key(b, "models");
    emit_open(b, '[');
    for (size_t i = 0; i < list->n_models; i++) {
        emit_open(b, '{');
        emit_key(b, "id");
        emit_text(b, list->models[i]->id);
        put_ours(b, list->models[i]);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    emit_key(b, "total_count");
    emit_uint(b, list->n_models);
    emit_key(b, "active_count");
    emit_uint(b, n_active);
    emit_close(b, '}');
}

static void answer(struct request *r, const void *data, size_t n_bytes)
{
    Bitnet__V1__ListModelsResponse *list = bitnet__v1__list_models_response__unpack(NULL, n_bytes, data);
    if (!list) {
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
        return;
    }
    struct buffer body;
    buffer_init(&body, 16 << 20);
    if (r->param[0] == '\0') {
        filter(r, list);
        put_list(&body, list, !r->access.restricted);
    }
    for (size_t i = 0; r->param[0] != '\0' && body.n_bytes == 0 && i < list->n_models; i++)
        if (strcmp(list->models[i]->id, r->param) == 0) {
            emit_open(&body, '{');
            put_openai(&body, list->models[i]);
            if (!r->access.restricted)
                put_ours(&body, list->models[i]);
            emit_close(&body, '}');
        }
    if (body.n_bytes > 0)
        request_json(r, 200, &body);
    else
        error_answer(r, ERROR_MODEL_NOT_FOUND, "no model has the id %s", r->param);
    buffer_fini(&body);
    bitnet__v1__list_models_response__free_unpacked(list, NULL);
}

void handle_models(struct request *r)
{
    struct models_params p = {0};
    struct failure f;
    json_t *holder = NULL;
    r->param[0] = '\0';
    failure_init(&f);
    if (query_parse(r, models_fields, &p, &holder, &f))
        ask_engine(r, LIST, "", 0, TIMEOUT_MS, answer);
    else
        error_respond(r, &f);
    json_decref(holder);
    failure_fini(&f);
}

void handle_model(struct request *r)
{
    if (query_empty(r))
        ask_engine(r, LIST, "", 0, TIMEOUT_MS, answer);
}

void handle_model_status(struct request *r)
{
    handle_model(r);
}
