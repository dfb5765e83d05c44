/* Models in several files, scales beside tensors, type 42 in both sizes, and TL1 and TL2 files of the 0.7B shape: all give the logits of the same
 * weights in one I2_S file. Run from the repository's root. */
#include "engine/engine.h"

#include "base/log.h"
#include "engine/model/model.h"
#include "tests/unit/engine/model/rewrite.h"
#include "tests/unit/kernels/tl_files.h"
#include "tools/synth.h"

#define N_TOKENS 5
#define VOCAB 96 /* of the models that are cut */

static struct rw_file *small(const char *preset, uint32_t n_layers)
{
    const char *path = rw_path("synth.gguf");
    struct error err = {0};
    const struct synth_options o = {.path = path, .preset = preset, .seed = 7, .n_layers = n_layers};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    ck_assert_msg(!synth_write(&o, &err), "%s", err.message);
    struct rw_file *f = rw_open(path);
    unlink(path);
    for (size_t i = 0; i < f->n_keys; i++)
        f->keys[i].drop = strncmp(f->keys[i].key->name.data, "tokenizer.", 10) == 0;
    struct rw_tensor *t = rw_tensor(f, "token_embd.weight");
    t->dims[1] = VOCAB;
    t->n_bytes = t->dims[0] * VOCAB * 2;
    return f;
}

/* Logits behind N_TOKENS tokens; freed by the caller. */
static float *logits_of(const char *path)
{
    const struct engine_options options = {.model_path = path, .device = "cpu", .i2s_order = -1, .context_length = 32, .max_batch_tokens = 8};
    struct session_row rows[N_TOKENS];
    struct error err = {0};
    struct session *s;
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    float *logits = malloc(VOCAB * sizeof *logits);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        rows[i] = (struct session_row){0, 7 * i + 3, i + 1 == N_TOKENS};
    ck_assert_msg(!session_step(s, rows, N_TOKENS, false, logits, &err), "%s", err.message);
    session_close(s);
    return logits;
}

static void expect_same(const char *path, const float *reference)
{
    float *logits = logits_of(path);
    ck_assert(memcmp(logits, reference, VOCAB * sizeof *logits) == 0);
    free(logits);
}

static void expect_refusal(const char *path, const char *message)
{
    struct gguf *g = NULL;
    struct error err = {0};
    ck_assert_int_ne(gguf_open(path, &g, &err), ERROR_NONE);
    ck_assert_msg(strstr(err.message, message) != NULL, "expected \"%s\" in: %s", message, err.message);
}

/* ---- parts */

static void part_name(char out[256], const char *name, int no)
{
    snprintf(out, 256, "%s-%05d-of-00003.gguf", rw_path(name), no);
}

static void write_parts(const struct rw_file *f, const char *name)
{
    size_t third = f->n_tensors / 3, n[] = {third, third, f->n_tensors - 2 * third};
    for (int no = 0; no < 3; no++) {
        char path[256];
        part_name(path, name, no + 1);
        rw_save_part(f, path, no == 0, (size_t)no * third, n[no], (uint32_t)no, 3, (uint32_t)f->n_tensors);
    }
}

START_TEST(parts)
{
    struct rw_file *f = small("tiny", 2);
    const char *whole = rw_path("whole.gguf");
    char first[256], second[256], third[256], aside[256];
    part_name(first, "a", 1), part_name(second, "a", 2), part_name(third, "a", 3), part_name(aside, "b", 3);
    rw_save(f, whole);
    float *reference = logits_of(whole);
    write_parts(f, "a");
    expect_same(first, reference);
    struct gguf *g;
    ck_assert(!gguf_open(first, &g, NULL));
    ck_assert(gguf_n_parts(g) == 3 && gguf_n_tensors(g) == f->n_tensors && gguf_find_tensor(g, "output_norm.weight"));
    gguf_close(g);

    expect_refusal(second, "it is part 2 of 3: open the first part, whose name ends in -00001-of-00003.gguf");
    rename(third, aside);
    expect_refusal(first, "part 3 of 3: cannot open");
    rename(second, third);
    rename(aside, second);
    expect_refusal(first, "expected split.no 1, found 2: it is another part than its name says");
    rw_save_part(f, second, false, 0, 3, 1, 3, (uint32_t)f->n_tensors);
    expect_refusal(first, "expected split.no 2, found 1");
    rw_save_part(f, third, false, 3, f->n_tensors - 3 - f->n_tensors / 3, 2, 3, (uint32_t)f->n_tensors);
    expect_refusal(first, "two parts have this tensor");
    rw_save_part(f, third, false, 3, 2, 2, 3, (uint32_t)f->n_tensors);
    expect_refusal(first, "tensors in all parts, found");
    rw_save_part(f, third, false, 3, 2, 2, 4, (uint32_t)f->n_tensors);
    expect_refusal(first, "expected split.count 3 as in the first part, found 4: it is of another model");
    rw_save_part(f, third, false, 3, 2, 2, 3, 7);
    expect_refusal(first, "found 7: it is of another model");
    rename(first, whole);
    expect_refusal(whole, "the others are found by its name: expected one that ends in -00001-of-00003.gguf");
    unlink(whole), unlink(second), unlink(third);
    free(reference);
    rw_close(f);
}
END_TEST

/* ---- other packings of the same weights */

static uint8_t *codes_of(const struct rw_tensor *t)
{
    struct tensor_view v = {.type = TENSOR_I2_S, .data = t->data, .n_bytes = t->n_bytes, .n_rows = t->dims[1], .n_cols = t->dims[0]};
    uint8_t *codes = malloc(v.n_rows * v.n_cols);
    for (size_t r = 0; r < v.n_rows; r++)
        tensor_unpack_codes(&v, r, codes + r * v.n_cols);
    return codes;
}

/* Half of the scale in the tensor, and 2 beside it: exact. */
START_TEST(scale_beside)
{
    struct rw_file *f = small("tiny", 1);
    const char *path = rw_path("scale.gguf");
    const float two = 2.0f;
    rw_save(f, path);
    float *reference = logits_of(path);
    struct rw_tensor *t = rw_tensor(f, "blk.0.ffn_up.weight");
    float scale;
    memcpy(&scale, t->data + t->n_bytes - 32, 4);
    scale /= 2;
    memcpy(t->data + t->n_bytes - 32, &scale, 4);
    f->tensors = realloc(f->tensors, ++f->n_tensors * sizeof *f->tensors);
    struct rw_tensor *beside = &f->tensors[f->n_tensors - 1];
    *beside = (struct rw_tensor){.name = "blk.0.ffn_up.scale", .type = TENSOR_F32, .n_dims = 1, .dims = {1, 1, 1, 1},
                                 .data = rw_copy(&two, 4), .n_bytes = 4};
    rw_save(f, path);
    expect_same(path, reference);
    memcpy(beside->data, &(float){-2.0f}, 4);
    rw_save(f, path);
    struct gguf *g;
    struct error err = {0};
    struct model_shape shape;
    ck_assert(!gguf_open(path, &g, &err));
    ck_assert_int_eq(model_shape_read(g, &shape, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "tensor blk.0.ffn_up.scale: expected a finite and positive scale, found -2"), "%s", err.message);
    gguf_close(g);
    unlink(path);
    free(reference);
    rw_close(f);
}
END_TEST

/* Type 42 with blocks of 128 and of 64 weights in files that say only 42. */
START_TEST(q2_0_of_both_sizes)
{
    struct rw_file *f = small("tiny", 1);
    const char *path = rw_path("q2_0.gguf");
    const float half = 0.5f;
    for (size_t i = 0; i < f->n_tensors; i++) /* a scale that F16 can hold */
        if (f->tensors[i].type == TENSOR_I2_S)
            memcpy(f->tensors[i].data + f->tensors[i].n_bytes - 32, &half, 4);
    rw_save(f, path);
    float *reference = logits_of(path);
    for (size_t block = 128; block >= 64; block /= 2) {
        struct rw_file *q = rw_open(path);
        for (size_t i = 0; i < q->n_tensors; i++) {
            struct rw_tensor *t = &q->tensors[i];
            if (t->type != TENSOR_I2_S)
                continue;
            size_t n = t->dims[0] * t->dims[1], size = 2 + block / 4;
            uint8_t *codes = codes_of(t), *data = calloc(n / block, size);
            for (size_t e = 0; e < n; e++) {
                uint8_t *b = data + e / block * size;
                b[1] = 0x38;
                b[2 + e % block / 4] |= (uint8_t)(codes[e] << 2 * (e % 4));
            }
            free(codes);
            free(t->data);
            *t = (struct rw_tensor){.type = TENSOR_Q2_0, .n_dims = 2, .data = data, .n_bytes = n / block * size, .dims = {t->dims[0], t->dims[1], 1, 1}};
            snprintf(t->name, sizeof t->name, "%s", f->tensors[i].name);
        }
        const char *other = rw_path("q2_0-out.gguf");
        rw_save(q, other);
        expect_same(other, reference);
        unlink(other);
        rw_close(q);
    }
    unlink(path);
    free(reference);
    rw_close(f);
}
END_TEST

static const struct tl_config *config_of(const struct rw_tensor *t, uint32_t type)
{
    static const struct tl_config tl1[] = {{1536, 4096, 256, 128, 32}, {1536, 1536, 128, 64, 64}, {4096, 1536, 256, 128, 32}},
                                  tl2[] = {{1536, 4096, 256, 96, 32}, {1536, 1536, 128, 192, 32}, {4096, 1536, 256, 96, 32}};
    for (size_t i = 0; i < 3; i++)
        if (tl1[i].M == t->dims[1] && tl1[i].K == t->dims[0])
            return type == TENSOR_TL1 ? &tl1[i] : &tl2[i];
    ck_abort_msg("no tiling for %s", t->name);
    return NULL;
}

/* One layer of the 0.7B model in bitnet.cpp's files for its lookup kernels. */
START_TEST(lookup_files)
{
    static const uint32_t types[] = {TENSOR_TL1, TENSOR_TL2};
    struct rw_file *f = small("0.7b", 1);
    const char *path = rw_path("tl.gguf");
    rw_save(f, path);
    float *reference = logits_of(path);
    for (size_t k = 0; k < 2; k++) {
        struct rw_file *tl = rw_open(path);
        for (size_t i = 0; i < tl->n_tensors; i++) {
            struct rw_tensor *t = &tl->tensors[i];
            if (t->type != TENSOR_I2_S)
                continue;
            const struct tl_config *c = config_of(t, types[k]);
            size_t n_bytes = tensor_bytes(types[k], c->M, c->K);
            uint8_t *codes = codes_of(t), *data = calloc(1, n_bytes);
            if (types[k] == TENSOR_TL1)
                tl1_write(codes, c, data);
            else
                tl2_write(codes, c, data);
            memcpy(data + n_bytes - 32, t->data + t->n_bytes - 32, 4);
            free(codes);
            free(t->data);
            t->data = data;
            t->n_bytes = n_bytes;
            t->type = types[k];
        }
        const char *other = rw_path("tl-out.gguf");
        rw_save(tl, other);
        expect_same(other, reference);
        unlink(other);
        rw_close(tl);
    }
    unlink(path);
    free(reference);
    rw_close(f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model files");
    TCase *tests = tcase_create("files");
    tcase_set_timeout(tests, 240);
    tcase_add_test(tests, parts);
    tcase_add_test(tests, scale_beside);
    tcase_add_test(tests, q2_0_of_both_sizes);
    tcase_add_test(tests, lookup_files);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
