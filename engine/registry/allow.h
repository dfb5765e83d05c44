/*
 * allow: which files may be loaded on demand. A file is allowed when, once all symbolic links are resolved, it is a regular file in one of
 * the allowed directories or below. What is opened is what was checked: the way from the directory to the file is gone step by step without
 * following links, so a link that is put there meanwhile leads nowhere. Any thread.
 */
#ifndef ENGINE_REGISTRY_ALLOW_H
#define ENGINE_REGISTRY_ALLOW_H

#include "base/error.h"

#include <stddef.h>

/* The real path of `path` in `out`. `dirs`: separated by ':'; NULL or "" allows nothing. VALIDATION_FAILED: not absolute, not .gguf, too
 * long. AUTHORIZATION_FAILED: in no allowed directory. NOT_FOUND, said only of what would lie in one. MODEL_LOAD_FAILED: no regular file. */
enum error_code allow_resolve(const char *dirs, const char *path, char *out, size_t n, struct error *err);

/* Opens a file for reading by the same rule, whatever its name ends in; -1 and *err when it is not allowed. */
int allow_open(const char *dirs, const char *path, struct error *err);

#endif
