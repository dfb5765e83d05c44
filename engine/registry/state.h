/*
 * state: the file that says which models are loaded, so that a restart serves them again. Text for people:
 *
 *   bitnet-models 1
 *   operator tales models/tales.gguf        the model that the process was started with: id, path
 *   default tales
 *   model tales                             a block for each model
 *   path models/tales.gguf
 *   alias small
 *   device cpu                              what is left out is as the process's options say
 *   format tl2
 *   kv_cache_bytes 1073741824
 *   prefix_cache off
 *   end 0123456789abcdef                    a hash of all that is before: the file is whole
 *
 * Bytes of a value that are no visible characters, and %, are written as %XX. A new state is written to a file beside it, fsynced and
 * renamed, and the directory is fsynced: a process that ends at any moment leaves the one or the other. Any thread; one writer at a time.
 */
#ifndef ENGINE_REGISTRY_STATE_H
#define ENGINE_REGISTRY_STATE_H

#include "engine/registry/parts.h"

struct state_model {
    char id[REGISTRY_ID_BYTES], aliases[1024];
    struct model_source source;
};

struct state {
    char operator_id[REGISTRY_ID_BYTES], operator_path[REGISTRY_PATH_BYTES]; /* "" when it was started without a model */
    char default_id[REGISTRY_ID_BYTES];
    struct state_model *models; /* [n_models]; owned */
    size_t n_models;
};

/* False when memory is out. */
bool state_print(const struct state *s, struct buffer *out);
/* VALIDATION_FAILED names the line and what was expected there; `out` needs no state_fini then. */
enum error_code state_parse(const char *text, size_t n_bytes, struct state *out, struct error *err);
void state_fini(struct state *s);

/* Replaces the file. INTERNAL: what could not be done; the file is as it was. */
enum error_code state_save(const char *path, const struct state *s, struct error *err);
/* NOT_FOUND: there is none. VALIDATION_FAILED: it is not whole, or cannot be read. */
enum error_code state_load(const char *path, struct state *out, struct error *err);
/* Renames a file that cannot be read to `path`.unreadable, so that it is not overwritten. */
void state_put_aside(const char *path);

#endif
