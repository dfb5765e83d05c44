/* traceparent, read and written. */
#include "tests/suite.h"

#include "trace/trace.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static const struct {
    const char *header, *want; /* "" = no context */
} cases[] = {
    {"00-" TRACE "-" SPAN "-01", "00-" TRACE "-" SPAN "-01"},
    {"00-" TRACE "-" SPAN "-00", "00-" TRACE "-" SPAN "-00"},
    {"00-" TRACE "-" SPAN "-03", "00-" TRACE "-" SPAN "-03"},
    {"00-" TRACE "-" SPAN "-01-more", ""}, /* version 00 has no more */
    {"42-" TRACE "-" SPAN "-09", "00-" TRACE "-" SPAN "-01"},
    {"42-" TRACE "-" SPAN "-01-what-comes-later", "00-" TRACE "-" SPAN "-01"},
    {"42-" TRACE "-" SPAN "-01what-comes-later", ""},
    {"ff-" TRACE "-" SPAN "-01", ""},
    {"00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01", ""},
    {"00-00000000000000000000000000000000-" SPAN "-01", ""},
    {"00-" TRACE "-0000000000000000-01", ""},
    {"00-" TRACE "-" SPAN "-0", ""},
    {"00-" TRACE "-" SPAN "-0g", ""},
    {"00_" TRACE "-" SPAN "-01", ""},
    {"00-" TRACE "_" SPAN "-01", ""},
    {"00-" TRACE "-" SPAN "_01", ""},
    {"", ""},
    {NULL, ""},
};

START_TEST(what_is_read_is_written)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[TRACE_PARENT_BYTES], id[TRACE_ID_TEXT_BYTES];
        struct trace_context c = trace_context_read(cases[i].header);
        ck_assert_msg(strcmp(trace_context_write(&c, out), cases[i].want) == 0, "%s -> %s", cases[i].header, out);
        ck_assert_str_eq(trace_id_write(&c, id), c.known ? TRACE : "");
    }
}
END_TEST

START_TEST(off_passes_the_context_on)
{
    char out[TRACE_PARENT_BYTES];
    struct trace_context parent = trace_context_read("00-" TRACE "-" SPAN "-01"), here;
    struct span *s = span_start(NULL, "x", SPAN_SERVER, &parent, "a=b", 1, &here);
    ck_assert_ptr_null(s);
    ck_assert_str_eq(trace_context_write(&here, out), "00-" TRACE "-" SPAN "-01");
    span_set_text(s, "a", "b");
    span_set_int(s, "a", 1);
    span_set_float(s, "a", 1);
    span_set_texts(s, "a", NULL, 0);
    span_fail(s, "a", "b");
    ck_assert_ptr_null(span_child(s, "y", SPAN_INTERNAL, 2));
    span_end(s, 3);
    trace_close(NULL);
}
END_TEST

SUITE("context", what_is_read_is_written, off_passes_the_context_on)
