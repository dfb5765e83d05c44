/* Valid requests, and what is done to them. */
#include "tests/mutate/mutate.h"

#include <string.h>

#define MAX_CASE_BYTES (1 << 16)
#define COUNT(list) (sizeof(list) / sizeof *(list))
#define JSON "Host: a\r\nContent-Type: application/json\r\n"
#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static const char *const requests[] = {
    "GET /health/live HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=0.5, *;q=0\r\n\r\n",
    "GET /v1/models?status=active HTTP/1.1\r\nHost: a:80\r\nX-Request-Id: abc\r\nConnection: close\r\n\r\n",
    "HEAD /health/ready HTTP/1.1\r\nHost: [::1]:8080\r\n\r\nGET /v1/models/null-model HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS /v1/inference HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "POST /v1/inference HTTP/1.1\r\n" JSON "Content-Length: 60\r\n\r\n"
    "{\"prompt\":\"a\",\"max_tokens\":3,\"seed\":7,\"stop_sequences\":[\"x\"]}",
    "POST /v1/inference/stream HTTP/1.1\r\n" JSON "Content-Length: 29\r\n\r\n{\"prompt\":\"a\",\"max_tokens\":3}",
    "POST /v1/inference HTTP/1.1\r\n" JSON "Transfer-Encoding: chunked\r\n\r\n"
    "d;a=\"b\"\r\n{\"prompt\":\"a\"\r\n10\r\n,\"max_tokens\":2}\r\n0\r\nX: y\r\n\r\nGET /health/live HTTP/1.1\r\nHost: "
    "a\r\n\r\n",
    "POST /v1/chat/completions HTTP/1.1\r\n" JSON "Accept: text/event-stream\r\nContent-Length: 77\r\n\r\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":2,\"stream\":true}   ",
    "POST /v1/completions HTTP/1.1\r\n" JSON
    "Authorization: Bearer x.y.z\r\nExpect: 100-continue\r\nContent-Length: 57\r\n\r\n"
    "{\"prompt\":[\"a\",\"b\"],\"max_tokens\":2,\"logprobs\":1,\"n\":2}    ",
    "POST /tokenize HTTP/1.1\r\n" JSON
    "Accept: application/problem+json\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}",
    "DELETE /v1/models/%61 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    "HTTP2-Settings: AAMAAABk\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
};

/* ---- random numbers: splitmix64 ---- */

static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t n)
{
    return n > 0 ? (size_t)(next(state) % n) : 0;
}

/* ---- HTTP/2 ---- */

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

static void frame(struct buffer *b, int type, int flags, uint32_t stream, const void *data, size_t n)
{
    const unsigned char head[9] = {
        (unsigned char)(n >> 16),      (unsigned char)(n >> 8),      (unsigned char)n,
        (unsigned char)type,           (unsigned char)flags,         (unsigned char)(stream >> 24),
        (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};
    buffer_append(b, head, sizeof head);
    buffer_append(b, data, n);
}

static void field(struct buffer *b, char first, const char *name, const char *value)
{
    buffer_append_char(b, first);
    buffer_append_char(b, (char)strlen(name));
    buffer_append_str(b, name);
    buffer_append_char(b, (char)strlen(value));
    buffer_append_str(b, value);
}

/* A request of its own stream: head, perhaps in two frames, and body, perhaps in two. */
static void request(struct buffer *b, uint64_t *random, uint32_t stream, const char *method, const char *path,
                    const char *body)
{
    static const char *const extra[][2] = {{"accept-encoding", "gzip"},
                                           {"x-request-id", "abc"},
                                           {"te", "trailers"},
                                           {"content-type", "application/json"},
                                           {"expect", "100-continue"}};
    struct buffer block;
    size_t n_body = strlen(body), which = below(random, COUNT(extra));
    int end = n_body == 0 ? END_STREAM : 0;
    buffer_init(&block, MAX_CASE_BYTES);
    field(&block, 0, ":method", method);
    field(&block, 0, ":scheme", "http");
    field(&block, 0x40, ":authority", "a"); /* goes into the table; 0x80 | 62 would be it */
    field(&block, 0, ":path", path);
    field(&block, 0x40, extra[which][0], extra[which][1]);
    size_t n_first = below(random, 3) == 0 ? below(random, block.n_bytes) : block.n_bytes;
    frame(b, HEADERS, end | (n_first == block.n_bytes ? END_HEADERS : 0), stream, block.data, n_first);
    if (n_first < block.n_bytes)
        frame(b, CONTINUATION, END_HEADERS, stream, block.data + n_first, block.n_bytes - n_first);
    n_first = below(random, n_body + 1);
    if (n_body > 0) {
        frame(b, DATA, 0, stream, body, n_first);
        frame(b, DATA, END_STREAM, stream, body + n_first, n_body - n_first);
    }
    buffer_fini(&block);
}

static void make_http2(struct buffer *b, uint64_t *random)
{
    static const char *const bodies[] = {"{\"prompt\":\"a\",\"max_tokens\":2}", "{\"prompt\":1}", "",
                                         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":2}"};
    static const char *const paths[] = {"/v1/inference", "/v1/inference/stream", "/v1/chat/completions", "/tokenize"};
    uint32_t stream = 1;
    buffer_append_str(b, PREFACE);
    frame(b, SETTINGS, 0, 0, "\0\3\0\0\0\x64\0\4\0\1\0\0", below(random, 3) * 6);
    for (size_t n = 1 + below(random, 3); n > 0; n--, stream += 2) {
        if (below(random, 2) == 0)
            request(b, random, stream, "GET", below(random, 2) == 0 ? "/health/live" : "/v1/models?x", "");
        else
            request(b, random, stream, "POST", paths[below(random, COUNT(paths))],
                    bodies[below(random, COUNT(bodies))]);
        switch (below(random, 8)) {
        case 0:
            frame(b, RST_STREAM, 0, stream, "\0\0\0\x08", 4);
            break;
        case 1:
            frame(b, WINDOW_UPDATE, 0, below(random, 2) == 0 ? 0 : stream, "\0\0\x10\0", 4);
            break;
        case 2:
            frame(b, PING, 0, 0, "12345678", 8);
            break;
        case 3:
            frame(b, PRIORITY, 0, stream, "\0\0\0\0\x10", 5);
            break;
        case 4:
            frame(b, SETTINGS, ACK, 0, "", 0);
            break;
        default:
            break;
        }
    }
}

/* A frame's head gets another value; the frame is found by walking. */
static void mutate_frame(struct buffer *b, uint64_t *random)
{
    size_t starts[32], n = 0;
    unsigned char *d = (unsigned char *)b->data;
    for (size_t at = sizeof PREFACE - 1; at + 9 <= b->n_bytes && n < COUNT(starts);) {
        starts[n++] = at;
        at += 9 + (((size_t)d[at] << 16) | ((size_t)d[at + 1] << 8) | d[at + 2]);
    }
    if (n == 0)
        return;
    unsigned char *head = d + starts[below(random, n)];
    switch (below(random, 4)) {
    case 0:
        head[2] = (unsigned char)(head[2] + below(random, 16) - 8);
        break;
    case 1:
        head[3] = (unsigned char)below(random, 12);
        break;
    case 2:
        head[4] ^= (unsigned char)(1u << below(random, 8));
        break;
    default:
        head[8] = (unsigned char)below(random, 12);
    }
}

/* ---- mutations of bytes ---- */

static void splice(struct buffer *b, size_t at, size_t n_removed, const void *data, size_t n)
{
    struct buffer rest;
    buffer_init(&rest, MAX_CASE_BYTES);
    buffer_append(&rest, b->data + at + n_removed, b->n_bytes - at - n_removed);
    b->n_bytes = at;
    buffer_append(b, data, n);
    buffer_append(b, rest.data ? rest.data : "", rest.n_bytes);
    buffer_fini(&rest);
}

static void insert_token(struct buffer *b, uint64_t *random)
{
    static const char *const tokens[] = {
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        "\t",
        ":",
        ",",
        ";",
        "0",
        "-1",
        "+",
        "/",
        "%00",
        "%2e%2e/",
        "\"",
        "{",
        "[",
        "]",
        "}",
        "\\u0000",
        "\xff",
        "\xc0\x80",
        "1e999",
        "99999999999999999999",
        "chunked",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\n",
        "Host: b\r\n",
        "0\r\n\r\n",
        "Connection: close\r\n",
        "Expect: x\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "null",
        "true",
    };
    const char *token = tokens[below(random, COUNT(tokens))];
    size_t n = strlen(token);
    splice(b, below(random, b->n_bytes + 1), 0, n > 0 ? token : "\0", n > 0 ? n : 1);
}

static void mutate(struct buffer *b, uint64_t *random, bool http2)
{
    size_t at = below(random, b->n_bytes), n = below(random, b->n_bytes - at < 40 ? b->n_bytes - at : 40);
    char copy[40];
    if (b->n_bytes == 0 || b->n_bytes > MAX_CASE_BYTES / 2)
        return;
    memcpy(copy, b->data + at, n);
    /* Frames are soon beyond repair: mostly what is in them changes. */
    switch (http2 && below(random, 2) == 0 ? below(random, 2) : below(random, http2 ? 11 : 8)) {
    case 0:
        b->data[at] = (char)(b->data[at] ^ (1u << below(random, 8)));
        break;
    case 1:
        b->data[at] = (char)next(random);
        break;
    case 2:
        splice(b, at, n, "", 0);
        break;
    case 3:
        splice(b, below(random, b->n_bytes), 0, copy, n); /* something twice */
        break;
    case 4:
        b->n_bytes = at; /* cut */
        break;
    case 5:
        splice(b, at, 0, "\0", 1);
        break;
    case 6:
    case 7:
        insert_token(b, random);
        break;
    default:
        mutate_frame(b, random);
    }
}

void case_make(int protocol, uint64_t seed, uint64_t index, struct buffer *out)
{
    uint64_t random = seed * 1000003 + (uint64_t)protocol;
    random = next(&random) + index;
    (void)next(&random);
    buffer_clear(out);
    if (protocol == 2)
        make_http2(out, &random);
    else
        buffer_append_str(out, requests[below(&random, COUNT(requests))]);
    if (protocol == 1 && below(&random, 4) == 0)
        buffer_append_str(out, requests[below(&random, COUNT(requests))]);
    for (size_t n = 1 + below(&random, 4); n > 0; n--)
        mutate(out, &random, protocol == 2);
}
