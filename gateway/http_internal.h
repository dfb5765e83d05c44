/*
 * Between conn.c, http.c, http_check.c, http1.c and http2.c only: what a connection and an exchange consist of.
 *
 * Text of a request (names, values, path) lies in one block; header entries are offsets into it until the head is
 * complete, because the block moves while it grows.
 */
#ifndef GATEWAY_HTTP_INTERNAL_H
#define GATEWAY_HTTP_INTERNAL_H

#include "gateway/http.h"
#include "gateway/pace.h"

#define HTTP_MAX_ANSWER_HEADERS 40 /* those behind are left out */

struct http_exchange {
    struct http_conn *conn;
    struct http_request request;
    struct buffer text; /* NUL-terminated strings of the request */
    struct buffer body;
    struct http_header headers[HTTP_MAX_HEADERS];
    size_t offsets[HTTP_MAX_HEADERS][2];
    size_t n_offsets, path_offset;
    bool has_path;
    const struct http_header *extra; /* borrowed; NULL = none */
    void *user;
    void (*on_gone)(void *user);
    void (*on_writable)(void *user);
    bool seen;           /* the application knows of it */
    bool started, ended; /* the answer */
    bool aborted;
    bool over_low_water; /* on_writable is owed */
    int status;
    uint64_t n_sent;
    /* HTTP/2 only */
    int32_t stream_id;
    struct buffer out; /* body bytes that no frame has taken yet */
    bool rejected;     /* the rest of the request is thrown away */
    bool complete;     /* the request has ended */
    bool reset;        /* RST_STREAM is on its way */
    struct pace coming, going;
    size_t n_thrown;   /* bytes of it */
    size_t n_fields;   /* bytes of header fields, those beyond the limits too */
    size_t n_charged;  /* of the settings' memory */
    struct http_exchange *next, *previous;
};

/* One protocol on one connection. */
struct http_protocol {
    bool (*input)(void *state, const char *data, size_t n_bytes);
    void (*output)(void *state);
    enum http_phase (*phase)(const void *state);
    bool (*wants_input)(const void *state);
    void (*drain)(void *state, bool last);
    int64_t (*check)(void *state, int64_t now_ns); /* http_conn_check for its requests and answers */
    void (*close)(void *state);
    void (*start)(struct http_exchange *x, const struct http_header *headers, int64_t n_body); /* -1 = in pieces */
    void (*write)(struct http_exchange *x, const void *data, size_t n_bytes);
    void (*end)(struct http_exchange *x);
    void (*abort)(struct http_exchange *x);
    size_t (*queued)(const struct http_exchange *x);
};

struct http_conn {
    const struct http_settings *settings;
    struct http_transport transport;
    const struct http_protocol *protocol; /* NULL until the first bytes have decided */
    void *state;
    struct buffer out; /* for the transport */
    bool failed;       /* out of memory, or the input is not to be understood */
    char preface[24];
    size_t n_preface;
    int draining;     /* calls of http_conn_drain: 0, 1, 2 */
    int64_t drain_ns; /* the first check after the first one */
    enum http_phase phase; /* at the last check, and since when */
    int64_t phase_ns;
    char peer[64];
    char certificate[HTTP_CERTIFICATE_BYTES];
};

extern const struct http_protocol http1_protocol, http2_protocol;
void *http1_open(struct http_conn *c);
void *http2_open(struct http_conn *c);

struct http_exchange *http_exchange_open(struct http_conn *c);
/* Tells the application (on_gone unless the answer was ended, on_finish) and frees. */
void http_exchange_close(struct http_exchange *x);
/* Adds a header; lower-cases the name. False when it has no name, or there are too many or they are too long. */
bool http_exchange_header(struct http_exchange *x, const char *name, size_t n_name, const char *value, size_t n_value);
/* Takes the request's target: a path, "*", or an http(s) address, of which only the path counts (RFC 9112 section 3.2.2).
 * False when it is none of these. */
bool http_exchange_path(struct http_exchange *x, const char *target, size_t n_bytes);
/* Turns offsets into pointers. */
void http_exchange_freeze(struct http_exchange *x);
/* Counts what the exchange holds by now. False when all requests together hold more than they may. */
bool http_exchange_charge(struct http_exchange *x);
#define HTTP_NO_MEMORY "the requests in flight fill the memory that the server keeps for them"
void http_exchange_request(struct http_exchange *x);
void http_exchange_reject(struct http_exchange *x, int status, const char *reason);
/* Calls on_writable when it is owed. May end the exchange. */
void http_exchange_writable(struct http_exchange *x);
/* Why a request cannot be accepted; status 0 = it can. */
struct http_fault {
    int status;
    const char *reason; /* static */
};

/* http_check.c. Target, Host, fields that may be there once, and Expect, of either protocol; then how long an HTTP/1 request is. */
struct http_fault http_check(const struct http_request *r);
struct http_fault http_check_framing(const struct http_request *r);
/* HTTP/1: looks for the empty line that ends a head, or a trailer section, in the bytes behind *n_scanned, which moves on.
 * 1 = it ends at *n_head, 0 = more is needed, -1 = there is what no head may contain: folded lines, a lone CR or LF, control
 * characters. */
int http_scan_head(const struct buffer *in, size_t *n_scanned, size_t *n_head);
/* Host or authority: a name or an address, and perhaps a port. */
bool http_host_valid(const char *host, size_t n_bytes);
/* Does the client wait for 100 before it sends the body? Only for what http_check has accepted. */
bool http_expects_continue(const struct http_request *r);

enum http_method http_method_from_name(const char *name, size_t n_bytes);
/* The value of Date (RFC 9110 section 6.6.1); returns `text`. */
#define HTTP_DATE_BYTES 40
const char *http_date(char text[HTTP_DATE_BYTES]);
void http_wake(struct http_conn *c);
size_t http_max_head(const struct http_conn *c);

#endif
