/*
 * Calls and the way of their messages from the CQ thread to the loop.
 *
 * A call has two owners: the loop (until on_status was delivered or bridge_cancel) and rpc (until its on_status); the last
 * one frees it. `lock` of the bridge guards the list of notes and each call's handle while it starts: rpc's callbacks may
 * come before rpc_request_start has returned.
 */
#include "gateway/bridge.h"

#include "base/log.h"
#include "gateway/engine.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum note_kind { NOTE_MESSAGE, NOTE_STATUS };

/* Something that happened on the CQ thread; owned by the list, then by the loop. */
struct note {
    struct note *next;
    struct bridge_call *call;
    enum note_kind kind;
    int status;
    size_t n_bytes; /* message, or details and the status's message behind them */
    char data[];
};

struct bridge {
    struct event *wake; /* loop */
    int wake_fd;
    struct rpc_queue *queue;
    pthread_mutex_t lock;
    struct note *first, **last; /* under lock */
};

struct bridge_call {
    struct bridge *bridge;
    void *user;
    void (*on_message)(void *user, const void *data, size_t n_bytes, size_t cost);
    void (*on_status)(void *user, const struct rpc_status *status);
    struct rpc_request *handle; /* set under lock */
    bool detached;              /* loop: cancelled, or its status was delivered */
    atomic_int n_owners;
};

static void call_put(struct bridge_call *call)
{
    if (atomic_fetch_sub(&call->n_owners, 1) == 1)
        free(call);
}

/* ---- CQ thread ---- */

static void post(struct bridge_call *call, struct note *note)
{
    struct bridge *b = call->bridge;
    note->next = NULL;
    note->call = call;
    pthread_mutex_lock(&b->lock);
    bool first = !b->first;
    *b->last = note;
    b->last = &note->next;
    pthread_mutex_unlock(&b->lock);
    uint64_t one = 1;
    if (first && write(b->wake_fd, &one, sizeof one) != sizeof one)
        log_error("gateway", "eventfd write failed");
}

static struct rpc_request *handle_of(struct bridge_call *call)
{
    pthread_mutex_lock(&call->bridge->lock);
    struct rpc_request *handle = call->handle;
    pthread_mutex_unlock(&call->bridge->lock);
    return handle;
}

static void cq_message(void *user, const void *data, size_t n_bytes)
{
    struct bridge_call *call = user;
    struct note *note = malloc(sizeof *note + n_bytes);
    if (!note) {
        rpc_request_cancel(handle_of(call));
        return;
    }
    *note = (struct note){.kind = NOTE_MESSAGE, .n_bytes = n_bytes};
    if (n_bytes > 0)
        memcpy(note->data, data, n_bytes);
    rpc_request_hold(handle_of(call), n_bytes * ENGINE_EXPANSION);
    post(call, note);
}

static void cq_status(void *user, const struct rpc_status *status)
{
    struct bridge_call *call = user;
    size_t n_details = status->details ? status->details_n_bytes : 0, n_text = strlen(status->message) + 1;
    struct note *note = malloc(sizeof *note + n_details + n_text);
    if (!note)
        abort(); /* the loop would wait for ever for the end of this call */
    *note = (struct note){.kind = NOTE_STATUS, .status = status->code, .n_bytes = n_details};
    if (n_details > 0)
        memcpy(note->data, status->details, n_details);
    memcpy(note->data + n_details, status->message, n_text);
    post(call, note);
}

/* ---- loop ---- */

/* Takes the call out of the loop's hands. */
static void detach(struct bridge_call *call)
{
    call->detached = true;
    rpc_request_close(call->handle);
}

static void deliver(struct note *note)
{
    struct bridge_call *call = note->call;
    if (note->kind == NOTE_MESSAGE) {
        if (!call->detached)
            call->on_message(call->user, note->data, note->n_bytes, note->n_bytes * ENGINE_EXPANSION);
        return;
    }
    if (!call->detached) {
        const struct rpc_status status = {.code = note->status,
                                          .message = note->data + note->n_bytes,
                                          .details = note->n_bytes > 0 ? note->data : NULL,
                                          .details_n_bytes = note->n_bytes};
        detach(call);
        call->on_status(call->user, &status);
        call_put(call); /* the loop's */
    }
    call_put(call); /* rpc's: nothing comes after a status */
}

static void on_wake(evutil_socket_t fd, short what, void *user)
{
    (void)what;
    struct bridge *b = user;
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0)
        return;
    pthread_mutex_lock(&b->lock);
    struct note *note = b->first;
    b->first = NULL;
    b->last = &b->first;
    pthread_mutex_unlock(&b->lock);
    while (note) {
        struct note *next = note->next;
        deliver(note);
        free(note);
        note = next;
    }
}

enum error_code bridge_start(struct bridge *b, const struct bridge_options *options, struct bridge_call **out,
                             struct error *err)
{
    struct bridge_call *call = calloc(1, sizeof *call);
    if (!call)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    *call = (struct bridge_call){
        .bridge = b, .user = options->user, .on_message = options->on_message, .on_status = options->on_status};
    atomic_init(&call->n_owners, 2);
    const struct rpc_request_options request = {
        .path = options->path,
        .data = options->data,
        .n_bytes = options->n_bytes,
        .deadline_ns = options->deadline_ns,
        .wait_for_ready = options->wait_for_ready,
        .metadata = options->metadata,
        .window_bytes = ENGINE_WINDOW_BYTES,
        .user = call,
        .on_message = cq_message,
        .on_status = cq_status,
    };
    pthread_mutex_lock(&b->lock);
    enum error_code code = rpc_request_start(options->client, &request, &call->handle, err);
    pthread_mutex_unlock(&b->lock);
    if (code != ERROR_NONE) {
        free(call);
        return code;
    }
    *out = call;
    return ERROR_NONE;
}

void bridge_release(struct bridge_call *call, size_t cost)
{
    if (cost > 0)
        rpc_request_release(call->handle, cost);
}

void bridge_cancel(struct bridge_call *call)
{
    rpc_request_cancel(call->handle);
    detach(call);
    call_put(call);
}

struct rpc_queue *bridge_queue(struct bridge *b)
{
    return b->queue;
}

enum error_code bridge_open(struct event_base *base, struct bridge **out, struct error *err)
{
    struct bridge *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    pthread_mutex_init(&b->lock, NULL);
    b->last = &b->first;
    b->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    b->wake = b->wake_fd >= 0 ? event_new(base, b->wake_fd, EV_READ | EV_PERSIST, on_wake, b) : NULL;
    enum error_code code = b->wake && event_add(b->wake, NULL) == 0
                               ? rpc_queue_open(&b->queue, err)
                               : error_set(err, ERROR_INTERNAL, "cannot make an eventfd");
    if (code != ERROR_NONE)
        bridge_close(b);
    else
        *out = b;
    return code;
}

void bridge_close(struct bridge *b)
{
    if (!b)
        return;
    rpc_queue_close(b->queue);
    if (b->wake) {
        uint64_t one = 1;
        if (write(b->wake_fd, &one, sizeof one) == sizeof one)
            on_wake(b->wake_fd, EV_READ, b);
        event_free(b->wake);
    }
    if (b->wake_fd >= 0)
        close(b->wake_fd);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
