/* The catalogue of broken models, each loaded while another one is served: refused, with what is wrong, and never served. */
#include "tests/suite.h"
#include "tests/unit/engine/model/broken.h"
#include "tests/unit/engine/registry/support.h"

START_TEST(refused)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    const char *path = at("broken.gguf");
    size_t n = 0;
    for (size_t i = 0; i < sizeof broken_catalogue / sizeof *broken_catalogue; i++) {
        const struct broken *b = &broken_catalogue[i];
        struct error err = {0};
        struct rw_file *f = rw_open(TALES);
        if (!b->i2s_order) { /* else it is wrong only where the operator says so */
            b->damage(f);
            rw_save(f, path);
            enum error_code code = load(r, path, "broken", &err);
            ck_assert_msg(code == ERROR_MODEL_LOAD_FAILED && strstr(err.message, b->message), "%s: expected \"%s\", found %s: %s", b->kind,
                          b->message, code ? error_info(code)->name : "loaded", err.message);
            n++;
        }
        rw_close(f);
    }
    ck_assert_uint_ge(n, 35);
    expect_listed(r, "*tales:active");
    registry_close(r);
}
END_TEST

SUITE("broken", refused)
