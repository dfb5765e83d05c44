/* See model_requests.h. */
#include "service/model_requests.h"

#include "base/clock.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_ALIAS_BYTES 64
#define MAX_PROMPT_CHARS 256
#define MIN_ACCURACY 0.9
#define MIN_SAMPLES 10
#define MAX_SAMPLES 1000
#define MIN_TIMEOUT_S 10
#define MAX_TIMEOUT_S 3600
#define MIN_WATCH_S 0.01
#define MAX_WATCH_S 600.0

static enum error_code check_path(const char *path, struct error *err)
{
    static const char suffix[] = ".gguf";
    size_t n = strlen(path), room = sizeof((struct model_entry *)0)->path;
    if (path[0] == '/' && n > sizeof suffix && n < room && strcmp(path + n - (sizeof suffix - 1), suffix) == 0)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, "path",
                           "path: expected the absolute path of a .gguf file, of less than %zu bytes, found \"%.200s\"",
                           room, path);
}

static enum error_code check_id(const char *id, bool may_be_empty, struct error *err)
{
    size_t n = strlen(id);
    bool good = n < REGISTRY_ID_BYTES && (n > 0 || may_be_empty);
    for (size_t i = 0; i < n; i++)
        good &= isalnum((unsigned char)id[i]) || id[i] == '_' || id[i] == '-';
    if (good)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, "id",
                           "id: expected 1 to %d of A-Z a-z 0-9 _ -, found \"%.100s\"", REGISTRY_ID_BYTES - 1, id);
}

/* `field` of the message, which has a default when it is not set. */
static enum error_code check_range(const char *field, double value, double min, double max, struct error *err)
{
    if (value >= min && value <= max)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, field, "%s: expected %g to %g, found %g", field, min, max,
                           value);
}

static enum error_code check_validation(const Bitnet__V1__Validation *v, struct error *err)
{
    enum error_code code = ERROR_NONE;
    if (!v)
        return code;
    if (v->_min_accuracy_case)
        code = check_range("validation.min_accuracy", v->min_accuracy, MIN_ACCURACY, 1, err);
    if (!code && v->_samples_case)
        code = check_range("validation.samples", v->samples, MIN_SAMPLES, MAX_SAMPLES, err);
    if (!code && v->_timeout_seconds_case)
        code = check_range("validation.timeout_seconds", v->timeout_seconds, MIN_TIMEOUT_S, MAX_TIMEOUT_S, err);
    return code;
}

static struct model_validation validation_of(const Bitnet__V1__Validation *v)
{
    struct model_validation out = {0};
    if (!v)
        return out;
    out.no_cross_validation = v->_cross_validation_case && !v->cross_validation;
    out.min_accuracy = v->_min_accuracy_case ? v->min_accuracy : 0;
    out.n_samples = v->_samples_case ? v->samples : 0;
    out.timeout_ns = v->_timeout_seconds_case ? v->timeout_seconds * CLOCK_NS_PER_S : 0;
    return out;
}

/* The index of `value` among the words, "" counting as the first; or an error. */
static enum error_code check_choice(const char *field, const char *value, const char *const *words, size_t n, int *out,
                                    struct error *err)
{
    char all[64] = "";
    for (size_t i = 0; i < n; i++) {
        if (strcmp(value, words[i]) == 0 || (i == 0 && !value[0])) {
            *out = (int)i;
            return ERROR_NONE;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s",
                 i == 0      ? ""
                 : i + 1 < n ? ", "
                             : " or ",
                 words[i]);
    }
    return error_set_param(err, ERROR_VALIDATION_FAILED, field, "%s: expected %s, found \"%.64s\"", field, all, value);
}

static const char *const devices[] = {"auto", "cpu", "gpu"}, *const formats[] = {"auto", "i2s", "tl1", "tl2"};
#define N(words) (sizeof(words) / sizeof *(words))

/* Writes them with commas between. */
static enum error_code join_aliases(const Bitnet__V1__LoadModelRequest *r, char out[MODELS_ALIASES_BYTES],
                                    struct error *err)
{
    size_t used = 0;
    bool good = r->n_aliases <= MODELS_MAX_ALIASES;
    out[0] = '\0';
    for (size_t i = 0; good && i < r->n_aliases; i++) {
        const char *a = r->aliases[i];
        size_t n = strlen(a);
        good = n > 0 && n <= MAX_ALIAS_BYTES && used + n + 2 <= MODELS_ALIASES_BYTES;
        for (size_t k = 0; good && k < n; k++)
            good = isgraph((unsigned char)a[k]) && a[k] != ',';
        if (good)
            used += (size_t)snprintf(out + used, MODELS_ALIASES_BYTES - used, "%s%s", i ? "," : "", a);
    }
    if (good)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, "aliases",
                           "aliases: expected up to %d names of 1 to %d visible characters without commas",
                           MODELS_MAX_ALIASES, MAX_ALIAS_BYTES);
}

enum error_code model_check_load(const void *request, struct error *err)
{
    const Bitnet__V1__LoadModelRequest *r = request;
    char aliases[MODELS_ALIASES_BYTES];
    int index;
    enum error_code code = check_path(r->path, err);
    if (!code)
        code = check_id(r->id, true, err);
    if (!code)
        code = check_validation(r->validation, err);
    if (!code)
        code = check_choice("device", r->device, devices, N(devices), &index, err);
    if (!code)
        code = check_choice("quantization_format", r->quantization_format, formats, N(formats), &index, err);
    return code ? code : join_aliases(r, aliases, err);
}

static size_t n_characters(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += (*text & 0xC0) != 0x80;
    return n;
}

enum error_code model_check_swap(const void *request, struct error *err)
{
    const Bitnet__V1__SwapModelRequest *r = request;
    enum error_code code = check_path(r->path, err);
    if (!code)
        code = check_id(r->id, false, err);
    if (!code && ((int)r->strategy < 0 || (int)r->strategy > BITNET__V1__SWAP_STRATEGY__SWAP_STRATEGY_ROLLING))
        code =
            error_set_param(err, ERROR_VALIDATION_FAILED, "strategy",
                            "strategy: expected 0 (atomic), 1 (blue_green) or 2 (rolling), found %d", (int)r->strategy);
    if (!code)
        code = check_validation(r->validation, err);
    if (!code && r->n_prompts > SWAP_MAX_PROMPTS)
        code = error_set_param(err, ERROR_VALIDATION_FAILED, "prompts", "prompts: expected at most %d, found %zu",
                               SWAP_MAX_PROMPTS, r->n_prompts);
    for (size_t i = 0; !code && i < r->n_prompts; i++)
        if (!r->prompts[i][0] || n_characters(r->prompts[i]) > MAX_PROMPT_CHARS)
            code = error_set_param(err, ERROR_VALIDATION_FAILED, "prompts",
                                   "prompts: expected 1 to %d characters each, found %zu in number %zu",
                                   MAX_PROMPT_CHARS, n_characters(r->prompts[i]), i);
    if (!code && r->_watch_seconds_case)
        code = check_range("watch_seconds", r->watch_seconds, MIN_WATCH_S, MAX_WATCH_S, err);
    return code;
}

enum error_code model_check_unload(const void *request, struct error *err)
{
    return check_id(((const Bitnet__V1__UnloadModelRequest *)request)->id, false, err);
}

enum error_code model_check_default(const void *request, struct error *err)
{
    return check_id(((const Bitnet__V1__SetDefaultModelRequest *)request)->id, false, err);
}

struct load_request model_load_request(const Bitnet__V1__LoadModelRequest *r, char aliases[MODELS_ALIASES_BYTES])
{
    int device = 0, format = 0;
    join_aliases(r, aliases, NULL);
    check_choice("device", r->device, devices, N(devices), &device, NULL);
    check_choice("quantization_format", r->quantization_format, formats, N(formats), &format, NULL);
    return (struct load_request){.path = r->path,
                                 .id = r->id,
                                 .aliases = aliases,
                                 .device = r->device[0] ? devices[device] : NULL,
                                 .format = (enum ternary_format)format,
                                 .kv_cache_bytes = (size_t)r->kv_cache_bytes,
                                 .no_prefix_cache = r->no_prefix_cache,
                                 .make_default = r->make_default,
                                 .validation = validation_of(r->validation)};
}

struct swap_request model_swap_request(const Bitnet__V1__SwapModelRequest *r)
{
    struct swap_request q = {.path = r->path,
                             .id = r->id,
                             .strategy = (enum swap_strategy)r->strategy, /* the same numbers */
                             .no_rollback = r->_rollback_case && !r->rollback,
                             .validation = validation_of(r->validation),
                             .n_prompts = r->n_prompts,
                             .watch_ns =
                                 r->_watch_seconds_case ? (int64_t)(r->watch_seconds * (double)CLOCK_NS_PER_S) : 0};
    for (size_t i = 0; i < r->n_prompts; i++)
        q.prompts[i] = r->prompts[i];
    return q;
}
