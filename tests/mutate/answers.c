/* What a gateway may send: HTTP/1.1 answers or HTTP/2 frames, read without any leniency. */
#include "tests/mutate/mutate.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STREAMS 64

/* ---- HTTP/1.1 ---- */

struct text {
    const char *at, *end;
    bool cut;
};

static const char *incomplete(const struct text *t, const char *what)
{
    return t->cut ? NULL : what;
}

static bool line(struct text *t, const char **begin, size_t *n)
{
    const char *end = memmem(t->at, (size_t)(t->end - t->at), "\r\n", 2);
    if (!end)
        return false;
    *begin = t->at;
    *n = (size_t)(end - t->at);
    t->at = end + 2;
    return true;
}

static bool field_good(const char *p, size_t n)
{
    size_t n_name = strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (n_name == 0 || n_name + 2 > n || p[n_name] != ':' || p[n_name + 1] != ' ')
        return false;
    for (size_t i = n_name; i < n; i++)
        if ((unsigned char)p[i] < ' ' || (unsigned char)p[i] > '~')
            return false;
    return true;
}

struct head {
    int status;
    bool chunked, close, json;
    long long length; /* -1 = none */
};

/* 1: read, 0: the bytes end before it does, -1: malformed. */
static int read_head(struct text *t, struct head *h)
{
    const char *p;
    size_t n;
    *h = (struct head){.length = -1};
    if (!line(t, &p, &n))
        return 0;
    if (n < 14 || memcmp(p, "HTTP/1.1 ", 9) != 0 || p[12] != ' ' || (h->status = atoi(p + 9)) < 100 || h->status > 599)
        return -1;
    for (;;) {
        if (!line(t, &p, &n))
            return 0;
        if (n == 0)
            return 1;
        if (!field_good(p, n))
            return -1;
        if (strncmp(p, "content-length: ", 16) == 0)
            h->length = atoll(p + 16);
        h->chunked = h->chunked || strncmp(p, "transfer-encoding: chunked\r", 27) == 0;
        h->close = h->close || strncmp(p, "connection: close\r", 18) == 0;
        h->json = h->json || strncmp(p, "content-type: application/json\r", 31) == 0;
    }
}

/* 1, 0 and -1 as above. */
static int read_chunks(struct text *t)
{
    for (;;) {
        const char *p;
        char *end;
        size_t n;
        if (!line(t, &p, &n))
            return 0;
        unsigned long long size = strtoull(p, &end, 16);
        if (end != p + n || n == 0 || n > 8)
            return -1;
        if ((size_t)(t->end - t->at) < size + 2)
            return 0;
        if (memcmp(t->at + size, "\r\n", 2) != 0)
            return -1;
        t->at += size + 2;
        if (size == 0)
            return 1;
    }
}

/* An answer to HEAD has a length and no body; which request it answers is not known here, but no body of ours begins like an
 * answer. */
static const char *read_body(struct text *t, const struct head *h)
{
    size_t n_left = (size_t)(t->end - t->at);
    if (h->chunked) {
        int n = read_chunks(t);
        return n < 0 ? "malformed chunk" : n == 0 ? incomplete(t, "the last chunk is missing") : NULL;
    }
    if (h->length < 0) {
        if (!h->close)
            return "neither length nor chunks nor connection: close";
        t->at = t->end;
        return NULL;
    }
    if (h->length == 0 || n_left == 0 || (n_left >= 9 && memcmp(t->at, "HTTP/1.1 ", 9) == 0))
        return NULL;
    if (n_left < (size_t)h->length)
        return incomplete(t, "the body is shorter than its length");
    if (h->json && (t->at[0] != '{' || t->at[h->length - 1] != '}'))
        return "the body is no JSON object";
    t->at += h->length;
    return NULL;
}

static const char *check_http1(const struct buffer *in, bool cut, struct tally *tally)
{
    struct text t = {in->data, in->data + in->n_bytes, cut};
    bool closing = false;
    while (t.at < t.end) {
        struct head h;
        int n = read_head(&t, &h);
        if (n <= 0)
            return n < 0 ? "malformed head of an answer" : incomplete(&t, "a head without an end");
        if (closing)
            return "an answer behind the one that said it was the last";
        if (h.status == 500)
            return "an internal error";
        tally->n_status[h.status / 100]++;
        closing = h.close;
        if (h.status < 200 || h.status == 204 || h.status == 304)
            continue;
        const char *fault = read_body(&t, &h);
        if (fault)
            return fault;
        if (cut && t.at < t.end &&
            memcmp(t.at, "HTTP/1.1 ", (size_t)(t.end - t.at) < 9 ? (size_t)(t.end - t.at) : 9) != 0)
            return NULL; /* what was cut is the body before */
    }
    return NULL;
}

/* ---- HTTP/2 ---- */

enum stream_state { STREAM_NONE, STREAM_OPEN, STREAM_ENDED };

struct stream {
    uint32_t id;
    enum stream_state state;
};

struct frames {
    nghttp2_hd_inflater *inflater;
    struct stream streams[MAX_STREAMS]; /* in the order in which they were first answered */
    size_t n_streams;
    uint32_t block_stream; /* a header block goes on in CONTINUATION, or 0 */
    bool block_ends;
};

static const char *read_block(struct frames *f, const unsigned char *data, size_t n, bool last, struct tally *tally)
{
    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t used = nghttp2_hd_inflate_hd2(f->inflater, &nv, &flags, data, n, last);
        if (used < 0)
            return "malformed header block";
        data += used;
        n -= (size_t)used;
        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
            if (nv.valuelen == 3 && nv.namelen == 7 && memcmp(nv.value, "500", 3) == 0)
                return "an internal error";
            if (nv.namelen == 7 && memcmp(nv.name, ":status", 7) == 0 && nv.valuelen == 3 && nv.value[0] >= '1' &&
                nv.value[0] <= '5')
                tally->n_status[nv.value[0] - '0']++;
            else if (nv.namelen == 0 || nv.name[0] == ':')
                return "a pseudo-header that is not :status";
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) {
            nghttp2_hd_inflate_end_headers(f->inflater);
            return NULL;
        }
        if (n == 0 && !(flags & NGHTTP2_HD_INFLATE_EMIT))
            return last ? "a header block without an end" : NULL;
    }
}

static enum stream_state *state_of(struct frames *f, uint32_t id)
{
    for (size_t i = 0; i < f->n_streams; i++)
        if (f->streams[i].id == id)
            return &f->streams[i].state;
    if (f->n_streams == MAX_STREAMS)
        return NULL;
    f->streams[f->n_streams] = (struct stream){id, STREAM_NONE};
    return &f->streams[f->n_streams++].state;
}

static const char *on_stream(struct frames *f, int type, int flags, uint32_t stream, const unsigned char *data,
                             size_t n, struct tally *tally)
{
    enum stream_state *state = state_of(f, stream);
    if (!state || stream % 2 == 0)
        return "a stream that nobody opened";
    if (type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION) {
        if (*state == STREAM_ENDED || (type == NGHTTP2_CONTINUATION) != (f->block_stream == stream))
            return "a header block out of place";
        f->block_ends = type == NGHTTP2_HEADERS ? flags & NGHTTP2_FLAG_END_STREAM : f->block_ends;
        f->block_stream = flags & NGHTTP2_FLAG_END_HEADERS ? 0 : stream;
        *state = f->block_stream == 0 && f->block_ends ? STREAM_ENDED : STREAM_OPEN;
        return read_block(f, data, n, f->block_stream == 0, tally);
    }
    if (type == NGHTTP2_DATA) {
        if (*state != STREAM_OPEN)
            return "data on a stream that is not open";
        if (flags & NGHTTP2_FLAG_END_STREAM)
            *state = STREAM_ENDED;
        return NULL;
    }
    if (type == NGHTTP2_RST_STREAM) {
        tally->n_resets++;
        *state = STREAM_ENDED;
        return n == 4 ? NULL : "a reset of the wrong length";
    }
    return type == NGHTTP2_WINDOW_UPDATE && n == 4 ? NULL : "a frame that servers do not send on a stream";
}

static const char *check_http2(const struct buffer *in, bool cut, struct tally *tally, struct frames *f)
{
    const unsigned char *d = (const unsigned char *)in->data, *end = d + in->n_bytes;
    for (bool first = true; d < end; first = false) {
        if (end - d < 9)
            return cut ? NULL : "a frame's head is cut";
        size_t n = ((size_t)d[0] << 16) | ((size_t)d[1] << 8) | d[2];
        int type = d[3], flags = d[4];
        uint32_t stream = ((uint32_t)d[5] << 24) | ((uint32_t)d[6] << 16) | ((uint32_t)d[7] << 8) | d[8];
        const char *fault = NULL;
        d += 9;
        if (n > 16384)
            return "a frame larger than 16384 bytes";
        if ((size_t)(end - d) < n)
            return cut ? NULL : "a frame is cut";
        if (first && type != NGHTTP2_SETTINGS)
            return "the first frame is not SETTINGS";
        if (f->block_stream != 0 && (type != NGHTTP2_CONTINUATION || stream != f->block_stream))
            return "a frame inside a header block";
        if (stream > 0)
            fault = on_stream(f, type, flags, stream, d, n, tally);
        else if (type == NGHTTP2_GOAWAY)
            tally->n_goaways++;
        else if (type != NGHTTP2_SETTINGS && type != NGHTTP2_PING && type != NGHTTP2_WINDOW_UPDATE)
            fault = "a frame that servers do not send on stream 0";
        if (fault)
            return fault;
        d += n;
    }
    return NULL;
}

const char *answers_check(const struct buffer *in, bool cut, struct tally *t)
{
    if (in->n_bytes == 0)
        return NULL;
    if (in->data[0] == 'H')
        return check_http1(in, cut, t);
    struct frames f = {0};
    if (nghttp2_hd_inflate_new(&f.inflater) != 0)
        return "out of memory";
    const char *fault = check_http2(in, cut, t, &f);
    nghttp2_hd_inflate_del(f.inflater);
    return fault;
}
