/* GET /v1/models, /v1/models/{id}, /v1/models/{id}/status: one answer that OpenAI's clients and ours read. */
#include "bitnet/v1/models.pb-c.h"
#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/error.h"

#include <string.h>

#define TIMEOUT_MS 5000
#define LIST "/bitnet.v1.ModelService/List"

static const char *const status_names[] = {NULL, "loading", "active", "failed", "unloading"};

static const char *status_name(const Bitnet__V1__Model *m)
{
    return (unsigned)m->status < 5 ? status_names[m->status] : NULL;
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
        emit_key(b, "memory_usage_mb");
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

/* Value of a query parameter up to '&', percent-encoding left as it is: no value that filters take needs it. */
static bool query_value(const char *query, const char *name, const char **value, size_t *n)
{
    size_t n_name = strlen(name);
    for (const char *p = query; *p; p += *n + (p[*n] == '&')) {
        *n = strcspn(p, "&");
        if (*n > n_name && p[n_name] == '=' && memcmp(p, name, n_name) == 0) {
            *value = p + n_name + 1;
            *n -= n_name + 1;
            return true;
        }
    }
    return false;
}

/* True when `text` is one of the comma-separated words of the parameter, or the parameter is absent. */
static bool passes(const char *query, const char *name, const char *text)
{
    const char *value;
    size_t n;
    if (!query_value(query, name, &value, &n))
        return true;
    for (const char *end = value + n; text && value < end;) {
        size_t n_word = 0;
        while (value + n_word < end && value[n_word] != ',')
            n_word++;
        if (n_word == strlen(text) && memcmp(value, text, n_word) == 0)
            return true;
        value += n_word + 1;
    }
    return false;
}

static bool passes_all(const struct request *r, const Bitnet__V1__Model *m)
{
    const char *query = r->http->query;
    return passes(query, "status", status_name(m)) && passes(query, "quantization_format", m->quantization_format) &&
           passes(query, "device", m->device);
}

static void put_list(struct request *r, struct buffer *b, const Bitnet__V1__ListModelsResponse *list)
{
    uint64_t n_total = 0, n_active = 0;
    emit_open(b, '{');
    emit_key(b, "object");
    emit_text(b, "list");
    emit_key(b, "data");
    emit_open(b, '[');
    for (size_t i = 0; i < list->n_models; i++) {
        const Bitnet__V1__Model *m = list->models[i];
        if (!passes_all(r, m))
            continue;
        n_total++;
        n_active += m->status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
        emit_open(b, '{');
        put_openai(b, m);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    if (r->access.restricted) {
        emit_close(b, '}');
        return;
    }
    emit_key(b, "models");
    emit_open(b, '[');
    for (size_t i = 0; i < list->n_models; i++)
        if (passes_all(r, list->models[i])) {
            emit_open(b, '{');
            emit_key(b, "id");
            emit_text(b, list->models[i]->id);
            put_ours(b, list->models[i]);
            emit_close(b, '}');
        }
    emit_close(b, ']');
    emit_key(b, "total_count");
    emit_uint(b, n_total);
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
    if (r->param[0] == '\0')
        put_list(r, &body, list);
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
    r->param[0] = '\0';
    ask_engine(r, LIST, "", 0, TIMEOUT_MS, answer);
}

void handle_model(struct request *r)
{
    ask_engine(r, LIST, "", 0, TIMEOUT_MS, answer);
}

void handle_model_status(struct request *r)
{
    ask_engine(r, LIST, "", 0, TIMEOUT_MS, answer);
}
