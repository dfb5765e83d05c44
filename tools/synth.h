/*
 * Synthetic models: GGUF files of the published models' shapes with random ternary weights, for benchmarks and tests
 * that need no download. The same options give the same bytes. Memory stays constant: weights are made as they are
 * written.
 */
#ifndef TOOLS_SYNTH_H
#define TOOLS_SYNTH_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct synth_options {
    const char *path;       /* written through a temporary file beside it, synced, renamed */
    const char *preset;     /* one of synth_presets; NULL = "2b4t" */
    const char *vocab_path; /* tiktoken rank file (the Llama-3 vocabulary), or NULL: bytes and placeholders */
    uint64_t seed;
    uint32_t n_layers; /* 0 = the preset's */
    const char *pooling; /* "mean", "cls" or "last": a model that computes embeddings; NULL or "none" = one that generates */
    bool not_causal;     /* of such a model: each token sees the whole text */
    /* Called now and then with bytes written and bytes in all; may be NULL. */
    void (*on_progress)(void *user, uint64_t n_done, uint64_t n_total);
    void *user;
};

/* "2b4t|0.7b|8b|0.6b|tiny|tiny-qwen3" */
const char *synth_presets(void);

/* Writes the file. ERROR_VALIDATION_FAILED (param names the option) for an unknown preset or an unreadable vocabulary,
 * ERROR_INTERNAL when the file cannot be written; nothing is left behind then. */
enum error_code synth_write(const struct synth_options *options, struct error *err);

#endif
