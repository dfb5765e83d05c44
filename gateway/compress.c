/* Which answers are compressed, for whom, and the compression by zlib. */
#include "gateway/compress.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#define GZIP_WINDOW_BITS (15 + 16) /* zlib: the largest window, with gzip's header */
#define MEMORY_LEVEL 8             /* zlib's default */
#define BLANKS " \t"

static bool compressible(const char *type)
{
    static const char *const types[] = {"application/json", "application/yaml", "application/javascript",
                                        "application/openmetrics-text", "image/svg+xml"};
    size_t n = strcspn(type, ";" BLANKS);
    if (n >= 5 && strncasecmp(type, "text/", 5) == 0)
        return n != strlen("text/event-stream") || strncasecmp(type, "text/event-stream", n) != 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strlen(types[i]) == n && strncasecmp(type, types[i], n) == 0)
            return true;
    return n > 5 && strncasecmp(type + n - 5, "+json", 5) == 0;
}

bool compress_suits(int status, const struct http_header *headers, size_t n_bytes)
{
    bool suits = false;
    if (n_bytes < COMPRESS_MIN_BYTES || n_bytes > COMPRESS_MAX_BYTES || status == 206)
        return false;
    for (; headers && headers->name; headers++) {
        if (strcmp(headers->name, "content-type") == 0)
            suits = compressible(headers->value);
        else if (strcmp(headers->name, "content-encoding") == 0 ||
                 (strcmp(headers->name, "cache-control") == 0 && strstr(headers->value, "no-transform")))
            return false;
    }
    return suits;
}

/* Thousandths of a weight ("0.5"), -1 when it is none. */
static int weight(const char *text, const char *end)
{
    static const int places[] = {100, 10, 1};
    if (text == end || (*text != '0' && *text != '1'))
        return -1;
    int q = 1000 * (*text++ - '0');
    if (text < end && *text++ != '.')
        return -1;
    for (int i = 0; text < end; i++, text++) {
        if (i == 3 || *text < '0' || *text > '9')
            return -1;
        q += places[i] * (*text - '0');
    }
    return q <= 1000 ? q : -1;
}

/* The weights that the client gives; -1 = not named. */
struct weights {
    int gzip, identity, any;
};

/* One member of the list: a coding, perhaps with ";q=". Members that cannot be read count for nothing. */
static void take_coding(struct weights *w, const char *text, const char *end)
{
    const char *semicolon = memchr(text, ';', (size_t)(end - text)), *name_end = semicolon ? semicolon : end;
    int q = 1000;
    while (name_end > text && strchr(BLANKS, name_end[-1]))
        name_end--;
    if (semicolon) {
        const char *p = semicolon + 1 + strspn(semicolon + 1, BLANKS);
        while (end > p && strchr(BLANKS, end[-1]))
            end--;
        if (end - p < 3 || strncasecmp(p, "q=", 2) != 0 || (q = weight(p + 2, end)) < 0)
            return;
    }
    size_t n = (size_t)(name_end - text);
    if ((n == 4 && strncasecmp(text, "gzip", n) == 0) || (n == 6 && strncasecmp(text, "x-gzip", n) == 0))
        w->gzip = q;
    else if (n == 8 && strncasecmp(text, "identity", n) == 0)
        w->identity = q;
    else if (n == 1 && *text == '*')
        w->any = q;
}

bool compress_accepted(const struct http_request *r)
{
    struct weights w = {-1, -1, -1};
    for (size_t i = 0; i < r->n_headers; i++) {
        if (strcmp(r->headers[i].name, "accept-encoding") != 0)
            continue;
        for (const char *p = r->headers[i].value; *p; p += *p == ',') {
            p += strspn(p, BLANKS);
            const char *end = p + strcspn(p, ",");
            take_coding(&w, p, end);
            p = end;
        }
    }
    int gzip = w.gzip >= 0 ? w.gzip : w.any;
    return gzip > 0 && gzip >= w.identity;
}

/* The fastest level: text still shrinks to a third, and the loop has other things to do. */
bool compress_gzip(const void *data, size_t n_bytes, struct buffer *out)
{
    z_stream z = {0};
    if (n_bytes == 0 || n_bytes > COMPRESS_MAX_BYTES)
        return false;
    char *to = buffer_reserve(out, n_bytes - 1);
    if (!to || deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, GZIP_WINDOW_BITS, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)n_bytes;
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)(n_bytes - 1);
    bool whole = deflate(&z, Z_FINISH) == Z_STREAM_END;
    if (whole)
        out->n_bytes += z.total_out;
    deflateEnd(&z);
    return whole;
}
