/*
 * Inside of the registry. An id is an entry; a loaded file is an instance (struct served): an engine, counted by those who use it. An entry
 * holds its instance by one reference, in a swap also the candidate's:
 *
 *   entry "tales" -> current   (old file)  <- requests that began before the switch
 *                 -> candidate (new file)  <- `share` per cent of new requests
 *
 * One lock for all of it, held for microseconds: engines are opened, asked and closed without it. An instance without users is closed by the
 * reaper, as whoever lets go of the last reference may be a thread that must not wait.
 *
 *   registry.c   open, close, drain, the default      entries.c   ids, acquire, list, references
 *   instance.c   instances and the reaper             load.c      load, unload and their slots
 *   swap.c       swap                                 state.c     the state file
 *   restore.c    what a start loads                   allow.c     which files may be loaded
 *   prepare.c    a new model before it is served      budget.c    memory, and who gives way
 *   validation.c, compare.c   whether it is sound     ask.c       the registry's own requests
 */
#ifndef ENGINE_REGISTRY_PARTS_H
#define ENGINE_REGISTRY_PARTS_H

#include "engine/model/model.h"
#include "engine/registry.h"
#include "engine/turn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define REGISTRY_PATH_BYTES 4096

/* What a load asked for: all that is needed to load it again. */
struct model_source {
    char path[REGISTRY_PATH_BYTES];
    char device[16];            /* "" = as the process's option */
    enum ternary_format format; /* AUTO = likewise */
    size_t kv_cache_bytes;      /* 0 = likewise */
    bool no_prefix_cache;
};

struct served {
    struct registry *registry;
    struct engine *engine;
    char id[REGISTRY_ID_BYTES];
    void *user; /* the observer's */
    bool observed;
    struct { dev_t device; ino_t inode; } file; /* which one it is, by any path; 0: it could not be asked */
    uint64_t number;       /* no two have the same */
    double accuracy;       /* as it was found before it was served; negative = not measured */
    uint64_t memory_bytes; /* weights, KV and scratch; counted in registry.used_bytes */
    /* Under registry.lock: */
    unsigned n_refs, n_listed; /* n_listed: of n_refs, those of lists, which are no use of the model */
    int64_t last_used_ns;
    bool leaving; /* somebody waits for its last user */
    struct served *next;
};

struct entry {
    struct entry *next;
    char id[REGISTRY_ID_BYTES];
    char aliases[1024]; /* separated by commas */
    enum model_status status;
    struct model_source source; /* of what is complete: `current`'s, and what the state file names */
    char message[512];
    struct served *current; /* ACTIVE; a reference */
    struct served *candidate;
    unsigned share;    /* per cent of new requests that the candidate gets */
    uint64_t n_routed; /* since the share was set */
    bool changing;     /* a swap or an unload works on it */
};

struct registry {
    /* Constant once open. */
    struct registry_options options;
    uint64_t device_bytes, budget_bytes; /* of the first model's device; of all models */
    char operator_id[REGISTRY_ID_BYTES]; /* of the model that the process was started with; "" = none */

    struct turn turn;     /* of all engines */
    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t changed;
    struct entry *entries;     /* in the order of their ids; those that are not LOADING stay where they are until they are removed */
    struct served *instances;  /* that have an engine */
    char default_id[REGISTRY_ID_BYTES];
    uint64_t n_instances;      /* that there ever were */
    uint64_t used_bytes;       /* of instances, and of loads that have begun */
    uint64_t closing_bytes;    /* of these, of the one that the reaper closes */
    uint64_t closing_number;   /* its number, as it is not among the instances any more; 0 = none */
    unsigned n_changes;        /* that are at work */
    unsigned n_loads;          /* of these, that hold a slot */
    bool closing;
    atomic_bool draining;      /* written under the lock; read without it by what works at low priority, which must not hold it up */
    pthread_mutex_t state_lock; /* one writer of the state file; taken before `lock` */
    pthread_t reaper;
};

/* ---- entries.c: with the lock held ---- */

/* The id that the options give, or one made of the file's name. VALIDATION_FAILED when it is none of 1..64 of A-Z a-z 0-9 _ -. */
enum error_code entry_make_id(const struct engine_options *options, char id[REGISTRY_ID_BYTES], struct error *err);
/* By id alone; NULL when there is none. */
struct entry *entry_find(const struct registry *r, const char *id);
/* By id or alias in any spelling, "" = the default. */
struct entry *entry_match(const struct registry *r, const char *name);
/* Puts a new entry at its place; NULL when memory is out. */
struct entry *entry_add(struct registry *r, const char *id);
/* Takes it out and frees it. It holds no references any more. */
void entry_remove(struct registry *r, struct entry *e);
/* MODEL_NOT_FOUND, and what there is. */
enum error_code entry_missing(const struct registry *r, const char *name, struct error *err);
/* Drops a reference; NULL is ignored. */
void served_drop(struct registry *r, struct served *s);

/* ---- instance.c ---- */

struct instance_how {
    const struct file_opener *opener;          /* NULL = open(2) */
    bool (*on_load)(void *user, double share); /* see engine_options; or NULL */
    void *user;
    uint64_t reserved_bytes;                   /* by room_take, given back in any case */
    bool background;                           /* others are served meanwhile */
};
/* Opens an engine over what `source` says. The caller gets the one reference. */
enum error_code instance_open(struct registry *r, const char *id, const struct model_source *source, const struct instance_how *how,
                              struct served **out, struct error *err);
/* Bytes that it will take, about. */
uint64_t instance_estimate(const struct registry *r, const struct model_source *source, const struct gguf *g,
                           const struct model_shape *shape);
/* The observer hears of it: it is going to be served. */
void instance_observe(struct served *s);
/* It is served by the entry from now on; its one reference is the entry's. With the lock held. */
void instance_publish(struct entry *e, const struct model_source *source, struct served *s);
bool reaper_start(struct registry *r);
/* Waits until every instance is closed, and ends the reaper. */
void reaper_stop(struct registry *r);

/* ---- restore.c ---- */

/* Loads what the state file says, or the first model; see registry_open. */
enum error_code restore_models(struct registry *r, struct error *err);
/* Writes the state file, when there is to be one. INTERNAL: it could not be written, and is as it was. */
enum error_code registry_save(struct registry *r, struct error *err);

/* ---- budget.c ---- */

/* Reserves memory for model `id`; may_evict: others may be taken out for it. MEMORY_EXHAUSTED says what there is. May wait. */
enum error_code room_take(struct registry *r, const char *id, uint64_t n_bytes, bool may_evict, struct error *err);

/* ---- changes: load.c ---- */

/* The error of what a draining registry refuses. */
enum error_code registry_shutting_down(struct error *err);

/* SERVICE_UNAVAILABLE once the registry drains. A change that has begun is ended with change_end. */
enum error_code change_begin(struct registry *r, struct error *err);
void change_end(struct registry *r);
/* Waits for one of the max_loads slots; SERVICE_UNAVAILABLE when the registry drains meanwhile. */
enum error_code slot_take(struct registry *r, struct error *err);
void slot_give(struct registry *r);

#endif
