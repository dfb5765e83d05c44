/*
 * One call of a client: unary or server-streaming; both are read until the server has no more messages.
 *
 *   start (metadata, message, half-close, initial metadata) | RECV_MESSAGE, again and again | RECV_STATUS
 *
 * on_status is called when none of the three is under way any more. Tags run on the client's queue; hold, release and cancel may
 * come from any thread. Locks are taken in the order client, request.
 */
#include "rpc/client.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

static void request_put(struct rpc_request *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void start_batch(struct rpc_request *r, const grpc_op *ops, size_t n_ops, struct tag *tag)
{
    r->n_pending++;
    core_start_batch(r->call, ops, n_ops, tag);
}

static void start_read(struct rpc_request *r)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &r->received;
    start_batch(r, &op, 1, &r->message_tag);
}

/* ---- end -------------------------------------------------------------------------------------------------------- */

static void dispose(struct rpc_request *r)
{
    for (size_t i = 0; i < r->n_metadata; i++) {
        grpc_slice_unref(r->metadata[i].key);
        grpc_slice_unref(r->metadata[i].value);
    }
    free(r->metadata);
    grpc_byte_buffer_destroy(r->sent);
    grpc_metadata_array_destroy(&r->initial);
    grpc_metadata_array_destroy(&r->trailing);
    grpc_slice_unref(r->status_message);
}

static void report(struct rpc_request *r)
{
    char *message = core_slice_text(r->status_message);
    const grpc_slice *details = core_metadata_find(&r->trailing, "grpc-status-details-bin");
    struct rpc_status status = {
        .code = (int)r->status,
        .message = message ? message : "",
        .details = details ? GRPC_SLICE_START_PTR(*details) : NULL,
        .details_n_bytes = details ? GRPC_SLICE_LENGTH(*details) : 0,
    };
    r->options.on_status(r->options.user, &status);
    free(message);
}

static void unlink_request(struct rpc_request *r)
{
    struct rpc_client *c = r->client;
    pthread_mutex_lock(&c->lock);
    if (r->previous)
        r->previous->next = r->next;
    else
        c->requests = r->next;
    if (r->next)
        r->next->previous = r->previous;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void operation_ended(struct rpc_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool over = --r->n_pending == 0 && r->status_came;
    grpc_call *call = r->call;
    if (over)
        r->call = NULL;
    pthread_mutex_unlock(&r->lock);
    if (!over)
        return;
    report(r);
    grpc_call_unref(call);
    dispose(r);
    unlink_request(r);
    request_put(r);
}

/* ---- events, on the client's thread ----------------------------------------------------------------------------- */

static void on_start(void *owner, bool ok)
{
    (void)ok; /* what went wrong, the status says */
    operation_ended(owner);
}

static void on_message(void *owner, bool ok)
{
    struct rpc_request *r = owner;
    grpc_slice bytes;
    bool more = ok && r->received;
    if (more && core_bytes_read(r->received, &bytes)) {
        r->options.on_message(r->options.user, GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes));
        grpc_slice_unref(bytes);
    }
    if (r->received)
        grpc_byte_buffer_destroy(r->received);
    r->received = NULL;
    if (more) {
        pthread_mutex_lock(&r->lock);
        r->paused = r->options.window_bytes && r->held > r->options.window_bytes;
        if (!r->paused)
            start_read(r);
        pthread_mutex_unlock(&r->lock);
    }
    operation_ended(r);
}

static void on_status(void *owner, bool ok)
{
    (void)ok;
    struct rpc_request *r = owner;
    pthread_mutex_lock(&r->lock);
    r->status_came = true;
    pthread_mutex_unlock(&r->lock);
    operation_ended(r);
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

static bool copy_metadata(struct rpc_request *r, const char *const *pairs)
{
    size_t n = 0;
    while (pairs && pairs[2 * n])
        n++;
    r->metadata = n ? calloc(n, sizeof *r->metadata) : NULL;
    if (n && !r->metadata)
        return false;
    for (size_t i = 0; i < n; i++) {
        r->metadata[i].key = grpc_slice_from_copied_string(pairs[2 * i]);
        r->metadata[i].value = grpc_slice_from_copied_string(pairs[2 * i + 1]);
    }
    r->n_metadata = n;
    return true;
}

static void start_all(struct rpc_request *r, bool wait_for_ready)
{
    grpc_op ops[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .flags = GRPC_WRITE_NO_COMPRESS},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA},
    };
    if (wait_for_ready)
        ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY | GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    ops[0].data.send_initial_metadata.count = r->n_metadata;
    ops[0].data.send_initial_metadata.metadata = r->metadata;
    ops[1].data.send_message.send_message = r->sent;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &r->initial;
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &r->trailing;
    status.data.recv_status_on_client.status = &r->status;
    status.data.recv_status_on_client.status_details = &r->status_message;
    pthread_mutex_lock(&r->lock);
    start_batch(r, &status, 1, &r->status_tag);
    start_batch(r, ops, 4, &r->start_tag);
    start_read(r);
    pthread_mutex_unlock(&r->lock);
}

/* False when the client is being closed. */
static bool link_request(struct rpc_request *r)
{
    struct rpc_client *c = r->client;
    pthread_mutex_lock(&c->lock);
    bool open = !c->closing;
    if (open) {
        r->next = c->requests;
        if (r->next)
            r->next->previous = r;
        c->requests = r;
    }
    pthread_mutex_unlock(&c->lock);
    return open;
}

enum error_code rpc_request_start(struct rpc_client *c, const struct rpc_request_options *options,
                                  struct rpc_request **out, struct error *err)
{
    struct rpc_request *r = calloc(1, sizeof *r);
    if (!r || !copy_metadata(r, options->metadata)) {
        free(r);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a call of %s", options->path);
    }
    r->client = c;
    r->options = *options;
    r->options.data = NULL;
    r->options.metadata = NULL;
    atomic_init(&r->refs, 2);
    pthread_mutex_init(&r->lock, NULL);
    r->start_tag = (struct tag){on_start, r};
    r->message_tag = (struct tag){on_message, r};
    r->status_tag = (struct tag){on_status, r};
    grpc_metadata_array_init(&r->initial);
    grpc_metadata_array_init(&r->trailing);
    r->status_message = grpc_empty_slice();
    r->sent = core_bytes_copy(options->data, options->n_bytes);
    r->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue.cq,
                                       grpc_slice_from_static_string(options->path), NULL,
                                       core_deadline(options->deadline_ns), NULL);
    if (!link_request(r)) {
        grpc_call_unref(r->call);
        dispose(r);
        pthread_mutex_destroy(&r->lock);
        free(r);
        return error_set(err, ERROR_SERVICE_UNAVAILABLE, "the client is being closed");
    }
    *out = r;
    start_all(r, options->wait_for_ready);
    return ERROR_NONE;
}

/* ---- what the caller does with it ------------------------------------------------------------------------------- */

void rpc_request_hold(struct rpc_request *r, size_t n_bytes)
{
    pthread_mutex_lock(&r->lock);
    r->held += n_bytes;
    pthread_mutex_unlock(&r->lock);
}

void rpc_request_release(struct rpc_request *r, size_t n_bytes)
{
    pthread_mutex_lock(&r->lock);
    r->held -= n_bytes < r->held ? n_bytes : r->held;
    if (r->paused && r->call && r->held <= r->options.window_bytes) {
        r->paused = false;
        start_read(r);
    }
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
    request_put(r);
}
