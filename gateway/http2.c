/*
 * HTTP/2 (RFC 9113) on nghttp2's memory interface. nghttp2 checks framing, pseudo-headers and Content-Length; this file
 * keeps requests within their bounds and feeds answers to the flow control: body bytes wait in each exchange's `out`
 * until a DATA frame takes them, and frames are made only while less than HTTP_HIGH_WATER_BYTES wait in the transport.
 */
#include "gateway/http_internal.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STREAMS 128
#define MAX_BODIES 4 /* the bodies being received on one connection may fill this many times max_body_bytes */

struct http2 {
    struct http_conn *conn;
    nghttp2_session *session;
    struct http_exchange *exchanges; /* open streams, doubly linked */
    size_t n_exchanges, n_body_bytes;
    bool broken;
};

static void unlink_exchange(struct http2 *h, struct http_exchange *x)
{
    *(x->previous ? &x->previous->next : &h->exchanges) = x->next;
    if (x->next)
        x->next->previous = x->previous;
    h->n_exchanges--;
    h->n_body_bytes -= x->body.n_bytes;
}

static struct http_exchange *exchange_of(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* ---- request ---- */

static void reject(struct http_exchange *x, int status, const char *reason)
{
    if (x->rejected || x->seen)
        return;
    x->rejected = true;
    http_exchange_reject(x, status, reason);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct http2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct http_exchange *x = http_exchange_open(h->conn);
    if (!x)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    x->stream_id = frame->hd.stream_id;
    x->request.version = 20;
    x->next = h->exchanges;
    if (x->next)
        x->next->previous = x;
    h->exchanges = x;
    h->n_exchanges++;
    nghttp2_session_set_stream_user_data(session, x->stream_id, x);
    return 0;
}

/* Fields beyond the limits are dropped; the request is refused once its headers are complete. */
static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *user)
{
    (void)flags, (void)user;
    struct http_exchange *x = exchange_of(session, frame->hd.stream_id);
    if (!x || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    const char *key = (const char *)name, *text = (const char *)value;
    if (n_name == 7 && memcmp(key, ":method", 7) == 0)
        x->request.method = http_method_from_name(text, n_value);
    else if (n_name == 5 && memcmp(key, ":path", 5) == 0)
        http_exchange_path(x, text, n_value);
    else if (n_name > 0 && key[0] != ':' && !http_exchange_header(x, key, n_name, text, n_value))
        x->text.failed = true;
    if (x->text.n_bytes > HTTP_MAX_HEAD_BYTES)
        x->text.failed = true;
    return 0;
}

static void headers_complete(struct http2 *h, struct http_exchange *x)
{
    http_exchange_freeze(x);
    const char *length = http_header(&x->request, "content-length");
    if (x->text.failed)
        reject(x, 431, "the request's head is larger than 16384 bytes or has more than 100 fields");
    else if (!x->has_path)
        reject(x, 400, "expected a path as request target");
    else if (length && strtoull(length, NULL, 10) > h->conn->settings->max_body_bytes)
        reject(x, 413, "the body is larger than the server takes");
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct http2 *h = user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct http_exchange *x = exchange_of(session, frame->hd.stream_id);
    if (!x)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        headers_complete(h, x);
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && !x->rejected && !x->seen)
        http_exchange_request(x);
    return 0;
}

/* Many clients lose the answer to a refused upload when the stream is reset under them, so a good part of the rest is
 * taken and thrown away first. */
static void throw_away(nghttp2_session *session, struct http_exchange *x, size_t n_bytes, size_t limit)
{
    x->n_thrown += n_bytes;
    if (x->n_thrown > limit)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, x->stream_id, NGHTTP2_NO_ERROR);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t n_bytes,
                   void *user)
{
    (void)flags;
    struct http2 *h = user;
    struct http_exchange *x = exchange_of(session, stream_id);
    size_t limit = MAX_BODIES * h->conn->settings->max_body_bytes;
    if (!x)
        return 0;
    if (x->rejected || x->seen) {
        throw_away(session, x, n_bytes, limit);
        return 0;
    }
    if (n_bytes > limit - h->n_body_bytes || !buffer_append(&x->body, data, n_bytes))
        reject(x, 413, "the body is larger than the server takes");
    else
        h->n_body_bytes += n_bytes;
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *user)
{
    struct http_exchange *x = exchange_of(session, stream_id);
    if (!x)
        return 0;
    if (code != NGHTTP2_NO_ERROR || x->out.n_bytes > 0)
        x->aborted = true;
    nghttp2_session_set_stream_user_data(session, stream_id, NULL);
    unlink_exchange(user, x);
    http_exchange_close(x);
    return 0;
}

/* ---- answer ---- */

static ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *to, size_t max, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    (void)session, (void)stream_id, (void)user;
    struct http_exchange *x = source->ptr;
    size_t n = x->out.n_bytes < max ? x->out.n_bytes : max;
    if (n == 0 && !x->ended)
        return NGHTTP2_ERR_DEFERRED;
    if (n > 0)
        memcpy(to, x->out.data, n);
    buffer_consume(&x->out, n);
    if (x->ended && x->out.n_bytes == 0)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static nghttp2_nv name_value(const char *name, const char *value)
{
    /* nghttp2 copies both; it takes them as not const. */
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

static void start(struct http_exchange *x, const struct http_header *headers, int64_t n_body)
{
    struct http2 *h = x->conn->state;
    nghttp2_nv fields[24];
    size_t n = 0;
    struct buffer numbers;
    buffer_init(&numbers, 64);
    buffer_printf(&numbers, "%03d", x->status);
    buffer_append_char(&numbers, '\0');
    buffer_printf(&numbers, "%lld", (long long)n_body);
    fields[n++] = name_value(":status", numbers.data);
    for (; headers && headers->name && n < 23; headers++)
        fields[n++] = name_value(headers->name, headers->value);
    if (n_body >= 0 && x->status != 204 && x->status != 304)
        fields[n++] = name_value("content-length", numbers.data + 4);
    nghttp2_data_provider provider = {.source.ptr = x, .read_callback = read_body};
    bool no_body = n_body == 0 || x->request.method == HTTP_METHOD_HEAD;
    if (nghttp2_submit_response(h->session, x->stream_id, fields, n, no_body ? NULL : &provider) != 0)
        h->broken = true;
    buffer_fini(&numbers);
}

static void write_body(struct http_exchange *x, const void *data, size_t n_bytes)
{
    struct http2 *h = x->conn->state;
    if (!buffer_append(&x->out, data, n_bytes))
        h->broken = true;
    nghttp2_session_resume_data(h->session, x->stream_id);
}

static void end(struct http_exchange *x)
{
    struct http2 *h = x->conn->state;
    nghttp2_session_resume_data(h->session, x->stream_id);
}

static void abort_answer(struct http_exchange *x)
{
    struct http2 *h = x->conn->state;
    buffer_clear(&x->out);
    nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, x->stream_id, NGHTTP2_INTERNAL_ERROR);
}

static size_t queued(const struct http_exchange *x)
{
    return x->out.n_bytes;
}

/* ---- connection ---- */

static void make_frames(struct http2 *h)
{
    struct http_conn *c = h->conn;
    size_t pending = c->transport.pending(c->transport.user);
    while (!h->broken && c->out.n_bytes + pending < HTTP_HIGH_WATER_BYTES) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(h->session, &data);
        if (n < 0)
            h->broken = true;
        if (n <= 0)
            return;
        buffer_append(&c->out, data, (size_t)n);
    }
}

static void output(void *state)
{
    struct http2 *h = state;
    make_frames(h);
    /* on_writable only writes to the exchange or ends it: streams are closed by nghttp2, so the list stays as it is. */
    for (struct http_exchange *x = h->exchanges, *next; x; x = next) {
        next = x->next;
        http_exchange_writable(x);
    }
    make_frames(h);
    if (h->broken)
        h->conn->failed = true;
}

static bool input(void *state, const char *data, size_t n_bytes)
{
    struct http2 *h = state;
    ssize_t n = nghttp2_session_mem_recv(h->session, (const uint8_t *)data, n_bytes);
    if (n < 0) {
        nghttp2_session_terminate_session(h->session, NGHTTP2_PROTOCOL_ERROR);
        make_frames(h);
        return false;
    }
    return !h->broken;
}

static enum http_phase phase_of(const void *state)
{
    const struct http2 *h = state;
    if (h->broken || (!nghttp2_session_want_read(h->session) && !nghttp2_session_want_write(h->session)))
        return HTTP_PHASE_CLOSED;
    if (h->n_exchanges == 0)
        return h->conn->draining ? HTTP_PHASE_LINGER : HTTP_PHASE_IDLE;
    /* A stream whose request never ends must not keep the connection for ever; one answer at work is enough reason. */
    enum http_phase phase = HTTP_PHASE_BODY;
    for (const struct http_exchange *x = h->exchanges; x; x = x->next) {
        if (x->out.n_bytes > 0)
            return HTTP_PHASE_STALLED;
        if (x->seen && !x->ended)
            phase = HTTP_PHASE_ANSWER;
    }
    return phase;
}

static bool wants_input(const void *state)
{
    (void)state; /* flow control bounds it */
    return true;
}

static void drain(void *state)
{
    struct http2 *h = state;
    nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
                          NGHTTP2_NO_ERROR, NULL, 0);
}

static void close_state(void *state)
{
    struct http2 *h = state;
    while (h->exchanges) {
        struct http_exchange *x = h->exchanges;
        unlink_exchange(h, x);
        if (x->out.n_bytes > 0)
            x->aborted = true;
        http_exchange_close(x);
    }
    nghttp2_session_del(h->session);
    free(h);
}

static bool open_session(struct http2 *h)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    bool ok = nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0;
    if (ok) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
        /* Rapid reset (CVE-2023-44487) and endless CONTINUATION (CVE-2024-28182). */
        nghttp2_option_set_stream_reset_rate_limit(option, 1000, 33);
        nghttp2_option_set_max_continuations(option, 8);
        ok = nghttp2_session_server_new2(&h->session, callbacks, h, option) == 0;
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, MAX_STREAMS},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HTTP_MAX_HEAD_BYTES},
    };
    return ok &&
           nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0;
}

void *http2_open(struct http_conn *c)
{
    struct http2 *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->conn = c;
    if (!open_session(h)) {
        nghttp2_session_del(h->session);
        free(h);
        return NULL;
    }
    return h;
}

const struct http_protocol http2_protocol = {
    .input = input,
    .output = output,
    .phase = phase_of,
    .wants_input = wants_input,
    .drain = drain,
    .close = close_state,
    .start = start,
    .write = write_body,
    .end = end,
    .abort = abort_answer,
    .queued = queued,
};
