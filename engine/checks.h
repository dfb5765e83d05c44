/*
 * checks: what is asked of a model's file beyond what loading asks, shared by `bitnet verify` and by what is loaded while others are served.
 * Each check builds on those before it. A check fills `message` [CHECK_MESSAGE_BYTES] with what it found when it passes; MODEL_LOAD_FAILED says
 * what does not hold. Caller's thread.
 */
#ifndef ENGINE_CHECKS_H
#define ENGINE_CHECKS_H

#include "engine/engine.h"
#include "engine/model/model.h"

#define CHECK_MESSAGE_BYTES 512
#define CHECK_MAX_TOKENS 512     /* of the text that are scored */
#define CHECK_PLAUSIBLE_BITS 1.5 /* a byte of the text. Letter frequencies take 4.2, compressors 2 to 3; the bundled model of 11 M weights 0.85 */

struct file_checks {
    /* Given: */
    const char *path;
    const struct file_opener *opener; /* see engine_options */
    int i2s_order;                    /* likewise */
    /* Made by the checks: */
    struct gguf *gguf;
    struct model_shape shape;
    struct tokenizer *tokenizer;
    struct token_list ids; /* of a plain English text, BOS first where the model has one */
};

/* Keys, tensors and shapes, as loading checks them. */
enum error_code file_check_structure(struct file_checks *f, char *message, struct error *err);
/* A text becomes tokens and the same text again. */
enum error_code file_check_tokenizer(struct file_checks *f, char *message, struct error *err);
/* Every weight; see model/check.h. */
enum error_code file_check_weights(struct file_checks *f, char *message, struct error *err);
/* Frees what the checks made. */
void file_checks_fini(struct file_checks *f);

/* -log2 p of `target` under softmax(logits [n]). */
double check_bits(const float *logits, size_t n, uint32_t target);

#endif
