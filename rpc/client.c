/*
 * The client: channels, their completion queue, and the requests on them.
 *
 *   rpc_request_start -> [read -> on_message]* -> status -> on_status
 *
 * The next message is read only while no more than window_bytes are held by the consumer: that stops the engine's stream, because
 * what is not read here fills the HTTP/2 window. gRPC reports a status only after all messages were read, or on cancel and deadline.
 * on_status comes once and last, when no operation is left.
 */
#include "rpc/core.h"

#include "base/clock.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX_MESSAGE_BYTES (16 * 1024 * 1024)
#define LOOKAHEAD_BYTES 2048     /* what a stream may have on its way unread; gRPC's default lets 120,000 tokens pass. Unread messages keep
                                  * the buffers that they were read into, many times their size, so that this bounds memory */
#define DEFAULT_KEEPALIVE_MS 10000
#define DEFAULT_KEEPALIVE_TIMEOUT_MS 5000
#define CONNECT_MS 2000          /* what a connection may take until HTTP/2 is agreed on, also beside compute that takes all CPUs */
#define MIN_BACKOFF_MS 100       /* between attempts to connect */
#define MAX_BACKOFF_MS 500       /* so that an engine that is back is used within 2 s */
#define UNHURRIED_MS 1000        /* the first backoff of a client that can wait, ten times that at most */
#define MAX_METADATA 16

struct rpc_queue {
    struct queue queue;
    bool has_thread;
};

struct rpc_client {
    grpc_channel **channels;     /* owned; each a connection */
    unsigned n_channels;
    atomic_uint n_started;       /* requests: whose turn it is */
    struct rpc_queue *queue;
    bool owns_queue;
    pthread_mutex_t lock;        /* guards the list */
    pthread_cond_t changed;
    struct rpc_request *first;   /* requests whose on_status has not come */
};

struct rpc_request {
    struct rpc_client *client;
    struct rpc_request *next, **link; /* in the client's list; under the client's lock */
    atomic_int n_refs;           /* the handle's and the call's */
    void *user;
    void (*on_message)(void *user, const void *data, size_t n_bytes);
    void (*on_status)(void *user, const struct rpc_status *status);
    size_t window_bytes;
    struct tag send_tag, read_tag, status_tag;

    pthread_mutex_t lock;        /* guards what follows */
    grpc_call *call;             /* NULL when it is over */
    size_t held_bytes;
    int n_pending;
    bool reading, paused, ended; /* ended: no message will come any more */
    bool have_status;
    grpc_byte_buffer *received, *sending;
    grpc_metadata metadata[MAX_METADATA];
    size_t n_metadata;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice status_message;
};

/* ---- client ----------------------------------------------------------------------------------------------------- */

enum error_code rpc_queue_open_idle(struct rpc_queue **out, struct error *err)
{
    struct rpc_queue *q = calloc(1, sizeof *q);
    if (!q)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a completion queue");
    cq_init(&q->queue);
    *out = q;
    return ERROR_NONE;
}

enum error_code rpc_queue_open(struct rpc_queue **out, struct error *err)
{
    struct rpc_queue *q = NULL;
    enum error_code code = rpc_queue_open_idle(&q, err);
    if (code)
        return code;
    code = cq_start(&q->queue, "rpc-client", err);
    q->has_thread = !code;
    if (code)
        rpc_queue_close(q);
    else
        *out = q;
    return code;
}

void rpc_queue_turn(struct rpc_queue *q)
{
    cq_turn(&q->queue);
}

void rpc_queue_close(struct rpc_queue *q)
{
    if (!q)
        return;
    cq_fini(&q->queue, q->has_thread);
    free(q);
}

static grpc_arg text_arg(const char *key, const char *value)
{
    return (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)key, .value.string = (char *)(uintptr_t)value};
}

static grpc_channel *make_channel(const struct rpc_client_options *o, grpc_channel_credentials *credentials)
{
    size_t max_bytes = o->max_message_bytes ? o->max_message_bytes : DEFAULT_MAX_MESSAGE_BYTES;
#define INT_ARG(name, v) {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)(name), .value.integer = (v)}
    grpc_arg args[] = {
        INT_ARG(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, max_bytes > INT32_MAX ? INT32_MAX : (int)max_bytes),
        INT_ARG(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        INT_ARG(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        INT_ARG(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES),
        INT_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, o->unhurried ? INT32_MAX : o->keepalive_ms ? o->keepalive_ms : DEFAULT_KEEPALIVE_MS),
        INT_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_ms ? o->keepalive_timeout_ms : DEFAULT_KEEPALIVE_TIMEOUT_MS),
        INT_ARG(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, !o->unhurried), /* so that one that vanished while idle is known before the next call */
        INT_ARG(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        INT_ARG(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, o->unhurried ? UNHURRIED_MS : MIN_BACKOFF_MS),
        INT_ARG(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        INT_ARG(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, o->unhurried ? 10 * UNHURRIED_MS : MAX_BACKOFF_MS),
        INT_ARG(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        {.type = GRPC_ARG_INTEGER}, /* room for three more */
        {.type = GRPC_ARG_INTEGER},
        {.type = GRPC_ARG_INTEGER},
    };
#undef INT_ARG
    grpc_channel_args list = {sizeof args / sizeof args[0] - 3, args};
    if (o->service_config)
        args[list.num_args++] = text_arg(GRPC_ARG_SERVICE_CONFIG, o->service_config);
    if (o->authority)
        args[list.num_args++] = text_arg(GRPC_ARG_DEFAULT_AUTHORITY, o->authority);
    if (o->tls_name)
        args[list.num_args++] = text_arg(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, o->tls_name);
    return grpc_channel_create(o->target, credentials, &list);
}

static void client_free(struct rpc_client *c)
{
    for (unsigned i = 0; i < c->n_channels; i++)
        grpc_channel_destroy(c->channels[i]);
    free(c->channels);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct rpc_client *client_new(const struct rpc_client_options *options, grpc_channel_credentials *credentials)
{
    unsigned n = options->n_connections > 0 ? (unsigned)options->n_connections : 1;
    struct rpc_client *c = calloc(1, sizeof *c);
    if (!c || !(c->channels = calloc(n, sizeof *c->channels))) {
        free(c);
        return NULL;
    }
    while (c->n_channels < n)
        c->channels[c->n_channels++] = make_channel(options, credentials);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    return c;
}

enum error_code rpc_client_open(const struct rpc_client_options *options, struct rpc_client **out, struct error *err)
{
    grpc_channel_credentials *plain = options->tls ? NULL : grpc_insecure_credentials_create();
    struct rpc_client *c = client_new(options, plain ? plain : core_channel_credentials(options->tls));
    if (plain)
        grpc_channel_credentials_release(plain);
    if (!c)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an RPC client");
    c->queue = options->queue;
    c->owns_queue = !options->queue;
    enum error_code code = c->owns_queue ? rpc_queue_open(&c->queue, err) : ERROR_NONE;
    if (code) {
        client_free(c);
        return code;
    }
    *out = c;
    return ERROR_NONE;
}

void rpc_client_close(struct rpc_client *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    for (struct rpc_request *r = c->first; r; r = r->next)
        rpc_request_cancel(r);
    while (c->first)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    if (c->owns_queue)
        rpc_queue_close(c->queue);
    client_free(c);
}

bool rpc_client_connected(struct rpc_client *c, bool try_to_connect)
{
    bool ready = true;
    for (unsigned i = 0; i < c->n_channels; i++)
        ready &= grpc_channel_check_connectivity_state(c->channels[i], try_to_connect) == GRPC_CHANNEL_READY;
    return ready;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static void request_put(struct rpc_request *r)
{
    if (atomic_fetch_sub_explicit(&r->n_refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < r->n_metadata; i++) {
        grpc_slice_unref(r->metadata[i].key);
        grpc_slice_unref(r->metadata[i].value);
    }
    grpc_metadata_array_destroy(&r->initial);
    grpc_metadata_array_destroy(&r->trailing);
    grpc_slice_unref(r->status_message);
    grpc_byte_buffer_destroy(r->received);
    grpc_byte_buffer_destroy(r->sending);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* Takes it from the client's list and wakes who closes the client. The last touch of the client. */
static void leave_client(struct rpc_request *r)
{
    struct rpc_client *c = r->client;
    pthread_mutex_lock(&c->lock);
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* The status with its details; message and details are valid while `text` and the request are. */
static void tell_status(struct rpc_request *r)
{
    char *text = core_slice_text(r->status_message);
    const grpc_slice *details = core_metadata_find(&r->trailing, "grpc-status-details-bin");
    struct rpc_status status = {.code = (int)r->status, .message = text ? text : ""};
    if (details) {
        status.details = GRPC_SLICE_START_PTR(*details);
        status.details_n_bytes = GRPC_SLICE_LENGTH(*details);
    }
    r->on_status(r->user, &status);
    free(text);
}

/* An operation's callback is through; the last one of a call with a status tells it. */
static void end(struct rpc_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool last = --r->n_pending == 0 && r->have_status;
    grpc_call *call = r->call;
    if (last)
        r->call = NULL;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    tell_status(r);
    grpc_call_unref(call); /* after: the bytes of the trailing metadata are its */
    leave_client(r);
    request_put(r);
}

/* Under the lock: reads the next message unless the consumer holds too much. */
static void read_or_pause(struct rpc_request *r)
{
    if (r->reading || r->ended || !r->call)
        return;
    r->paused = r->window_bytes && r->held_bytes > r->window_bytes;
    if (r->paused)
        return;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &r->received};
    r->reading = true;
    r->n_pending++;
    core_start_batch(r->call, &op, 1, &r->read_tag);
}

static void on_read(void *owner, bool ok)
{
    struct rpc_request *r = owner;
    grpc_byte_buffer *bytes = r->received;
    grpc_slice slice;
    r->received = NULL;
    bool have = ok && bytes && core_bytes_read(bytes, &slice);
    if (have) {
        r->on_message(r->user, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
        grpc_slice_unref(slice);
    }
    grpc_byte_buffer_destroy(bytes);
    pthread_mutex_lock(&r->lock);
    r->reading = false;
    r->ended |= !have;
    read_or_pause(r);
    pthread_mutex_unlock(&r->lock);
    end(r);
}

static void on_status(void *owner, bool ok)
{
    struct rpc_request *r = owner;
    (void)ok;
    pthread_mutex_lock(&r->lock);
    r->have_status = true;
    r->ended |= r->paused; /* cancelled while paused: nothing more is read */
    pthread_mutex_unlock(&r->lock);
    end(r);
}

static void on_started(void *owner, bool ok)
{
    struct rpc_request *r = owner;
    (void)ok; /* a failure shows in the status */
    end(r);
}

static void start_call(struct rpc_request *r, const struct rpc_request_options *o)
{
    grpc_op send[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .flags = o->wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY | GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET : 0,
         .data.send_initial_metadata = {.count = r->n_metadata, .metadata = r->metadata}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = r->sending},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &r->initial}};
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                      .data.recv_status_on_client = {.trailing_metadata = &r->trailing,
                                                     .status = &r->status,
                                                     .status_details = &r->status_message}};
    pthread_mutex_lock(&r->lock);
    r->n_pending += 2;
    core_start_batch(r->call, &status, 1, &r->status_tag);
    core_start_batch(r->call, send, 4, &r->send_tag);
    read_or_pause(r);
    pthread_mutex_unlock(&r->lock);
}

enum error_code rpc_request_start(struct rpc_client *c, const struct rpc_request_options *o, struct rpc_request **out,
                                  struct error *err)
{
    struct rpc_request *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an RPC");
    *r = (struct rpc_request){.client = c,
                              .user = o->user,
                              .on_message = o->on_message,
                              .on_status = o->on_status,
                              .window_bytes = o->window_bytes,
                              .send_tag = {on_started, r},
                              .read_tag = {on_read, r},
                              .status_tag = {on_status, r},
                              .sending = core_bytes_copy(o->data, o->n_bytes),
                              .status_message = grpc_empty_slice()};
    atomic_init(&r->n_refs, 2);
    pthread_mutex_init(&r->lock, NULL);
    grpc_metadata_array_init(&r->initial);
    grpc_metadata_array_init(&r->trailing);
    for (const char *const *m = o->metadata; m && m[0] && m[1] && r->n_metadata < MAX_METADATA; m += 2)
        r->metadata[r->n_metadata++] = (grpc_metadata){.key = grpc_slice_from_copied_string(m[0]),
                                                       .value = grpc_slice_from_copied_string(m[1])};
    grpc_channel *channel = c->channels[atomic_fetch_add_explicit(&c->n_started, 1, memory_order_relaxed) % c->n_channels];
    r->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue->queue.cq,
                                       grpc_slice_from_static_string(o->path), NULL, core_deadline(o->deadline_ns), NULL);
    pthread_mutex_lock(&c->lock);
    r->link = &c->first;
    r->next = c->first;
    if (r->next)
        r->next->link = &r->next;
    c->first = r;
    pthread_mutex_unlock(&c->lock);
    *out = r; /* before the first callback can come */
    start_call(r, o);
    return ERROR_NONE;
}

void rpc_request_hold(struct rpc_request *r, size_t n_bytes)
{
    pthread_mutex_lock(&r->lock);
    r->held_bytes += n_bytes;
    pthread_mutex_unlock(&r->lock);
}

void rpc_request_release(struct rpc_request *r, size_t n_bytes)
{
    pthread_mutex_lock(&r->lock);
    r->held_bytes -= n_bytes < r->held_bytes ? n_bytes : r->held_bytes;
    if (r->paused && r->held_bytes <= r->window_bytes / 4) /* not at once, or each token would pause and wake */
        read_or_pause(r);
    pthread_mutex_unlock(&r->lock);
}

void rpc_request_cancel(struct rpc_request *r)
{
    pthread_mutex_lock(&r->lock);
    if (r->call)
        grpc_call_cancel(r->call, NULL);
    pthread_mutex_unlock(&r->lock);
}

void rpc_request_close(struct rpc_request *r)
{
    if (r)
        request_put(r);
}
