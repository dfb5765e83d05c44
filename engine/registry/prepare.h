/*
 * prepare: a new model from its path to an instance that may be served: allowed, whole, with room for it, loaded, and found to be sound.
 */
#ifndef ENGINE_REGISTRY_PREPARE_H
#define ENGINE_REGISTRY_PREPARE_H

#include "engine/registry/parts.h"
#include "engine/registry/validation.h"

struct preparation {
    /* Given: */
    struct registry *r;
    const char *id, *path;
    struct model_source source; /* but for its path, which is found */
    struct model_validation asked;
    void (*on_progress)(void *user, const struct model_progress *p);
    void *user;
    int64_t start_ns;
    struct validation_results *results;
    /* At work: */
    int64_t deadline_ns;
    int fd; /* of the file: what is checked is what is loaded */
    struct file_opener opener;
    struct file_checks file;
    struct served *served;
    enum error_code code;
    struct error *err;
};

/* Takes one of the slots for loads, waiting for it. On the caller's thread and on ones of the background. *out has the caller's reference, and the
 * observer has not heard of it. On failure `results` says what was wrong as far as it is known. */
enum error_code prepare(struct preparation *p, struct served **out, struct error *err);

/* Calls on_progress, and says it in the entry's message too. Without the lock. */
void prepare_progress(const struct preparation *p, const char *phase, double share, const char *message);

#endif
