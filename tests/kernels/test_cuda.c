/*
 * The CUDA backend on the emulated device of tests/cuda/host, which `make cuda-emulated` builds: every operation against the portable reference
 * (kernels/cuda/check.h), and what becomes of memory that is out and of a device that is lost.
 */
#include "kernels/cuda/check.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LIBRARY "../../emulated/" BACKEND_CUDA_LIBRARY /* from the folder of this program */
#define N_COLS 256
#define N_ROWS 16

static backend_cuda_open_fn *open_cuda;
static backend_cuda_list_fn *list_cuda;

static bool find_library(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof LIBRARY);
    while (n > 0 && path[n - 1] != '/')
        n--;
    memcpy(path + (n > 0 ? n : 0), LIBRARY, sizeof LIBRARY);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    open_cuda = library ? (backend_cuda_open_fn *)dlsym(library, BACKEND_CUDA_OPEN) : NULL;
    list_cuda = library ? (backend_cuda_list_fn *)dlsym(library, BACKEND_CUDA_LIST) : NULL;
    return open_cuda && list_cuda;
}

static struct backend *open_reference(void)
{
    struct backend_options options = {.device = "cpu", .n_threads = 1, .isa = "portable"};
    struct backend *be;
    struct error err = {0};
    ck_assert_msg(!backend_open(&options, &be, &err), "%s", err.message);
    return be;
}

static struct backend *open_device(void)
{
    struct backend *be;
    struct error err = {0};
    ck_assert_msg(!open_cuda(BACKEND_ABI, 0, &be, &err), "%s", err.message);
    return be;
}

static void set(const char *name, long value)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    ck_assert(!setenv(name, text, 1));
}

START_TEST(operation_is_the_reference)
{
    struct check c = {.be = {open_reference(), open_device()}};
    ck_assert_msg(check_run(&c, &check_cases[_i]), "%s: %s", check_cases[_i].name, c.failure);
    backend_close(c.be[DEVICE]);
    backend_close(c.be[REFERENCE]);
}
END_TEST

/* ---- memory */

/* Bytes of the device that are taken: the least limit at which an allocation of one unit fits, less that unit. */
static long used_bytes(struct backend *be)
{
    long low = 0, high = 1L << 30;
    while (high - low > 256) {
        long middle = (low + high) / 512 * 256;
        set("CUDA_EMULATOR_MEMORY", middle);
        void *dev = backend_alloc(be, 256);
        backend_free(be, dev);
        *(dev ? &high : &low) = middle;
    }
    ck_assert(!unsetenv("CUDA_EMULATOR_MEMORY"));
    return low;
}

/* Everything that a model has on a device. */
struct model {
    struct ternary *w;
    struct dense *table;
    float *norm;
    struct rope *rope;
    struct activations a;
    struct kv_cache kv;
    float *x, *y;
};

static void model_close(struct backend *be, struct model *m)
{
    ternary_close(be, m->w);
    dense_close(be, m->table);
    backend_free(be, m->norm);
    rope_close(be, m->rope);
    activations_close(be, &m->a);
    kv_cache_close(be, &m->kv);
    backend_free(be, m->x);
    backend_free(be, m->y);
}

/* False, with what is there, when something does not fit; the error says that memory is out. */
static bool model_open(struct backend *be, struct model *m)
{
    static uint8_t codes[N_ROWS * N_COLS / 4 + 32];
    static float values[N_ROWS * N_COLS];
    const float scale = 1.0f;
    struct error err = {0};
    memset(codes, 0x55, sizeof codes);
    memcpy(codes + N_ROWS * N_COLS / 4, &scale, sizeof scale);
    struct tensor_view ternary = {.type = TENSOR_I2_S, .data = codes, .n_bytes = sizeof codes, .n_rows = N_ROWS, .n_cols = N_COLS};
    struct tensor_view dense = {.type = TENSOR_F32, .data = values, .n_bytes = sizeof values, .n_rows = N_ROWS, .n_cols = N_COLS}, norm = dense;
    norm.n_rows = 1;
    *m = (struct model){0};
    bool fits = !ternary_open(be, &ternary, TERNARY_AUTO, &m->w, &err) && !dense_open(be, &dense, &m->table, &err) &&
                !vector_open(be, &norm, &m->norm, &err) && !kv_cache_open(be, KV_F16, 1, 4, 1, 64, &m->kv, &err);
    ck_assert_msg(fits || (err.code == ERROR_MEMORY_EXHAUSTED && err.message[0]), "%s", err.message);
    return fits && (m->rope = rope_open(be, ROPE_NEOX, 64, 128, 10000.0, NULL)) && activations_open(be, 3, N_COLS, &m->a) &&
           (m->x = backend_alloc(be, 3 * N_COLS * sizeof *m->x)) && (m->y = backend_alloc(be, 3 * N_COLS * sizeof *m->y));
}

/* Passes that repeat, so that the later ones are recordings. */
static void run_passes(struct backend *be, const struct model *m, const struct batch_view *batch, const int32_t *ids)
{
    const struct op_pass pass = {77, &m->kv, batch, ids, true};
    for (int i = 0; i < 4; i++)
        if (op_pass_begin(be, &pass)) {
            op_embed(be, m->table, ids, batch->n, m->x);
            op_embed(be, m->table, ids, batch->n, m->y);
            op_add_norm_quantize(be, m->x, m->y, m->norm, 1e-5f, batch->n, N_COLS, m->y, (struct activations *)&m->a);
            op_rope_write(be, m->rope, m->x, 4, m->y, m->y, &m->kv, 0, batch);
            op_attention(be, &m->kv, 0, batch, m->x, 4, m->y);
            op_pass_end(be);
        }
}

/* The operations, once each. */
static void run(struct backend *be, const struct model *m, float *logits)
{
    static const int32_t ids[] = {3, 0, 15}, positions[] = {0, 1, 2}, sequences[] = {0, 0, 0}, tables[] = {2, 1, 0, 3};
    struct batch_view batch = {3, positions, sequences, tables, 1, 4};
    struct logits_need needs[3] = {{.top = 1}, {.temperature = 1.0f}, {.within = 1.0f}};
    const struct ternary *w = m->w;
    run_passes(be, m, &batch, ids);
    op_embed(be, m->table, ids, 3, m->x);
    op_norm_quantize(be, m->x, m->norm, 1e-5f, 3, N_COLS, m->y, (struct activations *)&m->a);
    op_matmul(be, &w, (float *const *)&m->y, 1, &m->a, 3);
    op_rope(be, m->rope, m->x, 3, 4, 64, positions);
    op_kv_write(be, &m->kv, 0, &batch, m->x, m->x);
    op_attention(be, &m->kv, 0, &batch, m->x, 4, m->y);
    op_add(be, m->x, m->y, 3 * N_COLS);
    op_ffn_quantize(be, FFN_RELU2, m->x, m->y, m->norm, 1e-5f, 3, N_COLS, m->x, (struct activations *)&m->a);
    op_rmsnorm(be, m->x, m->norm, 1e-5f, 3, N_COLS, m->y);
    op_logits(be, m->table, m->y, positions + 2, 1, false, logits);
    op_keep_rows(be, m->y, N_COLS, positions, 2);
    op_logits_needed(be, m->table, m->y, positions, 3, needs, logits);
}

START_TEST(what_does_not_fit_is_refused_and_freed)
{
    struct backend *be = open_device();
    struct model m;
    ck_assert(model_open(be, &m));
    model_close(be, &m);
    long before = used_bytes(be), fits = before; /* with what the backend keeps for itself, which may become less */
    for (bool open = false; !open; fits += 1024) {
        set("CUDA_EMULATOR_MEMORY", fits);
        open = model_open(be, &m);
        model_close(be, &m);
        ck_assert_int_le(used_bytes(be), before);
    }
    ck_assert_int_gt(fits - before, 3 * N_COLS * 4);
    backend_close(be);
}
END_TEST

START_TEST(a_device_without_room_cannot_be_opened)
{
    struct backend *be;
    struct error err = {0};
    set("CUDA_EMULATOR_MEMORY", 1024);
    ck_assert(open_cuda(BACKEND_ABI, 0, &be, &err));
    ck_assert_msg(strstr(err.message, "memory"), "%s", err.message);
}
END_TEST

START_TEST(room_is_what_is_free)
{
    struct backend *be = open_device();
    struct error err = {0};
    long used = used_bytes(be);
    set("CUDA_EMULATOR_MEMORY", used + 4096);
    ck_assert(!backend_room(be, 4096, &err));
    ck_assert_int_eq(backend_room(be, 1 << 20, &err), ERROR_MEMORY_EXHAUSTED);
    ck_assert_msg(strstr(err.message, "emulated"), "%s", err.message);
    backend_close(be);
}
END_TEST

/* What operations need for themselves may be missing, too: sync says so, once, and the next pass is as if nothing had been. */
START_TEST(operations_without_room_are_reported)
{
    struct backend *be = open_device();
    struct model m;
    struct error err = {0};
    float expected[3 * N_ROWS], found[3 * N_ROWS];
    ck_assert(model_open(be, &m));
    run(be, &m, expected);
    ck_assert(!backend_sync(be, &err));
    model_close(be, &m);
    backend_close(be);
    be = open_device();
    ck_assert(model_open(be, &m));
    long used = used_bytes(be);
    bool done = false;
    for (long more = 0; !done && more < 1L << 26; more = more ? more + more / 4 / 256 * 256 + 256 : 256) {
        set("CUDA_EMULATOR_MEMORY", used + more);
        run(be, &m, found);
        enum error_code code = backend_sync(be, &err);
        ck_assert_msg(!code || (code == ERROR_MEMORY_EXHAUSTED && err.message[0]), "%s", err.message);
        ck_assert(!backend_sync(be, &err));
        done = !code;
    }
    ck_assert(done && !unsetenv("CUDA_EMULATOR_MEMORY"));
    run(be, &m, found);
    ck_assert_msg(!backend_sync(be, &err), "%s", err.message);
    ck_assert_int_eq(memcmp(expected, found, sizeof expected), 0);
    model_close(be, &m);
    backend_close(be);
}
END_TEST

/* ---- a device that is lost at one of its kernels */

START_TEST(a_lost_device_is_reported_and_closed)
{
    bool lost = true;
    for (int at = 1; lost; at++) {
        struct backend *be = open_device();
        struct model m, other;
        struct error err = {0};
        float logits[3 * N_ROWS];
        ck_assert(model_open(be, &m));
        ck_assert(!backend_sync(be, &err));
        set("CUDA_EMULATOR_FAIL", at);
        run(be, &m, logits);
        enum error_code code = backend_sync(be, &err);
        lost = code;
        ck_assert_msg(!code || (code == ERROR_DEVICE_UNAVAILABLE && strstr(err.message, "cuda:0")), "%s", err.message);
        for (int again = 0; lost && again < 2; again++) { /* for good */
            run(be, &m, logits);
            ck_assert_int_eq(backend_sync(be, &err), ERROR_DEVICE_UNAVAILABLE);
        }
        ck_assert(!lost || !activations_open(be, 3, N_COLS, &other.a));
        model_close(be, &m);
        backend_close(be);
        ck_assert(!unsetenv("CUDA_EMULATOR_FAIL"));
        ck_assert_int_lt(at, 200);
    }
}
END_TEST

/* A library of another version, and a number that no device has. */
START_TEST(opening_refuses)
{
    struct backend *be;
    struct error err = {0};
    ck_assert_int_eq(open_cuda(BACKEND_ABI + 1, 0, &be, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_msg(strstr(err.message, "version"), "%s", err.message);
    ck_assert_int_eq(open_cuda(BACKEND_ABI, 1, &be, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_msg(strstr(err.message, "cuda:1"), "%s", err.message);
    set("CUDA_EMULATOR_DEVICES", 0);
    ck_assert_int_eq(open_cuda(BACKEND_ABI, 0, &be, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_msg(strstr(err.message, "no CUDA"), "%s", err.message);
}
END_TEST

START_TEST(devices_are_listed)
{
    struct backend_device devices[2];
    struct error err = {0};
    set("CUDA_EMULATOR_DEVICES", 3);
    ck_assert_uint_eq(list_cuda(BACKEND_ABI, devices, 2, &err), 3);
    ck_assert_str_eq(devices[1].id, "cuda:1");
    ck_assert_str_eq(devices[1].name, "emulated");
    ck_assert_str_eq(devices[1].isa, "sm_90");
    ck_assert_uint_gt(devices[1].memory_bytes, 0);
    ck_assert_uint_eq(list_cuda(BACKEND_ABI + 1, devices, 2, &err), 0);
    ck_assert_msg(strstr(err.message, "version"), "%s", err.message);
    set("CUDA_EMULATOR_DEVICES", 0);
    ck_assert_uint_eq(list_cuda(BACKEND_ABI, devices, 2, &err), 0);
    ck_assert_msg(strstr(err.message, "no CUDA"), "%s", err.message);
}
END_TEST

int main(void)
{
#if !defined __x86_64__ || defined __SANITIZE_THREAD__
    puts("skip kernels/cuda: the emulated device is for x86-64, and not with the thread sanitizer");
    return EXIT_SUCCESS;
#endif
    if (!find_library()) {
        fprintf(stderr, "kernels/cuda: %s\n", dlerror());
        return EXIT_FAILURE;
    }
    Suite *suite = suite_create("kernels/cuda");
    TCase *operations = tcase_create("operations"), *errors = tcase_create("errors");
    int n_cases = 0;
    while (check_cases[n_cases].name)
        n_cases++;
    tcase_set_timeout(operations, 120);
    tcase_add_loop_test(operations, operation_is_the_reference, 0, n_cases);
    tcase_set_timeout(errors, 120);
    tcase_add_test(errors, opening_refuses);
    tcase_add_test(errors, devices_are_listed);
    tcase_add_test(errors, room_is_what_is_free);
    tcase_add_test(errors, what_does_not_fit_is_refused_and_freed);
    tcase_add_test(errors, a_device_without_room_cannot_be_opened);
    tcase_add_test(errors, operations_without_room_are_reported);
    tcase_add_test(errors, a_lost_device_is_reported_and_closed);
    suite_add_tcase(suite, operations);
    suite_add_tcase(suite, errors);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
