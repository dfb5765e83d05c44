/* What a start loads: the models of the state file, or the first one. And the way back: the state that is written. */
#include "engine/registry/state.h"

#include "base/log.h"
#include "engine/registry/allow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Models that a restart is to have: those that are served, and those that were missing this time. */
static bool is_kept(const struct entry *e)
{
    return e->status == MODEL_ACTIVE || e->status == MODEL_FAILED;
}

/* False when memory is out. */
static bool snapshot(struct registry *r, struct state *out)
{
    size_t n = 0;
    pthread_mutex_lock(&r->lock);
    for (const struct entry *e = r->entries; e; e = e->next)
        n += is_kept(e);
    out->models = calloc(n ? n : 1, sizeof *out->models);
    for (const struct entry *e = r->entries; out->models && e; e = e->next) {
        if (!is_kept(e))
            continue;
        struct state_model *m = &out->models[out->n_models++];
        memcpy(m->id, e->id, sizeof m->id);
        memcpy(m->aliases, e->aliases, sizeof m->aliases);
        m->source = e->source;
    }
    memcpy(out->default_id, r->default_id, sizeof out->default_id);
    pthread_mutex_unlock(&r->lock);
    memcpy(out->operator_id, r->operator_id, sizeof out->operator_id);
    if (r->options.engine.model_path)
        snprintf(out->operator_path, sizeof out->operator_path, "%s", r->options.engine.model_path);
    return out->models != NULL;
}

enum error_code registry_save(struct registry *r, struct error *err)
{
    struct state state = {0};
    if (!r->options.state_file)
        return ERROR_NONE;
    pthread_mutex_lock(&r->state_lock);
    enum error_code code = snapshot(r, &state) ? state_save(r->options.state_file, &state, err)
                                               : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the state file");
    pthread_mutex_unlock(&r->state_lock);
    state_fini(&state);
    return code;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static enum error_code first_model(const struct engine_options *o, struct state_model *first, struct error *err)
{
    if ((size_t)snprintf(first->source.path, sizeof first->source.path, "%s", o->model_path) >= sizeof first->source.path)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model_path", "expected a path of less than %zu bytes",
                               sizeof first->source.path);
    return entry_make_id(o, first->id, err);
}

static struct entry *entry_for(struct registry *r, const struct state_model *m)
{
    pthread_mutex_lock(&r->lock);
    struct entry *e = entry_find(r, m->id);
    if (!e)
        e = entry_add(r, m->id);
    if (e) {
        e->status = MODEL_FAILED; /* until it is loaded */
        e->source = m->source;
        memcpy(e->aliases, m->aliases, sizeof e->aliases);
    }
    pthread_mutex_unlock(&r->lock);
    return e;
}

static int open_allowed(void *dirs, const char *path, struct error *err)
{
    return allow_open(dirs, path, err);
}

/* Memory for a model beside those that are there already. */
static enum error_code reserve(struct registry *r, const struct state_model *m, struct instance_how *how, struct error *err)
{
    struct gguf *g;
    struct model_shape shape;
    enum error_code code = gguf_open_by(how->opener, m->source.path, &g, err);
    if (code)
        return code;
    if (!(code = model_shape_read(g, &shape, err))) {
        how->reserved_bytes = instance_estimate(r, &m->source, g, &shape);
        code = room_take(r, m->id, how->reserved_bytes, false, err);
    }
    gguf_close(g);
    return code;
}

/* The operator names the first model without the bounds of those who may load others. */
static bool is_operators(const struct registry *r, const char *path)
{
    return r->options.engine.model_path && strcmp(path, r->options.engine.model_path) == 0;
}

/* The first one may take what it needs. */
static enum error_code open_model(struct registry *r, const struct state_model *m, struct served **out, struct error *err)
{
    const struct file_opener allowed = {open_allowed, (void *)(uintptr_t)r->options.allowed_dirs};
    struct instance_how how = {.opener = is_operators(r, m->source.path) ? NULL : &allowed};
    enum error_code code = r->instances ? reserve(r, m, &how, err) : ERROR_NONE;
    return code ? code : instance_open(r, m->id, &m->source, &how, out, err);
}

/* Loads a model that is served from the beginning; it is listed as failed when it does not load. */
static enum error_code add_model(struct registry *r, const struct state_model *m, struct error *err)
{
    struct served *s;
    struct entry *e = entry_for(r, m);
    if (!e)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a model");
    enum error_code code = open_model(r, m, &s, err);
    if (!code)
        instance_observe(s);
    pthread_mutex_lock(&r->lock);
    if (code)
        snprintf(e->message, sizeof e->message, "%s", err->message);
    else
        instance_publish(e, &m->source, s);
    pthread_mutex_unlock(&r->lock);
    return code;
}

static void restore_model(struct registry *r, const struct state_model *m)
{
    const struct registry_observer *o = &r->options.observer;
    struct error err = {0};
    if (!add_model(r, m, &err))
        return;
    log_error("registry", "a model of the state file does not load", LOG_STR("model", m->id), LOG_STR("path", m->source.path),
              LOG_STR("error", err.message));
    if (o->on_load_failed)
        o->on_load_failed(o->user, m->id, &err);
}

/* The default model first, so that it has room. With another operator's model than it was written under, that one's place is the new one's. */
static void restore(struct registry *r, const struct state *state, const struct state_model *instead)
{
    for (int others = 0; others < 2; others++)
        for (size_t i = 0; i < state->n_models; i++) {
            const struct state_model *m = &state->models[i];
            bool replaced = instead && (strcmp(m->id, instead->id) == 0 || strcmp(m->id, state->operator_id) == 0);
            if (!replaced && (strcmp(m->id, state->default_id) != 0) == others)
                restore_model(r, m);
        }
}

/* False when there is none that can be used. */
static bool read_state(struct registry *r, struct state *out)
{
    struct error err = {0};
    enum error_code code = r->options.state_file ? state_load(r->options.state_file, out, &err) : ERROR_NOT_FOUND;
    if (code && code != ERROR_NOT_FOUND) {
        log_error("registry", "the state file cannot be used, and is put aside as .unreadable", LOG_STR("path", r->options.state_file),
                  LOG_STR("error", err.message));
        state_put_aside(r->options.state_file);
    }
    return !code;
}

static bool is_active(struct registry *r, const char *id)
{
    const struct entry *e = *id ? entry_find(r, id) : NULL; /* nobody else is there yet */
    return e && e->status == MODEL_ACTIVE;
}

static enum error_code no_default(struct registry *r, const struct state *state, struct error *err)
{
    const struct entry *e = entry_find(r, state->default_id);
    if (!e)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model_path", "expected the path of a GGUF file, or a state file that names one");
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "state_file", "the default model %s does not load: %s", e->id, e->message);
}

enum error_code restore_models(struct registry *r, struct error *err)
{
    const char *path = r->options.engine.model_path;
    struct state state = {0};
    struct state_model first = {0};
    enum error_code code = path ? first_model(&r->options.engine, &first, err) : ERROR_NONE;
    if (code)
        return code;
    memcpy(r->operator_id, first.id, sizeof r->operator_id);
    bool there = read_state(r, &state);
    bool mine = !path || (strcmp(state.operator_path, path) == 0 && strcmp(state.operator_id, first.id) == 0);
    if (there)
        restore(r, &state, mine ? NULL : &first);
    if (there && mine && is_active(r, state.default_id)) {
        memcpy(r->default_id, state.default_id, sizeof r->default_id);
    } else if (path) {
        code = is_active(r, first.id) ? ERROR_NONE : add_model(r, &first, err);
        memcpy(r->default_id, first.id, sizeof r->default_id);
    } else {
        code = no_default(r, &state, err);
    }
    if (!code && path && !entry_find(r, first.id))
        log_warn("registry", "the model that the process was started with was taken out earlier, and stays out; the state file says so",
                 LOG_STR("model", first.id), LOG_STR("default", r->default_id), LOG_STR("state_file", r->options.state_file));
    state_fini(&state);
    return code;
}
