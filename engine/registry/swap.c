/* Putting another file behind an id while requests run. */
#include "engine/registry/prepare.h"

#include "base/clock.h"
#include "base/id.h"

#include <stdio.h>
#include <string.h>

/* Marks the entry as being swapped, with a reference to what it has. */
static enum error_code begin(struct registry *r, const char *id, struct entry **out, struct served **previous, struct error *err)
{
    enum error_code code = ERROR_NONE;
    pthread_mutex_lock(&r->lock);
    struct entry *e = id && *id ? entry_match(r, id) : NULL;
    if (!e || e->status != MODEL_ACTIVE)
        code = entry_missing(r, id ? id : "", err);
    else if (e->changing)
        code = error_set_param(err, ERROR_CONFLICT, "id", "a swap of model \"%s\" is running", e->id);
    else {
        e->changing = true;
        e->current->n_refs++;
        *previous = e->current;
        *out = e;
    }
    pthread_mutex_unlock(&r->lock);
    return code;
}

static enum error_code open_next(struct registry *r, struct entry *e, const struct swap_request *q, struct model_source *source,
                                 struct served **next, struct error *err)
{
    struct validation_results results;
    struct preparation p = {.r = r, .id = e->id, .path = q->path, .source = e->source, .asked = q->validation, .results = &results};
    enum error_code code = prepare(&p, next, err);
    *source = p.source;
    return code;
}

static void switch_over(struct registry *r, struct entry *e, struct served *next, const struct model_source *source)
{
    instance_observe(next);
    pthread_mutex_lock(&r->lock);
    served_drop(r, e->current);
    e->current = next;
    e->source = *source;
    next->n_refs++; /* the caller's */
    pthread_mutex_unlock(&r->lock);
}

enum error_code registry_swap(struct registry *r, const struct swap_request *request, struct swap_result *out, struct error *err)
{
    int64_t start_ns = clock_now_ns();
    struct model_source source;
    struct served *next;
    struct entry *e = NULL;
    *out = (struct swap_result){.status = SWAP_FAILED};
    id_uuid(out->id);
    enum error_code code = change_begin(r, err);
    if (code)
        return code;
    if (!(code = begin(r, request->id, &e, &out->previous.served, err))) {
        code = open_next(r, e, request, &source, &next, err);
        if (!code) {
            switch_over(r, e, next, &source);
            out->next.served = next;
            out->status = SWAP_COMPLETED;
        }
        pthread_mutex_lock(&r->lock);
        e->changing = false;
        pthread_mutex_unlock(&r->lock);
    }
    out->total_ms = (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_MS;
    change_end(r);
    return code;
}
