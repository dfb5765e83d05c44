/*
 * HTTP/2 (RFC 9113) on nghttp2's memory interface. nghttp2 checks framing, pseudo-headers and Content-Length; this file
 * keeps requests within their bounds and feeds answers to the flow control: body bytes wait in each exchange's `out`
 * until a DATA frame takes them, and frames are made only while less than HTTP_HIGH_WATER_BYTES wait in the transport.
 *
 * A stream costs its client less than it costs the server, so streams that come to nothing are counted: a connection may
 * break off BROKEN_BURST of them at once and BROKEN_PER_S each second, whoever resets them and why (CVE-2023-44487,
 * CVE-2025-8671).
 */
#include "base/clock.h"
#include "gateway/http_internal.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_STREAMS 128
#define MAX_BODIES 4 /* the bodies being received on one connection may fill this many times max_body_bytes */
#define MAX_FIELD_BYTES (4 * HTTP_MAX_HEAD_BYTES) /* of a header list that is still read to its end */
#define MAX_OUTBOUND 1000                         /* frames; while more wait nothing is read */
#define BROKEN_BURST 1000
#define BROKEN_PER_S 33

struct http2 {
    struct http_conn *conn;
    nghttp2_session *session;
    struct http_exchange *exchanges; /* open streams, doubly linked */
    size_t n_exchanges, n_body_bytes;
    double n_broken; /* streams that came to nothing, less what time has forgiven */
    int64_t broken_ns;
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

static nghttp2_nv name_value(const char *name, const char *value)
{
    /* nghttp2 copies both; it takes them as not const. */
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

/* ---- request ---- */

static void send_continue(struct http2 *h, const struct http_exchange *x)
{
    const nghttp2_nv status = name_value(":status", "100");
    if (nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, x->stream_id, NULL, &status, 1, NULL) < 0)
        h->broken = true;
}

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

/* Fields beyond the limits are dropped; the request is refused once its headers are complete. A few bytes can stand for
 * very many by HPACK's references, so a list that goes on and on is not decoded to its end. */
static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *user)
{
    (void)flags, (void)user;
    struct http_exchange *x = exchange_of(session, frame->hd.stream_id);
    if (!x || frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    x->n_fields += n_name + n_value;
    if (x->n_fields > MAX_FIELD_BYTES)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    const char *key = (const char *)name, *text = (const char *)value;
    if (n_name == 7 && memcmp(key, ":method", 7) == 0)
        x->request.method = http_method_from_name(text, n_value);
    else if (n_name == 5 && memcmp(key, ":path", 5) == 0)
        http_exchange_path(x, text, n_value);
    else if (n_name == 10 && memcmp(key, ":authority", 10) == 0)
        http_exchange_header(x, "host", 4, text, n_value);
    else if (n_name > 0 && key[0] != ':' && !http_exchange_header(x, key, n_name, text, n_value))
        x->text.failed = true;
    if (x->text.n_bytes > http_max_head(x->conn))
        x->text.failed = true;
    return 0;
}

static void headers_complete(struct http2 *h, struct http_exchange *x, bool has_body)
{
    http_exchange_freeze(x);
    const struct http_fault fault = http_check(&x->request);
    const char *length = http_header(&x->request, "content-length");
    if (x->text.failed)
        reject(x, 431, "the request's head is larger than the server takes or has more than 100 fields");
    else if (fault.status != 0)
        reject(x, fault.status, fault.reason);
    else if (length && strtoull(length, NULL, 10) > h->conn->settings->max_body_bytes)
        reject(x, 413, "the body is larger than the server takes");
    else if (!http_exchange_charge(x))
        reject(x, 503, HTTP_NO_MEMORY);
    else if (has_body && http_expects_continue(&x->request))
        send_continue(h, x);
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
        headers_complete(h, x, !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM));
    if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    x->complete = true;
    if (!x->rejected && !x->seen)
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
    if (!http_exchange_charge(x))
        reject(x, 503, HTTP_NO_MEMORY);
    return 0;
}

static void count_broken(struct http2 *h)
{
    int64_t now_ns = clock_now_ns();
    h->n_broken -= (double)(now_ns - h->broken_ns) / CLOCK_NS_PER_S * BROKEN_PER_S;
    h->n_broken = (h->n_broken > 0 ? h->n_broken : 0) + 1;
    h->broken_ns = now_ns;
    if (h->n_broken > BROKEN_BURST)
        nghttp2_session_terminate_session(h->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *user)
{
    struct http_exchange *x = exchange_of(session, stream_id);
    if (!x)
        return 0;
    if (code != NGHTTP2_NO_ERROR || x->out.n_bytes > 0)
        x->aborted = true;
    if (x->aborted || !x->ended)
        count_broken(user);
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

static void start(struct http_exchange *x, const struct http_header *headers, int64_t n_body)
{
    struct http2 *h = x->conn->state;
    nghttp2_nv fields[HTTP_MAX_ANSWER_HEADERS + 3]; /* with status, date and length */
    char date[HTTP_DATE_BYTES], status[12], length[24];
    size_t n = 0;
    snprintf(status, sizeof status, "%03d", x->status);
    snprintf(length, sizeof length, "%lld", (long long)n_body);
    fields[n++] = name_value(":status", status);
    fields[n++] = name_value("date", http_date(date));
    for (; headers && headers->name && n < HTTP_MAX_ANSWER_HEADERS + 2; headers++)
        fields[n++] = name_value(headers->name, headers->value);
    if (n_body >= 0 && x->status != 204 && x->status != 304)
        fields[n++] = name_value("content-length", length);
    nghttp2_data_provider provider = {.source.ptr = x, .read_callback = read_body};
    bool no_body = n_body == 0 || x->request.method == HTTP_METHOD_HEAD;
    if (nghttp2_submit_response(h->session, x->stream_id, fields, n, no_body ? NULL : &provider) != 0)
        h->broken = true;
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

/* Flow control bounds what bodies bring; the answers to frames without flow control wait for a client that reads. */
static bool wants_input(const void *state)
{
    const struct http2 *h = state;
    return nghttp2_session_get_outbound_queue_size(h->session) < MAX_OUTBOUND;
}

/* In two steps (RFC 9113 section 6.8): streams that the client opened before it heard of the first are still served. */
static void drain(void *state, bool last)
{
    struct http2 *h = state;
    if (!last) {
        nghttp2_submit_shutdown_notice(h->session);
        return;
    }
    nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
                          NGHTTP2_NO_ERROR, NULL, 0);
}

static void reset(struct http2 *h, struct http_exchange *x)
{
    x->aborted = x->reset = true;
    nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, x->stream_id, NGHTTP2_CANCEL);
    http_wake(h->conn);
}

/* One stream: a request that comes too slowly is answered, and ended when it goes on like that; an answer that the client's
 * window holds up is ended. The other streams of the connection go on. */
static int64_t check_stream(struct http2 *h, struct http_exchange *x, int64_t now_ns)
{
    const struct http_limits *l = &h->conn->settings->limits;
    uint64_t n_came = x->body.n_bytes + x->n_thrown, n_went = x->n_sent - x->out.n_bytes;
    if (x->reset)
        return CLOCK_NEVER;
    pace_follow(&x->coming, !x->complete, n_came, now_ns);
    pace_follow(&x->going, x->out.n_bytes > 0, n_went, now_ns);
    int64_t coming_ns = pace_deadline(&x->coming, l->body_ns, l->min_rate);
    int64_t going_ns = pace_deadline(&x->going, l->stall_ns, l->min_rate);
    bool answered = x->rejected || x->seen, no_head = !x->request.headers;
    if (now_ns >= going_ns || (now_ns >= coming_ns && (answered || no_head))) {
        reset(h, x);
        return CLOCK_NEVER;
    }
    if (now_ns >= coming_ns) {
        x->coming = (struct pace){0};
        reject(x, 408, "the request comes too slowly");
        return now_ns + l->body_ns;
    }
    return coming_ns < going_ns ? coming_ns : going_ns;
}

static int64_t check(void *state, int64_t now_ns)
{
    struct http2 *h = state;
    int64_t first_ns = CLOCK_NEVER;
    for (struct http_exchange *x = h->exchanges; x; x = x->next) {
        int64_t deadline_ns = check_stream(h, x, now_ns);
        if (deadline_ns < first_ns)
            first_ns = deadline_ns;
    }
    return first_ns;
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
        /* nghttp2 counts resets by the client before they reach us; and endless CONTINUATION (CVE-2024-28182). */
        nghttp2_option_set_stream_reset_rate_limit(option, BROKEN_BURST, BROKEN_PER_S);
        nghttp2_option_set_max_continuations(option, 8);
        ok = nghttp2_session_server_new2(&h->session, callbacks, h, option) == 0;
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    uint32_t max_streams = h->conn->settings->max_streams;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, max_streams > 0 ? max_streams : DEFAULT_STREAMS},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)http_max_head(h->conn)},
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
    .check = check,
    .close = close_state,
    .start = start,
    .write = write_body,
    .end = end,
    .abort = abort_answer,
    .queued = queued,
};
