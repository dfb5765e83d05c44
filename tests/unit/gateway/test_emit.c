/* JSON and events as text. */
#include "tests/suite.h"

#include "gateway/emit.h"
#include "gateway/sse.h"

#include <math.h>

static struct buffer b;

static const char *text(void)
{
    static char copy[512];
    snprintf(copy, sizeof copy, "%s", b.data);
    buffer_fini(&b);
    return copy;
}

START_TEST(puts_commas)
{
    buffer_init(&b, 512);
    emit_open(&b, '{');
    emit_key(&b, "a");
    emit_open(&b, '[');
    emit_int(&b, -1);
    emit_uint(&b, 18446744073709551615u);
    emit_bool(&b, true);
    emit_null(&b);
    emit_text(&b, "x\"\n[");
    emit_open(&b, '[');
    emit_close(&b, ']');
    emit_close(&b, ']');
    emit_key(&b, "b");
    emit_open(&b, '{');
    emit_close(&b, '}');
    emit_key(&b, "c");
    emit_text(&b, "");
    emit_close(&b, '}');
    ck_assert_str_eq(text(), "{\"a\":[-1,18446744073709551615,true,null,\"x\\\"\\n[\",[]],\"b\":{},\"c\":\"\"}");
}
END_TEST

START_TEST(numbers_are_short)
{
    buffer_init(&b, 512);
    emit_open(&b, '[');
    emit_float(&b, 0.1f);
    emit_float(&b, -12.0f);
    emit_float(&b, 16777216.0f);
    emit_float(&b, 1e-30f);
    emit_float(&b, -INFINITY);
    emit_fixed(&b, 0.12345, 3);
    emit_fixed(&b, 100, 3);
    emit_fixed(&b, -0.0001, 2);
    emit_fixed(&b, 1e15, 0);
    emit_fixed(&b, NAN, 2);
    emit_close(&b, ']');
    ck_assert_str_eq(text(), "[0.1,-12,16777216,1e-30,null,0.123,100,0,1000000000000000,null]");
}
END_TEST

START_TEST(floats_read_back)
{
    for (uint32_t i = 1; i < 4000; i++) {
        float v = (float)i * 0.37f / 911.0f;
        buffer_init(&b, 64);
        emit_float(&b, v);
        ck_assert(strtof(b.data, NULL) == v);
        buffer_fini(&b);
    }
}
END_TEST

START_TEST(frames_events)
{
    buffer_init(&b, 512);
    sse_begin(&b, "token", 3);
    emit_open(&b, '{');
    emit_close(&b, '}');
    sse_end(&b);
    sse_begin(&b, NULL, -1);
    emit_open(&b, '{');
    emit_close(&b, '}');
    sse_end(&b);
    ck_assert_str_eq(text(), "event: token\nid: 3\ndata: {}\n\ndata: {}\n\n");
}
END_TEST

SUITE("emit", puts_commas, numbers_are_short, floats_read_back, frames_events)
