/* W3C Trace Context, level 1: the header traceparent. */
#include "trace/trace.h"

#include <stdio.h>
#include <string.h>

#define VERSION_AND_DASH 3
#define PARENT_CHARS (TRACE_PARENT_BYTES - 1)

/* Lower-case hexadecimal only, as the specification has it; -1 for all else. */
static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_bytes(const char *text, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = digit(text[2 * i]), low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

struct trace_context trace_context_read(const char *text)
{
    const struct trace_context none = {0};
    struct trace_context c = {.known = true};
    uint8_t version;
    size_t n = text ? strlen(text) : 0;
    if (n < PARENT_CHARS || !read_bytes(text, &version, 1) || version == 0xff)
        return none;
    /* Later versions may say more behind a dash. */
    if (n > PARENT_CHARS && (version == 0 || text[PARENT_CHARS] != '-'))
        return none;
    const char *p = text + VERSION_AND_DASH;
    if (text[2] != '-' || p[32] != '-' || p[49] != '-' || !read_bytes(p, c.trace_id, 16) ||
        !read_bytes(p + 33, c.span_id, 8) || !read_bytes(p + 50, &c.flags, 1))
        return none;
    if (is_zero(c.trace_id, 16) || is_zero(c.span_id, 8))
        return none;
    if (version > 0)
        c.flags &= 1; /* what the other bits will mean is not known */
    return c;
}

static char *write_bytes(char *out, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = '\0';
    return out;
}

char *trace_context_write(const struct trace_context *c, char out[TRACE_PARENT_BYTES])
{
    out[0] = '\0';
    if (!c->known)
        return out;
    memcpy(out, "00-", VERSION_AND_DASH);
    char *p = write_bytes(out + VERSION_AND_DASH, c->trace_id, 16);
    *p++ = '-';
    p = write_bytes(p, c->span_id, 8);
    *p++ = '-';
    write_bytes(p, &c->flags, 1);
    return out;
}

char *trace_id_write(const struct trace_context *c, char out[TRACE_ID_TEXT_BYTES])
{
    out[0] = '\0';
    if (c->known)
        write_bytes(out, c->trace_id, 16);
    return out;
}
