/*
 * UTF-8 by the table of well-formed byte sequences (Unicode 15, table 3-7; the same set as RFC 3629 section 4): the first
 * byte gives the length and the range of the second; all others are 80..BF.
 */
#include "base/utf8.h"

struct lead {
    unsigned char length; /* of the whole character; 0: cannot begin one */
    unsigned char second_min;
    unsigned char second_max;
};

static struct lead lead_of(unsigned char c)
{
    if (c < 0x80)
        return (struct lead){1, 0, 0};
    if (c < 0xC2) /* continuation bytes, and C0 C1 which could only begin overlong forms */
        return (struct lead){0, 0, 0};
    if (c < 0xE0)
        return (struct lead){2, 0x80, 0xBF};
    if (c < 0xF0) /* E0: not overlong; ED: no surrogates */
        return (struct lead){3, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF};
    if (c < 0xF5) /* F0: not overlong; F4: not above U+10FFFF */
        return (struct lead){4, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF};
    return (struct lead){0, 0, 0};
}

/* How many of the bytes at text[0..n_bytes) agree with one character that begins there, at most its length; 0 when none
 * can begin there. n_bytes > 0. */
static size_t matching(const unsigned char *text, size_t n_bytes, struct lead lead)
{
    if (lead.length < 2)
        return lead.length;
    if (n_bytes < 2 || text[1] < lead.second_min || text[1] > lead.second_max)
        return 1;
    size_t n = 2;
    while (n < lead.length && n < n_bytes && (text[n] & 0xC0) == 0x80)
        n++;
    return n;
}

size_t utf8_decode(const char *text, size_t n_bytes, uint32_t *code_point)
{
    const unsigned char *t = (const unsigned char *)text;
    if (n_bytes == 0)
        return 0;
    struct lead lead = lead_of(t[0]);
    if (lead.length == 0 || matching(t, n_bytes, lead) < lead.length)
        return 0;
    uint32_t c = lead.length == 1 ? t[0] : t[0] & (0x7Fu >> lead.length);
    for (size_t i = 1; i < lead.length; i++)
        c = c << 6 | (t[i] & 0x3F);
    *code_point = c;
    return lead.length;
}

bool utf8_valid(const char *text, size_t n_bytes, size_t *bad)
{
    for (size_t i = 0; i < n_bytes;) {
        uint32_t code_point;
        size_t n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (n == 0) {
            if (bad)
                *bad = i;
            return false;
        }
        i += n;
    }
    return true;
}

size_t utf8_complete(const char *text, size_t n_bytes)
{
    const unsigned char *t = (const unsigned char *)text;
    /* Only the last three bytes can begin a character that is still open; the nearest lead byte decides. */
    for (size_t back = 1; back <= 3 && back <= n_bytes; back++) {
        size_t at = n_bytes - back;
        if ((t[at] & 0xC0) == 0x80)
            continue;
        struct lead lead = lead_of(t[at]);
        bool open = lead.length > back && matching(t + at, back, lead) == back;
        return open ? at : n_bytes;
    }
    return n_bytes;
}

size_t utf8_length(const char *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

size_t utf8_encode(uint32_t code_point, char out[4])
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xC0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xE0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code_point & 0x3F));
    return 4;
}
