/* Tokenize and Detokenize. */
#include "bitnet/v1/inference.pb-c.h"
#include "service/service.h"
#include "service/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT_BYTES (16 * 1024 * 1024)

static enum error_code encode(const struct tokenizer *t, const Bitnet__V1__TokenizeRequest *r, struct token_list *out,
                              struct error *err)
{
    if (r->input_case != BITNET__V1__TOKENIZE_REQUEST__INPUT_CHAT) {
        const char *text = r->input_case == BITNET__V1__TOKENIZE_REQUEST__INPUT_TEXT ? r->text : "";
        return tokenizer_encode(t, text, strlen(text), r->add_special, r->parse_special, out, err);
    }
    struct tools_chat chat;
    enum error_code code = tools_render(r->chat, NULL, tools_roles_of(t), &chat, err);
    if (!code)
        code = tokenizer_encode_chat(t, chat.messages, chat.n, out, err);
    tools_chat_fini(&chat);
    return code;
}

static void answer(struct rpc_call *call, const struct served *served, const struct token_list *list)
{
    const struct tokenizer *t = engine_tokenizer(served_engine(served));
    Bitnet__V1__TokenizeResponse response = BITNET__V1__TOKENIZE_RESPONSE__INIT;
    ProtobufCBinaryData *pieces = calloc(list->n + 1, sizeof *pieces);
    response.model = (char *)(uintptr_t)served_id(served);
    response.n_ids = list->n;
    response.ids = list->ids;
    for (size_t i = 0; pieces && i < list->n; i++)
        pieces[i].data = (uint8_t *)(uintptr_t)tokenizer_piece(t, list->ids[i], &pieces[i].len);
    response.n_pieces = pieces ? list->n : 0;
    response.pieces = pieces;
    message_answer(call, &response.base);
    free(pieces);
}

void tokens_tokenize(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct served *served = NULL;
    struct error err = {0};
    struct token_list list = {0};
    Bitnet__V1__TokenizeRequest *r = message_unpack(&bitnet__v1__tokenize_request__descriptor, data, n_bytes, &err);
    if (r && !registry_acquire(s->registry, r->model, &served, &err) &&
        !encode(engine_tokenizer(served_engine(served)), r, &list, &err))
        answer(call, served, &list);
    else
        status_fail(s, call, &err);
    free(list.ids);
    served_release(served);
    message_free(r);
}

static bool decode(const struct tokenizer *t, const Bitnet__V1__DetokenizeRequest *r, struct buffer *out,
                   struct error *err)
{
    struct buffer raw;
    buffer_init(&raw, MAX_TEXT_BYTES);
    bool ok = tokenizer_decode(t, r->ids, r->n_ids, r->skip_special, &raw, err) == ERROR_NONE;
    if (!ok && err->code == ERROR_VALIDATION_FAILED)
        snprintf(err->param, sizeof err->param, "ids");
    if (ok && !message_text(out, raw.data, raw.n_bytes)) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the text of %zu tokens", r->n_ids);
        ok = false;
    }
    buffer_fini(&raw);
    return ok;
}

void tokens_detokenize(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct served *served = NULL;
    struct error err = {0};
    struct buffer text;
    buffer_init(&text, 3 * (size_t)MAX_TEXT_BYTES);
    Bitnet__V1__DetokenizeRequest *r = message_unpack(&bitnet__v1__detokenize_request__descriptor, data, n_bytes, &err);
    if (r && !registry_acquire(s->registry, r->model, &served, &err) &&
        decode(engine_tokenizer(served_engine(served)), r, &text, &err)) {
        Bitnet__V1__DetokenizeResponse response = BITNET__V1__DETOKENIZE_RESPONSE__INIT;
        response.model = (char *)(uintptr_t)served_id(served);
        response.text = text.data ? text.data : (char *)(uintptr_t) "";
        message_answer(call, &response.base);
    } else {
        status_fail(s, call, &err);
    }
    buffer_fini(&text);
    served_release(served);
    message_free(r);
}
