/* A server: ports, completion queues, methods, and the end in good order. One call is call.c's. */
#include "rpc/server.h"

#include "base/clock.h"

#include <errno.h>
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MESSAGE_BYTES (4 * 1024 * 1024)
#define DEFAULT_STREAMS 1024
#define MAX_QUEUES 16
/* Pings of clients are welcome this often; ours find a client that is gone without a FIN, whose sequence must be freed. */
#define CLIENT_PING_MS 10000
#define KEEPALIVE_MS 30000
#define KEEPALIVE_TIMEOUT_MS 10000
#define HANDSHAKE_TIMEOUT_MS 10000

void server_count(struct rpc_server *s, int n)
{
    pthread_mutex_lock(&s->lock);
    s->n_calls = n > 0 ? s->n_calls + 1 : s->n_calls - 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void on_shutdown(void *owner, bool ok)
{
    (void)ok;
    struct rpc_server *s = owner;
    pthread_mutex_lock(&s->lock);
    s->shut_down = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_server *create(const struct rpc_server_options *o, size_t max_message_bytes)
{
    grpc_arg args[16];
    size_t n = 0;
    /* Two servers must not share a port without a word. */
    args[n++] = int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    args[n++] = int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message_bytes);
    args[n++] = int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                        o->max_concurrent_streams ? o->max_concurrent_streams : DEFAULT_STREAMS);
    /* Tokens are too small to compress, and what a client compresses could be a bomb: identity (bit 0) alone. */
    args[n++] = int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    args[n++] = int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args[n++] = int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, CLIENT_PING_MS);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS);
    args[n++] = int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    args[n++] = int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS);
    if (o->max_connection_age_ms)
        args[n++] = int_arg(GRPC_ARG_MAX_CONNECTION_AGE_MS, o->max_connection_age_ms);
    return grpc_server_create(&(grpc_channel_args){n, args}, NULL);
}

static enum error_code bind_all(struct rpc_server *s, const struct rpc_server_options *o, struct error *err)
{
    grpc_server_credentials *credentials =
        core_server_credentials(o->tls_cert_file, o->tls_key_file, o->tls_client_ca_file, err);
    if (!credentials)
        return err ? err->code : ERROR_INVALID_REQUEST;
    enum error_code code = ERROR_NONE;
    char *rest = NULL, *list = strdup(o->listen);
    bool first = true;
    for (char *at = list ? strtok_r(list, ", ", &rest) : NULL; at && !code; at = strtok_r(NULL, ", ", &rest)) {
        int port = grpc_server_add_http2_port(s->server, at, credentials);
        if (port == 0)
            code = error_set(
                err, ERROR_CONFLICT,
                "cannot listen on %s: in use, or no address of this machine (expected host:port or unix:path)", at);
        if (first)
            s->port = strncmp(at, "unix:", 5) == 0 ? 0 : port;
        first = false;
    }
    if (!code && first)
        code = error_set(err, ERROR_INVALID_REQUEST, "no address to listen on");
    free(list);
    grpc_server_credentials_release(credentials);
    return code;
}

static enum error_code register_methods(struct rpc_server *s, const struct rpc_method *defs, struct error *err)
{
    size_t n = 0;
    while (defs[n].path)
        n++;
    s->n_methods = n + 1;
    s->methods = calloc(s->n_methods, sizeof *s->methods);
    if (!s->methods)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu methods", n);
    for (size_t i = 0; i < n; i++) {
        s->methods[i].def = &defs[i];
        s->methods[i].handle = grpc_server_register_method(
            s->server, defs[i].path, NULL,
            defs[i].kind == RPC_BIDI ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        if (!s->methods[i].handle)
            return error_set(err, ERROR_INTERNAL, "method %s is there twice", defs[i].path);
    }
    return ERROR_NONE;
}

static enum error_code start(struct rpc_server *s, struct error *err)
{
    grpc_server_start(s->server);
    for (int q = 0; q < s->n_queues; q++) {
        for (size_t m = 0; m < s->n_methods; m++)
            call_expect(s, &s->methods[m], &s->queues[q]);
        char name[16];
        snprintf(name, sizeof name, "rpc-server-%d", q % 100);
        enum error_code code = queue_start(&s->queues[q], name, err);
        if (code)
            return code;
        s->n_started++;
    }
    return ERROR_NONE;
}

static void init_lock(struct rpc_server *s)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&s->lock, NULL);
}

/* Frees a server that never served. */
static void abandon(struct rpc_server *s)
{
    struct tag *tag = &s->shutdown_tag;
    grpc_server_shutdown_and_notify(s->server, s->queues[0].cq, tag);
    for (int q = 0; q < s->n_queues; q++)
        grpc_completion_queue_shutdown(s->queues[q].cq);
    while (grpc_completion_queue_next(s->queues[0].cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_server_destroy(s->server);
    for (int q = 0; q < s->n_queues; q++)
        queue_fini(&s->queues[q], false);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s->methods);
    free(s->queues);
    free(s);
}

enum error_code rpc_server_open(const struct rpc_server_options *options, struct rpc_server **out, struct error *err)
{
    struct rpc_server *s = calloc(1, sizeof *s);
    int n_queues = options->n_threads < 1 ? 1 : options->n_threads > MAX_QUEUES ? MAX_QUEUES : options->n_threads;
    struct queue *queues = calloc((size_t)n_queues, sizeof *queues);
    if (!s || !queues) {
        free(s);
        free(queues);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a server");
    }
    init_lock(s);
    s->queues = queues;
    s->n_queues = n_queues;
    s->max_message_bytes = options->max_message_bytes ? options->max_message_bytes : DEFAULT_MESSAGE_BYTES;
    s->shutdown_tag = (struct tag){on_shutdown, s};
    s->server = create(options, s->max_message_bytes);
    for (int q = 0; q < n_queues; q++) {
        queue_init(&s->queues[q]);
        grpc_server_register_completion_queue(s->server, s->queues[q].cq, NULL);
    }
    enum error_code code = register_methods(s, options->methods, err);
    if (!code)
        code = bind_all(s, options, err);
    if (code) {
        abandon(s);
        return code;
    }
    code = start(s, err);
    if (code) {
        rpc_server_close(s);
        return code;
    }
    *out = s;
    return ERROR_NONE;
}

int rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

/* ---- end -------------------------------------------------------------------------------------------------------- */

static bool ended(const struct rpc_server *s)
{
    return s->shut_down && s->n_calls == 0;
}

void rpc_server_drain(struct rpc_server *s, int64_t deadline_ns)
{
    pthread_mutex_lock(&s->lock);
    bool first = !s->shutting_down;
    s->shutting_down = true;
    pthread_mutex_unlock(&s->lock);
    if (first) {
        TAG_RELEASE(&s->shutdown_tag);
        grpc_server_shutdown_and_notify(s->server, s->queues[0].cq, &s->shutdown_tag);
    }
    struct timespec until = {deadline_ns / CLOCK_NS_PER_S, deadline_ns % CLOCK_NS_PER_S};
    pthread_mutex_lock(&s->lock);
    int waited = 0;
    while (!ended(s) && waited != ETIMEDOUT)
        waited = deadline_ns == CLOCK_NEVER ? pthread_cond_wait(&s->changed, &s->lock)
                                            : pthread_cond_timedwait(&s->changed, &s->lock, &until);
    bool cancel = !ended(s);
    pthread_mutex_unlock(&s->lock);
    if (!cancel)
        return;
    grpc_server_cancel_all_calls(s->server);
    pthread_mutex_lock(&s->lock);
    while (!ended(s))
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void rpc_server_close(struct rpc_server *s)
{
    if (!s)
        return;
    if (s->n_started == 0) {
        abandon(s);
        return;
    }
    rpc_server_drain(s, clock_now_ns());
    /* Calls that waited for a client come out as failed before a queue is empty. */
    for (int q = 0; q < s->n_queues; q++)
        queue_fini(&s->queues[q], q < s->n_started);
    grpc_server_destroy(s->server);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s->methods);
    free(s->queues);
    free(s);
}
