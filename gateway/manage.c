/*
 * POST /v1/models/load, POST /v1/models/swap, DELETE /v1/models/{id}. Requests are checked here in full; whether a path lies in an allowed
 * folder is for the engine to say, on whose machine the files are.
 */
#include "gateway/manage.h"

#include "bitnet/v1/models.pb-c.h"
#include "gateway/body.h"
#include "gateway/change.h"
#include "gateway/query.h"

#include <stddef.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct manage_params, member)
#define MARGIN_MS                                                                                                      \
    600000 /* above the request's own limits: to read a large file, to watch live traffic, to let requests end */
#define MAX_PROMPTS 5
#define MB 1048576

/* Segments are anything but "." and "..": the last one has a name in front of .gguf. */
#define PATH_PATTERN "^/(([^/.]|\\.[^/.]|\\.\\.[^/])[^/]*/)*[^/]+\\.gguf$"
#define PATH                                                                                                           \
    .min = 1, .max = 4095, .pattern = PATH_PATTERN,                                                                    \
    .form = "an absolute path of a .gguf file, without . and .. segments"
#define ID .max = 64

static const struct field validation_fields[] = {
    {"enable_cross_validation", FIELD_BOOL, AT(enable_cross_validation), .preset = 1},
    {"min_accuracy", FIELD_FLOAT, AT(min_accuracy), 0.9, 1, 0.99},
    {"validation_samples", FIELD_INT, AT(validation_samples), 10, 1000, 100},
    {"timeout_seconds", FIELD_INT, AT(timeout_seconds), 30, 3600, 300},
    {0},
};

static const struct field cache_fields[] = {
    {"enable_kv_cache", FIELD_BOOL, AT(enable_kv_cache), .preset = 1},
    {"cache_size_mb", FIELD_INT, AT(cache_size_mb), 100, 8192, 1024},
    {0},
};

static const struct field health_check_fields[] = {
    {"inference_test_prompts", FIELD_TEXTS, AT(inference_test_prompts), .max = 5, .each = 256},
    {"accuracy_threshold", FIELD_FLOAT, AT(accuracy_threshold), 0.9, 1, 0.99},
    {0},
};

const struct field load_fields[] = {
    {"model_path", FIELD_TEXT, AT(model_path), PATH, .proto = "path", .required = true},
    {"model_id", FIELD_NAME, AT(model_id), ID, .proto = "id"},
    {"validation_config", FIELD_OBJECT, AT(validation_config), .fields = validation_fields},
    {"device_preference", FIELD_CHOICE, AT(device), .choices = "auto|cpu|gpu", .proto = "device"},
    {"quantization_format", FIELD_CHOICE, AT(quantization), .choices = "auto|i2s|tl1|tl2"},
    {"cache_config", FIELD_OBJECT, AT(cache_config), .fields = cache_fields},
    {0},
};

const struct field swap_fields[] = {
    {"new_model_path", FIELD_TEXT, AT(new_model_path), PATH, .proto = "path", .required = true},
    {"target_model_id", FIELD_NAME, AT(target_model_id), ID, .proto = "id", .required = true},
    {"swap_strategy", FIELD_CHOICE, AT(strategy), .choices = "atomic|blue_green|rolling"},
    {"rollback_on_failure", FIELD_BOOL, AT(rollback_on_failure), .preset = 1},
    {"validation_timeout_seconds", FIELD_INT, AT(validation_timeout_seconds), 10, 300, 30},
    {"health_check_config", FIELD_OBJECT, AT(health_check_config), .fields = health_check_fields},
    {0},
};

/* protobuf-c's strings are not const; packing only reads them. */
static char *mutable(const char *text)
{
    return (char *)(uintptr_t)text;
}

/* The checked parameters of a body, or NULL when it was answered. What is in `p` lives until the JSON is given back. */
static json_t *read_body(struct request *r, const struct field *table, struct manage_params *p)
{
    const struct fields_rules rules = {.strict = true};
    struct failure f;
    if (!query_empty(r))
        return NULL;
    failure_init(&f);
    r->fields = table;
    json_t *root = body_json(r, &f);
    if (!root || !fields_parse(table, root, &rules, p, &f)) {
        error_respond(r, &f);
        json_decref(root);
        root = NULL;
    }
    failure_fini(&f);
    return root;
}

/* Packs the request and makes the change. */
static void change(struct request *r, struct change_options options, const ProtobufCMessage *request)
{
    struct buffer packed;
    buffer_init(&packed, SIZE_MAX / 2);
    size_t n = protobuf_c_message_get_packed_size(request);
    char *to = buffer_reserve(&packed, n + 1);
    if (to) {
        options.data = to;
        options.n_bytes = protobuf_c_message_pack(request, (uint8_t *)to);
        change_start(r, &options);
    } else {
        error_answer(r, ERROR_INTERNAL, "out of memory");
    }
    buffer_fini(&packed);
}

#define SET(message, name, NAME, value)                                                                                \
    ((message)->_##name##_case = BITNET__V1__VALIDATION___##NAME##_##NAME, (message)->name = (value))

/* ---- load ---- */

void handle_model_load(struct request *r)
{
    static const char *const devices[] = {"auto", "cpu", "gpu"}, *const formats[] = {"auto", "i2s", "tl1", "tl2"};
    struct manage_params p = {0};
    json_t *root = read_body(r, load_fields, &p);
    if (!root)
        return;
    Bitnet__V1__Validation v = BITNET__V1__VALIDATION__INIT;
    SET(&v, cross_validation, CROSS_VALIDATION, p.enable_cross_validation.truth);
    SET(&v, min_accuracy, MIN_ACCURACY, p.min_accuracy.f);
    SET(&v, samples, SAMPLES, (uint32_t)p.validation_samples.i);
    SET(&v, timeout_seconds, TIMEOUT_SECONDS, (uint32_t)p.timeout_seconds.i);
    Bitnet__V1__LoadModelRequest request = BITNET__V1__LOAD_MODEL_REQUEST__INIT;
    request.path = mutable(p.model_path.text);
    if (p.model_id.text)
        request.id = mutable(p.model_id.text);
    request.validation = &v;
    request.device = mutable(devices[p.device.i]);
    request.quantization_format = mutable(formats[p.quantization.i]);
    request.no_prefix_cache = !p.enable_kv_cache.truth;
    request.kv_cache_bytes = (uint64_t)p.cache_size_mb.i * MB;
    const struct change_options options = {
        .path = "/bitnet.v1.ModelService/Load",
        .timeout_ms = p.timeout_seconds.i * 1000 + MARGIN_MS,
        .type = &bitnet__v1__load_model_event__descriptor,
        .answer = manage_loaded,
    };
    change(r, options, &request.base);
    json_decref(root);
}

/* ---- swap ---- */

void handle_model_swap(struct request *r)
{
    struct manage_params p = {0};
    char *prompts[MAX_PROMPTS];
    json_t *root = read_body(r, swap_fields, &p);
    if (!root)
        return;
    Bitnet__V1__Validation v = BITNET__V1__VALIDATION__INIT;
    SET(&v, min_accuracy, MIN_ACCURACY, p.accuracy_threshold.f);
    SET(&v, timeout_seconds, TIMEOUT_SECONDS, (uint32_t)p.validation_timeout_seconds.i);
    Bitnet__V1__SwapModelRequest request = BITNET__V1__SWAP_MODEL_REQUEST__INIT;
    request.path = mutable(p.new_model_path.text);
    request.id = mutable(p.target_model_id.text);
    request.strategy = (Bitnet__V1__SwapStrategy)p.strategy.i;
    request._rollback_case = BITNET__V1__SWAP_MODEL_REQUEST___ROLLBACK_ROLLBACK;
    request.rollback = p.rollback_on_failure.truth;
    request.validation = &v;
    request.prompts = prompts;
    for (size_t i = 0; i < json_array_size(p.inference_test_prompts.json); i++)
        prompts[request.n_prompts++] = mutable(json_string_value(json_array_get(p.inference_test_prompts.json, i)));
    const struct change_options options = {
        .path = "/bitnet.v1.ModelService/Swap",
        .timeout_ms = p.validation_timeout_seconds.i * 1000 + MARGIN_MS,
        .type = &bitnet__v1__swap_model_event__descriptor,
        .answer = manage_swapped,
    };
    change(r, options, &request.base);
    json_decref(root);
}

/* ---- unload ---- */

static bool id_fits(struct request *r)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = strlen(r->param);
    if (n <= 64 && strspn(r->param, allowed) == n)
        return true;
    struct failure f;
    failure_init(&f);
    failure_add(&f, ERROR_VALIDATION_FAILED, "id", "a name of at most 64 letters, digits, _ and -", r->param);
    error_respond(r, &f);
    failure_fini(&f);
    return false;
}

/* An engine without the model has nothing to do: so a change that did not come to all engines can be taken back. */
void handle_model_unload(struct request *r)
{
    if (!query_empty(r) || !id_fits(r))
        return;
    Bitnet__V1__UnloadModelRequest request = BITNET__V1__UNLOAD_MODEL_REQUEST__INIT;
    request.id = r->param;
    const struct change_options options = {
        .path = "/bitnet.v1.ModelService/Unload",
        .timeout_ms = r->g->config->request_timeout_ms + MARGIN_MS,
        .type = &bitnet__v1__unload_model_response__descriptor,
        .skip = ERROR_MODEL_NOT_FOUND,
        .answer = manage_unloaded,
    };
    change(r, options, &request.base);
}
