/*
 * http: what HTTP/1.1 and HTTP/2 have in common. A connection is an object without a socket: bytes go in, callbacks come
 * out, and bytes to be sent gather in an output buffer, so that both protocols are tested and fuzzed from memory.
 *
 *   transport (server.c, a test, the fuzzer)
 *        | http_conn_input()          ^ http_conn_output(), `wake`
 *        v                            |
 *   conn.c: the first 24 bytes decide -> http1.c or http2.c
 *        | on_request(exchange)       ^ http_respond() / http_start(), http_write(), http_end()
 *        v                            |
 *   application (router.c ...)
 *
 * An exchange is one request and its answer. It belongs to the connection; the application may use it from on_request
 * until it has ended the answer (http_respond, http_end) or on_gone was called, whichever comes first.
 *
 * All of it belongs to one thread, the event loop's. No function here calls back into the application except
 * http_conn_input, http_conn_output, http_conn_check and http_conn_close.
 */
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_MAX_HEAD_BYTES 16384 /* request line and header fields together, unless the settings say otherwise */
#define HTTP_MAX_HEADERS 100
#define HTTP_CERTIFICATE_BYTES 129 /* name of a client's certificate */
#define HTTP_LOW_WATER_BYTES 8192  /* on_writable comes when less than this waits */
#define HTTP_HIGH_WATER_BYTES 65536 /* HTTP/2 makes no more frames while this much waits in the transport */

enum http_method {
    HTTP_METHOD_GET,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_POST,
    HTTP_METHOD_PUT,
    HTTP_METHOD_DELETE,
    HTTP_METHOD_PATCH,
    HTTP_METHOD_OPTIONS,
    HTTP_METHOD_OTHER,
    HTTP_N_METHODS
};

/* A header field; names of requests are in lower case. */
struct http_header {
    const char *name, *value;
};

struct http_request {
    enum http_method method;
    int version;       /* 10, 11 or 20 */
    const char *path;  /* starts with '/'; percent-encoding as it came */
    const char *query; /* behind '?', or "" */
    const struct http_header *headers;
    size_t n_headers;
    const char *body;
    size_t n_body;
    const char *peer; /* address of the client, as text */
    const char *certificate; /* name in its TLS certificate, "" = none */
};

struct http_conn;
struct http_exchange;

/* Times are in ns; 0 = no limit. */
struct http_limits {
    int64_t head_ns;   /* from a connection's begin, or a request's first byte, to the end of its head */
    int64_t body_ns;   /* grace of a body, before min_rate counts */
    int64_t stall_ns;  /* grace of an answer that the client does not take */
    int64_t idle_ns;   /* without a request */
    int64_t linger_ns; /* for the client's end of the connection after ours */
    int64_t drain_ns;  /* for requests on their way to a server that is going down */
    int64_t min_rate;  /* bytes a second: of a body that comes, and of an answer that waits to be read */
};

/* Memory of the requests, heads and bodies, on all connections of one thread. */
struct http_memory {
    size_t n_bytes, max_bytes;
};

/* What the application tells a connection; borrowed until the connection is closed. */
struct http_settings {
    void *user;
    size_t max_body_bytes;
    size_t max_head_bytes; /* 0 = HTTP_MAX_HEAD_BYTES */
    uint32_t max_streams;  /* HTTP/2, at a time; 0 = 128 */
    bool compress;         /* whole answers, for clients that take gzip */
    struct http_limits limits;
    struct http_memory *memory; /* borrowed; a request for which there is none left is refused. NULL = no bound */
    /* A whole request is there. */
    void (*on_request)(void *user, struct http_exchange *x);
    /* A request cannot be served as it is (400, 408, 413, 417, 431, 503): answer it with this status; the connection then closes. The
     * request's fields may be incomplete: path is "" when it is not known. */
    void (*on_reject)(void *user, struct http_exchange *x, int status, const char *reason);
    /* The exchange is over and will be freed: the answer is out (aborted = false), or the client is gone. Comes once for
     * each exchange that on_request or on_reject saw. May be NULL. */
    void (*on_finish)(void *user, struct http_exchange *x, bool aborted);
};

/* The transport's half. */
struct http_transport {
    void *user;
    /* There may be something to send or to close: call http_conn_output soon, but not from within this call. */
    void (*wake)(void *user);
    /* Bytes handed over by http_conn_output that are not yet with the kernel. */
    size_t (*pending)(void *user);
};

enum http_phase {
    HTTP_PHASE_IDLE,    /* between requests */
    HTTP_PHASE_HEAD,    /* a request has begun */
    HTTP_PHASE_BODY,    /* a body is being received */
    HTTP_PHASE_ANSWER,  /* the application is at work */
    HTTP_PHASE_STALLED, /* HTTP/2: part of an answer waits for room that the client has to grant */
    HTTP_PHASE_LINGER,  /* only output and the end are left; input is thrown away */
    HTTP_PHASE_CLOSED   /* close as soon as the output is out */
};

/* ---- connection: for the transport ---- */

/* `peer` is copied. NULL when memory is out. */
struct http_conn *http_conn_open(const struct http_settings *settings, const struct http_transport *transport,
                                 const char *peer);
/* The name in the client's TLS certificate, copied; before the first byte. */
void http_conn_set_certificate(struct http_conn *c, const char *name);
/* Takes bytes that came. False: nothing more will be understood; send the output and close. */
bool http_conn_input(struct http_conn *c, const char *data, size_t n_bytes);
/* Appends what is to be sent to `out` and calls on_writable where a queue became short. */
void http_conn_output(struct http_conn *c, struct buffer *out);
/* What the connection waits for; the transport sets its time limit by it. */
enum http_phase http_conn_phase(const struct http_conn *c);
/* False while so much unread input is kept that the transport should stop reading. */
bool http_conn_wants_input(const struct http_conn *c);
/* The server is going down. First call: answers say that the connection will close (HTTP/1.1), the client is told to open no
 * more streams (HTTP/2); what is on its way is still served. Second call, which http_conn_check makes after the limit
 * drain_ns: nothing new is taken; what runs is finished. */
void http_conn_drain(struct http_conn *c);
/* Ends what is over its time limit: a request is answered 408, an answer that nobody reads is broken off, an idle connection
 * is closed in good order. Returns when to ask again (CLOCK_NEVER = not before the next event), or a time that has passed
 * when the whole connection is to be closed at once. To be called after http_conn_output; may make output. */
int64_t http_conn_check(struct http_conn *c, int64_t now_ns);
/* Calls on_gone and on_finish of what is open and frees. */
void http_conn_close(struct http_conn *c);

/* ---- exchange: for the application ---- */

const struct http_request *http_request_of(const struct http_exchange *x);
/* Value of a request header (lower-case name), or NULL. */
const char *http_header(const struct http_request *r, const char *name);
/* The byte that a percent-encoding (RFC 3986 section 2.1) at `text` stands for, or -1 when there is none. */
int http_percent(const char *text, size_t n_bytes);
const char *http_method_name(enum http_method method);
/* "Not Found" for 404; static. */
const char *http_reason(int status);

void http_set_user(struct http_exchange *x, void *user);
void *http_user(const struct http_exchange *x);
/* Headers that go into the answer beside those it is given, whoever gives it (ends with a NULL name; borrowed until the
 * exchange is over; may still grow until the answer begins). */
void http_set_extra(struct http_exchange *x, const struct http_header *headers);
/* `on_gone`: the client went away; the exchange must not be used any more. `on_writable`: after http_queued was above
 * HTTP_LOW_WATER_BYTES it is below again. Both get http_user; both may be NULL. */
void http_set_callbacks(struct http_exchange *x, void (*on_gone)(void *user), void (*on_writable)(void *user));

/* Status and headers (ends with a NULL name; NULL = none), then the whole body, which may be sent compressed. Ends the
 * exchange. HEAD: the body is left out. */
void http_respond(struct http_exchange *x, int status, const struct http_header *headers, const void *body,
                  size_t n_body);
/* Status and headers of a body that comes in pieces. */
void http_start(struct http_exchange *x, int status, const struct http_header *headers);
void http_write(struct http_exchange *x, const void *data, size_t n_bytes);
void http_end(struct http_exchange *x);
/* Breaks the answer off: HTTP/1.1 closes without the last chunk, HTTP/2 resets the stream. */
void http_abort(struct http_exchange *x);

/* Bytes of the answer that have not gone to the kernel yet. */
size_t http_queued(const struct http_exchange *x);
/* For logs: the status sent (0 = none yet) and the bytes of the body. */
int http_status_of(const struct http_exchange *x);
uint64_t http_bytes_of(const struct http_exchange *x);

#endif
