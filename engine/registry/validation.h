/*
 * validation: what a loaded model must show before it is served. Asked of the engine itself, which serves nobody yet; what is recomputed is
 * recomputed from its own weights. Caller's thread, which should be one of the background.
 *
 *   text              bits that a byte of a plain English text takes
 *   known_answers     tokens drawn one by one are those of the text read at once, to the bit
 *   cross_validation  the portable reference says the same
 */
#ifndef ENGINE_REGISTRY_VALIDATION_H
#define ENGINE_REGISTRY_VALIDATION_H

#include "engine/checks.h"
#include "engine/registry.h"

#define VALIDATION_MIN_SAMPLES 10
#define VALIDATION_SAMPLES 100
#define VALIDATION_ACCURACY 0.99
#define VALIDATION_TIMEOUT_NS (INT64_C(300) * 1000000000)

struct validation {
    struct engine *engine;
    const struct token_list *ids; /* of the text; see file_checks */
    struct model_validation asked;
    int64_t deadline_ns;
    bool (*go_on)(void *user, double share); /* asked between steps; false ends it */
    void *user;
    struct validation_results *results;
};

/* The bounds of the request, and its defaults. VALIDATION_FAILED names the field. */
enum error_code validation_check(const struct model_validation *asked, struct model_validation *out, struct error *err);
/* Nothing is measured yet. */
void validation_clear(struct validation_results *results);

/* MODEL_LOAD_FAILED or CROSS_VALIDATION_FAILED, and a failure in the results; all that was measured is there. */
enum error_code validation_run(struct validation *v, struct error *err);
/* In its place, of a model that computes embeddings; embedding.c. */
enum error_code validation_embeddings(struct validation *v, struct error *err);
/* Cross-validation alone; compare.c. */
enum error_code validation_compare(struct validation *v, struct error *err);

/* Notes a failure and makes the error of it. */
enum error_code validation_fail(struct validation_results *results, struct error *err, enum error_code code, const char *type,
                                const char *expected, const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
