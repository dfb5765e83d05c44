/*
 * One call on the server. Operations that are under way are counted; when the call is known to be over and none is left, on_done
 * comes, once and last.
 *
 *   call_start -> read -> on_message -> [send -> on_sent]* -> finish -> closed -> on_done
 *                                   \-- cancel, deadline, lost connection: closed --/
 *
 * Callbacks come on the queue's one thread; the lock guards the state against callers on other threads.
 */
#include "rpc/server.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DETAILS_KEY "grpc-status-details-bin"
#define MAX_METADATA 8 /* that a handler adds */
#define MAX_TRAILERS 3 /* likewise, and the details of the status */

struct rpc_call {
    struct rpc_server *server;
    struct queue *queue;             /* whose thread runs the callbacks */
    const struct rpc_method *method; /* NULL: unknown */
    grpc_call *call;
    char *path, *peer;
    grpc_metadata_array metadata;
    char **metadata_text;            /* [metadata.count] NUL-terminated copies, made when asked for */
    int64_t deadline_ns;
    void *user;
    atomic_int n_refs;
    atomic_bool posted;
    struct rpc_call *next_posted;    /* in the queue's list */
    _Atomic(void (*)(void *, struct rpc_call *)) post_fn;
    struct tag read_tag, send_tag, finish_tag, close_tag, post_tag;

    pthread_mutex_t lock;            /* guards what follows */
    grpc_byte_buffer *received, *sending, *answer;
    int close_cancelled;
    int n_pending;                   /* operations under way */
    bool had_message, half_closed, initial_sent, finishing, closed, done;
    bool finish_waits;               /* rpc_call_finish came while a message was under way */
    grpc_metadata initial[MAX_METADATA];
    size_t n_initial;
    grpc_status_code status;
    grpc_slice status_message;
    grpc_metadata trailing[MAX_TRAILERS];
    size_t n_trailing;
};

static const struct rpc_method *find_method(const struct rpc_method *methods, const char *path)
{
    for (const struct rpc_method *m = methods; path && m->path; m++)
        if (strcmp(m->path, path) == 0)
            return m;
    return NULL;
}

void rpc_call_get(struct rpc_call *c) { atomic_fetch_add_explicit(&c->n_refs, 1, memory_order_relaxed); }

static void call_free(struct rpc_call *c)
{
    struct rpc_server *s = c->server;
    for (size_t i = 0; c->metadata_text && i < c->metadata.count; i++)
        free(c->metadata_text[i]);
    free(c->metadata_text);
    grpc_metadata_array_destroy(&c->metadata);
    for (size_t i = 0; i < c->n_initial; i++) {
        grpc_slice_unref(c->initial[i].key);
        grpc_slice_unref(c->initial[i].value);
    }
    for (size_t i = 0; i < c->n_trailing; i++) {
        grpc_slice_unref(c->trailing[i].key);
        grpc_slice_unref(c->trailing[i].value);
    }
    grpc_slice_unref(c->status_message);
    grpc_byte_buffer_destroy(c->received);
    grpc_byte_buffer_destroy(c->sending);
    grpc_byte_buffer_destroy(c->answer);
    gpr_free(c->peer);
    free(c->path);
    grpc_call_unref(c->call);
    pthread_mutex_destroy(&c->lock);
    free(c);
    pthread_mutex_lock(&s->lock);
    s->n_calls--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void rpc_call_put(struct rpc_call *c)
{
    if (atomic_fetch_sub_explicit(&c->n_refs, 1, memory_order_acq_rel) == 1)
        call_free(c);
}

/* Under the lock: counts one more operation, which keeps a reference. */
static void begin(struct rpc_call *c, const grpc_op *ops, size_t n_ops, struct tag *tag)
{
    c->n_pending++;
    rpc_call_get(c);
    core_start_batch(c->call, ops, n_ops, tag);
}

/* An operation's callback is through: when it was the last one of a call that is over, on_done. */
static void end(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    bool last = --c->n_pending == 0 && c->closed && !c->done;
    c->done |= last;
    bool cancelled = c->close_cancelled != 0, tell = last && c->had_message;
    pthread_mutex_unlock(&c->lock);
    if (tell && c->method && c->method->on_done)
        c->method->on_done(c->method->service, c, cancelled);
    rpc_call_put(c);
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

/* Under the lock. */
static void start_read(struct rpc_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->received};
    begin(c, &op, 1, &c->read_tag);
}

static void finish_with(struct rpc_call *c, int code, const char *message)
{
    rpc_call_finish(c, &(struct rpc_status){.code = code, .message = message}, NULL, 0);
}

static void give_message(struct rpc_call *c, grpc_byte_buffer *bytes)
{
    grpc_slice slice;
    if (!core_bytes_read(bytes, &slice)) {
        finish_with(c, GRPC_STATUS_INTERNAL, "the request message cannot be read");
        return;
    }
    c->had_message = true;
    c->method->on_message(c->method->service, c, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    grpc_slice_unref(slice);
}

static void on_read(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    grpc_byte_buffer *bytes = c->received;
    bool first = !c->had_message, over = c->closed;
    c->received = NULL;
    c->half_closed |= !bytes;
    pthread_mutex_unlock(&c->lock);
    if (bytes)
        give_message(c, bytes);
    else if (c->method->kind != RPC_BIDI && first && ok && !over)
        finish_with(c, GRPC_STATUS_INVALID_ARGUMENT, "expected a request message, found the end of the stream");
    else if (c->method->kind == RPC_BIDI && ok && !over) {
        c->had_message = true; /* the handler knows of the call now */
        if (c->method->on_half_close)
            c->method->on_half_close(c->method->service, c);
        else
            finish_with(c, GRPC_STATUS_OK, "");
    }
    grpc_byte_buffer_destroy(bytes);
    end(c);
}

void rpc_call_read(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->closed && !c->half_closed)
        start_read(c);
    pthread_mutex_unlock(&c->lock);
}

static void on_close(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    (void)ok;
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    pthread_mutex_unlock(&c->lock);
    end(c);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

/* Under the lock: the initial metadata, once, in front of the first thing that is sent. */
static size_t add_initial(struct rpc_call *c, grpc_op *ops)
{
    if (c->initial_sent)
        return 0;
    c->initial_sent = true;
    ops[0] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA,
                       .data.send_initial_metadata = {.count = c->n_initial, .metadata = c->initial}};
    return 1;
}

void rpc_call_add_metadata(struct rpc_call *c, const char *key, const char *value)
{
    pthread_mutex_lock(&c->lock);
    if (!c->initial_sent && c->n_initial < MAX_METADATA)
        c->initial[c->n_initial++] = (grpc_metadata){.key = grpc_slice_from_copied_string(key),
                                                     .value = grpc_slice_from_copied_string(value)};
    pthread_mutex_unlock(&c->lock);
}

/* Under the lock. */
static void add_trailer(struct rpc_call *c, const char *key, const void *value, size_t n_bytes)
{
    c->trailing[c->n_trailing++] = (grpc_metadata){.key = grpc_slice_from_static_string(key),
                                                   .value = grpc_slice_from_copied_buffer(value, n_bytes)};
}

void rpc_call_add_trailer(struct rpc_call *c, const char *key, const void *value, size_t n_bytes)
{
    pthread_mutex_lock(&c->lock);
    if (!c->finishing && !c->finish_waits && c->n_trailing < MAX_TRAILERS - 1)
        add_trailer(c, key, value, n_bytes);
    pthread_mutex_unlock(&c->lock);
}

bool rpc_call_send(struct rpc_call *c, const void *data, size_t n_bytes)
{
    pthread_mutex_lock(&c->lock);
    bool ok = !c->sending && !c->finishing && !c->finish_waits && !c->closed;
    if (ok) {
        grpc_op ops[2] = {0};
        size_t n = add_initial(c, ops);
        c->sending = core_bytes_copy(data, n_bytes);
        ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .flags = GRPC_WRITE_NO_COMPRESS, /* compressing tokens costs 20 times */
                             .data.send_message.send_message = c->sending};
        begin(c, ops, n, &c->send_tag);
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

/* Under the lock: sends answer and status. */
static void start_finish(struct rpc_call *c)
{
    grpc_op ops[3] = {0};
    size_t n = add_initial(c, ops);
    c->finish_waits = false;
    c->finishing = true;
    if (c->answer)
        ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .flags = GRPC_WRITE_NO_COMPRESS,
                             .data.send_message.send_message = c->answer};
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                         .data.send_status_from_server = {.trailing_metadata_count = c->n_trailing,
                                                          .trailing_metadata = c->trailing,
                                                          .status = c->status,
                                                          .status_details = &c->status_message}};
    begin(c, ops, n, &c->finish_tag);
}

static void on_sent(void *owner, bool ok)
{
    struct rpc_call *c = owner;
    pthread_mutex_lock(&c->lock);
    grpc_byte_buffer *sent = c->sending;
    c->sending = NULL;
    if (c->finish_waits && !c->closed)
        start_finish(c);
    pthread_mutex_unlock(&c->lock);
    grpc_byte_buffer_destroy(sent);
    if (c->method->on_sent)
        c->method->on_sent(c->method->service, c, ok);
    end(c);
}

static void on_finished(void *owner, bool ok)
{
    (void)ok;
    end(owner);
}

void rpc_call_finish(struct rpc_call *c, const struct rpc_status *status, const void *data, size_t n_bytes)
{
    pthread_mutex_lock(&c->lock);
    if (!c->finishing && !c->finish_waits && !c->closed) {
        c->status = (grpc_status_code)status->code;
        c->status_message = grpc_slice_from_copied_string(status->message ? status->message : "");
        if (status->details_n_bytes)
            add_trailer(c, DETAILS_KEY, status->details, status->details_n_bytes);
        if (data && status->code == 0)
            c->answer = core_bytes_copy(data, n_bytes);
        if (c->sending)
            c->finish_waits = true;
        else
            start_finish(c);
    }
    pthread_mutex_unlock(&c->lock);
}

void rpc_call_abort(struct rpc_call *c, int code, const char *message)
{
    pthread_mutex_lock(&c->lock);
    if (!c->finishing && !c->closed)
        grpc_call_cancel_with_status(c->call, (grpc_status_code)code, message, NULL);
    pthread_mutex_unlock(&c->lock);
}

/* ---- posts ------------------------------------------------------------------------------------------------------ */

static void run_post(struct rpc_call *c)
{
    atomic_store(&c->posted, false); /* before it runs: what is posted from now on runs again */
    pthread_mutex_lock(&c->lock);
    bool done = c->done;
    pthread_mutex_unlock(&c->lock);
    if (!done)
        atomic_load(&c->post_fn)(c->method->service, c);
    rpc_call_put(c);
}

/* Runs what was posted to all calls of the queue until now, in the order in which it came. */
static void on_posts(void *owner, bool ok)
{
    struct queue *q = ((struct rpc_call *)owner)->queue;
    (void)ok;
    struct rpc_call *last = atomic_exchange_explicit(&q->posted, NULL, memory_order_acq_rel), *first = NULL;
    while (last) {
        struct rpc_call *before = last->next_posted;
        last->next_posted = first;
        first = last;
        last = before;
    }
    while (first) {
        struct rpc_call *next = first->next_posted; /* before it runs: it may be posted anew */
        run_post(first);
        first = next;
    }
}

/* A batch without operations comes out of the call's queue at once; it is the only way into a queue that C core offers. It costs as much as a
 * message, so one brings all calls that are posted until it comes out: a step's tokens, mostly. Its call is in the list that it brings. */
void rpc_post(struct rpc_call *c, void (*run)(void *service, struct rpc_call *call))
{
    atomic_store(&c->post_fn, run);
    if (atomic_exchange(&c->posted, true))
        return;
    rpc_call_get(c);
    struct queue *q = c->queue;
    struct rpc_call *last = atomic_load_explicit(&q->posted, memory_order_relaxed);
    do
        c->next_posted = last;
    while (!atomic_compare_exchange_weak_explicit(&q->posted, &last, c, memory_order_acq_rel, memory_order_relaxed));
    if (!last)
        core_start_batch(c->call, NULL, 0, &c->post_tag);
}

/* ---- the call --------------------------------------------------------------------------------------------------- */

void call_start(struct slot *slot)
{
    struct rpc_call *c = calloc(1, sizeof *c);
    if (!c) {
        log_error("rpc", "no memory for a call");
        grpc_call_cancel(slot->call, NULL);
        grpc_call_unref(slot->call);
        grpc_metadata_array_destroy(&slot->metadata);
        grpc_slice_unref(slot->details.method);
        grpc_slice_unref(slot->details.host);
        return;
    }
    *c = (struct rpc_call){.server = slot->server,
                           .queue = slot->queue,
                           .call = slot->call,
                           .path = core_slice_text(slot->details.method),
                           .metadata = slot->metadata,
                           .deadline_ns = core_deadline_ns(slot->details.deadline),
                           .read_tag = {on_read, c},
                           .send_tag = {on_sent, c},
                           .finish_tag = {on_finished, c},
                           .close_tag = {on_close, c},
                           .post_tag = {on_posts, c},
                           .status_message = grpc_empty_slice()};
    c->method = find_method(slot->server->methods, c->path);
    atomic_init(&c->n_refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    grpc_slice_unref(slot->details.method);
    grpc_slice_unref(slot->details.host);
    pthread_mutex_lock(&c->server->lock);
    c->server->n_calls++;
    pthread_mutex_unlock(&c->server->lock);
    grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &c->close_cancelled};
    pthread_mutex_lock(&c->lock);
    begin(c, &close, 1, &c->close_tag);
    if (c->method)
        start_read(c);
    pthread_mutex_unlock(&c->lock);
    if (!c->method) {
        char message[256];
        snprintf(message, sizeof message, "unknown method \"%.200s\"", c->path ? c->path : "");
        finish_with(c, GRPC_STATUS_UNIMPLEMENTED, message);
    }
    rpc_call_put(c);
}

void rpc_call_set_user(struct rpc_call *c, void *user) { c->user = user; }

void *rpc_call_user(const struct rpc_call *c) { return c->user; }

int64_t rpc_call_deadline_ns(const struct rpc_call *c) { return c->deadline_ns; }

const char *rpc_call_metadata(const struct rpc_call *call, const char *key)
{
    struct rpc_call *c = (struct rpc_call *)(uintptr_t)call;
    const char *text = NULL;
    pthread_mutex_lock(&c->lock);
    if (!c->metadata_text)
        c->metadata_text = calloc(c->metadata.count + 1, sizeof *c->metadata_text);
    for (size_t i = 0; c->metadata_text && !text && i < c->metadata.count; i++) {
        if (grpc_slice_str_cmp(c->metadata.metadata[i].key, key) != 0)
            continue;
        if (!c->metadata_text[i])
            c->metadata_text[i] = core_slice_text(c->metadata.metadata[i].value);
        text = c->metadata_text[i];
    }
    pthread_mutex_unlock(&c->lock);
    return text;
}

const char *rpc_call_peer(struct rpc_call *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->peer)
        c->peer = grpc_call_get_peer(c->call);
    pthread_mutex_unlock(&c->lock);
    return c->peer;
}
