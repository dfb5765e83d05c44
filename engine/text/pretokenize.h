/*
 * Pre-tokenizers: the regular expressions that cut a text into pieces which byte-level BPE never merges across. Some consist of
 * several expressions: each cuts the pieces that the one before left, and what lies between two matches is a piece too.
 *
 * Named by tokenizer.ggml.pre. Needs PCRE2; a build without it knows the names but cannot cut.
 */
#ifndef ENGINE_TEXT_PRETOKENIZE_H
#define ENGINE_TEXT_PRETOKENIZE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define PRETOKENIZER_MAX_STAGES 4

struct pretokenizer; /* immutable once open; any thread */

/* What a name stands for. */
struct pretokenizer_def {
    const char *name;            /* ours: "llama-bpe", "qwen2", "gpt-2", "falcon", "default" */
    const char *const *patterns; /* NULL-terminated */
    bool whole_words;            /* a piece that is itself a token is taken whole, merges or not */
    bool add_bos;                /* unless tokenizer.ggml.add_bos_token says otherwise */
};

/* The definition of a value of tokenizer.ggml.pre (some have several names); NULL when we do not know it. */
const struct pretokenizer_def *pretokenizer_find(const char *name, size_t n_bytes);

enum error_code pretokenizer_open(const struct pretokenizer_def *def, struct pretokenizer **out, struct error *err);
void pretokenizer_close(struct pretokenizer *p);

/* Calls `piece` for each piece of text (valid UTF-8), in order and without gaps; stops when it returns an error. */
typedef enum error_code pretokenizer_piece(void *user, const char *text, size_t n_bytes, struct error *err);
enum error_code pretokenizer_split(const struct pretokenizer *p, const char *text, size_t n_bytes,
                                   pretokenizer_piece *piece, void *user, struct error *err);

#endif
