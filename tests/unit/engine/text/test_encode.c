/* Encoding and decoding with vocabularies small enough to follow by hand: where words are cut, what merges, what is special. */
#include "tests/unit/engine/text/vocabulary.h"

#include <check.h>
#include <stdio.h>

/* Ids: a byte is itself; then he 256, ll 257, hell 258, hello 259, space-h 260, space-hello 261, ab 262, bc 263, 11 264,
 * 111 265, !! 266, abc 267 (out of reach by merging, since ab comes first); user-defined :) 268 and four spaces 269; control
 * <|bos|> 270, <|eos|> 271, PAD 272. */
static const char *const merges[] = {"h e", "l l",  "he ll", "hell o", "\xc4\xa0 h", "\xc4\xa0 hello", "a b", "b c",
                                     "1 1", "11 1", "! !",   "a bc",   NULL};
static const char *const user[] = {":)", "    ", NULL};
static const char *const control[] = {"<|bos|>", "<|eos|>", "PAD", NULL};

static struct tokenizer *open_bpe(const char *pre)
{
    struct vocabulary v;
    struct error err = {0};
    vocabulary_init(&v);
    bpe_keys(&v, &(struct bpe_spec){.pre = pre, .merges = merges, .user = user, .control = control});
    struct tokenizer *t = vocabulary_open(&v, 273, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    return t;
}

/* ids as text, "104 256" */
static void encode(const struct tokenizer *t, const char *text, bool add_special, bool parse_special, char out[512])
{
    struct token_list list = {0};
    struct error err = {0};
    enum error_code code = tokenizer_encode(t, text, strlen(text), add_special, parse_special, &list, &err);
    ck_assert_msg(code == ERROR_NONE, "%s", err.message);
    out[0] = '\0';
    for (size_t i = 0, n = 0; i < list.n; i++)
        n += (size_t)snprintf(out + n, 512 - n, i == 0 ? "%u" : " %u", list.ids[i]);
    free(list.ids);
}

struct row {
    const char *pre, *text;
    bool add_special, parse_special;
    const char *ids;
};

#define UP "227 129 130" /* U+3042, no merges */

static const struct row bpe_rows[] = {
    {"gpt-2", "", false, false, ""},
    {"gpt-2", "hello", false, false, "259"},
    {"gpt-2", "hellohell", false, false, "259 258"},
    {"gpt-2", "hello hello", false, false, "259 261"},
    {"llama-bpe", "hello hello", false, false, "259 261"},
    {"llama-bpe", "111", false, false, "265"},
    {"gpt-2", "abc", false, false, "262 99"},   /* the better rank, not the later pair */
    {"llama-bpe", "abc", false, false, "267"},  /* a whole word that is a token */
    {"gpt-2", "1111", false, false, "264 264"}, /* both pairs before 11 1 */
    {"llama-bpe", " h", false, false, "260"},
    {"llama-bpe", "1111", false, false, "265 49"},
    {"llama-bpe", "111111", false, false, "265 265"},
    {"qwen2", "111", false, false, "49 49 49"}, /* each digit by itself */
    {"qwen2", "abc hello", false, false, "262 99 261"},
    {"qwen2", "!!ab\n", false, false, "266 262 10"},
    {"qwen2", "1!!\n", false, false, "49 266 10"},
    {"qwen2", "a", true, false, "97"},
    {"falcon", "111111", false, false, "265 265"},
    {"gpt-2", "11111", false, false, "264 265"},
    {"gpt-2", "!!ab", false, false, "266 262"},
    {"falcon", "1!!1", false, false, "49 266 49"},
    {"default", "x!!x", false, false, "120 266 120"},
    {"gpt-2", "a\n\nb", false, false, "97 10 10 98"},
    {"gpt-2", "\xe3\x81\x82", false, false, UP},
    {"gpt-2", ":)", false, false, "268"}, /* user-defined: always */
    {"gpt-2", "a    b", false, false, "97 269 98"},
    {"gpt-2", "<|eos|>", false, false, "60 124 101 111 115 124 62"},
    {"gpt-2", "<|eos|>", false, true, "271"},
    {"gpt-2", "a<|eos|>b<|eos|><|bos|>", false, true, "97 271 98 271 270"},
    {"llama-bpe", "PAD", false, false, "80 65 68"}, /* not as a whole word either: control tokens are no words */
    {"llama-bpe", "PAD", false, true, "272"},
    {"gpt-2", "a", true, false, "97"}, /* by default only llama-bpe begins with BOS */
    {"llama-bpe", "a", true, false, "270 97"},
    {"llama3", "", true, false, "270"},
};

START_TEST(test_bpe)
{
    const struct row *r = &bpe_rows[_i];
    char ids[512];
    struct tokenizer *t = open_bpe(r->pre);
    encode(t, r->text, r->add_special, r->parse_special, ids);
    ck_assert_str_eq(ids, r->ids);
    tokenizer_close(t);
}
END_TEST

/* From 259: space 259, a 260, b 261, space-a 262, ab 263, space-ab 264, two spaces 265, user-defined <tool> 266, xy 267
 * (whose x and y are no tokens). */
static const struct spm_token spm_tokens[] = {
    {"\xe2\x96\x81", -10, 1},
    {"a", -11, 1},
    {"b", -12, 1},
    {"\xe2\x96\x81"
     "a",
     -2, 1},
    {"ab", -1, 1},
    {"\xe2\x96\x81"
     "ab",
     -3, 1},
    {"\xe2\x96\x81\xe2\x96\x81", -4, 1},
    {"<tool>", 0, 4},
    {"xy", -5, 1},
};

static struct tokenizer *open_spm(int add_space_prefix)
{
    struct vocabulary v;
    struct error err = {0};
    vocabulary_init(&v);
    spm_keys(&v, spm_tokens, sizeof spm_tokens / sizeof *spm_tokens);
    if (add_space_prefix >= 0)
        key_bool(&v, "tokenizer.ggml.add_space_prefix", add_space_prefix != 0);
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    return t;
}

static const struct row spm_rows[] = {
    {"", "", false, false, ""},
    {"", "", true, false, "1"},
    {"", "ab", false, false, "264"}, /* a b has the best score, then space-ab */
    {"", "a", true, false, "1 262"},
    {"", "abab", false, false, "264 263"},
    {"", " a", false, false, "259 262"}, /* of two spaces and an a: space-a has the better score */
    {"", "ba", false, false, "259 261 260"},
    {"", "b a", false, false, "259 261 262"},
    {"", "c", false, false, "259 102"},  /* byte fallback: c is byte 99 */
    {"", "xy", false, false, "259 267"}, /* made of characters that are no tokens */
    {"", "x", false, false, "259 123"},
    {"", "yx", false, false, "259 124 123"},
    {"", "\xe3\x81\x82", false, false, "259 230 132 133"},
    {"",
     "b\xe2\x96\x81"
     "a",
     false, false, "259 261 262"}, /* U+2581 counts as a space */
    {"", "</s>", false, false, "259 63 50 118 65"},
    {"", "a</s>a", false, true, "262 2 262"}, /* what follows a special token gets a space again */
    {"", "<tool>b", false, false, "266 259 261"},
    {"no prefix", "a", false, false, "260"},
    {"no prefix", "a a", false, false, "260 262"},
};

START_TEST(test_spm)
{
    const struct row *r = &spm_rows[_i];
    char ids[512];
    struct tokenizer *t = open_spm(*r->pre == '\0' ? -1 : 0);
    encode(t, r->text, r->add_special, r->parse_special, ids);
    ck_assert_str_eq(ids, r->ids);
    tokenizer_close(t);
}
END_TEST

static void check_round_trip(const struct tokenizer *t, const char *text, size_t n)
{
    struct token_list list = {0};
    struct buffer out;
    struct error err = {0};
    buffer_init(&out, 1u << 20);
    ck_assert_int_eq(tokenizer_encode(t, text, n, true, true, &list, &err), ERROR_NONE);
    ck_assert_int_eq(tokenizer_decode(t, list.ids, list.n, true, &out, &err), ERROR_NONE);
    ck_assert_uint_eq(out.n_bytes, n);
    ck_assert(n == 0 || memcmp(out.data, text, n) == 0);
    buffer_fini(&out);
    free(list.ids);
}

START_TEST(test_round_trip)
{
    static const char *const pieces[] = {
        "a",    "b",        " ", "hello", "\n", "1",  "!",           "\xc3\xa9", "\xf0\x9f\x98\x80",
        "    ", "\xcc\x81", "x", "\t",    ":)", "'s", "\xe3\x80\x80"};
    static const char *const pres[] = {"gpt-2", "llama-bpe", "qwen2", "falcon", "default", "spm"};
    struct tokenizer *t = strcmp(pres[_i], "spm") == 0 ? open_spm(-1) : open_bpe(pres[_i]);
    srand((unsigned)_i);
    for (int round = 0; round < 300; round++) {
        char text[256];
        size_t n = 0;
        for (int k = rand() % 30; k > 0; k--) {
            const char *piece = pieces[(size_t)rand() % (sizeof pieces / sizeof *pieces)];
            memcpy(text + n, piece, strlen(piece));
            n += strlen(piece);
        }
        check_round_trip(t, text, n);
    }
    tokenizer_close(t);
}
END_TEST

/* Long runs of one character must stay near-linear: the time limit of the case is what fails here. */
START_TEST(test_long_runs)
{
    static const char *const units[] = {"h", " ", "1", "!", "\n", " \n", "<|", "ab", "hello", "\xe3\x81\x82", ":", "'"};
    static const char *const pres[] = {"gpt-2", "llama-bpe", "qwen2", "falcon", "default", "spm"};
    struct tokenizer *t = strcmp(pres[_i], "spm") == 0 ? open_spm(-1) : open_bpe(pres[_i]);
    struct error err = {0};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct buffer text;
        struct token_list list = {0};
        buffer_init(&text, 1u << 20);
        while (text.n_bytes < 200000)
            buffer_append_str(&text, units[i]);
        buffer_append_str(&text, "x");
        ck_assert_int_eq(tokenizer_encode(t, text.data, text.n_bytes, false, true, &list, &err), ERROR_NONE);
        free(list.ids);
        buffer_fini(&text);
    }
    tokenizer_close(t);
}
END_TEST

START_TEST(test_invalid_utf8_is_refused)
{
    struct tokenizer *t = open_bpe("gpt-2");
    struct token_list list = {0};
    struct error err = {0};
    ck_assert_int_eq(tokenizer_encode(t, "ab\xc3", 3, false, false, &list, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "byte 2"));
    ck_assert_uint_eq(list.n, 0);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_encode_appends)
{
    struct tokenizer *t = open_bpe("gpt-2");
    struct token_list list = {0};
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(tokenizer_encode(t, "hello!", 6, false, false, &list, NULL), ERROR_NONE);
    ck_assert_uint_eq(list.n, 200);
    ck_assert_uint_eq(list.ids[198], 259);
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

/* Ids and their text are there, encoding says what is missing. */
START_TEST(test_without_pcre2)
{
    struct tokenizer *t = open_bpe("gpt-2");
    struct token_list list = {0};
    struct error err = {0};
    ck_assert_int_eq(tokenizer_encode(t, "ab", 2, false, false, &list, &err), ERROR_NOT_IMPLEMENTED);
    ck_assert_ptr_nonnull(strstr(err.message, "PCRE2"));
    tokenizer_close(t);
}
END_TEST

START_TEST(test_pieces_and_eog)
{
    struct tokenizer *t = open_bpe("gpt-2");
    size_t n;
    ck_assert_uint_eq(tokenizer_n_tokens(t), 273);
    const char *piece = tokenizer_piece(t, 261, &n);
    ck_assert(n == 6 && memcmp(piece, " hello", 6) == 0);
    piece = tokenizer_piece(t, 0xc3, &n);
    ck_assert(n == 1 && *piece == '\xc3');
    piece = tokenizer_piece(t, 271, &n);
    ck_assert(n == 7 && memcmp(piece, "<|eos|>", 7) == 0);
    ck_assert_ptr_null(tokenizer_piece(t, 273, &n));
    ck_assert(tokenizer_is_eog(t, 271));
    ck_assert(!tokenizer_is_eog(t, 270));
    ck_assert(!tokenizer_is_eog(t, UINT32_MAX));
    ck_assert_int_eq(tokenizer_bos(t), 270);
    ck_assert_ptr_null(tokenizer_chat_template(t));
    tokenizer_close(t);
}
END_TEST

START_TEST(test_decode)
{
    struct tokenizer *t = open_bpe("gpt-2");
    struct buffer out;
    struct error err = {0};
    const uint32_t ids[] = {270, 259, 261, 0xc3, 0xa9, 271}, unknown[] = {1, 273};
    buffer_init(&out, 64);
    ck_assert_int_eq(tokenizer_decode(t, ids, 6, true, &out, &err), ERROR_NONE);
    ck_assert_str_eq(out.data, "hello hello\xc3\xa9");
    buffer_clear(&out);
    ck_assert_int_eq(tokenizer_decode(t, ids, 6, false, &out, &err), ERROR_NONE);
    ck_assert_str_eq(out.data, "<|bos|>hello hello\xc3\xa9<|eos|>");
    ck_assert_int_eq(tokenizer_decode(t, unknown, 2, false, &out, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "273"));
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

/* One leading space of a SentencePiece text is the encoder's, and only of the text's beginning. */
START_TEST(test_decode_spm)
{
    struct tokenizer *t = open_spm(-1);
    struct buffer out;
    const uint32_t ids[] = {1, 262, 262, 13}, spaces[] = {265, 260}, byte[] = {35, 260};
    buffer_init(&out, 64);
    tokenizer_decode(t, ids, 4, true, &out, NULL);
    ck_assert_str_eq(out.data, "a a\n");
    buffer_clear(&out);
    tokenizer_decode(t, spaces, 2, true, &out, NULL);
    ck_assert_str_eq(out.data, " a");
    buffer_clear(&out);
    tokenizer_decode(t, byte, 2, true, &out, NULL); /* a space by byte fallback was in the text */
    ck_assert_str_eq(out.data, " a");
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("encode");
    TCase *c = tcase_create("encode");
    tcase_add_loop_test(c, test_bpe, 0, BPE_RUNS(sizeof bpe_rows / sizeof *bpe_rows));
    tcase_add_loop_test(c, test_round_trip, BPE_RUNS(6) == 0 ? 5 : 0, 6);
    tcase_add_loop_test(c, test_long_runs, BPE_RUNS(6) == 0 ? 5 : 0, 6);
    tcase_add_loop_test(c, test_encode_appends, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_without_pcre2, BPE_RUNS(1), 1);
    tcase_add_loop_test(c, test_spm, 0, (int)(sizeof spm_rows / sizeof *spm_rows));
    tcase_add_test(c, test_invalid_utf8_is_refused);
    tcase_add_test(c, test_pieces_and_eog);
    tcase_add_test(c, test_decode);
    tcase_add_test(c, test_decode_spm);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
