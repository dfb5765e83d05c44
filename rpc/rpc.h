/*
 * rpc: gRPC C core wrapped once, for the server and the client side. Bytes in, bytes out: no protobuf here.
 *
 * Threads. A server and each client run one thread per completion queue; all callbacks come on such a thread and must not
 * block. Functions may be called from any thread unless said otherwise, also from within callbacks. Each start_batch costs
 * 30-50 us on the calling thread, so a compute thread never calls rpc functions: it wakes somebody (see rpc_post).
 *
 * Ownership. Calls are reference-counted: a callback gets a borrowed reference; who keeps a call beyond the callback takes
 * one (rpc_call_get) and gives it back (rpc_call_put). Bytes given to callbacks are borrowed until they return; bytes given to
 * functions are copied.
 *
 * fork after rpc_init breaks gRPC: only posix_spawn.
 */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Once a process, before the first thread that is to have signals blocked; sends gRPC's log to ours. */
void rpc_init(void);
void rpc_fini(void);

/* A status as it ends a call: gRPC code, message, and the google.rpc.Status of grpc-status-details-bin. */
struct rpc_status {
    int code;                    /* google.rpc.Code; 0 = OK */
    const char *message;         /* borrowed, never NULL */
    const void *details;         /* packed google.rpc.Status, or NULL */
    size_t details_n_bytes;
};

/* The name of a gRPC code, "UNAVAILABLE"; "UNKNOWN" for others. Static. */
const char *rpc_status_name(int code);

/* ---- server ----------------------------------------------------------------------------------------------------- */

struct rpc_server;
struct rpc_call;

enum rpc_kind { RPC_UNARY, RPC_SERVER_STREAM, RPC_BIDI };

/* One method. The callbacks share the call's user pointer (rpc_call_set_user). */
struct rpc_method {
    const char *path;            /* "/bitnet.v1.InferenceService/Generate" */
    enum rpc_kind kind;
    void *service;               /* passed to the callbacks */
    /* A request message came. UNARY and SERVER_STREAM: once. BIDI: once for each; the next one is read after rpc_call_read. */
    void (*on_message)(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
    /* BIDI: the client will send no more. */
    void (*on_half_close)(void *service, struct rpc_call *call);
    /* The message given to rpc_call_send was accepted by flow control; the next may be sent. May be NULL. */
    void (*on_sent)(void *service, struct rpc_call *call, bool ok);
    /* The call is over: its status is out, or the client cancelled or went away, or the deadline passed (cancelled = true). Last
     * callback of a call that had an on_message; after it nothing but rpc_call_put may be called on it. May be NULL. */
    void (*on_done)(void *service, struct rpc_call *call, bool cancelled);
    /* A function posted with rpc_post runs. */
};

struct rpc_server_options {
    const struct rpc_method *methods; /* ends with a NULL path; unknown methods get UNIMPLEMENTED */
    const char *listen;          /* "127.0.0.1:50051", "[::]:50051", "unix:/run/x.sock", several separated by commas */
    /* PEM files; NULL = plain text; client CA = mutual TLS. The paths are borrowed until the server is closed: when the files have changed,
     * new connections get what they hold now. A pair that does not fit together is logged, and the one before stays. */
    const char *tls_cert_file, *tls_key_file, *tls_client_ca_file;
    size_t max_message_bytes;    /* received; 0 = 4 MiB */
    int max_concurrent_streams;  /* a connection; 0 = 1024 */
    int n_threads;               /* completion queues; 0 = 1 */
    int max_connection_age_ms;   /* then a connection gets GOAWAY, so that its client looks anew where to go; 0 = never */
    int max_connection_age_grace_ms; /* what its calls get to end after that; 0 = all the time they need */
    int keepalive_ms, keepalive_timeout_ms; /* a silent client is pinged, and given up without an answer; 0 = 60 s, 10 s */
};

/* Binds and starts serving. Errors name the address. */
enum error_code rpc_server_open(const struct rpc_server_options *options, struct rpc_server **out, struct error *err);
/* The port that was bound (for listen ":0"), of the first address; 0 for unix sockets. */
int rpc_server_port(const struct rpc_server *s);
/* GOAWAY: no new calls; returns when the open ones have ended or deadline_ns passed; then cancels what is left. */
void rpc_server_drain(struct rpc_server *s, int64_t deadline_ns);
/* Cancels what is left, joins the threads, frees. */
void rpc_server_close(struct rpc_server *s);

void rpc_call_get(struct rpc_call *c);
void rpc_call_put(struct rpc_call *c);
void rpc_call_set_user(struct rpc_call *c, void *user);
void *rpc_call_user(const struct rpc_call *c);
/* The deadline in clock_now_ns terms, CLOCK_NEVER when there is none. */
int64_t rpc_call_deadline_ns(const struct rpc_call *c);
/* Client metadata by lower-case key, NULL when absent; valid as long as the call. */
const char *rpc_call_metadata(const struct rpc_call *c, const char *key);
/* "ipv4:127.0.0.1:4711"; valid as long as the call. */
const char *rpc_call_peer(struct rpc_call *c);
/* Adds initial metadata; before the first send or finish. */
void rpc_call_add_metadata(struct rpc_call *c, const char *key, const char *value);
/* Adds trailing metadata, before the finish; `key` is static, and ends with -bin where the value is not text. 2 a call; more are left out. */
void rpc_call_add_trailer(struct rpc_call *c, const char *key, const void *value, size_t n_bytes);
/* Sends one message; one at a time: false (and nothing sent) while one is under way or the call is over. */
bool rpc_call_send(struct rpc_call *c, const void *data, size_t n_bytes);
/* BIDI: asks for the next message. */
void rpc_call_read(struct rpc_call *c);
/* Ends the call after what was sent; once. UNARY: data is the answer when status is OK (else NULL); streams: data is NULL. */
void rpc_call_finish(struct rpc_call *c, const struct rpc_status *status, const void *data, size_t n_bytes);
/* Ends the call at once with this status, whatever waits to be sent: for a client that reads no more, behind whose unread messages a status
 * would never get out. on_done comes soon. */
void rpc_call_abort(struct rpc_call *c, int code, const char *message);
/* Runs `run(service, call)` soon on the call's completion thread; cheap, lock-free for the caller but for one eventfd-like wake that
 * all calls of the thread share, coalesced: several posts before it ran count as one. Meant for compute threads. The call must be referenced by the caller. */
void rpc_post(struct rpc_call *c, void (*run)(void *service, struct rpc_call *call));

/* ---- client ----------------------------------------------------------------------------------------------------- */

struct rpc_queue;
struct rpc_client;
struct rpc_request;

/* A completion queue with its thread, on which the callbacks of several clients come. */
enum error_code rpc_queue_open(struct rpc_queue **out, struct error *err);
/* The same without a thread: callbacks come in rpc_queue_turn, on the thread that calls it. For a client that has little to do: gRPC lets one
 * of all waiting threads do the reading for all, so that a thread more that waits makes every call of the process dearer. All of its calls
 * must be over before rpc_client_close. */
enum error_code rpc_queue_open_idle(struct rpc_queue **out, struct error *err);
/* Runs what is ready, without waiting. One thread at a time; not for a queue with a thread. */
void rpc_queue_turn(struct rpc_queue *q);
/* After the last client that uses it was closed. */
void rpc_queue_close(struct rpc_queue *q);

/* A client's certificates, in PEM files: the CA that signed those of servers (NULL = the system's), and its own pair for servers that ask for
 * one (NULL, NULL = none). gRPC looks at the files every second: a connection begins with what they hold then, one that is open stays as it
 * is, and while they do not fit together there is no new one. For any number of clients; the paths are copied. */
struct rpc_tls;
/* An error says which file is not usable. */
enum error_code rpc_tls_open(const char *ca_file, const char *cert_file, const char *key_file, struct rpc_tls **out, struct error *err);
/* Clients that were opened with it keep what they need. NULL is nothing. */
void rpc_tls_close(struct rpc_tls *t);

#define RPC_MIN_KEEPALIVE_MS 1000 /* our servers send clients away that ping more often */

struct rpc_client_options {
    const char *target;          /* "127.0.0.1:50051", "dns:///name:port", "ipv4:a:1,b:2", "unix:/path" */
    const char *service_config;  /* JSON or NULL */
    struct rpc_queue *queue;     /* borrowed until the client is closed; NULL = one of its own */
    const char *authority;       /* who the server says it is, in :authority and its certificate; NULL = as the target has it */
    const struct rpc_tls *tls;   /* borrowed until rpc_client_open returns; NULL = plain text */
    const char *tls_name;        /* that the server's certificate must have; NULL = the target's host */
    size_t max_message_bytes;    /* received; 0 = 16 MiB */
    int n_connections;           /* that calls take in turn; 0 = 1 */
    bool unhurried;              /* for a server that can wait: no keepalive pings, and more time between attempts to connect */
    int keepalive_ms, keepalive_timeout_ms; /* a silent server is pinged, and given up without an answer; 0 = 10 s, 5 s */
};

/* Makes the channels (they connect when first used, or at once by rpc_client_connected(.., true)). */
enum error_code rpc_client_open(const struct rpc_client_options *options, struct rpc_client **out, struct error *err);
/* Cancels what is open, waits for its on_status, frees. */
void rpc_client_close(struct rpc_client *c);
/* True when all connections are READY; try_to_connect leaves the idle state. */
bool rpc_client_connected(struct rpc_client *c, bool try_to_connect);

struct rpc_request_options {
    const char *path;            /* static string */
    const void *data;            /* the request message */
    size_t n_bytes;
    int64_t deadline_ns;         /* clock_now_ns terms; CLOCK_NEVER = none */
    bool wait_for_ready;         /* false: fail at once with UNAVAILABLE when there is no connection */
    const char *const *metadata; /* key, value, key, value, ..., NULL; or NULL */
    size_t window_bytes;         /* 0 = no limit; else reading pauses while rpc_request_hold'ed bytes exceed this */
    void *user;
    /* A message came: the answer of a unary call, or one of a stream. */
    void (*on_message)(void *user, const void *data, size_t n_bytes);
    /* The call is over; last callback. */
    void (*on_status)(void *user, const struct rpc_status *status);
};
/* Starts a unary or server-streaming call. The handle is the caller's until rpc_request_close. */
enum error_code rpc_request_start(struct rpc_client *c, const struct rpc_request_options *options, struct rpc_request **out,
                                  struct error *err);
/* Back-pressure: hold adds n_bytes that the consumer has taken but not yet passed on, release subtracts; while more than
 * window_bytes are held no further message is read from the call, so that the engine's stream stops. */
void rpc_request_hold(struct rpc_request *r, size_t n_bytes);
void rpc_request_release(struct rpc_request *r, size_t n_bytes);
/* on_status comes soon, with CANCELLED unless the call was over before. */
void rpc_request_cancel(struct rpc_request *r);
/* Gives the handle back; callbacks that have not come yet still come (cancel first when they are not wanted and wait for on_status). */
void rpc_request_close(struct rpc_request *r);

#endif
