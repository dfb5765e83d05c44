/* What came of a load, a swap or an unload. A figure that was not measured is left out. */
#include "bitnet/v1/models.pb-c.h"
#include "gateway/emit.h"
#include "gateway/manage.h"

#include <string.h>

#define MB 1048576.0

static void put_ms(struct buffer *b, const char *key, double ms)
{
    emit_key(b, key);
    emit_uint(b, ms > 0 ? (uint64_t)(ms + 0.5) : 0);
}

/* ---- what several engines measured ---- */

#define LOWEST(into, from, name)                                                                                       \
    if ((from)->_##name##_case && (!(into)->_##name##_case || (from)->name < (into)->name)) {                          \
        (into)->_##name##_case = (from)->_##name##_case;                                                               \
        (into)->name = (from)->name;                                                                                   \
    }

static void merge_validation(Bitnet__V1__ValidationResults *into, const Bitnet__V1__ValidationResults *from)
{
    if (!into || !from)
        return;
    LOWEST(into, from, accuracy)
    LOWEST(into, from, cross_validation)
    LOWEST(into, from, significance)
    LOWEST(into, from, tokens_per_second)
    into->memory_bytes += from->memory_bytes;
}

/* ---- load ---- */

static void put_metadata(struct buffer *b, const Bitnet__V1__Model *m)
{
    emit_key(b, "model_metadata");
    emit_open(b, '{');
    emit_uint_if(b, "file_size_bytes", m->file_size_bytes);
    emit_key(b, "parameter_count");
    emit_uint(b, m->parameter_count);
    emit_key(b, "quantization_format");
    emit_text(b, m->quantization_format);
    emit_text_if(b, "architecture", m->architecture);
    emit_uint_if(b, "vocab_size", m->vocab_size);
    emit_uint_if(b, "context_length", m->context_length);
    emit_close(b, '}');
}

static void put_performance(struct buffer *b, const Bitnet__V1__ValidationResults *v)
{
    emit_key(b, "performance_validation");
    emit_open(b, '{');
    emit_fixed_if(b, "tokens_per_second", v->_tokens_per_second_case, v->tokens_per_second, 3);
    emit_fixed_if(b, "memory_usage_mb", v->memory_bytes > 0, (double)v->memory_bytes / MB, 2);
    emit_key(b, "device_compatibility");
    emit_open(b, '[');
    for (size_t i = 0; i < v->n_devices; i++)
        emit_text(b, v->devices[i]);
    emit_close(b, ']');
    emit_close(b, '}');
}

static void put_validation(struct buffer *b, const Bitnet__V1__ValidationResults *v)
{
    emit_key(b, "validation_results");
    emit_open(b, '{');
    emit_key(b, "gguf_validation");
    emit_open(b, '{');
    emit_key(b, "format_valid");
    emit_bool(b, v->format_valid);
    emit_uint_if(b, "version", v->gguf_version);
    emit_uint_if(b, "tensor_count", v->tensor_count);
    emit_close(b, '}');
    if (v->_accuracy_case) {
        emit_key(b, "quantization_validation");
        emit_open(b, '{');
        emit_fixed_if(b, "accuracy_score", true, v->accuracy, 6);
        emit_fixed_if(b, "cross_validation_score", v->_cross_validation_case, v->cross_validation, 6);
        emit_fixed_if(b, "statistical_significance", v->_significance_case, v->significance, 6);
        emit_close(b, '}');
    }
    if (v->_tokens_per_second_case || v->memory_bytes > 0 || v->n_devices > 0)
        put_performance(b, v);
    emit_close(b, '}');
}

static void put_error_details(struct buffer *b, const char *code, const char *message,
                              const Bitnet__V1__ValidationResults *v)
{
    emit_key(b, "error_details");
    emit_open(b, '{');
    emit_key(b, "error_code");
    emit_text(b, code);
    emit_key(b, "error_message");
    emit_text(b, message);
    emit_key(b, "validation_failures");
    emit_open(b, '[');
    for (size_t i = 0; v && i < v->n_failures; i++) {
        emit_open(b, '{');
        emit_key(b, "validation_type");
        emit_text(b, v->failures[i]->type);
        emit_key(b, "expected");
        emit_text(b, v->failures[i]->expected);
        emit_key(b, "actual");
        emit_text(b, v->failures[i]->actual);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    emit_close(b, '}');
}

/* The members of the answer; `f` is NULL when it was loaded. */
static void put_load(struct buffer *b, const Bitnet__V1__LoadResult *result, const struct failure *f)
{
    const Bitnet__V1__Model *m = result->model;
    emit_text_if(b, "model_id", m ? m->id : NULL);
    emit_key(b, "status");
    emit_text(b, f ? "failed" : "loaded");
    put_ms(b, "load_time_ms", result->load_time_ms);
    if (m && m->parameter_count > 0)
        put_metadata(b, m);
    if (result->validation)
        put_validation(b, result->validation);
    if (f)
        put_error_details(b, error_info(f->error.code)->name, f->error.message, result->validation);
}

/* The result of engine i, NULL when none came. */
static Bitnet__V1__LoadResult *load_result(const struct change_answers *answers, size_t i)
{
    Bitnet__V1__LoadModelEvent *event = (Bitnet__V1__LoadModelEvent *)answers->messages[i];
    return event && event->event_case == BITNET__V1__LOAD_MODEL_EVENT__EVENT_RESULT ? event->result : NULL;
}

static void respond(struct request *r, const struct buffer *members)
{
    struct buffer body;
    buffer_init(&body, 1 << 20);
    emit_open(&body, '{');
    buffer_append(&body, members->data, members->n_bytes);
    emit_close(&body, '}');
    request_json(r, 200, &body);
    buffer_fini(&body);
}

/* The error; a model that was refused has what was found of it beside. */
static void respond_failed(struct request *r, struct failure *f, int status)
{
    if (status != 422)
        buffer_clear(&f->result);
    error_respond_with(r, f, status, NULL);
}

void manage_loaded(struct request *r, const struct change_answers *answers)
{
    struct failure f;
    bool failed = answers->status->code != 0;
    Bitnet__V1__LoadResult *result = load_result(answers, failed ? answers->n - 1 : 0);
    failure_init(&f);
    for (size_t i = 1; i < answers->n && !failed && result; i++) {
        const Bitnet__V1__LoadResult *other = load_result(answers, i);
        result->load_time_ms += other ? other->load_time_ms : 0;
        merge_validation(result->validation, other ? other->validation : NULL);
    }
    if (failed)
        change_failure(r, answers, &f);
    else if (!result)
        error_set(&f.error, ERROR_INTERNAL, "the engine's answer cannot be read");
    if (result)
        put_load(&f.result, result, failed ? &f : NULL);
    if (f.error.code == ERROR_NONE)
        respond(r, &f.result);
    else
        respond_failed(r, &f, error_info(f.error.code)->http_status);
    failure_fini(&f);
}

/* ---- swap ---- */

static void put_side(struct buffer *b, const char *key, const Bitnet__V1__SwapSide *side)
{
    if (!side || !side->model)
        return;
    emit_key(b, key);
    emit_open(b, '{');
    emit_key(b, "model_id");
    emit_text(b, side->model->id);
    emit_text_if(b, "quantization_format", side->model->quantization_format);
    if (side->_tokens_per_second_case || side->_accuracy_case) {
        emit_key(b, "performance_baseline");
        emit_open(b, '{');
        emit_fixed_if(b, "tokens_per_second", side->_tokens_per_second_case, side->tokens_per_second, 3);
        emit_fixed_if(b, "accuracy_score", side->_accuracy_case, side->accuracy, 6);
        emit_close(b, '}');
    }
    emit_close(b, '}');
}

static void put_comparison(struct buffer *b, const Bitnet__V1__SwapSide *old, const Bitnet__V1__SwapSide *next)
{
    if (!old || !old->model || !next || !next->model)
        return;
    emit_key(b, "quantization_comparison");
    emit_open(b, '{');
    emit_key(b, "format_changed");
    emit_bool(b, strcmp(old->model->quantization_format, next->model->quantization_format) != 0);
    emit_fixed_if(b, "accuracy_delta", old->_accuracy_case && next->_accuracy_case, next->accuracy - old->accuracy, 6);
    emit_fixed_if(b, "performance_delta", old->_tokens_per_second_case && next->_tokens_per_second_case,
           next->tokens_per_second - old->tokens_per_second, 3);
    emit_close(b, '}');
}

static void put_checks(struct buffer *b, const Bitnet__V1__SwapResult *s)
{
    bool healthy = true;
    if (s->n_checks == 0)
        return;
    for (size_t i = 0; i < s->n_checks; i++)
        healthy &= s->checks[i]->passed;
    emit_key(b, "health_check_results");
    emit_open(b, '{');
    emit_key(b, "overall_healthy");
    emit_bool(b, healthy);
    emit_key(b, "individual_checks");
    emit_open(b, '[');
    for (size_t i = 0; i < s->n_checks; i++) {
        emit_open(b, '{');
        emit_key(b, "check_name");
        emit_text(b, s->checks[i]->name);
        emit_key(b, "passed");
        emit_bool(b, s->checks[i]->passed);
        emit_text_if(b, "details", s->checks[i]->details);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    emit_close(b, '}');
}

/* How long each phase took that it came to. */
static void put_phases(struct buffer *b, const Bitnet__V1__SwapResult *s)
{
    emit_key(b, "swap_phases");
    emit_open(b, '{');
    if (s->validation_ms > 0)
        put_ms(b, "validation_duration_ms", s->validation_ms);
    if (s->switch_ms > 0)
        put_ms(b, "swap_duration_ms", s->switch_ms);
    if (s->health_check_ms > 0)
        put_ms(b, "health_check_duration_ms", s->health_check_ms);
    emit_close(b, '}');
}

static const char *swap_status(const Bitnet__V1__SwapResult *s)
{
    return s->status == BITNET__V1__SWAP_STATUS__SWAP_STATUS_COMPLETED     ? "completed"
           : s->status == BITNET__V1__SWAP_STATUS__SWAP_STATUS_ROLLED_BACK ? "rolled_back"
                                                                           : "failed";
}

static void put_swap(struct buffer *b, const Bitnet__V1__SwapResult *s)
{
    emit_key(b, "swap_id");
    emit_text(b, s->swap_id);
    emit_key(b, "status");
    emit_text(b, swap_status(s));
    put_ms(b, "total_duration_ms", s->total_ms);
    put_side(b, "previous_model_metadata", s->previous);
    put_side(b, "new_model_metadata", s->next);
    put_phases(b, s);
    put_comparison(b, s->previous, s->next);
    put_checks(b, s);
    emit_key(b, "rollback_info");
    emit_open(b, '{');
    emit_key(b, "rollback_performed");
    emit_bool(b, s->rolled_back);
    emit_text_if(b, "rollback_reason", s->rollback_reason);
    if (s->rolled_back)
        put_ms(b, "rollback_duration_ms", s->rollback_ms);
    emit_close(b, '}');
}

static Bitnet__V1__SwapResult *swap_result(const struct change_answers *answers, size_t i)
{
    Bitnet__V1__SwapModelEvent *event = (Bitnet__V1__SwapModelEvent *)answers->messages[i];
    return event && event->event_case == BITNET__V1__SWAP_MODEL_EVENT__EVENT_RESULT ? event->result : NULL;
}

static void add_times(Bitnet__V1__SwapResult *into, const Bitnet__V1__SwapResult *from)
{
    into->total_ms += from->total_ms;
    into->validation_ms += from->validation_ms;
    into->switch_ms += from->switch_ms;
    into->health_check_ms += from->health_check_ms;
}

void manage_swapped(struct request *r, const struct change_answers *answers)
{
    struct failure f;
    bool failed = answers->status->code != 0;
    Bitnet__V1__SwapResult *result = swap_result(answers, failed ? answers->n - 1 : 0);
    failure_init(&f);
    for (size_t i = 1; i < answers->n && !failed && result; i++)
        if (swap_result(answers, i))
            add_times(result, swap_result(answers, i));
    if (failed)
        change_failure(r, answers, &f);
    else if (!result)
        error_set(&f.error, ERROR_INTERNAL, "the engine's answer cannot be read");
    if (result)
        put_swap(&f.result, result);
    if (result && failed)
        put_error_details(&f.result, error_info(f.error.code)->name, f.error.message, result->validation);
    /* Whatever it was that a model failed at which was taken back: it cannot be served. */
    bool taken_back = result && result->status == BITNET__V1__SWAP_STATUS__SWAP_STATUS_ROLLED_BACK;
    if (f.error.code == ERROR_NONE)
        respond(r, &f.result);
    else
        respond_failed(r, &f, taken_back ? 422 : error_info(f.error.code)->http_status);
    failure_fini(&f);
}

/* ---- unload ---- */

void manage_unloaded(struct request *r, const struct change_answers *answers)
{
    const struct http_header headers[] = {{"x-request-id", r->id}, {NULL, NULL}};
    struct failure f;
    if (answers->status->code == 0) {
        http_respond(r->x, 204, headers, "", 0);
        return;
    }
    failure_init(&f);
    change_failure(r, answers, &f);
    error_respond(r, &f);
    failure_fini(&f);
}
