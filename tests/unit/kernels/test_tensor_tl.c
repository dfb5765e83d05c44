/* TL1 and TL2 tensors of the shapes whose tiling is known, written as bitnet.cpp's converter does, read back to the same codes. */
#include "kernels/arith.h"
#include "kernels/pool.h"
#include "kernels/tensor.h"

#include "tests/suite.h"
#include "tests/unit/kernels/tl_files.h"

static const struct {
    uint32_t type;
    struct tl_config c;
} shapes[] = {
    {TENSOR_TL1, {1536, 4096, 256, 128, 32}},  {TENSOR_TL1, {1536, 1536, 128, 64, 64}},   {TENSOR_TL1, {4096, 1536, 256, 128, 32}},
    {TENSOR_TL2, {1536, 4096, 256, 96, 32}},   {TENSOR_TL2, {1536, 1536, 128, 192, 32}},  {TENSOR_TL2, {4096, 1536, 256, 96, 32}},
    {TENSOR_TL1, {3200, 8640, 160, 64, 32}},   {TENSOR_TL1, {3200, 3200, 320, 128, 64}},  {TENSOR_TL1, {8640, 3200, 320, 64, 32}},
    {TENSOR_TL2, {3200, 8640, 160, 96, 32}},   {TENSOR_TL2, {3200, 3200, 320, 96, 32}},   {TENSOR_TL2, {8640, 3200, 320, 96, 32}},
    {TENSOR_TL1, {14336, 4096, 256, 128, 32}}, {TENSOR_TL1, {4096, 14336, 128, 64, 64}},  {TENSOR_TL1, {1024, 4096, 256, 128, 32}},
    {TENSOR_TL1, {4096, 4096, 128, 64, 64}},   {TENSOR_TL2, {14336, 4096, 256, 96, 32}},  {TENSOR_TL2, {4096, 14336, 128, 96, 32}},
    {TENSOR_TL2, {1024, 4096, 256, 96, 32}},   {TENSOR_TL2, {4096, 4096, 128, 96, 32}},
};
#define N_SHAPES ((int)(sizeof shapes / sizeof shapes[0]))

static uint64_t state;
static uint8_t next_code(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint8_t)((state >> 40) % 3);
}

struct file {
    uint8_t *codes, *data;
    struct tensor_view view;
};

/* The first n_rows rows, a multiple of a tile's; those behind them stay 0. */
static struct file make(uint32_t type, const struct tl_config *c, size_t n_rows, float scale)
{
    struct file f = {.codes = malloc(n_rows * c->K)};
    struct tl_config part = *c;
    size_t n_bytes = tensor_bytes(type, c->M, c->K), three = c->K / c->BY * c->BY, index = three / 6, sign = three / 24, two = (c->K - three) / 4;
    uint8_t *written = malloc(n_rows * c->K);
    f.data = calloc(1, n_bytes);
    part.M = n_rows;
    for (size_t i = 0; i < n_rows * c->K; i++)
        f.codes[i] = next_code();
    if (type == TENSOR_TL1) {
        tl1_write(f.codes, &part, f.data);
    } else { /* indices, signs and pairs each begin with these rows */
        ck_assert_uint_eq(tl2_write(f.codes, &part, written), n_rows * (index + sign + two));
        ck_assert_uint_le(c->M * (index + sign + two), n_bytes - 32);
        memcpy(f.data, written, n_rows * index);
        memcpy(f.data + c->M * index, written + n_rows * index, n_rows * sign);
        memcpy(f.data + c->M * (index + sign), written + n_rows * (index + sign), n_rows * two);
    }
    free(written);
    memcpy(f.data + n_bytes - 32, &scale, sizeof scale);
    f.view = (struct tensor_view){.type = (enum tensor_type)type, .data = f.data, .n_bytes = n_bytes, .n_rows = c->M, .n_cols = c->K};
    return f;
}

static void drop(struct file *f)
{
    free(f->codes);
    free(f->data);
}

START_TEST(read_back)
{
    const struct tl_config *c = &shapes[_i].c;
    size_t n_rows = 2 * c->BM;
    struct file f = make(shapes[_i].type, c, n_rows, 0.25f);
    uint8_t *found = malloc(c->K);
    for (size_t r = 0; r < n_rows; r++) {
        tensor_unpack_codes(&f.view, r, found);
        ck_assert_msg(memcmp(found, f.codes + r * c->K, c->K) == 0, "row %zu", r);
    }
    free(found);
    drop(&f);
}
END_TEST

/* Of whole tensors, of 0.7B: the packed form is that of the same weights in an I2_S file. */
START_TEST(prepared)
{
    for (int i = 0; i < 6; i++) {
        const struct tl_config *c = &shapes[i].c;
        struct file f = make(shapes[i].type, c, c->M, 0.375f);
        struct ternary_packed packed;
        struct error err = {0};
        struct pool *pool = pool_open(2);
        uint8_t *row = malloc(c->K / 4);
        ck_assert_msg(!ternary_prepare(pool, &f.view, &packed, &err), "%s", err.message);
        ck_assert(packed.scale == 0.375f);
        for (size_t r = 0; r < c->M; r++) {
            tensor_pack_codes(f.codes + r * c->K, c->K, row);
            ck_assert(memcmp(row, packed.rows + r * packed.row_bytes, c->K / 4) == 0);
        }
        free(row);
        free(packed.owned);
        pool_close(pool);
        drop(&f);
    }
}
END_TEST

static void expect_refusal(const struct file *f, const char *message)
{
    struct ternary_packed packed;
    struct error err = {0};
    ck_assert_int_eq(ternary_prepare(NULL, &f->view, &packed, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, message) != NULL, "expected \"%s\" in: %s", message, err.message);
}

START_TEST(indices_that_mean_nothing)
{
    struct file f = make(TENSOR_TL1, &shapes[1].c, 256, 1.0f);
    f.data[0] = 0x94; /* 9 is no pair */
    expect_refusal(&f, "found 3 at row 0, column 0");
    drop(&f);
    f = make(TENSOR_TL2, &shapes[3].c, 256, 1.0f);
    f.data[1] = 0x0e; /* row 1, second triple; 14 is none */
    expect_refusal(&f, "found 3 at row 1, column 3");
    drop(&f);
    f = make(TENSOR_TL2, &shapes[3].c, 256, 1.0f);
    f.data[1536 * 4032 / 6 + 1536 * 4032 / 24] = 0xf0; /* the first pair behind the triples */
    expect_refusal(&f, "found 3 at row 0, column 4032");
    drop(&f);
}
END_TEST

START_TEST(unknown_shapes_are_refused)
{
    for (int i = 0; i < 2; i++) {
        struct file f = {.data = calloc(1, 1 << 20)};
        uint32_t type = i ? TENSOR_TL2 : TENSOR_TL1;
        f.view = (struct tensor_view){.type = (enum tensor_type)type, .data = f.data, .n_bytes = 1 << 20, .n_rows = 640, .n_cols = 2560};
        expect_refusal(&f, "those of 640 x 2560 weights (rows x columns) are not known");
        expect_refusal(&f, "convert the model again, as I2_S");
        free(f.data);
    }
    ck_assert_uint_eq(tensor_bytes(TENSOR_TL2, 64, 128), 0);
    ck_assert_uint_eq(tensor_bytes(TENSOR_TL1, SIZE_MAX / 32, 128), 0);
    ck_assert_uint_eq(tensor_bytes(TENSOR_TL2, SIZE_MAX / 32, 1024), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/tensor_tl");
    TCase *tcase = tcase_create("tl");
    tcase_add_loop_test(tcase, read_back, 0, N_SHAPES);
    tcase_add_test(tcase, prepared);
    tcase_add_test(tcase, indices_that_mean_nothing);
    tcase_add_test(tcase, unknown_shapes_are_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
