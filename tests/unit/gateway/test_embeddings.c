/* /v1/embeddings: what the engine is asked, and how its vectors are told. */
#include "tests/suite.h"

#include "tests/unit/gateway/app.h"

static struct app app;

#define EMBEDDINGS "/v1/embeddings"

/* What call 0 asks, to be freed. */
static Bitnet__V1__EmbedRequest *asked(const char *body)
{
    app_open(&app);
    app_post(&app, EMBEDDINGS, body);
    ck_assert_msg(app_n_calls == 1, "%s: %s", body, app_body(&app));
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.InferenceService/Embed");
    return bitnet__v1__embed_request__unpack(NULL, app_calls[0].request.n_bytes, (uint8_t *)app_calls[0].request.data);
}

static void forget(Bitnet__V1__EmbedRequest *r)
{
    bitnet__v1__embed_request__free_unpacked(r, NULL);
    app_close(&app);
}

START_TEST(inputs_of_all_forms)
{
    Bitnet__V1__EmbedRequest *r = asked("{\"input\":\"one\",\"model\":\"m\",\"dimensions\":7,\"user\":\"u\"}");
    ck_assert_uint_eq(r->n_inputs, 1);
    ck_assert_str_eq(r->inputs[0]->text, "one");
    ck_assert_str_eq(r->model, "m");
    ck_assert_uint_eq(r->dimensions, 7);
    ck_assert_str_eq(r->request_id, "rid");
    ck_assert_str_eq(r->client_id, "192.0.2.1");
    forget(r);
    r = asked("{\"input\":[\"one\",\"two\"]}");
    ck_assert_uint_eq(r->n_inputs, 2);
    ck_assert_str_eq(r->inputs[1]->text, "two");
    ck_assert_uint_eq(r->dimensions, 0);
    forget(r);
    r = asked("{\"input\":[5,0,4294967295]}");
    ck_assert_uint_eq(r->n_inputs, 1);
    ck_assert_uint_eq(r->inputs[0]->tokens->n_ids, 3);
    ck_assert_uint_eq(r->inputs[0]->tokens->ids[2], 4294967295u);
    forget(r);
    r = asked("{\"input\":[[5],[6,7]]}");
    ck_assert_uint_eq(r->n_inputs, 2);
    ck_assert_uint_eq(r->inputs[1]->tokens->ids[1], 7);
    forget(r);
    r = asked("{\"input\":[[5],\"two\"]}"); /* each for itself */
    ck_assert_str_eq(r->inputs[1]->text, "two");
    forget(r);
}
END_TEST

START_TEST(faults)
{
    static const char *const bodies[] = {"{}",
                                         "{\"input\":\"\"}",
                                         "{\"input\":[]}",
                                         "{\"input\":1}",
                                         "{\"input\":[1,\"a\"]}",
                                         "{\"input\":[1.5]}",
                                         "{\"input\":[-1]}",
                                         "{\"input\":[[]]}",
                                         "{\"input\":[\"a\",1]}",
                                         "{\"input\":{}}",
                                         "{\"input\":null}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        app_open(&app);
        app_post(&app, EMBEDDINGS, bodies[i]);
        ck_assert_msg(app_status(&app) == 400 && strstr(app_body(&app), "\"param\":\"input\""), "%s: %s", bodies[i],
                      app_body(&app));
        ck_assert_int_eq(app_n_calls, 0);
        app_close(&app);
    }
}
END_TEST

static void answer(void)
{
    float values[2][2] = {{0.6f, -0.8f}, {1, 0}};
    Bitnet__V1__Embedding e[2], *list[] = {&e[0], &e[1]};
    Bitnet__V1__EmbedResponse r = BITNET__V1__EMBED_RESPONSE__INIT;
    for (int i = 0; i < 2; i++) {
        bitnet__v1__embedding__init(&e[i]);
        e[i].n_values = 2;
        e[i].values = values[i];
    }
    r.model = (char *)(uintptr_t) "m";
    r.n_embeddings = 2;
    r.embeddings = list;
    r.prompt_tokens = 9;
    app_message(0, &r.base);
    app_end(0, 0, "");
}

START_TEST(numbers_and_base64)
{
    forget(asked("{\"input\":[\"a\",\"b\"]}"));
    Bitnet__V1__EmbedRequest *r = asked("{\"input\":[\"a\",\"b\"]}");
    answer();
    ck_assert_str_eq(
        app_body(&app),
        "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.6,-0.8]},"
        "{\"object\":\"embedding\",\"index\":1,\"embedding\":[1,0]}],\"model\":\"m\",\"usage\":{\"prompt_tokens\":9,"
        "\"total_tokens\":9}}");
    forget(r);
    r = asked("{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\"}");
    answer();
    ck_assert_msg(strstr(app_body(&app), "\"embedding\":\"mpkZP83MTL8=\"") &&
                      strstr(app_body(&app), "\"embedding\":\"AACAPwAAAAA=\""),
                  "%s", app_body(&app));
    forget(r);
}
END_TEST

SUITE("embeddings", inputs_of_all_forms, faults, numbers_and_base64)
