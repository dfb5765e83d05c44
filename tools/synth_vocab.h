/* Vocabularies of synthetic models: byte-level BPE as GGUF files of Llama-3 vocabularies have it. One thread. */
#ifndef TOOLS_SYNTH_VOCAB_H
#define TOOLS_SYNTH_VOCAB_H

#include "tools/gguf_write.h"

#define SYNTH_N_SPECIALS 256 /* Llama-3's, after the ranks: begin_of_text first */

/* Writes tokens, types, merges and special ids for n_vocab tokens (at least 512): the first n_vocab - 256 ranks of
 * the tiktoken file `path`, or 256 bytes and placeholders when path is NULL, then the specials. `pre` is tokenizer.ggml.pre; a text
 * begins with BOS if it is llama-bpe. */
enum error_code synth_write_vocab(struct gguf_writer *w, const char *path, const char *pre, uint32_t n_vocab,
                                  struct error *err);

#endif
