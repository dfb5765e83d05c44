/*
 * The server: address, queues, new calls, drain. What happens to a call once it is there is call.c's.
 *
 *   request_call -> slot -> call_start; the slot waits for the next call
 *
 * Unknown methods come the same way, so that they get an answer: calls that nobody asked for would hang.
 */
#include "rpc/server.h"

#include "base/clock.h"
#include "base/log.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX_MESSAGE_BYTES (4 * 1024 * 1024)
#define DEFAULT_MAX_STREAMS 1024
#define DEFAULT_KEEPALIVE_MS 60000
#define DEFAULT_KEEPALIVE_TIMEOUT_MS 10000
#define MIN_PING_INTERVAL_MS 900 /* below RPC_MIN_KEEPALIVE_MS, or clients that ping so often would be sent away */

static void on_new_call(void *owner, bool ok);

static void slot_wait(struct slot *slot)
{
    grpc_call_details_init(&slot->details);
    grpc_metadata_array_init(&slot->metadata);
    slot->call = NULL;
    slot->tag = (struct tag){on_new_call, slot};
    TAG_RELEASE(&slot->tag);
    RPC_ASSERT(grpc_server_request_call(slot->server->server, &slot->call, &slot->details, &slot->metadata, slot->queue->cq,
                                        slot->queue->cq, &slot->tag) == GRPC_CALL_OK);
}

static void on_new_call(void *owner, bool ok)
{
    struct slot *slot = owner;
    if (!ok) { /* the server shuts down */
        grpc_call_details_destroy(&slot->details);
        grpc_metadata_array_destroy(&slot->metadata);
        return;
    }
    struct slot taken = *slot;
    pthread_mutex_lock(&slot->server->lock);
    bool again = !slot->server->shutting_down;
    pthread_mutex_unlock(&slot->server->lock);
    if (again)
        slot_wait(slot); /* first, so that the next call need not wait for this one */
    call_start(&taken);
}

static grpc_server *make_server(const struct rpc_server_options *o)
{
    size_t max_bytes = o->max_message_bytes ? o->max_message_bytes : DEFAULT_MAX_MESSAGE_BYTES;
#define OR(v, otherwise) ((v) ? (v) : (otherwise))
#define INT_ARG(name, v) {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)(name), .value.integer = (v)}
    grpc_arg args[] = {
        INT_ARG(GRPC_ARG_ALLOW_REUSEPORT, 0), /* or two servers bind one port and nobody notices */
        INT_ARG(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, max_bytes > INT32_MAX ? INT32_MAX : (int)max_bytes),
        INT_ARG(GRPC_ARG_MAX_CONCURRENT_STREAMS, OR(o->max_concurrent_streams, DEFAULT_MAX_STREAMS)),
        /* None: a small compressed message would be unpacked to any size before its size is checked. */
        INT_ARG(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
        INT_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, OR(o->keepalive_ms, DEFAULT_KEEPALIVE_MS)),
        INT_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, OR(o->keepalive_timeout_ms, DEFAULT_KEEPALIVE_TIMEOUT_MS)),
        INT_ARG(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, MIN_PING_INTERVAL_MS),
        INT_ARG(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        INT_ARG(GRPC_ARG_MAX_CONNECTION_AGE_MS, OR(o->max_connection_age_ms, INT32_MAX)), /* gRPC varies it by a tenth */
        INT_ARG(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, OR(o->max_connection_age_grace_ms, INT32_MAX)),
    };
#undef INT_ARG
#undef OR
    grpc_channel_args list = {sizeof args / sizeof args[0], args};
    return grpc_server_create(&list, NULL);
}

/* Each address has credentials of its own, because each asks for a new certificate by itself. 0 and `err` when it cannot be bound. */
static int bind_one(struct rpc_server *s, const struct rpc_server_options *o, const char *address, struct error *err)
{
    grpc_server_credentials *credentials = core_server_credentials(o, &s->certificates, err);
    if (!credentials)
        return 0;
    int port = grpc_server_add_http2_port(s->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0)
        error_set(err, ERROR_INVALID_REQUEST, "cannot listen on \"%s\": in use, or no address of this machine", address);
    return port;
}

/* Binds each address of the comma-separated list. */
static enum error_code bind_all(struct rpc_server *s, const struct rpc_server_options *o, struct error *err)
{
    struct error why = {0};
    char *list = strdup(o->listen), *rest = list, *address;
    if (!list)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the list of addresses");
    for (bool first = true; !why.code && (address = strsep(&rest, ",")) != NULL; first = false) {
        int port = bind_one(s, o, address, &why);
        if (first)
            s->port = strncmp(address, "unix:", 5) == 0 ? 0 : port;
    }
    free(list);
    if (err && why.code)
        *err = why;
    return why.code;
}

static void on_shutdown(void *owner, bool ok)
{
    struct rpc_server *s = owner;
    (void)ok;
    pthread_mutex_lock(&s->lock);
    s->is_shut_down = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static enum error_code start_queues(struct rpc_server *s, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (; !code && s->n_started < s->n_queues; s->n_started += !code) {
        for (int i = 0; i < SERVER_SLOTS; i++)
            slot_wait(&s->slots[s->n_started * SERVER_SLOTS + i]);
        code = cq_start(&s->queues[s->n_started], "rpc-server", err);
    }
    return code;
}

enum error_code rpc_server_open(const struct rpc_server_options *options, struct rpc_server **out, struct error *err)
{
    int n_queues = options->n_threads > 0 ? options->n_threads : 1;
    struct rpc_server *s = calloc(1, sizeof *s);
    if (s) {
        s->queues = calloc((size_t)n_queues, sizeof *s->queues);
        s->slots = calloc((size_t)n_queues * SERVER_SLOTS, sizeof *s->slots);
    }
    if (!s || !s->queues || !s->slots) {
        if (s) {
            free(s->queues);
            free(s->slots);
        }
        free(s);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an RPC server");
    }
    s->methods = options->methods;
    s->n_queues = n_queues;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->server = make_server(options);
    for (int i = 0; i < n_queues; i++) {
        cq_init(&s->queues[i]);
        grpc_server_register_completion_queue(s->server, s->queues[i].cq, NULL);
        for (int j = 0; j < SERVER_SLOTS; j++)
            s->slots[i * SERVER_SLOTS + j] = (struct slot){.server = s, .queue = &s->queues[i]};
    }
    enum error_code code = bind_all(s, options, err);
    grpc_server_start(s->server); /* also after a failure: a server that never started cannot be shut down */
    if (!code)
        code = start_queues(s, err);
    if (code) {
        rpc_server_close(s);
        return code;
    }
    *out = s;
    return ERROR_NONE;
}

int rpc_server_port(const struct rpc_server *s) { return s->port; }

/* Waits until `*flag`, or until deadline_ns; under the lock. */
static bool wait_until(struct rpc_server *s, const bool *flag, int64_t deadline_ns)
{
    struct timespec t = {.tv_sec = deadline_ns / CLOCK_NS_PER_S, .tv_nsec = deadline_ns % CLOCK_NS_PER_S};
    while (!*flag)
        if (deadline_ns == CLOCK_NEVER)
            pthread_cond_wait(&s->changed, &s->lock);
        else if (pthread_cond_timedwait(&s->changed, &s->lock, &t) != 0)
            break;
    return *flag;
}

void rpc_server_drain(struct rpc_server *s, int64_t deadline_ns)
{
    pthread_mutex_lock(&s->lock);
    bool first = !s->shutting_down;
    s->shutting_down = true;
    pthread_mutex_unlock(&s->lock);
    if (first) {
        s->shutdown_tag = (struct tag){on_shutdown, s};
        TAG_RELEASE(&s->shutdown_tag);
        grpc_server_shutdown_and_notify(s->server, s->queues[0].cq, &s->shutdown_tag);
    }
    pthread_mutex_lock(&s->lock);
    bool done = wait_until(s, &s->is_shut_down, deadline_ns);
    pthread_mutex_unlock(&s->lock);
    if (done)
        return;
    grpc_server_cancel_all_calls(s->server);
    pthread_mutex_lock(&s->lock);
    wait_until(s, &s->is_shut_down, CLOCK_NEVER);
    pthread_mutex_unlock(&s->lock);
}

void rpc_server_close(struct rpc_server *s)
{
    if (!s)
        return;
    if (s->n_started > 0) {
        rpc_server_drain(s, 0);
        pthread_mutex_lock(&s->lock);
        while (s->n_calls > 0) /* their owners let go in on_done */
            pthread_cond_wait(&s->changed, &s->lock);
        pthread_mutex_unlock(&s->lock);
    } else {
        s->shutdown_tag = (struct tag){on_shutdown, s};
        grpc_server_shutdown_and_notify(s->server, s->queues[0].cq, &s->shutdown_tag);
    }
    for (int i = 0; i < s->n_queues; i++)
        cq_fini(&s->queues[i], i < s->n_started);
    grpc_server_destroy(s->server);
    core_certificates_free(s->certificates);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->slots);
    free(s->queues);
    free(s);
}
