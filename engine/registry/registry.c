/* Opening, draining, closing, and the default. */
#include "engine/registry/parts.h"

#include "base/clock.h"
#include "engine/waker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static bool open_sync(struct registry *r)
{
    if (pthread_mutex_init(&r->lock, NULL))
        return false;
    if (pthread_mutex_init(&r->state_lock, NULL))
        goto fail_state;
    if (!waker_cond_init(&r->changed))
        goto fail_changed;
    if (!turn_init(&r->turn))
        goto fail_turn;
    if (!reaper_start(r))
        goto fail_reaper;
    return true;
fail_reaper:
    turn_fini(&r->turn);
fail_turn:
    pthread_cond_destroy(&r->changed);
fail_changed:
    pthread_mutex_destroy(&r->state_lock);
fail_state:
    pthread_mutex_destroy(&r->lock);
    return false;
}

enum error_code registry_open(const struct registry_options *options, struct registry **out, struct error *err)
{
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a registry");
    r->options = *options;
    if (!r->options.max_loads)
        r->options.max_loads = 1;
    if (!open_sync(r)) {
        free(r);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the registry's locks");
    }
    enum error_code code = restore_models(r, err);
    if (code) {
        registry_close(r);
        return code;
    }
    *out = r;
    return ERROR_NONE;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

/* The next instance behind number `after` that has a reference to give, NULL when there is none. */
static struct served *next_instance(struct registry *r, uint64_t after)
{
    struct served *next = NULL;
    pthread_mutex_lock(&r->lock);
    for (struct served *s = r->instances; s; s = s->next)
        if (s->number > after && s->n_refs > 0 && (!next || s->number < next->number))
            next = s;
    if (next)
        next->n_refs++;
    pthread_mutex_unlock(&r->lock);
    return next;
}

static void for_instances(struct registry *r, void (*what)(struct engine *e, int64_t deadline_ns), int64_t deadline_ns)
{
    uint64_t number = 0;
    for (struct served *s; (s = next_instance(r, number)); served_release(s)) {
        number = s->number;
        what(s->engine, deadline_ns);
    }
}

void registry_drain(struct registry *r, int64_t deadline_ns)
{
    pthread_mutex_lock(&r->lock);
    r->draining = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for_instances(r, engine_refuse, deadline_ns); /* all stop taking requests before one is waited for */
    for_instances(r, engine_drain, deadline_ns);
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    registry_drain(r, clock_now_ns());
    pthread_mutex_lock(&r->lock);
    while (r->n_changes)
        pthread_cond_wait(&r->changed, &r->lock);
    while (r->entries) {
        struct entry *e = r->entries;
        served_drop(r, e->current);
        entry_remove(r, e);
    }
    pthread_mutex_unlock(&r->lock);
    reaper_stop(r);
    turn_fini(&r->turn);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->state_lock);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- the default ------------------------------------------------------------------------------------------------- */

/* Sets the default and gives the one before in `before`. */
static enum error_code put_default(struct registry *r, const char *id, char before[REGISTRY_ID_BYTES], struct error *err)
{
    enum error_code code = ERROR_NONE;
    pthread_mutex_lock(&r->lock);
    const struct entry *e = id && *id ? entry_match(r, id) : NULL;
    if (e && e->status == MODEL_ACTIVE) {
        memcpy(before, r->default_id, REGISTRY_ID_BYTES);
        memcpy(r->default_id, e->id, sizeof e->id);
    } else {
        code = entry_missing(r, id ? id : "", err);
    }
    pthread_mutex_unlock(&r->lock);
    return code;
}

enum error_code registry_set_default(struct registry *r, const char *id, struct error *err)
{
    char before[REGISTRY_ID_BYTES], now[REGISTRY_ID_BYTES];
    enum error_code code = change_begin(r, err);
    if (code)
        return code;
    code = put_default(r, id, before, err);
    if (!code && (code = registry_save(r, err)))
        put_default(r, before, now, NULL);
    change_end(r);
    return code;
}
