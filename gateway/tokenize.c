/* POST /tokenize and /detokenize. */
#include "gateway/tokenize.h"
#include "bitnet/v1/inference.pb-c.h"
#include "gateway/ask.h"
#include "gateway/body.h"
#include "gateway/emit.h"

#include <stddef.h>
#include <stdlib.h>

#define TIMEOUT_MS 10000
#define AT(member) .offset = offsetof(struct tokenize_params, member)

struct tokenize_params {
    struct value model, text, tokens, add_special, parse_special, skip_special;
};

const struct field tokenize_fields[] = {
    {"model", FIELD_TEXT, AT(model), 1, 255},
    {"text", FIELD_TEXT, AT(text), 0, 1048576, .required = true},
    {"add_special", FIELD_BOOL, AT(add_special)},
    {"parse_special", FIELD_BOOL, AT(parse_special)},
    {0},
};

const struct field detokenize_fields[] = {
    {"model", FIELD_TEXT, AT(model), 1, 255},
    {"tokens", FIELD_JSON, AT(tokens), .required = true, .proto = "ids", .form = "an array of token ids"},
    {"skip_special", FIELD_BOOL, AT(skip_special)},
    {0},
};

static char *mutable(const char *text)
{
    return (char *)(uintptr_t)text;
}

/* ---- tokenize ---- */

/* The bytes of a piece are shown as text; a part of a character becomes U+FFFD. */
static void tokenize_answer(struct request *r, const void *data, size_t n_bytes)
{
    Bitnet__V1__TokenizeResponse *a = bitnet__v1__tokenize_response__unpack(NULL, n_bytes, data);
    struct buffer b;
    buffer_init(&b, 64 << 20);
    emit_open(&b, '{');
    emit_key(&b, "model");
    emit_text(&b, a ? a->model : "");
    emit_key(&b, "tokens");
    emit_open(&b, '[');
    for (size_t i = 0; a && i < a->n_ids; i++)
        emit_uint(&b, a->ids[i]);
    emit_close(&b, ']');
    emit_key(&b, "count");
    emit_uint(&b, a ? a->n_ids : 0);
    emit_key(&b, "pieces");
    emit_open(&b, '[');
    for (size_t i = 0; a && i < a->n_pieces; i++)
        emit_bytes(&b, a->pieces[i].data, a->pieces[i].len);
    emit_close(&b, ']');
    emit_close(&b, '}');
    if (a)
        request_json(r, 200, &b);
    else
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
    buffer_fini(&b);
    if (a)
        bitnet__v1__tokenize_response__free_unpacked(a, NULL);
}

static void start_tokenize(struct request *r, const struct tokenize_params *p)
{
    Bitnet__V1__TokenizeRequest q = BITNET__V1__TOKENIZE_REQUEST__INIT;
    if (p->model.text)
        q.model = mutable(p->model.text);
    q.input_case = BITNET__V1__TOKENIZE_REQUEST__INPUT_TEXT;
    q.text = mutable(p->text.text);
    q.add_special = p->add_special.truth;
    q.parse_special = p->parse_special.truth;
    size_t n = bitnet__v1__tokenize_request__get_packed_size(&q);
    uint8_t *packed = malloc(n > 0 ? n : 1);
    if (!packed) {
        error_answer(r, ERROR_INTERNAL, "out of memory");
        return;
    }
    bitnet__v1__tokenize_request__pack(&q, packed);
    ask_engine(r, "/bitnet.v1.InferenceService/Tokenize", packed, n, TIMEOUT_MS, tokenize_answer);
    free(packed);
}

/* ---- detokenize ---- */

static void detokenize_answer(struct request *r, const void *data, size_t n_bytes)
{
    Bitnet__V1__DetokenizeResponse *a = bitnet__v1__detokenize_response__unpack(NULL, n_bytes, data);
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
        return;
    }
    struct buffer b;
    buffer_init(&b, 64 << 20);
    emit_open(&b, '{');
    emit_key(&b, "model");
    emit_text(&b, a->model);
    emit_key(&b, "text");
    emit_text(&b, a->text);
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
    bitnet__v1__detokenize_response__free_unpacked(a, NULL);
}

static bool check_ids(const json_t *ids, struct failure *f)
{
    size_t i;
    json_t *id;
    char actual[224];
    if (!json_is_array(ids)) {
        failure_add(f, ERROR_INVALID_REQUEST, "tokens", "an array of token ids",
                    fields_describe(ids, actual, sizeof actual));
        return false;
    }
    json_array_foreach(ids, i, id) if (!json_is_integer(id) || json_integer_value(id) < 0 ||
                                       json_integer_value(id) > UINT32_MAX)
    {
        failure_add(f, ERROR_VALIDATION_FAILED, "tokens", "token ids that are not negative",
                    fields_describe(id, actual, sizeof actual));
        return false;
    }
    return true;
}

static void start_detokenize(struct request *r, const struct tokenize_params *p)
{
    Bitnet__V1__DetokenizeRequest q = BITNET__V1__DETOKENIZE_REQUEST__INIT;
    size_t n_ids = json_array_size(p->tokens.json);
    if (p->model.text)
        q.model = mutable(p->model.text);
    q.ids = calloc(n_ids + 1, sizeof *q.ids);
    for (size_t i = 0; q.ids && i < n_ids; i++)
        q.ids[q.n_ids++] = (uint32_t)json_integer_value(json_array_get(p->tokens.json, i));
    q.skip_special = p->skip_special.truth;
    size_t n = bitnet__v1__detokenize_request__get_packed_size(&q);
    uint8_t *packed = q.ids ? malloc(n > 0 ? n : 1) : NULL;
    if (packed) {
        bitnet__v1__detokenize_request__pack(&q, packed);
        ask_engine(r, "/bitnet.v1.InferenceService/Detokenize", packed, n, TIMEOUT_MS, detokenize_answer);
    } else {
        error_answer(r, ERROR_INTERNAL, "out of memory");
    }
    free(packed);
    free(q.ids);
}

/* ---- requests ---- */

static void handle(struct request *r, const struct field *table, bool (*check)(const json_t *, struct failure *),
                   void (*start)(struct request *, const struct tokenize_params *))
{
    const struct fields_rules rules = {.strict = false, .max_prompt_chars = r->g->config->max_prompt_chars};
    struct tokenize_params p = {0};
    struct failure f;
    failure_init(&f);
    r->fields = table;
    json_t *root = body_json(r, &f);
    if (root && fields_parse(table, root, &rules, &p, &f) && (!check || check(p.tokens.json, &f)))
        start(r, &p);
    else
        error_respond(r, &f);
    json_decref(root);
    failure_fini(&f);
}

void handle_tokenize(struct request *r)
{
    handle(r, tokenize_fields, NULL, start_tokenize);
}

void handle_detokenize(struct request *r)
{
    handle(r, detokenize_fields, check_ids, start_detokenize);
}
