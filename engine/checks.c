#include "engine/checks.h"

#include "engine/model/check.h"
#include "engine/model/tensors.h"
#include "engine/text/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char text[] =
    "Once upon a time there was a little fox who lived with his mother at the edge of a green wood. Every morning he ran down to the "
    "river to look for fish, and every evening he came home tired and hungry. \"You must not go beyond the old bridge,\" said his mother, "
    "\"for the farmer keeps a big dog there, and he does not like foxes.\"\n\n"
    "One day the little fox saw a rabbit on the other side of the water. The rabbit was eating clover in the sun, and did not seem to be "
    "afraid of anything. \"Good morning,\" said the little fox. \"Why do you sit there, when the dog may come at any time?\"\n\n"
    "\"Oh,\" said the rabbit, \"the dog is old and sleeps all day long. Come over and see for yourself.\" So the little fox went over the "
    "bridge, though he knew that he should not. He had not gone very far when he heard a loud noise behind him. It was the dog, and he was "
    "not asleep at all. The little fox ran as fast as he could. He ran across the field, and through the hedge, and he did not stop until "
    "he was safe at home.\n\n"
    "\"What is the matter?\" asked his mother. \"Nothing,\" said the little fox, but he never went beyond the old bridge again.\n";

#define FAIL(err, ...) error_set((err), ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)
#define SAY(message, ...) snprintf((message), CHECK_MESSAGE_BYTES, __VA_ARGS__)

enum error_code file_check_structure(struct file_checks *f, char *message, struct error *err)
{
    enum error_code code = gguf_open_by(f->opener, f->path, &f->gguf, err);
    if (!code)
        code = model_shape_read(f->gguf, &f->shape, err);
    if (!code)
        SAY(message, "%s, %u layers of %u, %zu tensors in %zu file%s", f->shape.arch_name, f->shape.n_layers,
            f->shape.dim, gguf_n_tensors(f->gguf), gguf_n_parts(f->gguf), gguf_n_parts(f->gguf) > 1 ? "s" : "");
    return code;
}

enum error_code file_check_tokenizer(struct file_checks *f, char *message, struct error *err)
{
    struct buffer back;
    enum error_code code = tokenizer_from_gguf(f->gguf, f->shape.vocab_size, &f->tokenizer, err);
    if (code)
        return code;
    int64_t bos = tokenizer_bos(f->tokenizer);
    if (bos >= 0 && !(f->ids.ids = malloc(sizeof *f->ids.ids)))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the tokens of a text");
    if (bos >= 0) {
        f->ids.capacity = f->ids.n = 1;
        f->ids.ids[0] = (uint32_t)bos;
    }
    size_t first = f->ids.n;
    if ((code = tokenizer_encode(f->tokenizer, text, sizeof text - 1, false, false, &f->ids, err)))
        return code;
    buffer_init(&back, 4 * sizeof text);
    code = tokenizer_decode(f->tokenizer, f->ids.ids + first, f->ids.n - first, false, &back, err);
    const char *from = back.data ? back.data : "";
    size_t n = back.n_bytes;
    if (n == sizeof text && *from == ' ') /* SentencePiece begins words with a space */
        from++, n--;
    size_t same = 0;
    while (same < n && same < sizeof text - 1 && from[same] == text[same])
        same++;
    buffer_fini(&back);
    if (!code && (n != sizeof text - 1 || same != n))
        return FAIL(err, "a text of %zu bytes became %zu tokens and then another text, from byte %zu on", sizeof text - 1,
                    f->ids.n - first, same);
    SAY(message, "%u tokens; a text of %zu bytes is %zu of them, and the same text again",
        tokenizer_n_tokens(f->tokenizer), sizeof text - 1, f->ids.n - first);
    return code;
}

enum error_code file_check_weights(struct file_checks *f, char *message, struct error *err)
{
    enum order_evidence evidence;
    struct weights_summary w;
    enum i2s_order fits = model_i2s_order(f->gguf, &f->shape, &evidence),
                   order = f->i2s_order < 0 ? fits : (enum i2s_order)f->i2s_order;
    if (evidence == ORDER_SEEN && order != fits)
        return FAIL(err, "I2_S tensors are packed %d to a block, but were asked to be read as %d", fits == I2S_ORDER_64 ? 64 : 128,
                    order == I2S_ORDER_64 ? 64 : 128);
    enum error_code code = model_check_weights(f->gguf, &f->shape, order, &w, err);
    if (!code)
        SAY(message, "%" PRIu64 ", finite; scales %.4g to %.4g; FFN rows and columns correlate by %.2f", w.n_weights,
            w.scale_min, w.scale_max, w.ffn_fit);
    return code;
}

double check_bits(const float *logits, size_t n, uint32_t target)
{
    double max = (double)logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return (log(sum) + max - (double)logits[target]) / M_LN2;
}

void file_checks_fini(struct file_checks *f)
{
    free(f->ids.ids);
    tokenizer_close(f->tokenizer);
    gguf_close(f->gguf);
    *f = (struct file_checks){0};
}
