/* The reader: what it reads, and what it refuses. Every input lies in a heap block of exactly its size, so that
 * AddressSanitizer sees a read beyond it. */
#include "engine/model/gguf.h"

#include "base/buffer.h"
#include "tools/synth.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files made byte by byte ----------------------------------------------------------------------------------- */

static void put_u32(struct buffer *b, uint32_t v)
{
    buffer_append(b, &v, sizeof v);
}
static void put_u64(struct buffer *b, uint64_t v)
{
    buffer_append(b, &v, sizeof v);
}

static void put_text(struct buffer *b, const char *text)
{
    put_u64(b, strlen(text));
    buffer_append_str(b, text);
}

static void put_key(struct buffer *b, const char *name, uint32_t type)
{
    put_text(b, name);
    put_u32(b, type);
}

static void put_tensor(struct buffer *b, const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset)
{
    put_text(b, name);
    put_u32(b, 2);
    put_u64(b, cols);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static void put_head(struct buffer *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    buffer_append(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static void put_data(struct buffer *b, size_t n_bytes)
{
    static const char zeros[64];
    buffer_append(b, zeros, (32 - b->n_bytes % 32) % 32);
    for (; n_bytes; n_bytes -= n_bytes < 64 ? n_bytes : 64)
        buffer_append(b, zeros, n_bytes < 64 ? n_bytes : 64);
}

/* One key of each type and two tensors. */
static void put_valid(struct buffer *b)
{
    static const double f64 = 2.5;
    static const float f32 = 0.5f;
    put_head(b, 3, 2, 14);
    put_key(b, "u8", GGUF_U8), buffer_append_char(b, (char)200);
    put_key(b, "i8", GGUF_I8), buffer_append_char(b, (char)-3);
    put_key(b, "u16", GGUF_U16), buffer_append(b, "\x34\x12", 2);
    put_key(b, "i16", GGUF_I16), buffer_append(b, "\xff\xff", 2);
    put_key(b, "u32", GGUF_U32), put_u32(b, 4000000000);
    put_key(b, "i32", GGUF_I32), put_u32(b, (uint32_t)-7);
    put_key(b, "f32", GGUF_F32), buffer_append(b, &f32, 4);
    put_key(b, "bool", GGUF_BOOL), buffer_append_char(b, 1);
    put_key(b, "string", GGUF_STRING), put_text(b, "text");
    put_key(b, "u64", GGUF_U64), put_u64(b, UINT64_C(1) << 40);
    put_key(b, "i64", GGUF_I64), put_u64(b, 12);
    put_key(b, "f64", GGUF_F64), buffer_append(b, &f64, 8);
    put_key(b, "strings", GGUF_ARRAY), put_u32(b, GGUF_STRING), put_u64(b, 2), put_text(b, "one"), put_text(b, "");
    put_key(b, "numbers", GGUF_ARRAY), put_u32(b, GGUF_I32), put_u64(b, 3), put_u32(b, 1), put_u32(b, 2),
        put_u32(b, (uint32_t)-3);
    put_tensor(b, "a", 8, 2, TENSOR_F32, 0);
    put_tensor(b, "strange", 4, 1, 77, 64);
    put_data(b, 64);
}

/* Opens a copy; the caller frees *copy. */
static enum error_code open_copy(const char *data, size_t n_bytes, char **copy, struct gguf **g, struct error *err)
{
    *copy = malloc(n_bytes ? n_bytes : 1);
    ck_assert_ptr_nonnull(*copy);
    if (n_bytes)
        memcpy(*copy, data, n_bytes);
    *g = NULL;
    return gguf_open_memory(*copy, n_bytes, g, err);
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

START_TEST(reads)
{
    struct buffer b;
    struct gguf *g;
    struct error err = {0};
    struct gguf_string s;
    char *copy;
    uint32_t u = 1;
    double f = 0;
    bool flag = false;
    buffer_init(&b, 1 << 16);
    put_valid(&b);
    ck_assert_msg(!open_copy(b.data, b.n_bytes, &copy, &g, &err), "%s", err.message);
    ck_assert_uint_eq(gguf_version(g), 3);
    ck_assert_uint_eq(gguf_n_keys(g), 14);
    ck_assert_uint_eq(gguf_n_tensors(g), 2);
    ck_assert_uint_eq(gguf_file_bytes(g), b.n_bytes);
    ck_assert(gguf_get_u32(g, "u8", &u, &err) && u == 200);
    ck_assert(gguf_get_u32(g, "u16", &u, &err) && u == 0x1234);
    ck_assert(gguf_get_u32(g, "u32", &u, &err) && u == 4000000000);
    ck_assert(gguf_get_u32(g, "i64", &u, &err) && u == 12);
    ck_assert(gguf_get_f64(g, "i8", &f, &err) && f == -3.0);
    ck_assert(gguf_get_f64(g, "i32", &f, &err) && f == -7.0);
    ck_assert(gguf_get_f64(g, "f32", &f, &err) && f == 0.5);
    ck_assert(gguf_get_f64(g, "f64", &f, &err) && f == 2.5);
    ck_assert(gguf_get_bool(g, "bool", &flag, &err) && flag);
    ck_assert(gguf_get_string(g, "string", &s, &err) && s.n_bytes == 4 && memcmp(s.data, "text", 4) == 0);
    const struct gguf_key *strings = gguf_get_strings(g, "strings", &err),
                          *numbers = gguf_get_numbers(g, "numbers", &err);
    ck_assert(strings && strings->n == 2 && strings->strings[0].n_bytes == 3 && strings->strings[1].n_bytes == 0);
    ck_assert(numbers && numbers->n == 3 && gguf_number(numbers, 2) == -3.0 && gguf_number(numbers, 3) == 0.0);
    const struct gguf_tensor *a = gguf_find_tensor(g, "a"), *strange = gguf_find_tensor(g, "strange");
    ck_assert(a && a->dims[0] == 8 && a->dims[1] == 2 && a->dims[2] == 1 && a->n_bytes == 64);
    ck_assert_ptr_eq(a->data, copy + b.n_bytes - 64);
    ck_assert(strange && strange->data == NULL && strange->type == 77);
    ck_assert_ptr_null(gguf_find_tensor(g, "b"));
    ck_assert_int_eq(err.code, ERROR_NONE);
    gguf_close(g);
    free(copy);
    buffer_fini(&b);
}
END_TEST

/* Absent keys are no error and leave the default; keys of other types are one, named. */
START_TEST(typed_access)
{
    static const struct {
        const char *name, *message;
    } wrong[] = {
        {"string", "key string: expected an integer, found string"},
        {"f32", "key f32: expected an integer, found f32"},
        {"bool", "key bool: expected an integer, found bool"},
        {"i8", "key i8: expected 0 to 4294967295, found -3"},
        {"u64", "found 1099511627776"},
        {"numbers", "found an array of i32"},
    };
    struct buffer b;
    struct gguf *g;
    struct error err = {0};
    struct gguf_string s;
    char *copy;
    uint32_t u = 42;
    bool flag = true;
    double f = 1;
    buffer_init(&b, 1 << 16);
    put_valid(&b);
    ck_assert(!open_copy(b.data, b.n_bytes, &copy, &g, &err));
    ck_assert(!gguf_get_u32(g, "none", &u, &err) && u == 42 && !err.code);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        err = (struct error){0};
        ck_assert(!gguf_get_u32(g, wrong[i].name, &u, &err) && u == 42);
        ck_assert_int_eq(err.code, ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strstr(err.message, wrong[i].message) != NULL, "%s", err.message);
        ck_assert_str_eq(err.param, wrong[i].name);
    }
    err = (struct error){0};
    ck_assert(!gguf_get_bool(g, "u8", &flag, &err) && err.code && flag);
    err = (struct error){0};
    ck_assert(!gguf_get_f64(g, "string", &f, &err) && err.code && f == 1.0);
    err = (struct error){0};
    ck_assert(!gguf_get_string(g, "u8", &s, &err) && err.code);
    err = (struct error){0};
    ck_assert(!gguf_get_strings(g, "numbers", &err) && err.code);
    err = (struct error){0};
    ck_assert(!gguf_get_numbers(g, "strings", &err) && err.code);
    gguf_close(g);
    free(copy);
    buffer_fini(&b);
}
END_TEST

/* ---- refusing -------------------------------------------------------------------------------------------------- */

static void wrong_magic(struct buffer *b)
{
    put_valid(b), b->data[0] = 'X';
}
static void version_1(struct buffer *b)
{
    put_valid(b), b->data[4] = 1;
}
static void version_4(struct buffer *b)
{
    put_valid(b), b->data[4] = 4;
}
static void big_endian(struct buffer *b)
{
    put_valid(b), memcpy(b->data + 4, "\0\0\0\3", 4);
}
static void many_keys(struct buffer *b)
{
    put_head(b, 3, 0, UINT64_MAX), put_data(b, 64);
}
static void many_tensors(struct buffer *b)
{
    put_head(b, 3, UINT64_C(1) << 60, 0), put_data(b, 64);
}
static void long_name(struct buffer *b)
{
    put_head(b, 3, 0, 1), put_u64(b, UINT64_MAX), put_data(b, 64);
}
static void no_name(struct buffer *b)
{
    put_head(b, 3, 0, 1), put_key(b, "", GGUF_U8), put_data(b, 64);
}
static void bad_type(struct buffer *b)
{
    put_head(b, 3, 0, 1), put_key(b, "k", 13), put_data(b, 64);
}
static void long_string(struct buffer *b)
{
    put_head(b, 3, 0, 1), put_key(b, "k", GGUF_STRING), put_u64(b, 1000), put_data(b, 64);
}
static void array(struct buffer *b, uint32_t type, uint64_t n)
{
    put_head(b, 3, 0, 1), put_key(b, "k", GGUF_ARRAY), put_u32(b, type), put_u64(b, n), put_data(b, 64);
}
static void many_strings(struct buffer *b)
{
    array(b, GGUF_STRING, UINT64_MAX / 8);
}
static void many_numbers(struct buffer *b)
{
    array(b, GGUF_U64, UINT64_MAX / 4);
}
static void many_bytes(struct buffer *b)
{
    array(b, GGUF_U8, UINT64_MAX);
}
static void nested_array(struct buffer *b)
{
    array(b, GGUF_ARRAY, 1);
}
static void bad_element(struct buffer *b)
{
    array(b, 99, 1);
}
static void strings_run_out(struct buffer *b)
{
    put_head(b, 3, 0, 1), put_key(b, "k", GGUF_ARRAY), put_u32(b, GGUF_STRING), put_u64(b, 2), put_text(b, "x"),
        put_u64(b, 9);
}
static void key_twice(struct buffer *b)
{
    put_head(b, 3, 0, 3);
    put_key(b, "k", GGUF_U32), put_u32(b, 0);
    put_key(b, "j", GGUF_U32), put_u32(b, 0);
    put_key(b, "k", GGUF_U32), put_u32(b, 0);
}
static void alignment(struct buffer *b, uint32_t type, uint32_t value)
{
    put_head(b, 3, 0, 1), put_key(b, "general.alignment", type), put_u32(b, value), put_data(b, 64);
}
static void alignment_0(struct buffer *b)
{
    alignment(b, GGUF_U32, 0);
}
static void alignment_48(struct buffer *b)
{
    alignment(b, GGUF_U32, 48);
}
static void alignment_huge(struct buffer *b)
{
    alignment(b, GGUF_U32, 1u << 31);
}
static void alignment_type(struct buffer *b)
{
    alignment(b, GGUF_F32, 32);
}
static void one_tensor(struct buffer *b, uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset, size_t n_data)
{
    put_head(b, 3, 1, 0), put_tensor(b, "t", cols, rows, type, offset), put_data(b, n_data);
}
static void tensor_beyond(struct buffer *b)
{
    one_tensor(b, 8, 3, TENSOR_F32, 0, 64);
}
static void tensor_offset(struct buffer *b)
{
    one_tensor(b, 8, 1, TENSOR_F32, 96, 64);
}
static void tensor_offset_max(struct buffer *b)
{
    one_tensor(b, 8, 1, TENSOR_F32, UINT64_MAX - 31, 64);
}
static void tensor_misaligned(struct buffer *b)
{
    one_tensor(b, 1, 1, TENSOR_F32, 4, 64);
}
static void tensor_product(struct buffer *b)
{
    one_tensor(b, UINT64_C(1) << 33, UINT64_C(1) << 33, TENSOR_F32, 0, 64);
}
static void tensor_large(struct buffer *b)
{
    one_tensor(b, UINT64_C(1) << 31, UINT64_C(1) << 31, TENSOR_F32, 0, 64);
}
static void tensor_zero(struct buffer *b)
{
    one_tensor(b, 0, 1, TENSOR_F32, 0, 64);
}
static void tensor_block(struct buffer *b)
{
    one_tensor(b, 33, 1, TENSOR_Q8_0, 0, 64);
}
static void tensor_unknown_beyond(struct buffer *b)
{
    one_tensor(b, 1, 1, 77, 1024, 64);
}
static void tensor_twice(struct buffer *b)
{
    put_head(b, 3, 2, 0), put_tensor(b, "t", 8, 1, 0, 0), put_tensor(b, "t", 8, 1, 0, 32), put_data(b, 64);
}
static void tensor_overlap(struct buffer *b)
{
    put_head(b, 3, 2, 0), put_tensor(b, "t", 8, 1, 0, 32), put_tensor(b, "u", 16, 1, 0, 0), put_data(b, 64);
}
static void tensor_same_place(struct buffer *b)
{
    put_head(b, 3, 2, 0), put_tensor(b, "t", 8, 1, 77, 32), put_tensor(b, "u", 8, 1, 77, 32), put_data(b, 64);
}
static void five_dims(struct buffer *b)
{
    put_head(b, 3, 1, 0), put_text(b, "t"), put_u32(b, 5), put_data(b, 64);
}
static void no_dims(struct buffer *b)
{
    put_head(b, 3, 1, 0), put_text(b, "t"), put_u32(b, 0), put_data(b, 64);
}
static void odd_name(struct buffer *b)
{
    one_tensor(b, 0, 1, 0, 0, 64), b->data[24 + 8] = '\n';
}

static const struct hostile {
    void (*make)(struct buffer *b);
    const char *message; /* NULL = it can be opened */
} hostile[] = {
    {wrong_magic, "expected the magic \"GGUF\" (47 47 55 46), found 58 47 55 46"},
    {version_1, "GGUF version: expected 2 or 3, found 1"},
    {version_4, "GGUF version: expected 2 or 3, found 4"},
    {big_endian, "big-endian"},
    {many_keys, "key count 18446744073709551615"},
    {many_tensors, "tensor count 1152921504606846976"},
    {long_name, "key 0: its name at byte 24 runs beyond the file"},
    {no_name, "key 0 at byte 24: its name has 0 bytes"},
    {bad_type, "key k at byte 33: unknown value type"},
    {long_string, "key k at byte 37: its string runs beyond"},
    {many_strings, "key k at byte 37: the array has more elements"},
    {many_numbers, "the array has more elements"},
    {many_bytes, "the array has more elements"},
    {nested_array, "arrays of arrays are not supported"},
    {bad_element, "unknown element type"},
    {strings_run_out, "a string of the array runs beyond"},
    {key_twice, "key k at byte 66: the file has this key twice"},
    {alignment_0, "expected a power of two from 8 to 1048576, found 0"},
    {alignment_48, "found 48"},
    {alignment_huge, "found 2147483648"},
    {alignment_type, "key general.alignment: expected an integer, found f32"},
    {tensor_beyond, "tensor t: expected 96 bytes at byte 96, found 64 until the end of the file"},
    {tensor_offset, "tensor t: offset 96 is beyond the data of 64 bytes"},
    {tensor_offset_max, "is beyond the data"},
    {tensor_misaligned, "tensor t: offset 4 is no multiple of the alignment 32"},
    {tensor_product, "tensor t: dimension 1 is 8589934592, which is zero or too large"},
    {tensor_large, "tensor t: "},
    {tensor_zero, "tensor t: dimension 0 is 0, which is zero or too large"},
    {tensor_block, "tensor t: 33 columns do not fit the blocks of type Q8_0"},
    {tensor_unknown_beyond, "tensor t: offset 1024 is beyond"},
    {tensor_twice, "tensor t: the file has this tensor twice"},
    {tensor_overlap, "tensor t: its data at offset 32 overlaps tensor u"},
    {tensor_same_place, "overlaps tensor"},
    {five_dims, "tensor t at byte 33: expected 1 to 4 dimensions, found 5"},
    {no_dims, "expected 1 to 4 dimensions, found 0"},
    {odd_name, "tensor ?: dimension 0 is 0"},
    {put_valid, NULL},
};

START_TEST(refuses)
{
    struct buffer b;
    struct gguf *g;
    struct error err = {0};
    char *copy;
    buffer_init(&b, 1 << 16);
    hostile[_i].make(&b);
    enum error_code code = open_copy(b.data, b.n_bytes, &copy, &g, &err);
    if (hostile[_i].message) {
        ck_assert_int_eq(code, ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strstr(err.message, hostile[_i].message) != NULL, "expected \"%s\" in: %s", hostile[_i].message,
                      err.message);
        ck_assert_ptr_null(g);
    } else {
        ck_assert_int_eq(code, ERROR_NONE);
    }
    gguf_close(g);
    free(copy);
    buffer_fini(&b);
}
END_TEST

/* A file cut anywhere is refused: its last tensor ends with it. */
START_TEST(truncated)
{
    struct buffer b;
    buffer_init(&b, 1 << 16);
    put_valid(&b);
    for (size_t n = 0; n < b.n_bytes; n++) {
        struct gguf *g;
        struct error err = {0};
        char *copy;
        ck_assert_msg(open_copy(b.data, n, &copy, &g, &err) == ERROR_MODEL_LOAD_FAILED, "opened when cut to %zu bytes",
                      n);
        ck_assert_msg(err.message[0] != '\0', "no message when cut to %zu bytes", n);
        free(copy);
    }
    buffer_fini(&b);
}
END_TEST

static char folder[256];

static const char *path_of(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitnet-gguf-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static char *read_file(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char *data = malloc((size_t)4 << 20);
    ck_assert_ptr_nonnull(data);
    *n_bytes = fread(data, 1, (size_t)4 << 20, file);
    fclose(file);
    return data;
}

/* A model with a vocabulary, cut at every byte of its first 4 KB, and its bytes changed at random there. */
START_TEST(real_file_damaged)
{
    struct error err = {0};
    struct gguf *g;
    size_t n;
    uint32_t random = 12345;
    char *copy;
    make_folder();
    const struct synth_options options = {.path = path_of("tiny.gguf"), .preset = "tiny", .seed = 3, .n_layers = 1};
    ck_assert_msg(!synth_write(&options, &err), "%s", err.message);
    char *data = read_file(path_of("tiny.gguf"), &n);
    ck_assert_msg(!gguf_open(path_of("tiny.gguf"), &g, &err), "%s", err.message);
    gguf_close(g);
    unlink(path_of("tiny.gguf"));
    rmdir(folder);
    for (size_t cut = 0; cut <= 4096; cut++) {
        ck_assert_int_eq(open_copy(data, cut, &copy, &g, &err), ERROR_MODEL_LOAD_FAILED);
        free(copy);
    }
    for (int i = 0; i < 2000; i++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % 2048;
        char old = data[at];
        data[at] = (char)(random >> 24);
        if (!open_copy(data, n, &copy, &g, &err))
            gguf_close(g);
        free(copy);
        data[at] = old;
    }
    free(data);
}
END_TEST

START_TEST(kinds_of_files)
{
    struct error err = {0};
    struct gguf *g;
    make_folder();
    ck_assert_int_eq(gguf_open(path_of("none.gguf"), &g, &err), ERROR_NOT_FOUND);
    ck_assert_int_eq(gguf_open(folder, &g, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "is a directory"));
    ck_assert_int_eq(mkfifo(path_of("fifo"), 0600), 0);
    ck_assert_int_eq(gguf_open(path_of("fifo"), &g, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "no regular file"));
    ck_assert_int_eq(gguf_open("/dev/zero", &g, &err), ERROR_MODEL_LOAD_FAILED);
    fclose(fopen(path_of("empty"), "wb"));
    ck_assert_int_eq(gguf_open(path_of("empty"), &g, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "is empty"));
    unlink(path_of("fifo"));
    unlink(path_of("empty"));
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *tests = tcase_create("gguf");
    tcase_add_test(tests, reads);
    tcase_add_test(tests, typed_access);
    tcase_add_loop_test(tests, refuses, 0, sizeof hostile / sizeof hostile[0]);
    tcase_add_test(tests, truncated);
    tcase_add_test(tests, real_file_damaged);
    tcase_add_test(tests, kinds_of_files);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
