/* Incremental text: any cut into tokens gives the same text, a character at a time, and U+FFFD for bytes that are none. */
#include "tests/unit/engine/text/vocabulary.h"

#include <check.h>

#define BAD "\xef\xbf\xbd"
#define EMOJI "\xf0\x9f\x98\x80"

static const char *const merges[] = {"a b", "\xc3\xb0 \xc5\x81", NULL}; /* 257: the first two bytes of an emoji */
static const char *const control[] = {"<|bos|>", "<|eos|>", NULL};      /* 258, 259 */

static struct tokenizer *open_tokenizer(void)
{
    struct vocabulary v;
    struct error err = {0};
    vocabulary_init(&v);
    bpe_keys(&v, &(struct bpe_spec){.pre = "gpt-2", .merges = merges, .control = control});
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    return t;
}

struct row {
    uint32_t ids[10];      /* ended by UINT32_MAX */
    const char *texts[10]; /* after each of them; then the rest */
};

#define END UINT32_MAX

static const struct row rows[] = {
    {{256, END}, {"ab", ""}},
    {{0xf0, 0x9f, 0x98, 0x80, END}, {"", "", "", EMOJI, ""}},
    {{257, 0x98, 0x80, 'x', END}, {"", "", EMOJI, "x", ""}},
    {{0xc3, 0xa9, 0xc3, END}, {"", "\xc3\xa9", "", BAD}}, /* ends inside of a character */
    {{0xf0, 0x9f, 0x98, END}, {"", "", "", BAD}},         /* one mark for a whole beginning */
    {{0xf0, 0x9f, 'a', END}, {"", "", BAD "a", ""}},
    {{0xf0, 0xf0, 0x9f, 0x98, 0x80, END}, {"", BAD, "", "", EMOJI, ""}},
    {{0x80, 0xff, 'a', END}, {BAD, BAD, "a", ""}},
    {{0xed, 0xa0, 0x80, END}, {"", BAD BAD, BAD, ""}},                     /* a surrogate: no byte belongs to another */
    {{0xc3, 258, 0xa9, 259, 'z', END}, {"", "", "\xc3\xa9", "", "z", ""}}, /* control tokens have no text */
    {{0xe3, 9999, END}, {"", "", BAD}},                                    /* nor have ids that do not exist */
    {{257, 257, 0x98, 0x80, END}, {"", BAD, "", EMOJI, ""}},
};

START_TEST(test_rows)
{
    struct tokenizer *t = open_tokenizer();
    struct detokenizer d = {0};
    struct buffer out;
    buffer_init(&out, 64);
    int i = 0;
    for (; rows[_i].ids[i] != END; i++) {
        buffer_clear(&out);
        buffer_append_str(&out, "|"); /* so that data is never NULL */
        detokenizer_push(&d, t, rows[_i].ids[i], &out);
        ck_assert_msg(strcmp(out.data + 1, rows[_i].texts[i]) == 0, "token %d: \"%s\"", i, out.data + 1);
    }
    buffer_clear(&out);
    buffer_append_str(&out, "|");
    detokenizer_finish(&d, &out);
    ck_assert_str_eq(out.data + 1, rows[_i].texts[i]);
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

/* The definition: the longest beginning of a character, or one byte, becomes one U+FFFD. */
static void clean(const char *text, size_t n, struct buffer *out)
{
    while (n > 0) {
        uint32_t c;
        size_t length = utf8_decode(text, n, &c);
        if (length > 0) {
            buffer_append(out, text, length);
        } else {
            for (length = n < 3 ? n : 3; length > 1 && utf8_complete(text, length) != 0;)
                length--;
            buffer_append_str(out, BAD);
        }
        text += length;
        n -= length;
    }
}

START_TEST(test_random_against_whole)
{
    static const unsigned char bytes[] = {'a', 0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xe3, 0x81, 0xff, 0xed, 0xa0};
    struct tokenizer *t = open_tokenizer();
    struct buffer raw, expected, out;
    buffer_init(&raw, 1024);
    buffer_init(&expected, 4096);
    buffer_init(&out, 4096);
    srand(7);
    for (int round = 0; round < 3000; round++) {
        struct detokenizer d = {0};
        uint32_t ids[24];
        size_t n = (size_t)rand() % 24;
        buffer_clear(&raw);
        buffer_clear(&expected);
        buffer_clear(&out);
        for (size_t i = 0; i < n; i++) {
            ids[i] = rand() % 5 == 0 ? 256 + (uint32_t)rand() % 4 : bytes[(size_t)rand() % sizeof bytes];
            detokenizer_push(&d, t, ids[i], &out);
            ck_assert(utf8_valid(out.data, out.n_bytes, NULL));
        }
        detokenizer_finish(&d, &out);
        ck_assert_int_eq(tokenizer_decode(t, ids, n, true, &raw, NULL), ERROR_NONE);
        clean(raw.data, raw.n_bytes, &expected);
        ck_assert_uint_eq(out.n_bytes, expected.n_bytes);
        ck_assert(out.n_bytes == 0 || memcmp(out.data, expected.data, out.n_bytes) == 0);
    }
    buffer_fini(&raw);
    buffer_fini(&expected);
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

/* In an answer, the first token's space continues the prompt and stays. */
START_TEST(test_spm_keeps_the_leading_space)
{
    static const struct spm_token tokens[] = {{"\xe2\x96\x81"
                                               "a",
                                               -1, 1}};
    struct vocabulary v;
    struct error err = {0};
    struct detokenizer d = {0};
    struct buffer out;
    vocabulary_init(&v);
    spm_keys(&v, tokens, 1);
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    buffer_init(&out, 64);
    detokenizer_push(&d, t, 259, &out);
    detokenizer_push(&d, t, 3 + 0xc3, &out);
    detokenizer_push(&d, t, 3 + 0xa9, &out);
    ck_assert_str_eq(out.data, " a\xc3\xa9");
    buffer_fini(&out);
    tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("detokenizer");
    TCase *c = tcase_create("detokenizer");
    tcase_add_loop_test(c, test_rows, 0, (int)(sizeof rows / sizeof *rows));
    tcase_add_test(c, test_random_against_whole);
    tcase_add_test(c, test_spm_keeps_the_leading_space);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
