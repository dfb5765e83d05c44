/* The rules of the merge. */
#include "gateway/models_merge.h"

#include "gateway/error.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* How much a status is worth to who wants to use the model. */
static int rank(Bitnet__V1__ModelStatus status)
{
    return status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE      ? 4
           : status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_LOADING   ? 3
           : status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_UNLOADING ? 2
           : status == BITNET__V1__MODEL_STATUS__MODEL_STATUS_FAILED    ? 1
                                                                        : 0;
}

/* The mean of two; 0 is none. */
static double mean(double a, uint64_t n_a, double b, uint64_t n_b)
{
    double wa = a > 0 ? (double)n_a : 0, wb = b > 0 ? (double)n_b : 0;
    return wa + wb > 0 ? (a * wa + b * wb) / (wa + wb) : a > 0 ? a : b;
}

static void add_memory(struct models_entry *e, const Bitnet__V1__Model *m)
{
    *(strncmp(m->device, "cuda", 4) == 0 ? &e->gpu_memory_bytes : &e->memory_bytes) += m->memory_bytes;
}

static void add(struct models_entry *e, const Bitnet__V1__Model *m)
{
    Bitnet__V1__Model *into = e->model;
    add_memory(e, m);
    into->avg_tokens_per_second =
        mean(into->avg_tokens_per_second, into->total_requests, m->avg_tokens_per_second, m->total_requests);
    into->avg_inference_time_ms =
        mean(into->avg_inference_time_ms, into->total_requests, m->avg_inference_time_ms, m->total_requests);
    if (m->_accuracy_case && (!into->_accuracy_case || m->accuracy < into->accuracy)) {
        into->_accuracy_case = m->_accuracy_case;
        into->accuracy = m->accuracy;
    }
    into->total_requests += m->total_requests;
    into->is_default |= m->is_default;
    if (m->_accuracy_case && (!into->_accuracy_case || m->accuracy < into->accuracy)) {
        into->_accuracy_case = m->_accuracy_case;
        into->accuracy = m->accuracy;
    }
    if (m->created_unix < into->created_unix)
        into->created_unix = m->created_unix;
    if (rank(m->status) > rank(into->status))
        into->status = m->status;
}

struct models_entry *models_merge(Bitnet__V1__ListModelsResponse *const *answers, size_t n, size_t *n_entries)
{
    size_t n_all = 1;
    for (size_t i = 0; i < n; i++)
        n_all += answers[i]->n_models;
    struct models_entry *entries = calloc(n_all, sizeof *entries);
    *n_entries = 0;
    for (size_t i = 0; entries && i < n; i++)
        for (size_t k = 0; k < answers[i]->n_models; k++) {
            Bitnet__V1__Model *m = answers[i]->models[k];
            size_t at = 0;
            while (at < *n_entries && strcmp(entries[at].model->id, m->id) != 0)
                at++;
            if (at < *n_entries) {
                add(&entries[at], m);
            } else {
                entries[at].model = m;
                add_memory(&entries[at], m);
                ++*n_entries;
            }
        }
    return entries;
}

/* ---- names ---- */

static char id_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' ? c : '-';
}

static bool same(const char *a, const char *b)
{
    while (*a && *b && id_char(*a) == id_char(*b))
        a++, b++;
    return !*a && !*b;
}

static bool has_alias(const Bitnet__V1__Model *m, const char *name)
{
    for (size_t i = 0; i < m->n_aliases; i++)
        if (same(m->aliases[i], name))
            return true;
    return false;
}

const struct models_entry *models_find(const struct models_entry *entries, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (same(entries[i].model->id, name))
            return &entries[i];
    for (size_t i = 0; i < n; i++)
        if (has_alias(entries[i].model, name))
            return &entries[i];
    return NULL;
}

void models_not_found(struct request *r, const struct models_entry *entries, size_t n, const char *name)
{
    struct failure f;
    struct buffer served;
    failure_init(&f);
    buffer_init(&served, 65536);
    for (size_t i = 0; i < n; i++)
        buffer_printf(&served, "%s\"%.64s\"", i > 0 ? ", " : "", entries[i].model->id);
    error_set_param(&f.error, ERROR_MODEL_NOT_FOUND, "model", "there is no model \"%.64s\"; %s %s served", name,
                    n > 0 && served.data ? served.data : "none", n > 1 ? "are" : "is");
    error_respond(r, &f);
    buffer_fini(&served);
    failure_fini(&f);
}
