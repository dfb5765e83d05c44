/* ModelService.Load, Unload, Swap and SetDefault: the registry is called on a thread of the change, and its results become messages. */
#include "service/changes.h"
#include "service/model_requests.h"
#include "service/models.h"

/* ---- load ---- */

static void progress_message(const struct model_progress *p, Bitnet__V1__ModelProgress *out)
{
    bitnet__v1__model_progress__init(out);
    out->phase = (char *)(uintptr_t)p->phase;
    out->share = p->share;
    out->message = (char *)(uintptr_t)p->message;
    out->elapsed_ms = p->elapsed_ms;
}

static bool pack_load_progress(const struct model_progress *p, struct buffer *out)
{
    Bitnet__V1__ModelProgress progress;
    Bitnet__V1__LoadModelEvent event = BITNET__V1__LOAD_MODEL_EVENT__INIT;
    progress_message(p, &progress);
    event.event_case = BITNET__V1__LOAD_MODEL_EVENT__EVENT_PROGRESS;
    event.progress = &progress;
    return message_pack(out, &event.base);
}

static void pack_load_result(const struct service *s, const struct load_result *loaded,
                             const Bitnet__V1__LoadModelRequest *r, const struct error *err, struct buffer *out)
{
    struct model_entry *entries = NULL;
    size_t n = 0;
    struct model_message message;
    struct results_message results;
    Bitnet__V1__LoadResult result = BITNET__V1__LOAD_RESULT__INIT;
    Bitnet__V1__LoadModelEvent event = BITNET__V1__LOAD_MODEL_EVENT__INIT;
    const struct model_entry *found =
        loaded->served && registry_list(s->registry, &entries, &n) ? models_find(s, entries, n, loaded->id) : NULL;
    if (found) {
        models_fill(found, &message);
    } else {
        bitnet__v1__model__init(&message.model);
        message.model.id = (char *)(uintptr_t)loaded->id;
        message.model.path = r->path;
        message.model.status = BITNET__V1__MODEL_STATUS__MODEL_STATUS_FAILED;
        message.model.message = (char *)(uintptr_t)err->message;
    }
    models_fill_results(&loaded->validation, &results);
    result.model = &message.model;
    result.load_time_ms = loaded->load_ms;
    result.validation = &results.results;
    if (err->code) {
        result.error_code = (char *)(uintptr_t)error_info(err->code)->name;
        result.error_message = (char *)(uintptr_t)err->message;
    }
    event.event_case = BITNET__V1__LOAD_MODEL_EVENT__EVENT_RESULT;
    event.result = &result;
    message_pack(out, &event.base);
    registry_list_free(entries, n);
}

static enum error_code run_load(struct change *c, struct service *s, const void *request, struct buffer *out,
                                struct error *err)
{
    const Bitnet__V1__LoadModelRequest *r = request;
    struct load_result loaded = {0};
    char aliases[MODELS_ALIASES_BYTES];
    struct load_request q = model_load_request(r, aliases);
    q.on_progress = change_progress;
    q.user = c;
    enum error_code code = registry_load(s->registry, &q, &loaded, err);
    pack_load_result(s, &loaded, r, err, out);
    served_release(loaded.served);
    return code;
}

/* ---- swap ---- */

static bool pack_swap_progress(const struct model_progress *p, struct buffer *out)
{
    Bitnet__V1__ModelProgress progress;
    Bitnet__V1__SwapModelEvent event = BITNET__V1__SWAP_MODEL_EVENT__INIT;
    progress_message(p, &progress);
    event.event_case = BITNET__V1__SWAP_MODEL_EVENT__EVENT_PROGRESS;
    event.progress = &progress;
    return message_pack(out, &event.base);
}

/* NULL when the model was never loaded. */
static Bitnet__V1__SwapSide *side_message(const struct swap_side *from, Bitnet__V1__SwapSide *out,
                                          Bitnet__V1__Model *model)
{
    if (!from->served)
        return NULL;
    bitnet__v1__swap_side__init(out);
    models_fill_served(from->served, model);
    out->model = model;
    if (from->tokens_per_second >= 0) {
        out->_tokens_per_second_case = BITNET__V1__SWAP_SIDE___TOKENS_PER_SECOND_TOKENS_PER_SECOND;
        out->tokens_per_second = from->tokens_per_second;
    }
    if (from->accuracy >= 0) {
        out->_accuracy_case = BITNET__V1__SWAP_SIDE___ACCURACY_ACCURACY;
        out->accuracy = from->accuracy;
    }
    return out;
}

static void pack_swap_result(const struct swap_result *swapped, const struct error *err, struct buffer *out)
{
    Bitnet__V1__SwapSide previous, next;
    Bitnet__V1__Model models[2];
    Bitnet__V1__HealthCheckResult checks[SWAP_MAX_CHECKS], *list[SWAP_MAX_CHECKS];
    struct results_message results;
    Bitnet__V1__SwapResult r = BITNET__V1__SWAP_RESULT__INIT;
    Bitnet__V1__SwapModelEvent event = BITNET__V1__SWAP_MODEL_EVENT__INIT;
    models_fill_results(&swapped->validation, &results);
    r.swap_id = (char *)(uintptr_t)swapped->id;
    r.status = swapped->status ? (Bitnet__V1__SwapStatus)swapped->status /* the same numbers */
                               : BITNET__V1__SWAP_STATUS__SWAP_STATUS_FAILED;
    r.total_ms = swapped->total_ms;
    r.previous = side_message(&swapped->previous, &previous, &models[0]);
    r.next = side_message(&swapped->next, &next, &models[1]);
    r.validation_ms = swapped->validation_ms;
    r.switch_ms = swapped->switch_ms;
    r.health_check_ms = swapped->health_check_ms;
    r.rollback_ms = swapped->rollback_ms;
    r.rolled_back = swapped->status == SWAP_ROLLED_BACK;
    r.rollback_reason = (char *)(uintptr_t)swapped->rollback_reason;
    r.validation = &results.results;
    r.n_checks = swapped->n_checks;
    r.checks = list;
    for (size_t i = 0; i < swapped->n_checks; i++) {
        bitnet__v1__health_check_result__init(&checks[i]);
        checks[i].name = (char *)(uintptr_t)swapped->checks[i].name;
        checks[i].passed = swapped->checks[i].passed;
        checks[i].details = (char *)(uintptr_t)swapped->checks[i].details;
        list[i] = &checks[i];
    }
    if (err->code) {
        r.error_code = (char *)(uintptr_t)error_info(err->code)->name;
        r.error_message = (char *)(uintptr_t)err->message;
    }
    event.event_case = BITNET__V1__SWAP_MODEL_EVENT__EVENT_RESULT;
    event.result = &r;
    message_pack(out, &event.base);
}

static enum error_code run_swap(struct change *c, struct service *s, const void *request, struct buffer *out,
                                struct error *err)
{
    const Bitnet__V1__SwapModelRequest *r = request;
    struct swap_result swapped = {0};
    struct swap_request q = model_swap_request(r);
    q.on_progress = change_progress;
    q.user = c;
    enum error_code code = registry_swap(s->registry, &q, &swapped, err);
    pack_swap_result(&swapped, err, out);
    served_release(swapped.previous.served);
    served_release(swapped.next.served);
    return code;
}

/* ---- unload, default ---- */

static enum error_code run_unload(struct change *c, struct service *s, const void *request, struct buffer *out,
                                  struct error *err)
{
    const Bitnet__V1__UnloadModelRequest *r = request;
    Bitnet__V1__UnloadModelResponse response = BITNET__V1__UNLOAD_MODEL_RESPONSE__INIT;
    struct served *served = NULL;
    struct engine_stats stats;
    (void)c;
    if (!registry_acquire(s->registry, r->id, &served, NULL)) {
        engine_stats(served_engine(served), &stats);
        response.evicted = stats.n_running + stats.n_waiting;
    }
    served_release(served); /* or it would wait for us */
    enum error_code code = registry_unload(s->registry, r->id, &response.freed_bytes, err);
    if (!code)
        message_pack(out, &response.base);
    return code;
}

static enum error_code run_set_default(struct change *c, struct service *s, const void *request, struct buffer *out,
                                       struct error *err)
{
    const Bitnet__V1__SetDefaultModelRequest *r = request;
    struct model_entry *entries = NULL;
    struct model_message message;
    size_t n = 0;
    (void)c;
    enum error_code code = registry_set_default(s->registry, r->id, err);
    if (code)
        return code;
    const struct model_entry *found =
        registry_list(s->registry, &entries, &n) ? models_find(s, entries, n, r->id) : NULL;
    if (found) {
        models_fill(found, &message);
        message_pack(out, &message.model.base);
    }
    registry_list_free(entries, n);
    return found ? ERROR_NONE
                 : error_set(err, ERROR_MODEL_NOT_FOUND, "the model \"%.64s\" was the default, and is gone", r->id);
}

/* ---- calls ---- */

/* Unpacks, checks and begins. */
static void begin(struct service *s, const struct change_kind *kind, const ProtobufCMessageDescriptor *type,
                  enum error_code (*check)(const void *request, struct error *err), struct rpc_call *call,
                  const void *data, size_t n_bytes)
{
    struct error err = {0};
    void *r = message_unpack(type, data, n_bytes, &err);
    if (r && !check(r, &err)) {
        change_start(s->changes, kind, call, r);
    } else {
        status_fail(s, call, &err);
        message_free(r);
    }
}

void models_load(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    static const struct change_kind kind = {"load", run_load, pack_load_progress};
    begin(service, &kind, &bitnet__v1__load_model_request__descriptor, model_check_load, call, data, n_bytes);
}

void models_swap(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    static const struct change_kind kind = {"swap", run_swap, pack_swap_progress};
    begin(service, &kind, &bitnet__v1__swap_model_request__descriptor, model_check_swap, call, data, n_bytes);
}

void models_unload(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    static const struct change_kind kind = {"unload", run_unload, NULL};
    begin(service, &kind, &bitnet__v1__unload_model_request__descriptor, model_check_unload, call, data, n_bytes);
}

void models_set_default(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    static const struct change_kind kind = {"set_default", run_set_default, NULL};
    begin(service, &kind, &bitnet__v1__set_default_model_request__descriptor, model_check_default, call, data, n_bytes);
}
