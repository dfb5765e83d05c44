/* Requests that belong together have one key, others have others. */
#include "tests/suite.h"

#include "gateway/affinity.h"

#include <stdbool.h>

static uint64_t key(const char *json)
{
    json_error_t why;
    json_t *root = json_loads(json, 0, &why);
    ck_assert_msg(root, "%s: %s", json, why.text);
    uint64_t k = affinity_key(root);
    json_decref(root);
    return k;
}

#define SYSTEM "{\"role\":\"system\",\"content\":\"Be brief.\"}"
#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define CHAT(messages) "{\"model\":\"m\",\"messages\":[" messages "]}"
#define TEN "0123456789"
#define LONG TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static const struct {
    const char *a, *b;
    bool same;
} pairs[] = {
    {CHAT(SYSTEM "," USER("one")),
     CHAT(SYSTEM "," USER("one") ",{\"role\":\"assistant\",\"content\":\"x\"}," USER("two")), true},
    {CHAT(SYSTEM "," USER("one")), CHAT(SYSTEM "," USER("two")), false},
    {CHAT(SYSTEM "," USER("one")), CHAT(USER("one")), false},
    {CHAT(USER("one")), CHAT("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"}]}"), true},
    {CHAT(USER("one")), "{\"model\":\"n\",\"messages\":[" USER("one") "]}", false},
    {"{\"prompt\":\"" LONG "a\"}", "{\"prompt\":\"" LONG "b\"}", true}, /* they begin alike */
    {"{\"prompt\":\"a\"}", "{\"prompt\":\"b\"}", false},
    {"{\"prompt\":[\"a\",\"b\"]}", "{\"prompt\":\"a\"}", true},
    {"{\"prompt\":[1,2,3]}", "{\"prompt\":[1,2,4]}", false},
    {"{\"prompt\":[[1,2,3]]}", "{\"prompt\":[1,2,3]}", true},
    {"{\"prompt\":\"a\",\"prompt_cache_key\":\"k\"}", "{\"prompt\":\"b\",\"prompt_cache_key\":\"k\"}", true},
    {"{\"prompt\":\"a\",\"prompt_cache_key\":\"k\"}", "{\"prompt\":\"a\",\"prompt_cache_key\":\"l\"}", false},
    {"{\"prompt\":\"a\",\"user\":\"k\"}", "{\"prompt\":\"b\",\"user\":\"k\"}", true},
    {"{\"user\":\"x\",\"prompt_cache_key\":\"k\"}", "{\"user\":\"y\",\"prompt_cache_key\":\"k\"}", true},
    {"{\"prompt\":\"a\",\"user\":\"\"}", "{\"prompt\":\"a\"}", true},
};

START_TEST(what_belongs_together)
{
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        ck_assert_msg((key(pairs[i].a) == key(pairs[i].b)) == pairs[i].same, "%s and %s", pairs[i].a, pairs[i].b);
}
END_TEST

START_TEST(nothing_to_go_by)
{
    ck_assert(key("{}") == 0);
    ck_assert(key("{\"text\":\"a\"}") == 0);
    ck_assert(key("{\"prompt\":\"\"}") != 0);
}
END_TEST

START_TEST(nonsense_is_taken)
{
    static const char *const texts[] = {"{\"messages\":1}", "{\"messages\":[1,{\"role\":2,\"content\":[3,{}]}]}",
                                        "{\"prompt\":{}}",  "{\"prompt\":[]}",
                                        "{\"model\":1,\"prompt\":[[]]}", "{\"user\":7}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        key(texts[i]);
}
END_TEST

SUITE("affinity", what_belongs_together, nothing_to_go_by, nonsense_is_taken)
