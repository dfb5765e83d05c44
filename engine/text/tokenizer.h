/*
 * Inside of the tokenizers; the public functions are in engine/engine.h. Immutable once open; any thread.
 *
 *   text -> special tokens cut out -> pre-tokenizer (PCRE2) -> byte-level BPE merges | SentencePiece merges by score -> ids
 */
#ifndef ENGINE_TEXT_TOKENIZER_H
#define ENGINE_TEXT_TOKENIZER_H

#include "engine/engine.h"
#include "engine/model/gguf.h"

/* The tokenizer of an open GGUF (which it does not keep). `n_vocab`: rows of the embedding, or 0 = not known; a vocabulary
 * of another size is an error unless the file has none at all: then only ids are accepted (encode is an error). */
enum error_code tokenizer_from_gguf(const struct gguf *g, uint32_t n_vocab, struct tokenizer **out, struct error *err);

/* Name of the chat template in use ("bitnet-2b4t", "llama3", "falcon3", "chatml", "llama2", ...), or NULL. */
const char *tokenizer_chat_template(const struct tokenizer *t);

/* What token `id` adds to an answer's text (borrowed), NULL for tokens that stand for no text of their own. */
const char *tokenizer_text(const struct tokenizer *t, uint32_t id, size_t *n_bytes);

/* Incremental detokenisation of one sequence: bytes in, whole characters out. Invalid bytes become U+FFFD. */
struct detokenizer { char held[4]; uint8_t n_held; };
/* Appends to `out` the text that token `id` completes (control tokens have no text). */
void detokenizer_push(struct detokenizer *d, const struct tokenizer *t, uint32_t id, struct buffer *out);
/* Appends what was held back at the end of a sequence. */
void detokenizer_finish(struct detokenizer *d, struct buffer *out);

#endif
