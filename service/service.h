/*
 * service: the engine process. gRPC in, engine API out; one file per RPC family. Handlers run on gRPC's completion threads; a call's
 * callbacks never run at the same time. The compute thread never gets here: a stream that has something posts to its call.
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/metrics.h"
#include "engine/registry.h"
#include "rpc/rpc.h"

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>

/* The program's options; the table is in options.c. */
struct service_config {
    const char *model, *model_id, *listen, *admin_listen, *device, *isa, *quantization, *i2s_order, *kv_type, *prefix_cache, *speculation, *numa, *coalesce;
    const char *tls_cert, *tls_key, *tls_client_ca, *log_level, *log_format, *load_reports;
    const char *model_dirs, *state_file;
    int64_t memory_budget, max_loads;
    int64_t threads, context, kv_cache_size, max_sequences, max_batch_tokens, queue_limit, queue_tokens, queue_wait_ms, target_itl_ms, default_timeout_ms,
        stall_timeout_ms, drain_timeout_ms, lame_duck_ms, max_message_size, seed, null_step_us, slow_step_ms, slow_request_ms, max_connection_age_ms,
        max_connection_age_grace_ms, keepalive_ms, keepalive_timeout_ms;
    double accuracy_share, accuracy_threshold;
    bool null_model, allow_insecure_public, deterministic, pin, idle_priority, evict;
};

struct service_metrics;
struct history_window;
struct changes;
struct health;
struct formats;
struct reflection;
struct tracer;

/* What all handlers share; made by main, immutable but for the atomics and what guards itself. */
struct service {
    const struct service_config *config;
    struct registry *registry;
    struct service_metrics *metrics;
    struct changes *changes;
    struct health *health;
    struct formats *formats;
    struct reflection *reflection;
    struct tracer *tracer; /* NULL = tracing is off */
    int64_t started_ns;
    bool coalesce; /* tokens that wait share a message */
    atomic_bool draining;
};

/* ---- messages (message.c) ---- */

/* Unpacks a message with a bound on the memory that it may take, and checks that all its strings are UTF-8. Freed with
 * message_free. NULL and *err otherwise. */
void *message_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n_bytes, struct error *err);
void message_free(void *message);
/* Appends text as a proto string of C can hold it: what is no UTF-8, and NUL, becomes U+FFFD. False when it does not fit. */
bool message_text(struct buffer *out, const char *text, size_t n_bytes);
/* Appends a message as it goes over the wire; false when there is no room for it. */
bool message_pack(struct buffer *out, const ProtobufCMessage *message);
/* Ends a unary call with a message. */
void message_answer(struct rpc_call *call, const ProtobufCMessage *message);
/* Sends one message of a stream; false when the call cannot take it. */
bool message_send(struct rpc_call *call, const ProtobufCMessage *message);

/* ---- errors (status.c) ---- */

/* Ends a call with an error: status, ErrorInfo with the code's name (and as metadata "cause" the error's reason, "device" the default model's),
 * BadRequest when a field is at fault, RetryInfo when a retry may help. */
void status_fail(struct service *s, struct rpc_call *call, const struct error *err);
/* The gRPC status of an error; packs google.rpc.Status into `details`. `device`, where it is not NULL, stands in ErrorInfo's metadata. */
int status_pack(const struct error *err, bool draining, const char *device, struct buffer *details);

/* ---- RPC families: handlers for the table in methods.c ---- */

const struct rpc_method *service_methods(struct service *s);

void inference_generate(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void inference_stream(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void inference_sent(void *service, struct rpc_call *call, bool ok);
void inference_done(void *service, struct rpc_call *call, bool cancelled);
void embed_call(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void embed_done(void *service, struct rpc_call *call, bool cancelled);
void tokens_tokenize(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void tokens_detokenize(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_list(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_get(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_load(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_unload(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_swap(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void models_set_default(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void change_sent(void *service, struct rpc_call *call, bool ok);
void change_done(void *service, struct rpc_call *call, bool cancelled);
void admin_health(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void admin_devices(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void admin_stats(void *service, struct rpc_call *call, const void *data, size_t n_bytes);

/* The registry's list without entries that have no loaded model: at least the default one. False when memory is out. Any thread. */
bool service_loaded(const struct service *s, struct model_entry **out, size_t *n);

/* ---- health (health.c) ---- */

struct health *health_open(void);
void health_close(struct health *h);
/* From now on nobody is served: watchers are told. */
void health_stop(struct health *h);
/* Ends the watches, which would hold a drain up. */
void health_end_watches(struct health *h);
void health_check(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void health_watch(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void health_sent(void *service, struct rpc_call *call, bool ok);
void health_done(void *service, struct rpc_call *call, bool cancelled);

/* What an operator's probe may ask; any thread. */
struct service_state {
    bool ready;
    bool engine_turns;                 /* the loops of all models */
    bool queue_has_room;               /* the default model's */
    bool device_works, device_refused; /* of the default model. false, true: requests are refused; both false: one is let through, to see */
};
struct service_state service_state(struct service *s);

/* ---- reflection (reflection.c) ---- */

struct reflection *reflection_open(const void *descriptors, size_t n_bytes);
void reflection_close(struct reflection *r);
/* The name of the file that defines `symbol` (a service, method, message, field, enum or value), or NULL. */
const char *reflection_file_of(const struct reflection *r, const char *symbol);
void reflection_request(void *service, struct rpc_call *call, const void *data, size_t n_bytes);
void reflection_half_close(void *service, struct rpc_call *call);
void reflection_sent(void *service, struct rpc_call *call, bool ok);

/* ---- metrics (metrics.c; the rest is in metrics.h) ---- */

/* Counts an error that a call ended with. `m` may be NULL. */
void service_metrics_error(struct service_metrics *m, enum error_code code);
/* Counts a request that was not admitted, by REFUSED_..; other reasons, and NULL, are no refusals. */
void service_metrics_reject(struct service_metrics *m, const char *reason);

/* ---- admin HTTP (admin_http.c) ---- */

struct admin_http;
enum error_code admin_http_open(struct service *s, const char *listen, struct admin_http **out, struct error *err);
void admin_http_close(struct admin_http *a);

#endif
