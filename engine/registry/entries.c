/* Ids and aliases, requests' way to an instance, references, and the list of models. */
#include "engine/registry/parts.h"

#include "base/clock.h"
#include "engine/describe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ------------------------------------------------------------------------------------------------------- */

static bool is_id_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

enum error_code entry_make_id(const struct engine_options *options, char id[REGISTRY_ID_BYTES], struct error *err)
{
    char name[MODEL_ID_BYTES];
    size_t n = 0;
    model_make_id(options, name);
    if (!options->model_id || !*options->model_id)
        name[REGISTRY_ID_BYTES - 1] = '\0';
    while (is_id_char(name[n]))
        n++;
    if (n == 0 || n >= REGISTRY_ID_BYTES || name[n])
        return error_set_param(err, ERROR_VALIDATION_FAILED, "id",
                               "expected an id of 1 to %d letters, digits, _ and -, found \"%s\"", REGISTRY_ID_BYTES - 1, name);
    memcpy(id, name, n + 1);
    return ERROR_NONE;
}

static char spelled(char c)
{
    return is_id_char(c) ? c : '-';
}

/* Whether `name` is the n characters at `own`, in any spelling of what ids may not have. */
static bool same_name(const char *name, const char *own, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!name[i] || spelled(name[i]) != spelled(own[i]))
            return false;
    return !name[n];
}

static bool has_alias(const struct entry *e, const char *name)
{
    for (const char *at = e->aliases; *at;) {
        size_t n = strcspn(at, ",");
        if (n > 0 && same_name(name, at, n))
            return true;
        at += n + (at[n] == ',');
    }
    return false;
}

struct entry *entry_find(const struct registry *r, const char *id)
{
    struct entry *e = r->entries;
    while (e && strcmp(e->id, id) != 0)
        e = e->next;
    return e;
}

struct entry *entry_match(const struct registry *r, const char *name)
{
    if (!name || !*name)
        return entry_find(r, r->default_id);
    for (struct entry *e = r->entries; e; e = e->next)
        if (same_name(name, e->id, strlen(e->id)))
            return e;
    for (struct entry *e = r->entries; e; e = e->next)
        if (has_alias(e, name))
            return e;
    return NULL;
}

struct entry *entry_add(struct registry *r, const char *id)
{
    struct entry *e = calloc(1, sizeof *e), **at = &r->entries;
    if (!e)
        return NULL;
    snprintf(e->id, sizeof e->id, "%s", id);
    while (*at && strcmp((*at)->id, id) < 0)
        at = &(*at)->next;
    e->next = *at;
    *at = e;
    return e;
}

void entry_remove(struct registry *r, struct entry *e)
{
    struct entry **at = &r->entries;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    free(e);
}

enum error_code entry_missing(const struct registry *r, const char *name, struct error *err)
{
    const struct entry *there = *name ? entry_match(r, name) : NULL;
    char ids[320] = "";
    size_t n = 0, n_ids = 0;
    if (there && there->status != MODEL_ACTIVE)
        return error_set_param(err, ERROR_MODEL_NOT_FOUND, "model", "the model \"%s\" %s%s", there->id,
                               there->status == MODEL_LOADING     ? "is being loaded"
                               : there->status == MODEL_UNLOADING ? "is being unloaded"
                                                                  : "did not load: ",
                               there->status == MODEL_FAILED ? there->message : "");
    for (const struct entry *e = r->entries; e; e = e->next)
        if (e->status == MODEL_ACTIVE && n < sizeof ids - 1) {
            n += (size_t)snprintf(ids + n, sizeof ids - n, "%s\"%s\"", n ? ", " : "", e->id);
            n_ids++;
        }
    return error_set_param(err, ERROR_MODEL_NOT_FOUND, "model", "there is no model \"%.64s\"; %s %s served", name, n_ids ? ids : "none",
                           n_ids > 1 ? "are" : "is");
}

/* ---- references -------------------------------------------------------------------------------------------------- */

void served_drop(struct registry *r, struct served *s)
{
    if (!s)
        return;
    s->last_used_ns = clock_now_ns();
    if (--s->n_refs == 0 || s->leaving)
        pthread_cond_broadcast(&r->changed);
}

struct served *served_ref(struct served *s)
{
    pthread_mutex_lock(&s->registry->lock);
    s->n_refs++;
    pthread_mutex_unlock(&s->registry->lock);
    return s;
}

void served_release(struct served *s)
{
    if (!s)
        return;
    struct registry *r = s->registry;
    pthread_mutex_lock(&r->lock);
    served_drop(r, s);
    pthread_mutex_unlock(&r->lock);
}

struct engine *served_engine(const struct served *s)
{
    return s->engine;
}

const char *served_id(const struct served *s)
{
    return s->id;
}

void *served_user(const struct served *s)
{
    return s->user;
}

/* By counting, so that of 100 requests in a row exactly `share` go to the candidate, evenly. */
static struct served *route(struct entry *e)
{
    uint64_t k = e->n_routed++ % 100;
    bool next = e->candidate && (k + 1) * e->share / 100 > k * e->share / 100;
    return next ? e->candidate : e->current;
}

static bool is_wished(const struct entry *e, enum device_wish wish)
{
    return e->status == MODEL_ACTIVE && (wish == DEVICE_ANY || device_is_gpu(engine_model(e->current->engine)->device) == (wish == DEVICE_GPU));
}

/* Who serves `e` where the device is wished for: itself, or one of the same file. */
static struct entry *on_device(struct registry *r, struct entry *e, enum device_wish wish)
{
    if (is_wished(e, wish))
        return e;
    const struct served *s = e->current;
    for (struct entry *other = r->entries; other && s->file.inode; other = other->next)
        if (is_wished(other, wish) && other->current->file.inode == s->file.inode && other->current->file.device == s->file.device)
            return other;
    return e;
}

enum error_code registry_acquire(struct registry *r, const char *name, struct served **out, struct error *err)
{
    return registry_acquire_on(r, name, DEVICE_ANY, out, err);
}

enum error_code registry_acquire_on(struct registry *r, const char *name, enum device_wish wish, struct served **out, struct error *err)
{
    enum error_code code = ERROR_NONE;
    *out = NULL;
    pthread_mutex_lock(&r->lock);
    struct entry *e = entry_match(r, name);
    if (e && e->status == MODEL_ACTIVE) {
        *out = route(on_device(r, e, wish));
        (*out)->n_refs++;
        (*out)->last_used_ns = clock_now_ns();
    } else {
        code = entry_missing(r, name && *name ? name : r->default_id, err);
    }
    pthread_mutex_unlock(&r->lock);
    return code;
}

/* ---- list -------------------------------------------------------------------------------------------------------- */

static void fill_entry(struct registry *r, const struct entry *e, struct model_entry *m)
{
    *m = (struct model_entry){.status = e->status, .is_default = strcmp(e->id, r->default_id) == 0, .served = e->current};
    snprintf(m->id, sizeof m->id, "%s", e->id);
    snprintf(m->path, sizeof m->path, "%s", e->source.path);
    snprintf(m->aliases, sizeof m->aliases, "%s", e->aliases);
    snprintf(m->message, sizeof m->message, "%s", e->message);
    if (m->served) {
        m->served->n_refs++;
        m->served->n_listed++;
    }
}

bool registry_list(struct registry *r, struct model_entry **out, size_t *n)
{
    size_t n_entries = 0, i = 0;
    pthread_mutex_lock(&r->lock);
    for (const struct entry *e = r->entries; e; e = e->next)
        n_entries++;
    struct model_entry *list = malloc((n_entries ? n_entries : 1) * sizeof *list);
    for (const struct entry *e = r->entries; list && e; e = e->next)
        fill_entry(r, e, &list[i++]);
    pthread_mutex_unlock(&r->lock);
    *out = list;
    *n = list ? n_entries : 0;
    return list != NULL;
}

void registry_list_free(struct model_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct served *s = entries[i].served;
        if (!s)
            continue;
        struct registry *r = s->registry;
        pthread_mutex_lock(&r->lock);
        int64_t last_used_ns = s->last_used_ns;
        s->n_listed--;
        served_drop(r, s);
        s->last_used_ns = last_used_ns;
        pthread_mutex_unlock(&r->lock);
    }
    free(entries);
}

void registry_memory(struct registry *r, uint64_t *used, uint64_t *budget)
{
    pthread_mutex_lock(&r->lock);
    *used = r->used_bytes;
    pthread_mutex_unlock(&r->lock);
    *budget = r->budget_bytes;
}
