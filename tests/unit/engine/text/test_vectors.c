/*
 * Published vocabularies against other implementations' ids (llama.cpp's test vectors), and a round trip of the corpus through
 * them. All files are in ../shared/data; without it these cases are skipped.
 *
 * A vector file has texts, each followed by a line that only holds the separator, and ids, a line per text.
 */
#include "tests/unit/engine/text/vocabulary.h"

#include "base/clock.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "../shared/data/tokenizers/"
#define LLAMA_3 FOLDER "llama3.tokenizer.model"
#define MERGES_OF_RANKS "../shared/data/golden/tinyA.gguf"
#define CORPUS "../shared/data/corpus/tales.valid.txt.xz"
#define SEPARATOR "\n__ggml_vocab_test__\n"
#define N_VECTORS 46

struct row {
    const char *vocabulary, *vectors;
};

static const struct row rows[] = {
    {FOLDER "ggml-vocab-llama-spm.gguf", FOLDER "ggml-vocab-llama-spm.gguf"}, /* first: it needs no PCRE2 */
    {LLAMA_3, FOLDER "ggml-vocab-llama-bpe.gguf"},
    {FOLDER "ggml-vocab-gpt-2.gguf", FOLDER "ggml-vocab-gpt-2.gguf"},
    {FOLDER "ggml-vocab-falcon.gguf", FOLDER "ggml-vocab-falcon.gguf"},
};
#define N_ROWS (sizeof rows / sizeof *rows)

static bool available(const char *path)
{
    if (access(path, R_OK) == 0)
        return true;
    printf("skip tokenizers %s is not there\n", path);
    return false;
}

static char *read_all(FILE *f, size_t *n_bytes)
{
    struct buffer b;
    buffer_init(&b, 64u << 20);
    char chunk[65536];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        ck_assert(buffer_append(&b, chunk, n));
    ck_assert(buffer_append(&b, "", 1));
    *n_bytes = b.n_bytes - 1;
    return buffer_steal(&b);
}

static char *read_vectors(const char *base, const char *suffix)
{
    char path[256];
    size_t n;
    snprintf(path, sizeof path, "%s%s", base, suffix);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    char *text = read_all(f, &n);
    fclose(f);
    return text;
}

static struct tokenizer *open_tokenizer(const char *path)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    ck_assert_msg(tokenizer_open(path, &t, &err) == ERROR_NONE, "%s", err.message);
    return t;
}

/* Compares the ids of a text with the line at *ids, which moves behind it. */
static void check_vector(const struct tokenizer *t, const char *text, size_t n_bytes, char **ids)
{
    struct token_list list = {0};
    struct error err = {0};
    ck_assert_msg(tokenizer_encode(t, text, n_bytes, false, false, &list, &err) == ERROR_NONE, "%s", err.message);
    char *at = *ids, *end = at + strcspn(at, "\n");
    for (size_t i = 0; i < list.n; i++) {
        char *next;
        unsigned long expected = strtoul(at, &next, 10);
        ck_assert_msg(next > at && next <= end && expected == list.ids[i], "\"%.*s\": token %zu is %u, expected %.*s",
                      (int)n_bytes, text, i, list.ids[i], (int)(end - at), at);
        at = next;
    }
    ck_assert_msg(at + strspn(at, " ") == end, "\"%.*s\": %zu tokens, but expected also %.*s", (int)n_bytes, text,
                  list.n, (int)(end - at), at);
    free(list.ids);
    *ids = *end == '\n' ? end + 1 : end;
}

START_TEST(test_vectors)
{
    if (!available(rows[_i].vocabulary))
        return;
    struct tokenizer *t = open_tokenizer(rows[_i].vocabulary);
    char *texts = read_vectors(rows[_i].vectors, ".inp"), *ids = read_vectors(rows[_i].vectors, ".out"), *line = ids;
    int n = 0;
    for (char *text = texts, *end; (end = strstr(text, SEPARATOR)) != NULL; text = end + strlen(SEPARATOR), n++)
        check_vector(t, text, (size_t)(end - text), &line);
    ck_assert_int_eq(n, N_VECTORS);
    ck_assert_int_eq(*line, '\0');
    free(texts);
    free(ids);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_corpus_round_trip)
{
    if (!available(rows[_i].vocabulary) || !available(CORPUS))
        return;
    FILE *f = popen("xz -dc " CORPUS, "r");
    ck_assert_ptr_nonnull(f);
    size_t n;
    char *text = read_all(f, &n);
    if (pclose(f) != 0 || n == 0) {
        printf("skip corpus xz does not run\n");
        free(text);
        return;
    }
    struct tokenizer *t = open_tokenizer(rows[_i].vocabulary);
    struct token_list list = {0};
    struct error err = {0};
    struct buffer out;
    buffer_init(&out, 64u << 20);
    int64_t start = clock_now_ns();
    ck_assert_msg(tokenizer_encode(t, text, n, false, false, &list, &err) == ERROR_NONE, "%s", err.message);
    double seconds = (double)(clock_now_ns() - start) / (double)CLOCK_NS_PER_S;
    printf("%s: %zu bytes, %zu tokens, %.1f MB/s\n", rows[_i].vocabulary, n, list.n, (double)n / 1e6 / seconds);
    ck_assert_int_eq(tokenizer_decode(t, list.ids, list.n, false, &out, &err), ERROR_NONE);
    ck_assert_uint_eq(out.n_bytes, n);
    ck_assert(memcmp(out.data, text, n) == 0);
    buffer_fini(&out);
    free(list.ids);
    free(text);
    tokenizer_close(t);
}
END_TEST

/* The first lines of a file, as a file of their own. */
static void copy_lines(const char *from, const char *to, int n)
{
    char line[1024];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    ck_assert(in != NULL && out != NULL);
    for (; n > 0 && fgets(line, sizeof line, in) != NULL; n--)
        fputs(line, out);
    fclose(in);
    ck_assert_int_eq(fclose(out), 0);
}

/* A converter turned 1024 of Llama 3's ranks into a GGUF with a list of merges: both must read texts alike. */
START_TEST(test_ranks_and_merges_agree)
{
    if (!available(LLAMA_3) || !available(MERGES_OF_RANKS))
        return;
    char path[] = "/tmp/test-ranks-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    copy_lines(LLAMA_3, path, 1024);
    struct tokenizer *ranks = open_tokenizer(path), *merges = open_tokenizer(MERGES_OF_RANKS);
    unlink(path);
    ck_assert_uint_eq(tokenizer_n_tokens(ranks), tokenizer_n_tokens(merges));
    char *text = read_vectors(rows[1].vectors, ".inp");
    for (size_t from = 0; from < strlen(text); from++) {
        if ((text[from] & 0xc0) == 0x80)
            continue;
        struct token_list a = {0}, b = {0};
        ck_assert_int_eq(tokenizer_encode(ranks, text + from, strlen(text + from), true, true, &a, NULL), ERROR_NONE);
        ck_assert_int_eq(tokenizer_encode(merges, text + from, strlen(text + from), true, true, &b, NULL), ERROR_NONE);
        ck_assert_uint_eq(a.n, b.n);
        ck_assert(memcmp(a.ids, b.ids, a.n * sizeof *a.ids) == 0);
        free(a.ids);
        free(b.ids);
    }
    free(text);
    tokenizer_close(ranks);
    tokenizer_close(merges);
}
END_TEST

/* Llama 3's special tokens are where Meta's code puts them. */
START_TEST(test_llama3_specials)
{
    if (!available(LLAMA_3))
        return;
    static const char text[] = "<|begin_of_text|><|start_header_id|>user<|end_header_id|><|eot_id|><|end_of_text|>"
                               "<|reserved_special_token_5|><|reserved_special_token_250|>";
    static const uint32_t ids[] = {128000, 128006, 882, 128007, 128009, 128001, 128010, 128255};
    struct tokenizer *t = open_tokenizer(LLAMA_3);
    struct token_list list = {0};
    ck_assert_uint_eq(tokenizer_n_tokens(t), 128256);
    ck_assert_int_eq(tokenizer_bos(t), 128000);
    ck_assert_int_eq(tokenizer_encode(t, text, sizeof text - 1, false, true, &list, NULL), ERROR_NONE);
    ck_assert_uint_eq(list.n, sizeof ids / sizeof *ids);
    ck_assert(memcmp(list.ids, ids, sizeof ids) == 0);
    free(list.ids);
    tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vectors");
    TCase *c = tcase_create("vectors");
    tcase_add_loop_test(c, test_vectors, 0, 1 + BPE_RUNS(N_ROWS - 1));
    tcase_add_loop_test(c, test_corpus_round_trip, 0, 1 + BPE_RUNS(N_ROWS - 1));
    tcase_add_loop_test(c, test_llama3_specials, 0, BPE_RUNS(1));
    tcase_add_loop_test(c, test_ranks_and_merges_agree, 0, BPE_RUNS(1));
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
