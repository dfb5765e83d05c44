/*
 * One call on the server.
 *
 *   waiting -> begun -> [messages, sends] -> status out or cancelled -> on_done -> released
 *
 * Every operation under way has a tag in the call and counts in n_pending; RECV_CLOSE_ON_SERVER is one of them from the begin to
 * the end, so n_pending falls to 0 once, after the last event: that is where on_done is called. Tags run on the queue's thread;
 * the fields below the lock may be touched from any thread.
 */
#include "rpc/server.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_METADATA 8

/* NUL-terminated copies of client metadata, made when asked for. */
struct text {
    struct text *next;
    const grpc_slice *of;
    char *value;
};

/* Of a post: none; one is on its way; none will come any more. */
enum { POST_NONE, POST_SENT, POST_CLOSED };

struct rpc_call {
    struct rpc_server *server;
    struct method *method;
    struct queue *queue;
    grpc_call *call;
    atomic_int refs; /* one is gRPC's, until release */
    struct tag begin_tag, close_tag, send_tag, read_tag, finish_tag, post_tag;

    /* Filled by gRPC with the begin. */
    grpc_call_details details;
    grpc_metadata_array metadata;
    gpr_timespec deadline;
    grpc_byte_buffer *received;
    int64_t deadline_ns;
    int cancelled;
    bool announced; /* a callback was made, so on_done is owed */

    atomic_int post_state;
    void (*_Atomic post_run)(void *service, struct rpc_call *call);

    pthread_mutex_t lock;
    int n_pending;
    bool closed; /* RECV_CLOSE_ON_SERVER came: nothing new is started */
    bool initial_sent, sending, reading;
    bool finish_asked, finish_started;
    grpc_byte_buffer *sent; /* lives until its operation ends */
    grpc_byte_buffer *answer;
    grpc_status_code status;
    grpc_slice message, details_bin;
    bool has_details;
    grpc_metadata trailing;
    grpc_metadata *initial; /* [n_initial] */
    size_t n_initial;
    struct text *texts;
    char *peer;
    void *user;
};

/* ---- life ------------------------------------------------------------------------------------------------------- */

void rpc_call_get(struct rpc_call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void rpc_call_put(struct rpc_call *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Frees all that gRPC and the call gave each other; the memory stays for those who hold a reference. */
static void dispose(struct rpc_call *c)
{
    for (struct text *t = c->texts, *next; t; t = next) {
        next = t->next;
        free(t->value);
        free(t);
    }
    for (size_t i = 0; i < c->n_initial; i++) {
        grpc_slice_unref(c->initial[i].key);
        grpc_slice_unref(c->initial[i].value);
    }
    free(c->initial);
    gpr_free(c->peer);
    if (c->finish_asked) {
        grpc_slice_unref(c->message);
        if (c->has_details)
            grpc_slice_unref(c->details_bin);
    }
    if (c->answer)
        grpc_byte_buffer_destroy(c->answer);
    if (c->sent)
        grpc_byte_buffer_destroy(c->sent);
    if (c->received)
        grpc_byte_buffer_destroy(c->received);
    grpc_metadata_array_destroy(&c->metadata);
    grpc_call_details_destroy(&c->details);
    if (c->call)
        grpc_call_unref(c->call);
    c->call = NULL;
}

static void release(struct rpc_call *c)
{
    struct rpc_server *s = c->server;
    dispose(c);
    rpc_call_put(c);
    server_count(s, -1);
}

/* One operation has ended and its callbacks have run. */
static void operation_ended(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    bool last = --c->n_pending == 0;
    pthread_mutex_unlock(&c->lock);
    if (!last)
        return;
    const struct rpc_method *def = c->method->def;
    if (c->announced && def->on_done)
        def->on_done(def->service, c, c->cancelled != 0);
    int expected = POST_NONE;
    if (atomic_compare_exchange_strong(&c->post_state, &expected, POST_CLOSED))
        release(c);
    /* else the post that is on its way releases. */
}

/* ---- operations; the lock is held ------------------------------------------------------------------------------- */

static void start_locked(struct rpc_call *c, const grpc_op *ops, size_t n_ops, struct tag *tag)
{
    c->n_pending++;
    core_start_batch(c->call, ops, n_ops, tag);
}

static size_t initial_op(struct rpc_call *c, grpc_op *op)
{
    if (c->initial_sent)
        return 0;
    c->initial_sent = true;
    *op = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    op->data.send_initial_metadata.count = c->n_initial;
    op->data.send_initial_metadata.metadata = c->initial;
    return 1;
}

static grpc_op message_op(grpc_byte_buffer *bytes)
{
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .flags = GRPC_WRITE_NO_COMPRESS};
    op.data.send_message.send_message = bytes;
    return op;
}

static void start_finish(struct rpc_call *c)
{
    grpc_op ops[3];
    size_t n = initial_op(c, &ops[0]);
    if (c->answer)
        ops[n++] = message_op(c->answer);
    grpc_op *op = &ops[n++];
    *op = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op->data.send_status_from_server.status = c->status;
    op->data.send_status_from_server.status_details = &c->message;
    if (c->has_details) {
        c->trailing.key = grpc_slice_from_static_string("grpc-status-details-bin");
        c->trailing.value = c->details_bin;
        op->data.send_status_from_server.trailing_metadata_count = 1;
        op->data.send_status_from_server.trailing_metadata = &c->trailing;
    }
    c->finish_started = true;
    start_locked(c, ops, n, &c->finish_tag);
}

static void start_read(struct rpc_call *c)
{
    if (c->closed || c->reading || c->finish_asked)
        return;
    c->reading = true;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->received;
    start_locked(c, &op, 1, &c->read_tag);
}

/* ---- events, on the queue's thread ------------------------------------------------------------------------------ */

/* Ends a call for which no callback of the method speaks. */
static void refuse(struct rpc_call *c, int code, const char *message)
{
    rpc_call_finish(c, &(struct rpc_status){.code = code, .message = message}, NULL, 0);
}

static void deliver(struct rpc_call *c)
{
    const struct rpc_method *def = c->method->def;
    grpc_slice bytes;
    bool readable = core_bytes_read(c->received, &bytes);
    grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    if (!readable) {
        refuse(c, GRPC_STATUS_INTERNAL, "the message cannot be read");
        return;
    }
    c->announced = true;
    def->on_message(def->service, c, GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes));
    grpc_slice_unref(bytes);
}

static void begin_known(struct rpc_call *c)
{
    if (c->method->def->kind == RPC_BIDI)
        rpc_call_read(c);
    else if (c->received)
        deliver(c);
    else
        refuse(c, GRPC_STATUS_UNIMPLEMENTED, "expected one request message, found none");
}

static void begin_unknown(struct rpc_call *c)
{
    char *path = core_slice_text(c->details.method);
    char message[256];
    snprintf(message, sizeof message, "unknown method %.200s", path ? path : "");
    free(path);
    refuse(c, GRPC_STATUS_UNIMPLEMENTED, message);
}

static void on_begin(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    if (!ok) { /* the server shuts down */
        dispose(c);
        rpc_call_put(c);
        return;
    }
    call_expect(c->server, c->method, c->queue);
    server_count(c->server, 1);
    c->deadline_ns = core_deadline_ns(c->method->def ? c->deadline : c->details.deadline);
    pthread_mutex_lock(&c->lock);
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &c->cancelled;
    start_locked(c, &op, 1, &c->close_tag);
    pthread_mutex_unlock(&c->lock);
    if (c->method->def)
        begin_known(c);
    else
        begin_unknown(c);
}

static void on_close(void *owner, bool ok)
{
    (void)ok;
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    pthread_mutex_unlock(&c->lock);
    operation_ended(c);
}

static void on_send(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    grpc_byte_buffer_destroy(c->sent);
    c->sent = NULL;
    c->sending = false;
    if (c->finish_asked && !c->finish_started && !c->closed)
        start_finish(c);
    pthread_mutex_unlock(&c->lock);
    const struct rpc_method *def = c->method->def;
    if (def->on_sent)
        def->on_sent(def->service, c, ok);
    operation_ended(c);
}

static void on_read(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    c->reading = false;
    bool over = c->closed;
    pthread_mutex_unlock(&c->lock);
    const struct rpc_method *def = c->method->def;
    if (ok && c->received && !over) {
        deliver(c);
    } else if (!over && def->on_half_close) {
        c->announced = true;
        def->on_half_close(def->service, c);
    }
    operation_ended(c);
}

static void on_finish(void *owner, bool ok)
{
    (void)ok;
    operation_ended(owner);
}

static void on_post(void *owner, bool ok)
{
    (void)ok;
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    bool done = c->n_pending == 0;
    pthread_mutex_unlock(&c->lock);
    if (done) {
        atomic_store(&c->post_state, POST_CLOSED);
        release(c);
        return;
    }
    /* First, so that what is posted from here on makes another event. */
    atomic_store(&c->post_state, POST_NONE);
    void (*run)(void *, struct rpc_call *) = atomic_load(&c->post_run);
    run(c->method->def->service, c);
}

void call_expect(struct rpc_server *s, struct method *method, struct queue *queue)
{
    struct rpc_call *c = calloc(1, sizeof *c);
    RPC_ASSERT(c != NULL);
    c->server = s;
    c->method = method;
    c->queue = queue;
    atomic_init(&c->refs, 1);
    c->begin_tag = (struct tag){on_begin, c};
    c->close_tag = (struct tag){on_close, c};
    c->send_tag = (struct tag){on_send, c};
    c->read_tag = (struct tag){on_read, c};
    c->finish_tag = (struct tag){on_finish, c};
    c->post_tag = (struct tag){on_post, c};
    pthread_mutex_init(&c->lock, NULL);
    grpc_metadata_array_init(&c->metadata);
    grpc_call_details_init(&c->details);
    TAG_RELEASE(&c->begin_tag);
    grpc_call_error failed =
        method->def
            ? grpc_server_request_registered_call(s->server, method->handle, &c->call, &c->deadline, &c->metadata,
                                                  method->def->kind == RPC_BIDI ? NULL : &c->received, queue->cq,
                                                  queue->cq, &c->begin_tag)
            : grpc_server_request_call(s->server, &c->call, &c->details, &c->metadata, queue->cq, queue->cq,
                                       &c->begin_tag);
    RPC_ASSERT(failed == GRPC_CALL_OK);
}

/* ---- what the service does with a call -------------------------------------------------------------------------- */

void rpc_call_set_user(struct rpc_call *c, void *user)
{
    c->user = user;
}

void *rpc_call_user(const struct rpc_call *c)
{
    return c->user;
}

const char *rpc_call_method(const struct rpc_call *c)
{
    return c->method->def->path;
}

int64_t rpc_call_deadline_ns(const struct rpc_call *c)
{
    return c->deadline_ns;
}

/* The array lies in memory of ours, what it points to is the call's: it has no NUL at its end. */
const char *rpc_call_metadata(const struct rpc_call *call, const char *key)
{
    struct rpc_call *c = (struct rpc_call *)call;
    const grpc_slice *value = core_metadata_find(&c->metadata, key);
    if (!value)
        return NULL;
    pthread_mutex_lock(&c->lock);
    struct text *t = c->texts;
    while (t && t->of != value)
        t = t->next;
    if (!t && (t = calloc(1, sizeof *t))) {
        *t = (struct text){c->texts, value, core_slice_text(*value)};
        c->texts = t;
    }
    pthread_mutex_unlock(&c->lock);
    return t ? t->value : NULL;
}

const char *rpc_call_peer(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->peer)
        c->peer = grpc_call_get_peer(c->call);
    pthread_mutex_unlock(&c->lock);
    return c->peer ? c->peer : "";
}

void rpc_call_add_metadata(struct rpc_call *c, const char *key, const char *value)
{
    pthread_mutex_lock(&c->lock);
    if (!c->initial)
        c->initial = calloc(MAX_METADATA, sizeof *c->initial);
    if (c->initial && c->n_initial < MAX_METADATA && !c->initial_sent) {
        grpc_metadata *m = &c->initial[c->n_initial++];
        m->key = grpc_slice_from_copied_string(key);
        m->value = grpc_slice_from_copied_string(value);
    }
    pthread_mutex_unlock(&c->lock);
}

bool rpc_call_send(struct rpc_call *c, const void *data, size_t n_bytes)
{
    pthread_mutex_lock(&c->lock);
    bool can = !c->closed && !c->sending && !c->finish_asked;
    if (can) {
        grpc_op ops[2];
        size_t n = initial_op(c, &ops[0]);
        c->sending = true;
        c->sent = core_bytes_copy(data, n_bytes);
        ops[n++] = message_op(c->sent);
        start_locked(c, ops, n, &c->send_tag);
    }
    pthread_mutex_unlock(&c->lock);
    return can;
}

void rpc_call_read(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    start_read(c);
    pthread_mutex_unlock(&c->lock);
}

void rpc_call_finish(struct rpc_call *c, const struct rpc_status *status, const void *data, size_t n_bytes)
{
    pthread_mutex_lock(&c->lock);
    if (!c->closed && !c->finish_asked) {
        c->finish_asked = true;
        c->status = (grpc_status_code)status->code;
        c->message = grpc_slice_from_copied_string(status->message ? status->message : "");
        c->has_details = status->details != NULL;
        if (c->has_details)
            c->details_bin = grpc_slice_from_copied_buffer(status->details, status->details_n_bytes);
        if (data && status->code == 0)
            c->answer = core_bytes_copy(data, n_bytes);
        if (!c->sending)
            start_finish(c);
    }
    pthread_mutex_unlock(&c->lock);
}

void rpc_post(struct rpc_call *c, void (*run)(void *service, struct rpc_call *call))
{
    atomic_store(&c->post_run, run);
    int expected = POST_NONE;
    if (atomic_compare_exchange_strong(&c->post_state, &expected, POST_SENT))
        core_start_batch(c->call, NULL, 0, &c->post_tag);
}
