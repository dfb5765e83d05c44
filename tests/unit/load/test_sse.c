/* Events from bytes that are cut anywhere, and members of JSON texts. */
#include "tests/suite.h"

#include "tools/load_sse.h"

static char seen[4096];
static int n_left; /* events until on_event says that it is enough */

static bool on_event(void *user, const char *name, const char *data, size_t n)
{
    (void)user;
    ck_assert_uint_eq(strlen(data), n);
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "[%s|%s]", name, data);
    return --n_left != 0;
}

static const char *read_all(const char *text, size_t first, size_t second)
{
    struct load_sse s;
    size_t n = strlen(text);
    seen[0] = '\0';
    n_left = -1;
    load_sse_init(&s, NULL, on_event);
    ck_assert(load_sse_feed(&s, text, first) && load_sse_feed(&s, text + first, second - first) &&
              load_sse_feed(&s, text + second, n - second));
    load_sse_fini(&s);
    return seen;
}

START_TEST(cut_anywhere)
{
    static const struct {
        const char *text, *events;
    } cases[] = {
        {"data: a\n\n", "[|a]"},
        {"event: token\nid: 3\ndata: {\"x\":1}\n\nevent: complete\ndata: b\n\n", "[token|{\"x\":1}][complete|b]"},
        {"data: a\r\n\r\ndata: b\r\r: ping\n\ndata:c\ndata: d\n\n", "[|a][|b][|c\nd]"},
        {"event: y\r\ndata: a\r\ndata: b\r\n\r\n", "[y|a\nb]"},
        {"event: x\n\ndata\n\ndata:  two\n\n", "[|][| two]"},
        {"datax: 1\ndata : 2\nretry: 5\n\ndata: end without a blank line\n", ""},
        {"event: a-name-that-is-longer-than-anybody-needs\ndata: 1\n\n", "[a-name-that-is-longer-than-anyb|1]"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t n = strlen(cases[c].text), i = 0; i <= n; i++)
            for (size_t j = i; j <= n; j++)
                ck_assert_str_eq(read_all(cases[c].text, i, j), cases[c].events);
}
END_TEST

START_TEST(ends_when_told)
{
    struct load_sse s;
    seen[0] = '\0';
    n_left = 2;
    load_sse_init(&s, NULL, on_event);
    ck_assert(!load_sse_feed(&s, "data: 1\n\ndata: 2\n\ndata: 3\n\n", 27));
    ck_assert_str_eq(seen, "[|1][|2]");
    load_sse_fini(&s);
}
END_TEST

START_TEST(too_large)
{
    struct load_sse s;
    static char line[65536];
    memset(line, 'x', sizeof line);
    memcpy(line, "data: ", 6);
    load_sse_init(&s, NULL, on_event);
    size_t n = 0;
    while (load_sse_feed(&s, line, sizeof line))
        ck_assert_uint_le(n += sizeof line, LOAD_SSE_MAX_EVENT_BYTES);
    load_sse_reset(&s);
    line[sizeof line - 1] = '\n'; /* lines that fit, of an event that does not */
    for (n = 0; load_sse_feed(&s, line, sizeof line);)
        ck_assert_uint_le(n += sizeof line, LOAD_SSE_MAX_EVENT_BYTES);
    load_sse_fini(&s);
}
END_TEST

START_TEST(members_of_json)
{
    static const struct {
        const char *json, *name, *value; /* NULL: there is none */
    } cases[] = {
        {"{\"text\":\"abc\"}", "text", "abc"},
        {"{\"a\":\"text\",\"text\" : \"b\\\"c\\\\\"}", "text", "b\\\"c\\\\"},
        {"{\"a\":\"\\\"text\\\":\\\"no\\\"\",\"b\":[{\"text\":\"yes\"}]}", "text", "yes"},
        {"{\"text\":null,\"x\":{\"text\":\"later\"}}", "text", "later"},
        {"{\"text\":5}", "text", NULL},
        {"{\"texts\":\"a\",\"tex\":\"b\"}", "text", NULL},
        {"{\"text\":\"", "text", NULL},
        {"{\"text\":\"cut\\", "text", NULL},
        {"{\"text\":", "text", NULL},
        {"{\"text", "text", NULL},
        {"", "text", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *value;
        size_t n;
        bool found = load_json_string(cases[i].json, strlen(cases[i].json), cases[i].name, &value, &n);
        ck_assert_msg(found == (cases[i].value != NULL), "%s", cases[i].json);
        ck_assert_msg(!found || (n == strlen(cases[i].value) && memcmp(value, cases[i].value, n) == 0), "%s",
                      cases[i].json);
    }
}
END_TEST

START_TEST(numbers_of_json)
{
    static const struct {
        const char *json;
        double value;
        bool found;
    } cases[] = {
        {"{\"n\":12}", 12, true},
        {"{\"n\": -1.5e2 }", -150, true},
        {"{\"n\":\"12\",\"m\":{\"n\":3}}", 3, true},
        {"{\"n\":null}", 0, false},
        {"{\"n\":nan}", 0, false},
        {"{\"n\":", 0, false},
        {"{\"nn\":1,\"m\":2}", 0, false},
        {"{\"n\":7", 7, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double v;
        bool found = load_json_number(cases[i].json, strlen(cases[i].json), "n", &v);
        ck_assert_msg(found == cases[i].found && (!found || v == cases[i].value), "%s", cases[i].json);
    }
}
END_TEST

SUITE("load sse", cut_anywhere, ends_when_told, too_large, members_of_json, numbers_of_json)
