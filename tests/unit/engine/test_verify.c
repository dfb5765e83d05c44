/*
 * The bundled model is sound, and a catalogue of what can be wrong with a file (model/broken.h): each found and named. What must not be
 * served is refused by loading too. Run from the repository's root.
 */
#include "engine/engine.h"

#include "base/log.h"
#include "tests/suite.h"
#include "tools/synth.h"
#include "tests/unit/engine/model/broken.h"

#define MODEL "models/tales.gguf"

static enum error_code verify(const char *path, int i2s_order, struct error *err)
{
    struct buffer out;
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    buffer_init(&out, 1 << 20);
    enum error_code code = model_verify(path, i2s_order, false, &out, err);
    ck_assert(!out.failed && strstr(out.data, code ? ": NOT SOUND\n" : ": sound\n"));
    ck_assert(!code || (strstr(out.data, "FAILED") && strstr(out.data, err->message)));
    buffer_fini(&out);
    return code;
}

static enum error_code load(const char *path)
{
    const struct engine_options options = {.model_path = path, .device = "cpu", .i2s_order = -1, .context_length = 64};
    struct error err = {0};
    struct session *s = NULL;
    enum error_code code = session_open(&options, &s, &err);
    session_close(s);
    return code;
}

START_TEST(broken_models)
{
    const struct broken *b = &broken_catalogue[_i];
    const char *path = rw_path("broken.gguf");
    struct rw_file *f = rw_open(MODEL);
    struct error err = {0};
    b->damage(f);
    rw_save(f, path);
    rw_close(f);
    enum error_code code = verify(path, b->i2s_order - 1, &err), loaded = load(path);
    unlink(path);
    ck_assert_msg(code == ERROR_MODEL_LOAD_FAILED && strstr(err.message, b->message), "%s: expected \"%s\", found %s: %s", b->kind,
                  b->message, code ? error_info(code)->name : "sound", err.message);
    ck_assert_msg(!loaded == b->loads, "%s: loading gave %s", b->kind, error_info(loaded)->name);
}
END_TEST

/* Bytes of the file itself: cut short, another magic, version or offset. */
START_TEST(broken_files)
{
    static const struct {
        const char *message;
        size_t cut, at;
        uint8_t byte;
    } cases[] = {
        {"tensor output_norm.weight: expected 1536 bytes", 100, 0, 'G'},
        {"is it complete?", 1000000, 0, 'G'},
        {"the array has more elements than the rest of the file can hold", 5700000, 0, 'G'},
        {"expected the magic \"GGUF\"", 0, 0, 'X'},
        {"GGUF version: expected 2 or 3, found 9", 0, 4, 9},
        {"tensor count", 0, 12, 0x7f},
    };
    const char *path = rw_path("bytes.gguf");
    static uint8_t data[8 << 20];
    FILE *in = fopen(MODEL, "rb");
    size_t n = fread(data, 1, sizeof data, in);
    fclose(in);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        uint8_t before = data[cases[i].at];
        data[cases[i].at] = cases[i].byte;
        FILE *out = fopen(path, "wb");
        fwrite(data, 1, n - cases[i].cut, out);
        fclose(out);
        data[cases[i].at] = before;
        ck_assert_int_eq(verify(path, -1, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strstr(err.message, cases[i].message), "case %zu: %s", i, err.message);
        ck_assert_int_eq(load(path), ERROR_MODEL_LOAD_FAILED);
    }
    unlink(path);
}
END_TEST

START_TEST(sound)
{
    struct error err = {0};
    struct buffer out;
    ck_assert_msg(!verify(MODEL, -1, &err), "%s", err.message);
    buffer_init(&out, 1 << 20);
    ck_assert_int_eq(model_verify(MODEL, I2S_ORDER_128, true, &out, &err), ERROR_NONE);
    ck_assert(strstr(out.data, "\"sound\":true,\"checks\":[{\"name\":\"structure\",\"passed\":true"));
    ck_assert(strstr(out.data, "{\"name\":\"text\",\"passed\":true"));
    buffer_fini(&out);
}
END_TEST

/* Packed as ARM builds pack: found, and the same model. */
START_TEST(other_order_is_found)
{
    const char *path = rw_path("order.gguf");
    struct rw_file *f = rw_open(MODEL);
    struct error err = {0};
    enum i2s_order order;
    ck_assert(!model_file_order(MODEL, &order, &err) && order == I2S_ORDER_128);
    order_of_all(f);
    rw_save(f, path);
    rw_close(f);
    ck_assert(!model_file_order(path, &order, &err) && order == I2S_ORDER_64);
    ck_assert_msg(!verify(path, -1, &err), "%s", err.message);
    unlink(path);
    ck_assert_int_eq(model_file_order("/nonexistent", &order, &err), ERROR_NOT_FOUND);
}
END_TEST

/* Random weights: a model that computes embeddings is not asked for text, one that generates is. */
START_TEST(embeddings)
{
    static const struct {
        const char *preset, *pooling;
        bool not_causal;
    } models[] = {{"tiny-qwen3", "last", false}, {"tiny", "mean", true}, {"tiny-qwen3", NULL, false}};
    for (size_t i = 0; i < 3; i++) {
        const char *path = rw_path("embeds.gguf");
        struct error err = {0};
        const struct synth_options o = {
            .path = path, .preset = models[i].preset, .n_layers = 2, .pooling = models[i].pooling, .not_causal = models[i].not_causal};
        ck_assert_msg(!synth_write(&o, &err), "%s", err.message);
        enum error_code code = verify(path, -1, &err);
        unlink(path);
        ck_assert_msg(!code == (models[i].pooling != NULL), "%zu: %s", i, err.message);
        ck_assert(!code || strstr(err.message, "a plain English text takes"));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("verify");
    TCase *tests = tcase_create("verify");
    tcase_add_loop_test(tests, broken_models, 0, sizeof broken_catalogue / sizeof *broken_catalogue);
    tcase_add_test(tests, broken_files);
    tcase_add_test(tests, sound);
    tcase_add_test(tests, embeddings);
    tcase_add_test(tests, other_order_is_found);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
