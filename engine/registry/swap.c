/* Putting another file behind an id while requests run. See swap.h. */
#include "engine/registry/swap.h"

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define MAX_PROMPT_BYTES 4096

static double ms_since(int64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_MS;
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

static enum error_code check_request(const struct swap_request *q, struct error *err)
{
    if (q->n_prompts > SWAP_MAX_PROMPTS)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "prompts", "expected at most %d, found %zu", SWAP_MAX_PROMPTS, q->n_prompts);
    for (size_t i = 0; i < q->n_prompts; i++)
        if (!q->prompts[i] || !*q->prompts[i] || strlen(q->prompts[i]) > MAX_PROMPT_BYTES)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "prompts", "expected texts of 1 to %d bytes", MAX_PROMPT_BYTES);
    if (q->watch_ns < 0 || q->watch_ns > 3600 * CLOCK_NS_PER_S)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "watch_seconds", "expected 0 to 3600");
    return ERROR_NONE;
}

/* Marks the entry as being swapped, with a reference to what it has for the result. */
static enum error_code begin(struct swapping *s, struct error *err)
{
    enum error_code code = ERROR_NONE;
    const char *id = s->q->id ? s->q->id : "";
    pthread_mutex_lock(&s->r->lock);
    struct entry *e = *id ? entry_match(s->r, id) : NULL;
    if (!e || e->status != MODEL_ACTIVE) {
        code = entry_missing(s->r, id, err);
    } else if (e->changing) {
        code = error_set_param(err, ERROR_CONFLICT, "id", "a swap of model \"%s\" is running", e->id);
    } else {
        e->changing = true;
        snprintf(e->message, sizeof e->message, "is being swapped");
        s->e = e;
        s->previous = s->out->previous.served = e->current;
        s->previous->n_refs++;
    }
    pthread_mutex_unlock(&s->r->lock);
    return code;
}

/* What clients ask of the old model they must be able to ask of the new one. */
static enum error_code check_kind(struct swapping *s)
{
    uint32_t previous = engine_model(s->previous->engine)->embedding_size, next = engine_model(s->next->engine)->embedding_size;
    char expected[64], found[64];
    if (previous == next)
        return ERROR_NONE;
    snprintf(expected, sizeof expected, previous ? "a model that computes embeddings of %u" : "a model that generates", previous);
    snprintf(found, sizeof found, next ? "one that computes embeddings of %u" : "one that generates", next);
    return validation_fail(&s->out->validation, s->err, ERROR_MODEL_LOAD_FAILED, "kind", expected, "%s", found);
}

static enum error_code open_next(struct swapping *s)
{
    int64_t start_ns = clock_now_ns();
    s->p = (struct preparation){.r = s->r,
                                .id = s->e->id,
                                .path = s->q->path,
                                .source = s->e->source, /* which only swaps write */
                                .asked = s->q->validation,
                                .on_progress = s->q->on_progress,
                                .user = s->q->user,
                                .start_ns = start_ns,
                                .results = &s->out->validation};
    enum error_code code = prepare(&s->p, &s->next, s->err);
    s->out->validation_ms = ms_since(start_ns);
    if (!code && (code = check_kind(s))) {
        served_release(s->next);
        s->next = NULL;
    }
    if (code)
        return code;
    s->out->next.served = served_ref(s->next);
    s->out->next.accuracy = s->next->accuracy;
    instance_observe(s->next);
    engine_stats(s->next->engine, &s->before);
    return ERROR_NONE;
}

/* ---- switching and checking -------------------------------------------------------------------------------------- */

/* Per cent of new requests that go to the new model from now on. */
static void set_share(struct swapping *s, unsigned share)
{
    struct entry *e = s->e;
    int64_t start_ns = clock_now_ns();
    pthread_mutex_lock(&s->r->lock);
    e->current = share == 100 ? s->next : s->previous;
    e->candidate = share > 0 && share < 100 ? s->next : NULL;
    e->share = share;
    e->n_routed = 0;
    pthread_mutex_unlock(&s->r->lock);
    s->out->switch_ms += ms_since(start_ns);
}

static void check_atomic(struct swapping *s)
{
    set_share(s, 100);
    swap_check_answers(s, "accuracy", false);
    swap_check_errors(s, "error_rate");
}

static void check_blue_green(struct swapping *s)
{
    set_share(s, 100);
    swap_check_answers(s, "accuracy", false);
    if (!s->failed[0] && swap_watch(s, 1))
        swap_check_errors(s, "error_rate");
}

static void check_rolling(struct swapping *s)
{
    static const struct {
        unsigned share;
        const char *errors, *accuracy;
    } steps[] = {{10, "error_rate_10", "accuracy_10"},
                 {25, "error_rate_25", "accuracy_25"},
                 {50, "error_rate_50", "accuracy_50"},
                 {100, "error_rate_100", "accuracy_100"}};
    for (size_t i = 0; !s->failed[0] && i < sizeof steps / sizeof *steps; i++) {
        set_share(s, steps[i].share);
        if (!swap_watch(s, steps[i].share / 100.0))
            return;
        swap_check_errors(s, steps[i].errors);
        swap_check_answers(s, steps[i].accuracy, steps[i].share < 100);
    }
}

static void check(struct swapping *s)
{
    static void (*const strategies[])(struct swapping *) = {
        [SWAP_ATOMIC] = check_atomic, [SWAP_BLUE_GREEN] = check_blue_green, [SWAP_ROLLING] = check_rolling};
    int64_t start_ns = clock_now_ns();
    s->deadline_ns = start_ns + s->p.asked.timeout_ns + (s->q->watch_ns ? s->q->watch_ns : SWAP_WATCH_NS) * 4;
    prepare_progress(&s->p, "switching", 0, "");
    strategies[s->q->strategy](s);
    if (!s->failed[0] && !s->draining)
        swap_check_speed(s);
    if (s->draining)
        swap_note(s, "shutdown", false, ERROR_SERVICE_UNAVAILABLE, "the engine is shutting down");
    s->out->health_check_ms = ms_since(start_ns) - s->out->switch_ms;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static void remember(struct swapping *s, const struct model_source *source)
{
    pthread_mutex_lock(&s->r->lock);
    s->e->source = *source;
    pthread_mutex_unlock(&s->r->lock);
}

/* Makes the new model the one that a restart serves. */
static void commit(struct swapping *s)
{
    const struct model_source before = s->e->source;
    struct error why = {0};
    set_share(s, 100);
    remember(s, &s->p.source);
    enum error_code code = registry_save(s->r, &why);
    if (!code)
        return;
    remember(s, &before);
    swap_note(s, "state_file", false, code, "%s", why.message);
}

static void roll_back(struct swapping *s)
{
    int64_t start_ns = clock_now_ns();
    double switch_ms = s->out->switch_ms;
    set_share(s, 0);
    s->out->switch_ms = switch_ms;
    s->out->rollback_ms = ms_since(start_ns);
    s->out->status = SWAP_ROLLED_BACK;
    snprintf(s->out->rollback_reason, sizeof s->out->rollback_reason, "%s", s->failed);
}

/* Lets the entry's reference to the one go that it does not serve. */
static void let_go(struct swapping *s)
{
    pthread_mutex_lock(&s->r->lock);
    served_drop(s->r, s->e->current == s->next ? s->previous : s->next);
    pthread_mutex_unlock(&s->r->lock);
    prepare_progress(&s->p, "draining", 0, s->out->status == SWAP_ROLLED_BACK ? "the new model" : "the old model");
}

static enum error_code decide(struct swapping *s)
{
    if (!s->failed[0] || (s->q->no_rollback && !s->draining)) {
        bool healthy = !s->failed[0];
        commit(s);
        if (healthy && !s->failed[0])
            s->out->status = SWAP_COMPLETED;
        else if (healthy)
            roll_back(s);
    } else {
        roll_back(s);
    }
    let_go(s);
    if (s->out->status == SWAP_COMPLETED)
        return ERROR_NONE;
    return error_set(s->err, s->code, "%s: %s", s->out->status == SWAP_ROLLED_BACK ? "rolled back" : "the new model is served, but not healthy",
                     s->failed);
}

static void end(struct swapping *s)
{
    pthread_mutex_lock(&s->r->lock);
    s->e->changing = false;
    s->e->message[0] = '\0';
    pthread_mutex_unlock(&s->r->lock);
}

static void tell(struct swapping *s, enum error_code code)
{
    static const char *const names[] = {[SWAP_COMPLETED] = "completed", [SWAP_FAILED] = "failed", [SWAP_ROLLED_BACK] = "rolled_back"};
    const struct registry_observer *o = &s->r->options.observer;
    const char *result = names[s->out->status];
    if (code)
        log_warn("registry", "swap ended", LOG_STR("model", s->e->id), LOG_STR("swap_id", s->out->id), LOG_STR("result", result),
                 LOG_STR("error", s->err->message));
    else
        log_info("registry", "swap ended", LOG_STR("model", s->e->id), LOG_STR("swap_id", s->out->id), LOG_STR("result", result),
                 LOG_FLOAT("switch_ms", s->out->switch_ms), LOG_FLOAT("total_ms", s->out->total_ms));
    if (o->on_swap)
        o->on_swap(o->user, s->e->id, result);
}

static enum error_code swap(struct swapping *s)
{
    enum error_code code = begin(s, s->err);
    if (code)
        return code;
    s->out->previous.accuracy = s->previous->accuracy;
    if (!(code = open_next(s))) {
        check(s);
        code = decide(s);
    }
    s->out->total_ms = ms_since(s->start_ns);
    tell(s, code);
    end(s);
    return code;
}

enum error_code registry_swap(struct registry *r, const struct swap_request *request, struct swap_result *out, struct error *err)
{
    struct error unused = {0};
    struct swapping s = {.r = r, .q = request, .out = out, .err = err ? err : &unused, .start_ns = clock_now_ns()};
    *out = (struct swap_result){.status = SWAP_FAILED, .previous = {NULL, -1, -1}, .next = {NULL, -1, -1}};
    validation_clear(&out->validation);
    id_uuid(out->id);
    enum error_code code = check_request(request, s.err);
    if (!code && !(code = change_begin(r, s.err))) {
        code = swap(&s);
        change_end(r);
    }
    out->total_ms = ms_since(s.start_ns);
    return code;
}
