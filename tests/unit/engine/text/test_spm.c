/*
 * SentencePiece merging against its definition, which knows only texts and scores: of all neighbours whose joined text is a token,
 * the ones with the best score are joined, the leftmost first. Random vocabularies over few characters make ties, overlaps and
 * characters that are no tokens themselves the rule.
 */
#include "tests/unit/engine/text/vocabulary.h"

#include <check.h>

#define MAX_TOKENS 40
#define FIRST_ID 259 /* behind <unk>, <s>, </s> and the bytes */
#define MAX_SYMBOLS 64

static const char *const characters[] = {"a", "b", "\xc3\xa9", "\xe2\x96\x81"}; /* the last is SentencePiece's space */

struct random_vocabulary {
    struct spm_token tokens[MAX_TOKENS];
    char texts[MAX_TOKENS][32];
    size_t n;
};

static void random_text(char *out, int n_characters)
{
    out[0] = '\0';
    for (int i = 0; i < n_characters; i++)
        strcat(out, characters[rand() % 4]);
}

static int64_t find(const struct random_vocabulary *v, const char *text)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->texts[i], text) == 0)
            return (int64_t)i;
    return -1;
}

static void make(struct random_vocabulary *v)
{
    v->n = 0;
    for (int i = 0; i < MAX_TOKENS; i++) {
        char text[32];
        random_text(text, 1 + rand() % 5);
        if (find(v, text) >= 0)
            continue;
        strcpy(v->texts[v->n], text);
        v->tokens[v->n] = (struct spm_token){v->texts[v->n], (float)(rand() % 12), 1};
        v->n++;
    }
}

/* Appends the ids of `text`, in which spaces are U+2581 already. */
static size_t naive(const struct random_vocabulary *v, const char *text, uint32_t *ids)
{
    char symbols[MAX_SYMBOLS][128];
    size_t n = 0, n_ids = 0;
    for (const char *at = text; *at != '\0'; n++) {
        uint32_t c;
        size_t length = utf8_decode(at, strlen(at), &c);
        memcpy(symbols[n], at, length);
        symbols[n][length] = '\0';
        at += length;
    }
    for (;;) {
        int64_t best = -1;
        size_t best_at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char joined[256];
            strcpy(joined, symbols[i]);
            strcat(joined, symbols[i + 1]);
            int64_t id = find(v, joined);
            if (id >= 0 && (best < 0 || v->tokens[id].score > v->tokens[best].score)) {
                best = id;
                best_at = i;
            }
        }
        if (best < 0)
            break;
        strcpy(symbols[best_at], v->texts[best]);
        memmove(symbols[best_at + 1], symbols[best_at + 2], (n - best_at - 2) * sizeof symbols[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t id = find(v, symbols[i]);
        if (id >= 0)
            ids[n_ids++] = FIRST_ID + (uint32_t)id;
        else if (strcmp(symbols[i], characters[3]) == 0)
            ids[n_ids++] = 3 + ' ';
        else
            for (const char *byte = symbols[i]; *byte != '\0'; byte++)
                ids[n_ids++] = 3 + (unsigned char)*byte;
    }
    return n_ids;
}

START_TEST(test_random_against_definition)
{
    static struct random_vocabulary v;
    srand((unsigned)_i + 1);
    make(&v);
    struct vocabulary file;
    struct error err = {0};
    vocabulary_init(&file);
    spm_keys(&file, v.tokens, v.n);
    struct tokenizer *t = vocabulary_open(&file, 0, &err);
    ck_assert_msg(t != NULL, "%s", err.message);
    for (int round = 0; round < 50; round++) {
        char text[MAX_SYMBOLS * 3 + 4];
        uint32_t expected[MAX_SYMBOLS * 3];
        struct token_list list = {0};
        strcpy(text, characters[3]); /* the space in front */
        random_text(text + 3, 1 + rand() % (MAX_SYMBOLS - 2));
        size_t n = naive(&v, text, expected);
        ck_assert_int_eq(tokenizer_encode(t, text + 3, strlen(text + 3), false, false, &list, &err), ERROR_NONE);
        ck_assert_uint_eq(list.n, n);
        ck_assert(memcmp(list.ids, expected, n * sizeof *expected) == 0);
        free(list.ids);
    }
    tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spm");
    TCase *c = tcase_create("spm");
    tcase_add_loop_test(c, test_random_against_definition, 0, 60);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
