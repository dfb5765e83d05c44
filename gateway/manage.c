/*
 * POST /v1/models/load, POST /v1/models/swap, DELETE /v1/models/{id}. Requests are checked here in full; whether a path lies in an allowed
 * folder is for the engine to say, on whose machine the files are.
 */
#include "gateway/manage.h"

#include "gateway/ask.h"
#include "gateway/body.h"
#include "gateway/models_merge.h"
#include "gateway/query.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct manage_params, member)
#define TIMEOUT_MS 5000

/* Segments are anything but "." and "..": the last one has a name in front of .gguf. */
#define PATH_PATTERN "^/(([^/.]|\\.[^/.]|\\.\\.[^/])[^/]*/)*[^/]+\\.gguf$"
#define PATH                                                                                                           \
    .min = 1, .max = 4096, .pattern = PATH_PATTERN,                                                                    \
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
    {"model_path", FIELD_TEXT, AT(model_path), PATH, .required = true},
    {"model_id", FIELD_NAME, AT(model_id), ID},
    {"validation_config", FIELD_OBJECT, AT(validation_config), .fields = validation_fields},
    {"device_preference", FIELD_CHOICE, AT(device), .choices = "auto|cpu|gpu"},
    {"quantization_format", FIELD_CHOICE, AT(quantization), .choices = "auto|i2s|tl1|tl2"},
    {"cache_config", FIELD_OBJECT, AT(cache_config), .fields = cache_fields},
    {0},
};

const struct field swap_fields[] = {
    {"new_model_path", FIELD_TEXT, AT(new_model_path), PATH, .required = true},
    {"target_model_id", FIELD_NAME, AT(target_model_id), ID, .required = true},
    {"swap_strategy", FIELD_CHOICE, AT(strategy), .choices = "atomic|blue_green|rolling"},
    {"rollback_on_failure", FIELD_BOOL, AT(rollback_on_failure), .preset = 1},
    {"validation_timeout_seconds", FIELD_INT, AT(validation_timeout_seconds), 10, 300, 30},
    {"health_check_config", FIELD_OBJECT, AT(health_check_config), .fields = health_check_fields},
    {0},
};

/* Checks the body; a good one is for an engine that can do it. */
static void handle(struct request *r, const struct field *table)
{
    const struct fields_rules rules = {.strict = true};
    struct manage_params p = {0};
    struct failure f;
    if (!query_empty(r))
        return;
    failure_init(&f);
    r->fields = table;
    json_t *root = body_json(r, &f);
    if (root && fields_parse(table, root, &rules, &p, &f))
        handle_not_implemented(r);
    else
        error_respond(r, &f);
    json_decref(root);
    failure_fini(&f);
}

void handle_model_load(struct request *r)
{
    handle(r, load_fields);
}

void handle_model_swap(struct request *r)
{
    handle(r, swap_fields);
}

/* ---- unload ---- */

static void unload(struct request *r, const struct ask_all_answers *answers)
{
    size_t n, n_active = 0;
    struct models_entry *entries =
        models_merge((Bitnet__V1__ListModelsResponse **)answers->messages, answers->n, &n);
    const struct models_entry *found = entries ? models_find(entries, n, r->param) : NULL;
    for (size_t i = 0; entries && i < n; i++)
        n_active += entries[i].model->status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    if (!entries)
        error_answer(r, ERROR_INTERNAL, "out of memory");
    else if (!found)
        models_not_found(r, entries, n, r->param);
    else if (found->model->is_default && n_active <= 1)
        error_answer(r, ERROR_CONFLICT, "%s is the last active model; load or swap in another one first",
                     found->model->id);
    else
        handle_not_implemented(r);
    free(entries);
}

void handle_model_unload(struct request *r)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = strlen(r->param);
    if (!query_empty(r))
        return;
    if (n <= 64 && strspn(r->param, allowed) == n) {
        ask_engines(r, "/bitnet.v1.ModelService/List", "", 0, TIMEOUT_MS, &bitnet__v1__list_models_response__descriptor,
                    unload);
        return;
    }
    struct failure f;
    failure_init(&f);
    failure_add(&f, ERROR_VALIDATION_FAILED, "id", "a name of at most 64 letters, digits, _ and -", r->param);
    error_respond(r, &f);
    failure_fini(&f);
}
