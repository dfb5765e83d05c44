/* What reference servers answer, and the files of token ids. */
#include "tools/crossval.h"
#include "tools/json.h"

#include "tests/suite.h"

#include <math.h>
#include <unistd.h>

static bool read_llama(const char *text, int64_t target, struct crossval_entry *entries, size_t max, struct crossval_row *row, struct error *err)
{
    struct json *j;
    ck_assert(!json_open(text, strlen(text), &j, err));
    bool ok = crossval_read_llama(json_root(j), NULL, 100, target, entries, max, row, err);
    json_close(j);
    return ok;
}

START_TEST(lists)
{
    static const char *const forms[] = {
        "{\"completion_probabilities\":[{\"id\":7,\"logprob\":-0.5,\"top_logprobs\":[%s]}]}",
        "{\"choices\":[{\"text\":\"x\",\"logprobs\":{\"content\":[{\"id\":7,\"top_logprobs\":[%s]}]}}]}"};
    for (size_t i = 0; i < 2; i++) {
        char text[512];
        struct crossval_entry entries[3];
        struct crossval_row row;
        struct error err = {0};
        snprintf(text, sizeof text, forms[i], "{\"id\":9,\"token\":\"a\",\"logprob\":-2},{\"id\":7,\"token\":\"b\",\"logprob\":-0.5},"
                 "{\"id\":99,\"token\":\"c\",\"logprob\":-3.4028234663852886e38},{\"id\":3,\"token\":\"d\",\"logprob\":-5}");
        ck_assert_msg(read_llama(text, 9, entries, 3, &row, &err), "%s", err.message);
        ck_assert_uint_eq(row.n_entries, 3);
        ck_assert(entries[0].id == 7 && entries[1].id == 9 && entries[2].id == 99); /* the best first, no more than there is room */
        ck_assert_double_eq(row.target, -2);
        ck_assert(read_llama(text, 3, entries, 3, &row, &err) && isnan(row.target));
        ck_assert(read_llama(text, -1, entries, 3, &row, &err) && isnan(row.target));
    }
}
END_TEST

START_TEST(no_lists)
{
    static const char *const texts[] = {
        "{}", "[]", "3", "{\"completion_probabilities\":[]}", "{\"completion_probabilities\":[{\"top_logprobs\":[]}]}",
        "{\"completion_probabilities\":[{\"top_logprobs\":[{\"id\":100,\"logprob\":-1}]}]}",
        "{\"completion_probabilities\":[{\"top_logprobs\":[{\"id\":-1,\"logprob\":-1}]}]}",
        "{\"completion_probabilities\":[{\"top_logprobs\":[{\"id\":1,\"logprob\":null}]}]}",
        "{\"completion_probabilities\":[{\"probs\":[{\"tok_str\":1,\"prob\":0.5}]}]}",
        "{\"completion_probabilities\":[{\"probs\":[{\"tok_str\":\"a\",\"prob\":-0.5}]}]}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct crossval_entry entries[3];
        struct crossval_row row;
        struct error err = {0};
        ck_assert_msg(!read_llama(texts[i], -1, entries, 3, &row, &err) && strstr(err.message, "expected"), "%s", texts[i]);
    }
}
END_TEST

START_TEST(nul)
{
    char text[] = "\"\\u0000 \\\\u0000 \\\\\\u0000 \\u00001\\n\\";
    crossval_replace_nul(text);
    ck_assert_str_eq(text, "\"\\ufffd \\\\u0000 \\\\\\ufffd \\ufffd1\\n\\");
}
END_TEST

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

START_TEST(id_files)
{
    char path[] = "/tmp/bitnet-crossval-XXXXXX";
    ck_assert_int_ge(mkstemp(path), 0);
    struct crossval_sequences q = {0};
    struct error err = {0};
    write_file(path, "1 2\t3\r\n\n  \n4");
    ck_assert_msg(crossval_sequences_read(&q, path, 5, &err), "%s", err.message);
    ck_assert(q.n == 2 && q.n_tokens == 4 && q.n_ids[0] == 3 && q.n_ids[1] == 1 && q.ids[3] == 4);
    crossval_sequences_free(&q);
    static const char *const bad[] = {"1 5", "1 x", "-1", "1,2", "", "\n \n", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct error){0};
        write_file(path, bad[i]);
        ck_assert_msg(!crossval_sequences_read(&q, path, 5, &err) && strstr(err.message, "expected"), "%s", bad[i]);
        crossval_sequences_free(&q);
    }
    unlink(path);
}
END_TEST

SUITE("crossval_answer", lists, no_lists, nul, id_files)
