/* The tokens of a GGUF: their texts, kinds and pieces. Part of vocab_gguf.c's work. */
#ifndef ENGINE_TEXT_VOCAB_PIECES_H
#define ENGINE_TEXT_VOCAB_PIECES_H

#include "engine/text/vocab.h"

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TOKEN_TYPE "tokenizer.ggml.token_type"

/* Makes the tokenizer with pieces and kinds, and the map from the file's texts to ids (keys lie in the GGUF). Refuses texts that
 * occur twice and arrays of the wrong length. The caller closes *out and finishes *texts, after an error too. */
enum error_code vocab_read_pieces(const struct gguf *g, enum vocab_model model, const struct gguf_key *tokens,
                                  struct tokenizer **out, struct strmap *texts, struct error *err);

#endif
