/* ModelService.List and Get: what is served. */
#include "service/models.h"

#include "service/hosted.h"

#include <stdlib.h>
#include <string.h>

static char *mutable(const char *text)
{
    return (char *)(uintptr_t)text;
}

size_t models_split(char *text, char **parts, size_t max)
{
    size_t n = 0;
    for (char *rest, *part = strtok_r(text, ",", &rest); part && n < max; part = strtok_r(NULL, ",", &rest))
        parts[n++] = part;
    return n;
}

/* Leaves alone what an entry has to say. */
static void fill_facts(const struct served *served, Bitnet__V1__Model *out)
{
    const struct engine_model *m = engine_model(served_engine(served));
    const struct model_figures figures = model_metrics_figures(hosted_of(served)->metrics);
    out->quantization_format = mutable(m->quantization);
    out->device = mutable(m->device);
    out->created_unix = m->created_unix;
    out->load_seconds = m->load_seconds;
    out->architecture = mutable(m->architecture);
    out->parameter_count = m->n_parameters;
    out->vocab_size = m->vocab_size;
    out->context_length = m->context_length;
    out->file_size_bytes = m->file_bytes;
    out->memory_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    out->total_requests = figures.n_requests;
    out->avg_tokens_per_second = figures.tokens_per_second;
    out->avg_inference_time_ms = figures.mean_ms;
    struct engine_accuracy accuracy;
    if (engine_accuracy(served_engine(served), &accuracy)) {
        out->_accuracy_case = BITNET__V1__MODEL___ACCURACY_ACCURACY;
        out->accuracy = accuracy.recent;
    }
    out->has_chat_template = m->chat_template != NULL;
    out->computes_embeddings = m->embedding_size > 0;
    out->generates = !out->computes_embeddings;
}

void models_fill_served(const struct served *served, Bitnet__V1__Model *out)
{
    bitnet__v1__model__init(out);
    out->id = mutable(served_id(served));
    out->status = BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    out->path = mutable(engine_model(served_engine(served))->path);
    fill_facts(served, out);
}

void models_fill(const struct model_entry *e, struct model_message *out)
{
    Bitnet__V1__Model *m = &out->model;
    bitnet__v1__model__init(m);
    m->id = mutable(e->id);
    m->status = (Bitnet__V1__ModelStatus)e->status; /* the same numbers */
    m->path = mutable(e->path);
    m->message = mutable(e->message);
    m->is_default = e->is_default;
    memcpy(out->aliases, e->aliases, sizeof out->aliases);
    m->n_aliases = models_split(out->aliases, out->list, MODELS_MAX_ALIASES);
    m->aliases = out->list;
    if (e->served)
        fill_facts(e->served, m);
}

void models_fill_results(const struct validation_results *v, struct results_message *out)
{
    Bitnet__V1__ValidationResults *r = &out->results;
    bitnet__v1__validation_results__init(r);
    r->format_valid = v->format_valid;
    r->gguf_version = v->gguf_version;
    r->tensor_count = v->n_tensors;
    r->memory_bytes = v->memory_bytes;
#define MEASURED(field, NAME, value)                                                                                   \
    if ((value) >= 0) {                                                                                                \
        r->_##field##_case = BITNET__V1__VALIDATION_RESULTS___##NAME##_##NAME;                                         \
        r->field = value;                                                                                              \
    }
    MEASURED(accuracy, ACCURACY, v->accuracy)
    MEASURED(cross_validation, CROSS_VALIDATION, v->cosine)
    MEASURED(significance, SIGNIFICANCE, v->p_value)
    MEASURED(bits_per_byte, BITS_PER_BYTE, v->bits_per_byte)
    MEASURED(tokens_per_second, TOKENS_PER_SECOND, v->tokens_per_second)
#undef MEASURED
    memcpy(out->device_text, v->devices, sizeof out->device_text);
    r->n_devices = models_split(out->device_text, out->devices, MODELS_MAX_DEVICES);
    r->devices = out->devices;
    r->n_failures = v->n_failures;
    r->failures = out->list;
    for (size_t i = 0; i < v->n_failures; i++) {
        bitnet__v1__validation_failure__init(&out->failures[i]);
        out->failures[i].type = mutable(v->failures[i].type);
        out->failures[i].expected = mutable(v->failures[i].expected);
        out->failures[i].actual = mutable(v->failures[i].actual);
        out->list[i] = &out->failures[i];
    }
}

const struct model_entry *models_find(const struct service *s, const struct model_entry *list, size_t n,
                                      const char *name)
{
    struct served *served = NULL;
    const struct model_entry *found = NULL;
    for (size_t i = 0; i < n && !found; i++)
        if (strcmp(list[i].id, name) == 0)
            found = &list[i];
    if (found || registry_acquire(s->registry, name, &served, NULL)) /* knows aliases, and spellings */
        return found;
    for (size_t i = 0; i < n && !found; i++)
        if (strcmp(list[i].id, served_id(served)) == 0)
            found = &list[i];
    served_release(served);
    return found;
}

static void answer_list(struct rpc_call *call, const Bitnet__V1__ListModelsRequest *r,
                        const struct model_entry *entries, size_t n, struct model_message *messages,
                        Bitnet__V1__Model **list)
{
    Bitnet__V1__ListModelsResponse response = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    for (size_t i = 0; i < n; i++) {
        bool wanted = r->n_status == 0;
        for (size_t k = 0; k < r->n_status; k++)
            wanted |= (int)r->status[k] == (int)entries[i].status;
        if (!wanted)
            continue;
        models_fill(&entries[i], &messages[i]);
        list[response.n_models++] = &messages[i].model;
    }
    response.models = list;
    message_answer(call, &response.base);
}

void models_list(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    struct model_entry *entries = NULL;
    size_t n = 0;
    Bitnet__V1__ListModelsRequest *r =
        message_unpack(&bitnet__v1__list_models_request__descriptor, data, n_bytes, &err);
    bool listed = r && registry_list(s->registry, &entries, &n);
    struct model_message *messages = listed ? calloc(n + 1, sizeof *messages) : NULL;
    Bitnet__V1__Model **list = messages ? calloc(n + 1, sizeof *list) : NULL;
    if (list)
        answer_list(call, r, entries, n, messages, list);
    else if (!err.code)
        error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for the list of models");
    if (err.code)
        status_fail(s, call, &err);
    free(list);
    free(messages);
    registry_list_free(entries, n);
    message_free(r);
}

void models_get(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    struct served *served = NULL;
    struct model_entry *entries = NULL;
    struct model_message message;
    size_t n = 0;
    Bitnet__V1__GetModelRequest *r = message_unpack(&bitnet__v1__get_model_request__descriptor, data, n_bytes, &err);
    if (r && !registry_list(s->registry, &entries, &n))
        error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for a model");
    const struct model_entry *found = entries ? models_find(s, entries, n, r->id) : NULL;
    if (found) {
        models_fill(found, &message);
        message_answer(call, &message.model.base);
    } else {
        if (!err.code && !registry_acquire(s->registry, r->id, &served, &err)) /* says what there is */
            error_set_param(&err, ERROR_MODEL_NOT_FOUND, "id", "there is no model \"%.64s\" any more", r->id);
        status_fail(s, call, &err);
    }
    served_release(served);
    registry_list_free(entries, n);
    message_free(r);
}
