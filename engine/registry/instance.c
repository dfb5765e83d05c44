/* Instances: engines over files, from opening to the reaper. */
#include "engine/registry/parts.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/estimate.h"
#include "engine/waker.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static struct engine_options options_of(const struct registry *r, const char *id, const struct model_source *source)
{
    struct engine_options o = r->options.engine;
    o.turn = (struct turn *)(uintptr_t)&r->turn;
    o.model_path = source->path;
    o.model_id = id;
    if (source->device[0])
        o.device = source->device;
    if (source->format != TERNARY_AUTO)
        o.format = source->format;
    if (source->kv_cache_bytes)
        o.kv_cache_bytes = source->kv_cache_bytes;
    o.no_prefix_cache |= source->no_prefix_cache;
    return o;
}

uint64_t instance_estimate(const struct registry *r, const struct model_source *source, const struct gguf *g,
                           const struct model_shape *shape)
{
    const struct engine_options o = options_of(r, "", source);
    return engine_estimate_bytes(g, shape, &o, r->device_bytes);
}

/* The first one says what there is. */
static void note_device(struct registry *r, uint64_t device_bytes)
{
    if (r->device_bytes)
        return;
    r->device_bytes = device_bytes;
    r->budget_bytes = r->options.memory_budget ? r->options.memory_budget : device_bytes / 10 * 9;
}

static void give_room(struct registry *r, uint64_t n_bytes)
{
    pthread_mutex_lock(&r->lock);
    r->used_bytes -= n_bytes;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

enum error_code instance_open(struct registry *r, const char *id, const struct model_source *source, const struct instance_how *how,
                              struct served **out, struct error *err)
{
    struct engine_options options = options_of(r, id, source);
    options.opener = how->opener;
    options.on_load = how->on_load;
    options.on_load_user = how->user;
    options.load_in_background = how->background;
    struct served *s = calloc(1, sizeof *s);
    enum error_code code =
        s ? engine_open(&options, &s->engine, err) : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a model");
    if (code) {
        free(s);
        give_room(r, how->reserved_bytes);
        return code;
    }
    const struct engine_model *m = engine_model(s->engine);
    s->registry = r;
    snprintf(s->id, sizeof s->id, "%s", id);
    struct stat file;
    if (stat(source->path, &file) == 0) {
        s->file.device = file.st_dev;
        s->file.inode = file.st_ino;
    }
    s->memory_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    s->accuracy = -1;
    s->n_refs = 1;
    s->last_used_ns = clock_now_ns();
    pthread_mutex_lock(&r->lock);
    s->number = ++r->n_instances;
    note_device(r, m->device_memory_bytes);
    r->used_bytes += s->memory_bytes - how->reserved_bytes;
    s->next = r->instances;
    r->instances = s;
    pthread_mutex_unlock(&r->lock);
    *out = s;
    return ERROR_NONE;
}

void instance_observe(struct served *s)
{
    const struct registry_observer *o = &s->registry->options.observer;
    s->observed = true;
    if (o->on_open)
        s->user = o->on_open(o->user, s->id, s->engine);
}

void instance_publish(struct entry *e, const struct model_source *source, struct served *s)
{
    e->source = *source;
    e->current = s;
    e->status = MODEL_ACTIVE;
    e->message[0] = '\0';
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static void instance_close(struct registry *r, struct served *s)
{
    const struct registry_observer *o = &r->options.observer;
    if (s->observed && o->on_close)
        o->on_close(o->user, s->user);
    engine_close(s->engine);
    malloc_trim(0); /* the threads that loaded and checked it leave what they have freed in arenas of their own */
    log_info("registry", "model closed", LOG_STR("model", s->id), LOG_INT("memory_bytes", s->memory_bytes));
}

/* One that nobody uses, taken off the list; NULL when there is none. With the lock held. */
static struct served *take_unused(struct registry *r)
{
    for (struct served **at = &r->instances; *at; at = &(*at)->next) {
        struct served *s = *at;
        if (s->n_refs == 0) {
            *at = s->next;
            r->closing_bytes = s->memory_bytes;
            r->closing_number = s->number;
            return s;
        }
    }
    return NULL;
}

static void *reap(void *arg)
{
    struct registry *r = arg;
    pthread_setname_np(pthread_self(), "model-reaper");
    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct served *s = take_unused(r);
        if (s) {
            pthread_mutex_unlock(&r->lock);
            instance_close(r, s);
            pthread_mutex_lock(&r->lock);
            r->used_bytes -= s->memory_bytes;
            r->closing_bytes = r->closing_number = 0;
            free(s);
            pthread_cond_broadcast(&r->changed);
        } else if (r->closing && !r->instances) {
            break;
        } else {
            pthread_cond_wait(&r->changed, &r->lock);
        }
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

bool reaper_start(struct registry *r)
{
    return waker_thread_start(&r->reaper, reap, r);
}

void reaper_stop(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->reaper, NULL);
}
