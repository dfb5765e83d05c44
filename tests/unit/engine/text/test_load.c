/* Vocabularies that do not hold together: refused by name, never a crash; and files that leave things out. */
#include "tests/unit/engine/text/vocabulary.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { MODEL = 1, TOKENS = 2, TYPES = 4, MERGES = 8, SCORES = 16 };

/* A vocabulary of the tokens a, b, ab, <s>: the base for one fault each. */
struct fault {
    const char *name;
    int keys; /* which are written */
    const char *model, *pre;
    const char *tokens[5];
    uint32_t n_tokens, n_types, n_merges, n_scores;
    int64_t bos, eos; /* -1 = not written */
    int add_bos;      /* -1 = not written */
    uint32_t n_vocab;
    const char *param; /* of the error; NULL: it opens */
};

#define ALL (MODEL | TOKENS | TYPES | MERGES)
#define SPM (MODEL | TOKENS | TYPES | SCORES)
#define FOUR                                                                                                           \
    {                                                                                                                  \
        "a", "b", "ab", "<s>"                                                                                          \
    }

static const struct fault faults[] = {
    {"good", ALL, "gpt2", "gpt-2", FOUR, 4, 4, 1, 0, 3, 3, 1, 4, NULL},
    {"good spm", SPM, "llama", NULL, FOUR, 4, 4, 0, 4, 3, 3, 1, 4, NULL},
    {"no pre", ALL, "gpt2", NULL, FOUR, 4, 4, 1, 0, 3, 3, -1, 0, NULL},
    {"no types", MODEL | TOKENS | MERGES, "gpt2", "gpt-2", FOUR, 4, 0, 1, 0, 3, 3, -1, 0, NULL},
    {"empty texts twice", ALL, "gpt2", "gpt-2", {"a", "", "", "ab"}, 4, 4, 1, 0, -1, -1, -1, 0, NULL},
    {"invalid UTF-8", ALL, "gpt2", "gpt-2", {"a", "\xff\xfe", "\xc3", "ab"}, 4, 4, 1, 0, -1, -1, -1, 0, NULL},
    {"spm invalid UTF-8", SPM, "llama", NULL, {"a", "\xff\xfe", "\xc3", "\xe2\x96"}, 4, 4, 0, 4, -1, -1, -1, 0, NULL},
    {"merge of nothing", ALL, "gpt2", "gpt-2", {"a", "x", "y", "ab"}, 4, 4, 1, 0, -1, -1, -1, 0, NULL},
    {"default bos absent", ALL, "gpt2", "llama-bpe", {"a", "b", "ab", "c"}, 4, 4, 1, 0, -1, -1, -1, 0, NULL},
    {"model", ALL, "bert", "gpt-2", FOUR, 4, 4, 1, 0, 3, 3, 1, 4, "tokenizer.ggml.model"},
    {"pre", ALL, "gpt2", "deepseek-llm", FOUR, 4, 4, 1, 0, 3, 3, 1, 4, "tokenizer.ggml.pre"},
    {"n_vocab", ALL, "gpt2", "gpt-2", FOUR, 4, 4, 1, 0, 3, 3, 1, 5, "tokenizer.ggml.tokens"},
    {"no tokens", ALL, "gpt2", "gpt-2", FOUR, 0, 0, 1, 0, -1, -1, -1, 0, "tokenizer.ggml.tokens"},
    {"same text", ALL, "gpt2", "gpt-2", {"a", "b", "ab", "a"}, 4, 4, 1, 0, -1, -1, -1, 0, "tokenizer.ggml.tokens"},
    {"few types", ALL, "gpt2", "gpt-2", FOUR, 4, 3, 1, 0, 3, 3, 1, 4, "tokenizer.ggml.token_type"},
    {"no merges", MODEL | TOKENS | TYPES, "gpt2", "gpt-2", FOUR, 4, 4, 0, 0, 3, 3, 1, 4, "tokenizer.ggml.merges"},
    {"no scores", MODEL | TOKENS | TYPES, "llama", NULL, FOUR, 4, 4, 0, 0, 3, 3, 1, 4, "tokenizer.ggml.scores"},
    {"few scores", SPM, "llama", NULL, FOUR, 4, 4, 0, 3, 3, 3, 1, 4, "tokenizer.ggml.scores"},
    {"bos", ALL, "gpt2", "gpt-2", FOUR, 4, 4, 1, 0, 4, 3, 1, 4, "tokenizer.ggml.bos_token_id"},
    {"eos", ALL, "gpt2", "gpt-2", FOUR, 4, 4, 1, 0, 3, UINT32_MAX, 1, 4, "tokenizer.ggml.eos_token_id"},
    {"add_bos without bos", ALL, "gpt2", "gpt-2", FOUR, 4, 4, 1, 0, -1, -1, 1, 4, "tokenizer.ggml.bos_token_id"},
};

static struct tokenizer *open_fault(const struct fault *f, struct error *err)
{
    static const char *const merges[] = {"a b"};
    static const int32_t types[] = {1, 1, 1, 1};
    static const float scores[] = {-1, -2, -3, -4};
    struct vocabulary v;
    vocabulary_init(&v);
    if (f->keys & MODEL)
        key_string(&v, "tokenizer.ggml.model", f->model);
    if (f->pre != NULL)
        key_string(&v, "tokenizer.ggml.pre", f->pre);
    if (f->keys & TOKENS)
        key_strings(&v, "tokenizer.ggml.tokens", f->tokens, f->n_tokens);
    if (f->keys & TYPES)
        key_numbers(&v, "tokenizer.ggml.token_type", GGUF_I32, types, f->n_types);
    if (f->keys & MERGES)
        key_strings(&v, "tokenizer.ggml.merges", merges, f->n_merges);
    if (f->keys & SCORES)
        key_numbers(&v, "tokenizer.ggml.scores", GGUF_F32, scores, f->n_scores);
    if (f->bos >= 0)
        key_u32(&v, "tokenizer.ggml.bos_token_id", (uint32_t)f->bos);
    if (f->eos >= 0)
        key_u32(&v, "tokenizer.ggml.eos_token_id", (uint32_t)f->eos);
    if (f->add_bos >= 0)
        key_bool(&v, "tokenizer.ggml.add_bos_token", f->add_bos != 0);
    return vocabulary_open(&v, f->n_vocab, err);
}

START_TEST(test_faults)
{
    const struct fault *f = &faults[_i];
    struct error err = {0};
    struct tokenizer *t = open_fault(f, &err);
    if (f->param == NULL) {
        ck_assert_msg(t != NULL, "%s: %s", f->name, err.message);
    } else {
        ck_assert_msg(t == NULL, "%s is accepted", f->name);
        ck_assert_int_eq(err.code, ERROR_MODEL_LOAD_FAILED);
        ck_assert_msg(strcmp(err.param, f->param) == 0, "%s: [%s] %s", f->name, err.param, err.message);
        ck_assert_ptr_nonnull(strstr(err.message, f->param));
    }
    tokenizer_close(t);
}
END_TEST

/* Wrong types of keys are the GGUF reader's errors; here they only must come through. */
START_TEST(test_wrong_types)
{
    static const char *const names[] = {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.chat_template"};
    for (int i = 0; i < 3; i++) {
        struct vocabulary v;
        struct error err = {0};
        static const char *const none[] = {NULL}, *const merges[] = {"a b", NULL};
        vocabulary_init(&v);
        if (i == 2)
            bpe_keys(&v, &(struct bpe_spec){.pre = "gpt-2", .merges = merges, .control = none});
        key_u32(&v, names[i], 7);
        ck_assert_ptr_null(vocabulary_open(&v, 0, &err));
        ck_assert_int_eq(err.code, ERROR_MODEL_LOAD_FAILED);
        ck_assert_str_eq(err.param, names[i]);
    }
}
END_TEST

START_TEST(test_nan_score)
{
    struct vocabulary v;
    struct error err = {0};
    const struct spm_token token = {"a", NAN, 1};
    vocabulary_init(&v);
    spm_keys(&v, &token, 1);
    ck_assert_ptr_null(vocabulary_open(&v, 0, &err));
    ck_assert_str_eq(err.param, "tokenizer.ggml.scores");
}
END_TEST

/* No vocabulary at all: ids are taken, text is not. */
START_TEST(test_no_vocabulary)
{
    struct vocabulary v;
    struct error err = {0};
    struct token_list list = {0};
    struct buffer out;
    struct detokenizer d = {0};
    const uint32_t ids[] = {0, 99}, beyond = 100;
    size_t n;
    vocabulary_init(&v);
    key_u32(&v, "tokenizer.ggml.eos_token_id", 5);
    struct tokenizer *t = vocabulary_open(&v, 100, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    buffer_init(&out, 64);
    ck_assert_uint_eq(tokenizer_n_tokens(t), 100);
    ck_assert(tokenizer_is_eog(t, 5) && !tokenizer_is_eog(t, 6));
    ck_assert_int_eq(tokenizer_encode(t, "a", 1, true, true, &list, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(tokenizer_encode_chat(t, &(struct chat_message){"user", "a"}, 1, &list, &err),
                     ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(tokenizer_decode(t, ids, 2, false, &out, &err), ERROR_NONE);
    ck_assert_int_eq(tokenizer_decode(t, &beyond, 1, false, &out, &err), ERROR_VALIDATION_FAILED);
    detokenizer_push(&d, t, 7, &out);
    ck_assert_uint_eq(out.n_bytes, 0);
    ck_assert_ptr_nonnull(tokenizer_piece(t, 99, &n));
    ck_assert_ptr_null(tokenizer_piece(t, 100, &n));
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

static uint32_t first_id(const struct tokenizer *t, const char *text, size_t *n)
{
    struct token_list list = {0};
    ck_assert_int_eq(tokenizer_encode(t, text, strlen(text), false, true, &list, NULL), ERROR_NONE);
    uint32_t first = list.n > 0 ? list.ids[0] : UINT32_MAX;
    *n = list.n;
    free(list.ids);
    return first;
}

/* Without tokenizer.ggml.pre, a Llama-3 vocabulary is taken for llama-bpe, which begins texts with BOS; others are not. */
START_TEST(test_missing_pre)
{
    static const char *const merges[] = {"1 1", NULL};
    static const char *const llama3[] = {"<|begin_of_text|>", "<|end_of_text|>", NULL}, *const other[] = {"<s>", "</s>",
                                                                                                          NULL};
    for (int i = 0; i < 2; i++) {
        struct vocabulary v;
        struct error err = {0};
        size_t n;
        vocabulary_init(&v);
        bpe_keys(&v, &(struct bpe_spec){.merges = merges, .control = i == 0 ? llama3 : other});
        struct tokenizer *t = vocabulary_open(&v, 0, &err);
        ck_assert_msg(t != NULL, "%s", err.message);
        struct token_list list = {0};
        ck_assert_int_eq(tokenizer_encode(t, "a", 1, true, false, &list, &err), ERROR_NONE);
        ck_assert_uint_eq(list.n, i == 0 ? 2 : 1); /* llama-bpe adds BOS */
        ck_assert_uint_eq(first_id(t, "11", &n), 256);
        free(list.ids);
        tokenizer_close(t);
    }
}
END_TEST

/* What ends a generation is known by its text too, if it is a special token at all: </s> may be a piece of HTML. Markers are
 * special whatever the file calls them. */
START_TEST(test_eog_by_text)
{
    static const char *const merges[] = {"< /", "s >", "</ s>", NULL}; /* 256..258 */
    static const char *const user[] = {"<|im_end|>", "<eos>", NULL};
    struct vocabulary v;
    struct error err = {0};
    size_t n;
    vocabulary_init(&v);
    bpe_keys(&v, &(struct bpe_spec){.pre = "gpt-2", .merges = merges, .user = user});
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    ck_assert(!tokenizer_is_eog(t, 258) && tokenizer_is_eog(t, 259) && tokenizer_is_eog(t, 260));
    ck_assert_uint_eq(first_id(t, "<|im_end|>", &n), 259);
    struct token_list list = {0};
    ck_assert_int_eq(tokenizer_encode(t, "<|im_end|>", 10, false, false, &list, NULL), ERROR_NONE);
    ck_assert_uint_eq(list.n, 10); /* not as plain text */
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

/* The keys for ids that end a generation, and add_eos_token. */
START_TEST(test_eos_keys)
{
    static const char *const merges[] = {"a b", NULL}, *const control[] = {"<s>", "</s>", "<end>", NULL}; /* 257..259 */
    struct vocabulary v;
    struct error err = {0};
    struct token_list list = {0};
    vocabulary_init(&v);
    bpe_keys(&v, &(struct bpe_spec){.pre = "gpt-2", .merges = merges, .control = control});
    key_u32(&v, "tokenizer.ggml.eot_token_id", 259);
    key_u32(&v, "tokenizer.ggml.eom_token_id", 65);
    key_bool(&v, "tokenizer.ggml.add_bos_token", true);
    key_bool(&v, "tokenizer.ggml.add_eos_token", true);
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    ck_assert(tokenizer_is_eog(t, 258) && tokenizer_is_eog(t, 259) && tokenizer_is_eog(t, 65) &&
              !tokenizer_is_eog(t, 66));
    ck_assert_int_eq(tokenizer_encode(t, "ab", 2, true, false, &list, &err), ERROR_NONE);
    ck_assert_uint_eq(list.n, 3);
    ck_assert(list.ids[0] == 257 && list.ids[1] == 256 && list.ids[2] == 258);
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

/* A byte without a token: the unknown token where there is one, else an error that shows the character. */
START_TEST(test_bytes_without_token)
{
    struct error err = {0};
    struct token_list list = {0};
    struct tokenizer *t = open_fault(&faults[0], &err);
    ck_assert_int_eq(tokenizer_encode(t, "abz", 3, false, false, &list, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "\"z\""));
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

static const char *write_file(const char *text)
{
    static char path[] = "/tmp/test-ranks-XXXXXX";
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

/* 256 bytes as ranks 0..255, then the lines given. */
static enum error_code open_ranks(const char *more, struct tokenizer **out, struct error *err)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buffer text;
    buffer_init(&text, 1u << 20);
    for (int byte = 0; byte < 256; byte++)
        buffer_printf(&text, "%c%c== %d\n", digits[byte >> 2], digits[(byte & 3) << 4], byte);
    buffer_append_str(&text, more);
    const char *path = write_file(text.data);
    enum error_code code = tokenizer_open(path, out, err);
    unlink(path);
    buffer_fini(&text);
    return code;
}

START_TEST(test_ranks)
{
    struct tokenizer *t;
    struct error err = {0};
    ck_assert_msg(open_ranks("YWI= 256\nYWJj 257", &t, &err) == ERROR_NONE, "%s", err.message); /* ab, abc */
    size_t n;
    const char *piece = tokenizer_piece(t, 258 + 9, &n);
    ck_assert(n == 10 && memcmp(piece, "<|eot_id|>", n) == 0);
    piece = tokenizer_piece(t, 258 + 255, &n);
    ck_assert(n == 30 && memcmp(piece, "<|reserved_special_token_250|>", n) == 0);
    ck_assert_uint_eq(tokenizer_n_tokens(t), 258 + 256);
    ck_assert(tokenizer_is_eog(t, 258 + 1) && tokenizer_is_eog(t, 258 + 9) && !tokenizer_is_eog(t, 258));
    ck_assert_str_eq(tokenizer_chat_template(t), "llama3");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_ranks_merge)
{
    struct tokenizer *t;
    struct error err = {0};
    ck_assert_int_eq(open_ranks("YWI= 256\nYWJj 257", &t, &err), ERROR_NONE);
    struct token_list list = {0};
    ck_assert_int_eq(tokenizer_encode(t, "abcab", 5, true, false, &list, &err), ERROR_NONE);
    ck_assert_uint_eq(list.n, 3);
    ck_assert(list.ids[0] == 258 && list.ids[1] == 257 && list.ids[2] == 256);
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

static const char *const bad_ranks[] = {
    "YWI= 257\n", "YWI= 256 \n",          "YWI=\n",     "YW!= 256\n", " 256\n",
    "YWI= -1\n",  "YWI= 256\nYWI= 257\n", "YQ== 256\n", "\n",         "YWI= 99999999999999999999\n",
};

START_TEST(test_bad_ranks)
{
    struct tokenizer *t;
    struct error err = {0};
    ck_assert_int_eq(open_ranks(bad_ranks[_i], &t, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_null(t);
}
END_TEST

START_TEST(test_other_files)
{
    struct tokenizer *t;
    struct error err = {0};
    static const char *const texts[] = {"", "G", "GGUF", "hello", "GGUFxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *path = write_file(texts[i]);
        ck_assert_int_eq(tokenizer_open(path, &t, &err), ERROR_MODEL_LOAD_FAILED);
        unlink(path);
    }
    ck_assert_int_eq(tokenizer_open("/nonexistent/file", &t, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "/nonexistent/file"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("load");
    TCase *c = tcase_create("load");
    tcase_add_loop_test(c, test_faults, 0, (int)(sizeof faults / sizeof *faults));
    tcase_add_test(c, test_wrong_types);
    tcase_add_test(c, test_nan_score);
    tcase_add_test(c, test_no_vocabulary);
    tcase_add_loop_test(c, test_missing_pre, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_eog_by_text, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_eos_keys, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_bytes_without_token, 0, BPE_RUNS(1));
    tcase_add_test(c, test_ranks);
    tcase_add_loop_test(c, test_ranks_merge, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_bad_ranks, 0, (int)(sizeof bad_ranks / sizeof *bad_ranks));
    tcase_add_test(c, test_other_files);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
