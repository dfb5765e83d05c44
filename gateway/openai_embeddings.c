/* POST /v1/embeddings. One call to the engine for all inputs. */
#include "bitnet/v1/inference.pb-c.h"
#include "gateway/ask.h"
#include "gateway/body.h"
#include "gateway/emit.h"
#include "gateway/openai.h"

#include <openssl/evp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct embedding_params, member)
#define MAX_INPUTS 256
#define MAX_ANSWER_BYTES (64 << 20)
#define INPUT_FORM "a string, an array of strings, or token ids"

struct embedding_params {
    struct value input, model, encoding_format, dimensions;
};

enum { FORMAT_FLOAT, FORMAT_BASE64 };

const struct field embedding_fields[] = {
    {"input", FIELD_JSON, AT(input), .required = true, .form = INPUT_FORM, .proto = "inputs"},
    {"model", FIELD_TEXT, AT(model), 1, 255},
    {"encoding_format", FIELD_CHOICE, AT(encoding_format), .choices = "float|base64"},
    {"dimensions", FIELD_INT, AT(dimensions), 1, 65536},
    {0},
};

/* ---- the answer ---- */

/* The values as little-endian F32, as OpenAI's clients read them. */
static void put_base64(struct buffer *b, const Bitnet__V1__Embedding *e)
{
    size_t n_bytes = e->n_values * 4, n_text = (n_bytes + 2) / 3 * 4;
    unsigned char *bytes = malloc(n_bytes + 1), *text = malloc(n_text + 1);
    for (size_t i = 0; bytes && i < e->n_values; i++) {
        uint32_t bits;
        memcpy(&bits, &e->values[i], sizeof bits);
        for (int k = 0; k < 4; k++)
            bytes[4 * i + (size_t)k] = (unsigned char)(bits >> 8 * k);
    }
    if (bytes && text)
        emit_bytes(b, text, (size_t)EVP_EncodeBlock(text, bytes, (int)n_bytes));
    else
        b->failed = true;
    free(bytes);
    free(text);
}

static void put_floats(struct buffer *b, const Bitnet__V1__Embedding *e)
{
    emit_open(b, '[');
    for (size_t i = 0; i < e->n_values; i++)
        emit_float(b, e->values[i]);
    emit_close(b, ']');
}

static void put_embedding(struct buffer *b, size_t index, const Bitnet__V1__Embedding *e, int format)
{
    emit_open(b, '{');
    emit_key(b, "object");
    emit_text(b, "embedding");
    emit_key(b, "index");
    emit_uint(b, index);
    emit_key(b, "embedding");
    (format == FORMAT_BASE64 ? put_base64 : put_floats)(b, e);
    emit_close(b, '}');
}

static void put_answer(struct buffer *b, const Bitnet__V1__EmbedResponse *a, int format)
{
    emit_open(b, '{');
    emit_key(b, "object");
    emit_text(b, "list");
    emit_key(b, "data");
    emit_open(b, '[');
    for (size_t i = 0; i < a->n_embeddings; i++)
        put_embedding(b, i, a->embeddings[i], format);
    emit_close(b, ']');
    emit_key(b, "model");
    emit_text(b, a->model);
    emit_key(b, "usage");
    emit_open(b, '{');
    emit_key(b, "prompt_tokens");
    emit_uint(b, a->prompt_tokens);
    emit_key(b, "total_tokens");
    emit_uint(b, a->prompt_tokens);
    emit_close(b, '}');
    emit_close(b, '}');
}

static void answer(struct request *r, const void *data, size_t n_bytes, int format)
{
    struct buffer body;
    Bitnet__V1__EmbedResponse *a = bitnet__v1__embed_response__unpack(NULL, n_bytes, data);
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
        return;
    }
    buffer_init(&body, MAX_ANSWER_BYTES);
    put_answer(&body, a, format);
    request_json(r, 200, &body);
    buffer_fini(&body);
    bitnet__v1__embed_response__free_unpacked(a, NULL);
}

static void answer_floats(struct request *r, const void *data, size_t n_bytes)
{
    answer(r, data, n_bytes, FORMAT_FLOAT);
}

static void answer_base64(struct request *r, const void *data, size_t n_bytes)
{
    answer(r, data, n_bytes, FORMAT_BASE64);
}

/* ---- the request ---- */

/* What the packed request points to. */
struct inputs {
    Bitnet__V1__EmbedInput *inputs, **list; /* [n] */
    Bitnet__V1__Tokens *tokens;             /* [n] */
    size_t n;
};

static void inputs_fini(struct inputs *in)
{
    for (size_t i = 0; in->tokens && i < in->n; i++)
        free(in->tokens[i].ids);
    free(in->tokens);
    free(in->inputs);
    free(in->list);
}

static bool out_of_memory(struct failure *f)
{
    error_set(&f->error, ERROR_INTERNAL, "out of memory");
    return false;
}

static bool read_tokens(const json_t *ids, Bitnet__V1__Tokens *out, struct failure *f)
{
    size_t i, n = json_array_size(ids);
    json_t *id;
    bitnet__v1__tokens__init(out);
    if (n == 0)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "input", "at least one token id", ids);
    out->ids = calloc(n, sizeof *out->ids);
    if (!out->ids)
        return out_of_memory(f);
    json_array_foreach(ids, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > UINT32_MAX)
            return fields_fault(f, ERROR_VALIDATION_FAILED, "input", "token ids that are not negative", id);
        out->ids[out->n_ids++] = (uint32_t)json_integer_value(id);
    }
    return true;
}

/* One input: a string, or an array of token ids. */
static bool read_input(const json_t *v, struct inputs *in, size_t i, struct failure *f)
{
    Bitnet__V1__EmbedInput *out = &in->inputs[i];
    bitnet__v1__embed_input__init(out);
    in->list[i] = out;
    if (json_is_string(v)) {
        out->input_case = BITNET__V1__EMBED_INPUT__INPUT_TEXT;
        out->text = (char *)(uintptr_t)json_string_value(v); /* packing only reads it */
        return json_string_length(v) > 0 ||
               fields_fault(f, ERROR_VALIDATION_FAILED, "input", "a string that is not empty", v);
    }
    if (!json_is_array(v))
        return fields_fault(f, ERROR_VALIDATION_FAILED, "input", INPUT_FORM, v);
    out->input_case = BITNET__V1__EMBED_INPUT__INPUT_TOKENS;
    out->tokens = &in->tokens[i];
    return read_tokens(v, out->tokens, f);
}

static bool read_inputs(const json_t *v, struct inputs *in, struct failure *f)
{
    const json_t *first = json_array_get(v, 0);
    bool several = json_is_string(first) || json_is_array(first);
    in->n = several ? json_array_size(v) : 1;
    if (in->n > MAX_INPUTS)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "input", "at most 256 inputs", v);
    in->inputs = calloc(in->n, sizeof *in->inputs);
    in->list = calloc(in->n, sizeof *in->list);
    in->tokens = calloc(in->n, sizeof *in->tokens);
    if (!in->inputs || !in->list || !in->tokens)
        return out_of_memory(f);
    for (size_t i = 0; i < in->n; i++)
        if (!read_input(several ? json_array_get(v, i) : v, in, i, f))
            return false;
    return true;
}

static void ask(struct request *r, const struct embedding_params *p, const struct inputs *in)
{
    Bitnet__V1__EmbedRequest request = BITNET__V1__EMBED_REQUEST__INIT;
    struct buffer packed;
    if (p->model.text)
        request.model = (char *)(uintptr_t)p->model.text;
    request.n_inputs = in->n;
    request.inputs = in->list;
    request.dimensions = p->dimensions.set ? (uint32_t)p->dimensions.i : 0;
    request.client_id = r->access.client.id;
    request.request_id = r->id;
    buffer_init(&packed, SIZE_MAX / 2);
    char *to = buffer_reserve(&packed, bitnet__v1__embed_request__get_packed_size(&request));
    if (to)
        ask_engine(r, "/bitnet.v1.InferenceService/Embed", to, bitnet__v1__embed_request__pack(&request, (uint8_t *)to),
                   r->g->config->request_timeout_ms,
                   p->encoding_format.i == FORMAT_BASE64 ? answer_base64 : answer_floats);
    else
        error_answer(r, ERROR_INTERNAL, "out of memory");
    buffer_fini(&packed);
}

void handle_embeddings(struct request *r)
{
    const struct fields_rules rules = {.strict = false};
    struct embedding_params p = {0};
    struct inputs in = {0};
    struct failure f;
    failure_init(&f);
    r->fields = embedding_fields;
    json_t *root = body_json(r, &f);
    if (root && fields_parse(embedding_fields, root, &rules, &p, &f) && read_inputs(p.input.json, &in, &f))
        ask(r, &p, &in);
    else
        error_respond(r, &f);
    inputs_fini(&in);
    json_decref(root);
    failure_fini(&f);
}
