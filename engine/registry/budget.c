/* Memory of all models together: room for one more, and who gives way to it. */
#include "engine/registry/parts.h"

#include "base/log.h"

#include <inttypes.h>
#include <string.h>

#define MB(n_bytes) ((double)(n_bytes) / (1 << 20))

/* The model that was used least lately of those that nobody uses, and that may go. With the lock held. */
static struct entry *least_used(struct registry *r, const char *but)
{
    struct entry *found = NULL;
    for (struct entry *e = r->entries; e; e = e->next) {
        const struct served *s = e->current;
        if (e->status != MODEL_ACTIVE || e->changing || s->n_refs - s->n_listed > 1 || strcmp(e->id, r->default_id) == 0 ||
            strcmp(e->id, but) == 0)
            continue;
        if (!found || s->last_used_ns < found->current->last_used_ns)
            found = e;
    }
    return found;
}

/* Takes a model out for good. With the lock held, which is let go meanwhile. */
static enum error_code evict(struct registry *r, struct entry *e, const char *id, struct error *err)
{
    e->status = MODEL_UNLOADING;
    pthread_mutex_unlock(&r->lock);
    enum error_code code = registry_save(r, err);
    pthread_mutex_lock(&r->lock);
    if (code) {
        e->status = MODEL_ACTIVE;
        return code;
    }
    log_info("registry", "model evicted for another one", LOG_STR("model", e->id), LOG_STR("other", id),
             LOG_INT("memory_bytes", e->current->memory_bytes));
    e->current->leaving = true;
    served_drop(r, e->current);
    entry_remove(r, e);
    return ERROR_NONE;
}

/* Bytes that are going to be free: of models that nobody has any more. With the lock held. */
static uint64_t leaving_bytes(const struct registry *r)
{
    uint64_t n_bytes = r->closing_bytes;
    for (const struct served *s = r->instances; s; s = s->next)
        n_bytes += s->n_refs == s->n_listed ? s->memory_bytes : 0;
    return n_bytes;
}

static enum error_code no_room(const struct registry *r, uint64_t n_bytes, struct error *err)
{
    return error_set(err, ERROR_MEMORY_EXHAUSTED,
                     "the model needs about %.1f MB, and of the %.1f MB for all models %.1f are taken; unload one, or allow more", MB(n_bytes),
                     MB(r->budget_bytes), MB(r->used_bytes));
}

enum error_code room_take(struct registry *r, const char *id, uint64_t n_bytes, bool may_evict, struct error *err)
{
    enum error_code code = ERROR_NONE;
    pthread_mutex_lock(&r->lock);
    while (!code && r->used_bytes + n_bytes > r->budget_bytes) {
        struct entry *e = NULL;
        if (r->used_bytes - leaving_bytes(r) + n_bytes <= r->budget_bytes)
            pthread_cond_wait(&r->changed, &r->lock);
        else if (may_evict && n_bytes <= r->budget_bytes && (e = least_used(r, id)))
            code = evict(r, e, id, err);
        else
            code = no_room(r, n_bytes, err);
    }
    if (!code)
        r->used_bytes += n_bytes;
    pthread_mutex_unlock(&r->lock);
    return code;
}
