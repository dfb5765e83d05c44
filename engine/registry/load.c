/* Loading one more model, and taking one out. */
#include "engine/registry/prepare.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define MAX_ALIAS 128

/* ---- changes and slots ------------------------------------------------------------------------------------------- */

enum error_code registry_shutting_down(struct error *err)
{
    error_set(err, ERROR_SERVICE_UNAVAILABLE, "the engine is shutting down");
    if (err) {
        err->reason = REFUSED_DRAINING;
        err->retry_after_ms = 1000;
    }
    return ERROR_SERVICE_UNAVAILABLE;
}

enum error_code change_begin(struct registry *r, struct error *err)
{
    pthread_mutex_lock(&r->lock);
    bool refused = r->draining;
    r->n_changes += !refused;
    pthread_mutex_unlock(&r->lock);
    return refused ? registry_shutting_down(err) : ERROR_NONE;
}

void change_end(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    r->n_changes--;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

enum error_code slot_take(struct registry *r, struct error *err)
{
    pthread_mutex_lock(&r->lock);
    while (r->n_loads >= r->options.max_loads && !r->draining)
        pthread_cond_wait(&r->changed, &r->lock);
    bool refused = r->draining;
    r->n_loads += !refused;
    pthread_mutex_unlock(&r->lock);
    return refused ? registry_shutting_down(err) : ERROR_NONE;
}

void slot_give(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    r->n_loads--;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* ---- names of a new model ---------------------------------------------------------------------------------------- */

static enum error_code check_alias(const struct registry *r, const char *alias, size_t n, struct error *err)
{
    char name[MAX_ALIAS + 1];
    for (size_t i = 0; i < n; i++)
        if (n > MAX_ALIAS || alias[i] <= ' ' || alias[i] > '~')
            return error_set_param(err, ERROR_VALIDATION_FAILED, "aliases",
                                   "expected 1 to %d visible ASCII characters without a comma, found \"%.*s\"", MAX_ALIAS,
                                   (int)(n < 64 ? n : 64), alias);
    memcpy(name, alias, n);
    name[n] = '\0';
    const struct entry *taken = n ? entry_match(r, name) : NULL;
    return taken ? error_set_param(err, ERROR_CONFLICT, "aliases", "the alias \"%s\" is that of model \"%s\"", name, taken->id)
                 : ERROR_NONE;
}

static enum error_code check_aliases(const struct registry *r, const char *aliases, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (const char *at = aliases; !code && *at;) {
        size_t n = strcspn(at, ",");
        code = check_alias(r, at, n, err);
        at += n + (at[n] == ',');
    }
    return code;
}

/* Takes the id and the aliases, for a model that is going to be there. A failed one of this id gives way. */
static enum error_code reserve(struct registry *r, const char *id, const char *aliases, struct entry **out, struct error *err)
{
    struct entry *taken = entry_match(r, id);
    if (taken && (taken->status != MODEL_FAILED || strcmp(taken->id, id) != 0))
        return error_set_param(err, ERROR_CONFLICT, "id", "the id \"%s\" is taken by model \"%s\"", id, taken->id);
    enum error_code code = check_aliases(r, aliases, err);
    if (code)
        return code;
    if (taken)
        entry_remove(r, taken);
    if (!(*out = entry_add(r, id)))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a model");
    (*out)->status = MODEL_LOADING;
    snprintf((*out)->message, sizeof (*out)->message, "is being loaded");
    snprintf((*out)->aliases, sizeof (*out)->aliases, "%s", aliases);
    return ERROR_NONE;
}

static enum error_code begin(struct registry *r, const struct load_request *q, char id[REGISTRY_ID_BYTES], struct entry **out,
                             struct error *err)
{
    const char *aliases = q->aliases ? q->aliases : "";
    const struct engine_options named = {.model_path = q->path ? q->path : "", .model_id = q->id};
    enum error_code code = entry_make_id(&named, id, err);
    if (code)
        return code;
    if (strlen(aliases) >= sizeof (*out)->aliases)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "aliases", "expected less than %zu bytes in all, found %zu",
                               sizeof (*out)->aliases, strlen(aliases));
    pthread_mutex_lock(&r->lock);
    code = reserve(r, id, aliases, out, err);
    if (!code)
        snprintf((*out)->source.path, sizeof (*out)->source.path, "%s", q->path ? q->path : "");
    pthread_mutex_unlock(&r->lock);
    return code;
}

/* ---- load -------------------------------------------------------------------------------------------------------- */

/* Serves the model and remembers it; when it cannot be remembered, it is not served either. */
static enum error_code publish(struct registry *r, struct entry *e, const struct model_source *source, struct served *s, bool make_default,
                               struct error *err)
{
    char before[REGISTRY_ID_BYTES];
    instance_observe(s);
    pthread_mutex_lock(&r->lock);
    instance_publish(e, source, s);
    e->changing = true; /* until it is remembered */
    s->n_refs++;        /* the caller's */
    memcpy(before, r->default_id, sizeof before);
    if (make_default)
        memcpy(r->default_id, e->id, sizeof e->id);
    pthread_mutex_unlock(&r->lock);
    enum error_code code = registry_save(r, err);
    pthread_mutex_lock(&r->lock);
    e->changing = false;
    if (code) { /* nobody finds it any more, before give_up removes the entry either */
        e->status = MODEL_LOADING;
        e->current = NULL;
        if (strcmp(r->default_id, e->id) == 0)
            memcpy(r->default_id, before, sizeof before);
        served_drop(r, s); /* the entry's reference */
        served_drop(r, s);
    }
    pthread_mutex_unlock(&r->lock);
    return code;
}

static void give_up(struct registry *r, struct entry *e, const char *id, const struct error *err)
{
    const struct registry_observer *o = &r->options.observer;
    pthread_mutex_lock(&r->lock);
    entry_remove(r, e);
    pthread_mutex_unlock(&r->lock);
    log_warn("registry", "model not loaded", LOG_STR("model", id), LOG_STR("error", err->message));
    if (o->on_load_failed)
        o->on_load_failed(o->user, id, err);
}

static enum error_code load_as(struct registry *r, const struct load_request *q, struct entry *e, struct load_result *out, struct error *err)
{
    struct preparation p = {.r = r,
                            .id = out->id,
                            .path = q->path,
                            .asked = q->validation,
                            .on_progress = q->on_progress,
                            .user = q->user,
                            .start_ns = clock_now_ns(),
                            .results = &out->validation};
    struct served *s;
    snprintf(p.source.device, sizeof p.source.device, "%s", q->device ? q->device : "");
    p.source.format = q->format;
    p.source.kv_cache_bytes = q->kv_cache_bytes;
    p.source.no_prefix_cache = q->no_prefix_cache;
    enum error_code code = prepare(&p, &s, err);
    if (!code && !(code = publish(r, e, &p.source, s, q->make_default, err)))
        out->served = s;
    return code;
}

enum error_code registry_load(struct registry *r, const struct load_request *request, struct load_result *out, struct error *err)
{
    int64_t start_ns = clock_now_ns();
    struct error unused = {0};
    struct entry *e = NULL;
    err = err ? err : &unused;
    *out = (struct load_result){0};
    validation_clear(&out->validation);
    enum error_code code = change_begin(r, err);
    if (code)
        return code;
    if (!(code = begin(r, request, out->id, &e, err)) && (code = load_as(r, request, e, out, err)))
        give_up(r, e, out->id, err);
    out->load_ms = (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_MS;
    change_end(r);
    return code;
}

/* ---- unload ------------------------------------------------------------------------------------------------------ */

/* Takes the entry out of service; a failed one is removed, then *out is NULL. With the lock held. */
static enum error_code leave_service(struct registry *r, const char *id, struct entry **out, struct error *err)
{
    struct entry *e = id && *id ? entry_match(r, id) : NULL;
    *out = NULL;
    if (!e)
        return entry_missing(r, id ? id : "", err);
    if (e->changing || e->status == MODEL_LOADING || e->status == MODEL_UNLOADING)
        return error_set_param(err, ERROR_CONFLICT, "id", "model \"%s\" is being %s", e->id,
                               e->status == MODEL_LOADING ? "loaded" : e->status == MODEL_UNLOADING ? "unloaded" : "swapped");
    if (strcmp(e->id, r->default_id) == 0)
        return error_set_param(err, ERROR_CONFLICT, "id", "model \"%s\" is the default one: make another one the default first", e->id);
    if (e->status == MODEL_FAILED) {
        entry_remove(r, e);
        return ERROR_NONE;
    }
    e->status = MODEL_UNLOADING;
    *out = e;
    return ERROR_NONE;
}

/* Also while it is being closed. */
static bool has_instance(const struct registry *r, uint64_t number)
{
    const struct served *s = r->instances;
    while (s && s->number != number)
        s = s->next;
    return s || r->closing_number == number;
}

/* Waits for the entry's users, removes it, and waits until its memory is free. With the lock held. */
static enum error_code let_go(struct registry *r, struct entry *e, uint64_t *freed_bytes, struct error *err)
{
    struct served *s = e->current;
    uint64_t number = s->number, n_bytes = s->memory_bytes;
    s->leaving = true;
    while (s->n_refs - s->n_listed > 1 && !r->draining)
        pthread_cond_wait(&r->changed, &r->lock);
    served_drop(r, s);
    entry_remove(r, e);
    while (has_instance(r, number) && !r->draining)
        pthread_cond_wait(&r->changed, &r->lock);
    if (has_instance(r, number))
        return registry_shutting_down(err);
    *freed_bytes = n_bytes;
    return ERROR_NONE;
}

enum error_code registry_unload(struct registry *r, const char *id, uint64_t *freed_bytes, struct error *err)
{
    struct entry *e;
    *freed_bytes = 0;
    enum error_code code = change_begin(r, err);
    if (code)
        return code;
    pthread_mutex_lock(&r->lock);
    code = leave_service(r, id, &e, err);
    pthread_mutex_unlock(&r->lock);
    if (!code)
        code = registry_save(r, err);
    pthread_mutex_lock(&r->lock);
    if (e && !code)
        code = let_go(r, e, freed_bytes, err);
    else if (e)
        e->status = MODEL_ACTIVE;
    pthread_mutex_unlock(&r->lock);
    change_end(r);
    return code;
}
