/*
 * registry: the models that a process serves, under ids, and how they change while requests run.
 *
 *   registry_open -> registry_acquire -> engine_submit(served_engine()) .. -> served_release -> registry_drain -> registry_close
 *
 * An id has one file behind it, which a swap replaces. Each loaded file is an engine of its own; steps of several engines take turns
 * (engine/turn.h), so that two models together take the machine once. A request holds the model that it began with until it is released:
 * what was unloaded or swapped out meanwhile goes when its last request has gone.
 *
 * Which models are loaded, and the default, is written to a state file when a change is complete (written beside it, fsynced, renamed), so a
 * process that ends at any moment starts again with what was last complete.
 *
 * registry_acquire and what reads may be called by any thread and takes microseconds. What changes models (load, unload, swap,
 * set_default) works on the caller's thread until it is done, may take minutes, and is called on threads that may wait.
 */
#ifndef ENGINE_REGISTRY_H
#define ENGINE_REGISTRY_H

#include "engine/engine.h"

struct registry;
struct served; /* a loaded model in use */

#define REGISTRY_ID_BYTES 65 /* ids: 1..64 of A-Z a-z 0-9 _ - */

/* Called as models come and go, on the thread that changes them; may be NULL. What on_open returns is served_user's until on_close, which
 * comes when the last user has gone, before the engine is closed. */
struct registry_observer {
    void *user;
    void *(*on_open)(void *user, const char *id, struct engine *e);
    void (*on_close)(void *user, void *served_user);
    void (*on_load_failed)(void *user, const char *id, const struct error *err);
    void (*on_swap)(void *user, const char *id, const char *result); /* "completed", "failed", "rolled_back" */
};

struct registry_options {             /* strings are borrowed until registry_close */
    struct engine_options engine;     /* what every model gets; its model_path and model_id are those of the first model */
    const char *allowed_dirs;         /* separated by ':'; files of load and swap must lie in one of them once symlinks are resolved.
                                       * NULL or "" = none: models cannot be changed */
    const char *state_file;           /* NULL = nothing is remembered */
    uint64_t memory_budget;           /* bytes of all models together; 0 = 90 % of what the process may use */
    bool evict;                       /* a load that finds no room takes out the least lately used models that nobody uses, instead of being refused */
    uint32_t max_loads;               /* at once, the others wait; 0 = 1 */
    struct registry_observer observer;
};

/* Loads what the state file names, or the first model. A model of the state that does not load any more is listed as FAILED and logged; the first
 * model is loaded in any case when no other one is the default. An operator's model_path that is not the one the state was written under wins
 * over the state's. Fails when the default model does not load. */
enum error_code registry_open(const struct registry_options *options, struct registry **out, struct error *err);
/* All engines: see engine_drain. No change begins any more. */
void registry_drain(struct registry *r, int64_t deadline_ns);
void registry_close(struct registry *r);

/* The model for a request by id or alias in any spelling of what ids may not have ("" = the default). While a swap shares requests out, one
 * of the two. MODEL_NOT_FOUND names what there is. The caller releases it. Any thread. */
enum error_code registry_acquire(struct registry *r, const char *name, struct served **out, struct error *err);
/* The same on a device of the kind that is wished for: where the model is on another one, a model of the same file that is on such a device
 * serves in its place, or else the named one does. */
enum device_wish { DEVICE_ANY, DEVICE_CPU, DEVICE_GPU };
enum error_code registry_acquire_on(struct registry *r, const char *name, enum device_wish wish, struct served **out, struct error *err);
struct served *served_ref(struct served *s);
void served_release(struct served *s); /* NULL is ignored */
struct engine *served_engine(const struct served *s);
const char *served_id(const struct served *s);
void *served_user(const struct served *s);

/* ---- what there is ---- */

enum model_status { MODEL_LOADING = 1, MODEL_ACTIVE, MODEL_FAILED, MODEL_UNLOADING };

struct model_entry {
    char id[REGISTRY_ID_BYTES];
    enum model_status status;
    bool is_default;
    char path[4096], aliases[1024]; /* aliases: separated by commas */
    char message[512];              /* why it failed, or what is being done with it */
    struct served *served;          /* of ACTIVE and UNLOADING; else NULL */
};
/* All models, in the order of their ids; *out is freed with registry_list_free, which releases them. False when memory is out. Any thread. */
bool registry_list(struct registry *r, struct model_entry **out, size_t *n);
void registry_list_free(struct model_entry *entries, size_t n);
/* Bytes that loaded models take together, and the budget. Any thread. */
void registry_memory(struct registry *r, uint64_t *used, uint64_t *budget);

/* ---- changes ---- */

/* Of load: checking, loading, validating; of swap: these, switching, watching, draining. One call at a time; some come from a thread that loads or
 * checks for the caller. */
struct model_progress { const char *phase; double share; const char *message; double elapsed_ms; }; /* as in models.proto */

struct model_validation {           /* 0 = default, see models.proto */
    bool no_cross_validation;
    double min_accuracy;
    uint32_t n_samples;
    int64_t timeout_ns;
};

#define VALIDATION_MAX_FAILURES 8
struct validation_results {
    bool format_valid;
    uint32_t gguf_version;
    uint64_t n_tensors, memory_bytes;
    double accuracy, cosine, p_value, bits_per_byte, tokens_per_second; /* negative = not measured */
    char devices[64];               /* separated by commas */
    size_t n_failures;
    struct { char type[24], expected[160], actual[320]; } failures[VALIDATION_MAX_FAILURES];
};

struct load_request {
    const char *path, *id, *aliases; /* id NULL or "" = from the file's name; aliases: separated by commas, or NULL */
    const char *device;              /* NULL = as the process's option */
    enum ternary_format format;
    size_t kv_cache_bytes;
    bool no_prefix_cache, make_default;
    struct model_validation validation;
    void (*on_progress)(void *user, const struct model_progress *p); /* or NULL */
    void *user;
};
struct load_result {
    struct served *served;           /* when it was loaded; the caller releases it */
    char id[REGISTRY_ID_BYTES];
    double load_ms;
    struct validation_results validation;
};
/* On failure *out is filled too, as far as it came. */
enum error_code registry_load(struct registry *r, const struct load_request *request, struct load_result *out, struct error *err);

/* Waits until the last request of it has gone, or the registry drains. CONFLICT: it is the default, or is being changed. One that failed is
 * forgotten. */
enum error_code registry_unload(struct registry *r, const char *id, uint64_t *freed_bytes, struct error *err);
enum error_code registry_set_default(struct registry *r, const char *id, struct error *err);

enum swap_strategy { SWAP_ATOMIC, SWAP_BLUE_GREEN, SWAP_ROLLING };
enum swap_status { SWAP_COMPLETED = 1, SWAP_FAILED, SWAP_ROLLED_BACK };

#define SWAP_MAX_PROMPTS 5
#define SWAP_MAX_CHECKS 16
struct swap_request {
    const char *path, *id;
    enum swap_strategy strategy;
    bool no_rollback;
    struct model_validation validation;
    const char *prompts[SWAP_MAX_PROMPTS];
    size_t n_prompts;
    int64_t watch_ns;                /* 0 = 5 s */
    void (*on_progress)(void *user, const struct model_progress *p);
    void *user;
};
/* tokens_per_second: of one sequence on one thread, both measured side by side; accuracy: by the portable reference; negative = not measured. */
struct swap_side { struct served *served; double tokens_per_second, accuracy; };
struct swap_result {
    char id[37];                     /* a UUID */
    enum swap_status status;
    double total_ms, validation_ms, switch_ms, health_check_ms, rollback_ms;
    struct swap_side previous, next; /* the caller releases both; next.served is NULL when it was never loaded */
    struct validation_results validation;
    size_t n_checks;
    struct { char name[32], details[256]; bool passed; } checks[SWAP_MAX_CHECKS];
    char rollback_reason[256];
};
/* OK when completed; else the reason, with *out filled as far as it came. */
enum error_code registry_swap(struct registry *r, const struct swap_request *request, struct swap_result *out, struct error *err);

#endif
