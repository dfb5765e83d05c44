/*
 * Calls and the way of their messages from the CQ threads to the loop.
 *
 * A call has two owners: the loop (until on_status was delivered or engine_cancel) and rpc (until its on_status); the last
 * one frees it. `lock` of the engine guards the list of notes and each call's handle while it starts: rpc's callbacks may
 * come before rpc_request_start has returned.
 */
#include "gateway/engine.h"

#include "base/log.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* UNAVAILABLE before anything came, and CANCELLED in the moment an engine goes away, are worth a second try elsewhere.
 * round_robin is the policy that watches health and reconnects by itself. */
#define SERVICE_CONFIG(health)                                                                                         \
    "{\"loadBalancingConfig\":[{\"round_robin\":{}}]," health "\"methodConfig\":[{\"name\":[{}],\"retryPolicy\":{"     \
    "\"maxAttempts\":3,\"initialBackoff\":\"0.02s\",\"maxBackoff\":\"0.2s\",\"backoffMultiplier\":2,"                  \
    "\"retryableStatusCodes\":[\"UNAVAILABLE\",\"CANCELLED\"]}}]}"

static const char work_config[] = SERVICE_CONFIG("\"healthCheckConfig\":{\"serviceName\":\"\"},");
static const char admin_config[] = SERVICE_CONFIG("");

enum note_kind { NOTE_MESSAGE, NOTE_STATUS };

/* Something that happened on a CQ thread; owned by the list, then by the loop. */
struct note {
    struct note *next;
    struct engine_call *call;
    enum note_kind kind;
    int status;
    size_t n_bytes, n_text; /* message, or details and the status's message behind them */
    char data[];
};

struct engine {
    struct event *wake; /* loop */
    int wake_fd;
    struct rpc_client *clients[2];
    struct engine_call *calls; /* loop: not cancelled, doubly linked */
    pthread_mutex_t lock;
    struct note *first, **last; /* under lock */
};

struct engine_call {
    struct engine *engine;
    struct engine_call_options options;
    struct rpc_request *handle; /* set under lock */
    struct engine_call *next, *previous;
    bool detached; /* loop: cancelled, or its status was delivered */
    atomic_int n_owners;
};

static void call_put(struct engine_call *call)
{
    if (atomic_fetch_sub(&call->n_owners, 1) == 1)
        free(call);
}

/* ---- CQ thread ---- */

static void post(struct engine_call *call, struct note *note)
{
    struct engine *e = call->engine;
    note->next = NULL;
    note->call = call;
    pthread_mutex_lock(&e->lock);
    bool first = !e->first;
    *e->last = note;
    e->last = &note->next;
    pthread_mutex_unlock(&e->lock);
    uint64_t one = 1;
    if (first && write(e->wake_fd, &one, sizeof one) != sizeof one)
        log_error("gateway", "eventfd write failed");
}

static struct rpc_request *handle_of(struct engine_call *call)
{
    pthread_mutex_lock(&call->engine->lock);
    struct rpc_request *handle = call->handle;
    pthread_mutex_unlock(&call->engine->lock);
    return handle;
}

static void cq_message(void *user, const void *data, size_t n_bytes)
{
    struct engine_call *call = user;
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
    struct engine_call *call = user;
    size_t n_details = status->details ? status->details_n_bytes : 0, n_text = strlen(status->message) + 1;
    struct note *note = malloc(sizeof *note + n_details + n_text);
    if (!note)
        abort(); /* the loop would wait for ever for the end of this call */
    *note = (struct note){.kind = NOTE_STATUS, .status = status->code, .n_bytes = n_details, .n_text = n_text};
    if (n_details > 0)
        memcpy(note->data, status->details, n_details);
    memcpy(note->data + n_details, status->message, n_text);
    post(call, note);
}

/* ---- loop ---- */

/* Takes the call out of the loop's hands. */
static void detach(struct engine_call *call)
{
    struct engine *e = call->engine;
    call->detached = true;
    *(call->previous ? &call->previous->next : &e->calls) = call->next;
    if (call->next)
        call->next->previous = call->previous;
    rpc_request_close(call->handle);
}

static void deliver(struct note *note)
{
    struct engine_call *call = note->call;
    if (note->kind == NOTE_MESSAGE) {
        if (!call->detached)
            call->options.on_message(call->options.user, note->data, note->n_bytes, note->n_bytes * ENGINE_EXPANSION);
        return;
    }
    if (!call->detached) {
        const struct rpc_status status = {.code = note->status,
                                          .message = note->data + note->n_bytes,
                                          .details = note->n_bytes > 0 ? note->data : NULL,
                                          .details_n_bytes = note->n_bytes};
        detach(call);
        call->options.on_status(call->options.user, &status);
        call_put(call); /* the loop's */
    }
    call_put(call); /* rpc's: nothing comes after a status */
}

static void on_wake(evutil_socket_t fd, short what, void *user)
{
    (void)what;
    struct engine *e = user;
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0)
        return;
    pthread_mutex_lock(&e->lock);
    struct note *note = e->first;
    e->first = NULL;
    e->last = &e->first;
    pthread_mutex_unlock(&e->lock);
    while (note) {
        struct note *next = note->next;
        deliver(note);
        free(note);
        note = next;
    }
}

static void fill_metadata(const struct engine_call_options *o, const char *metadata[5])
{
    size_t n = 0;
    if (o->request_id && o->request_id[0] != '\0') {
        metadata[n++] = "x-request-id";
        metadata[n++] = o->request_id;
    }
    if (o->traceparent && o->traceparent[0] != '\0') {
        metadata[n++] = "traceparent";
        metadata[n++] = o->traceparent;
    }
    metadata[n] = NULL;
}

enum error_code engine_start(struct engine *e, const struct engine_call_options *options, struct engine_call **out,
                             struct error *err)
{
    struct engine_call *call = calloc(1, sizeof *call);
    if (!call)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    call->engine = e;
    call->options = *options;
    atomic_init(&call->n_owners, 2);
    const char *metadata[5];
    fill_metadata(options, metadata);
    const struct rpc_request_options request = {
        .path = options->path,
        .data = options->data,
        .n_bytes = options->n_bytes,
        .deadline_ns = options->deadline_ns,
        .metadata = metadata,
        .window_bytes = ENGINE_WINDOW_BYTES,
        .user = call,
        .on_message = cq_message,
        .on_status = cq_status,
    };
    pthread_mutex_lock(&e->lock);
    enum error_code code = rpc_request_start(e->clients[options->channel], &request, &call->handle, err);
    pthread_mutex_unlock(&e->lock);
    if (code != ERROR_NONE) {
        free(call);
        return code;
    }
    call->next = e->calls;
    if (call->next)
        call->next->previous = call;
    e->calls = call;
    *out = call;
    return ERROR_NONE;
}

void engine_release(struct engine_call *call, size_t cost)
{
    if (cost > 0)
        rpc_request_release(call->handle, cost);
}

void engine_cancel(struct engine_call *call)
{
    rpc_request_cancel(call->handle);
    detach(call);
    call_put(call);
}

static enum error_code open_clients(struct engine *e, const char *target, const struct engine_tls *tls,
                                    struct error *err)
{
    const char *const configs[2] = {[ENGINE_WORK] = work_config, [ENGINE_ADMIN] = admin_config};
    for (int i = 0; i < 2; i++) {
        struct rpc_client_options options = {.target = target, .service_config = configs[i]};
        if (tls) {
            options.tls_ca_file = tls->ca;
            options.tls_cert_file = tls->cert;
            options.tls_key_file = tls->key;
            options.tls_name = tls->name;
        }
        enum error_code code = rpc_client_open(&options, &e->clients[i], err);
        if (code != ERROR_NONE)
            return code;
        rpc_client_connected(e->clients[i], true);
    }
    return ERROR_NONE;
}

enum error_code engine_open(struct event_base *base, const char *target, const struct engine_tls *tls,
                            struct engine **out, struct error *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    pthread_mutex_init(&e->lock, NULL);
    e->last = &e->first;
    e->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->wake = e->wake_fd >= 0 ? event_new(base, e->wake_fd, EV_READ | EV_PERSIST, on_wake, e) : NULL;
    if (!e->wake || event_add(e->wake, NULL) != 0)
        error_set(err, ERROR_INTERNAL, "cannot make an eventfd");
    else if (open_clients(e, target, tls, err) == ERROR_NONE) {
        *out = e;
        return ERROR_NONE;
    }
    enum error_code code = err ? err->code : ERROR_INTERNAL;
    engine_close(e);
    return code;
}

void engine_close(struct engine *e)
{
    while (e->calls)
        engine_cancel(e->calls);
    for (int i = 0; i < 2; i++)
        if (e->clients[i])
            rpc_client_close(e->clients[i]); /* all on_status have come */
    if (e->wake) {
        uint64_t one = 1;
        if (write(e->wake_fd, &one, sizeof one) == sizeof one)
            on_wake(e->wake_fd, EV_READ, e);
        event_free(e->wake);
    }
    if (e->wake_fd >= 0)
        close(e->wake_fd);
    pthread_mutex_destroy(&e->lock);
    free(e);
}
