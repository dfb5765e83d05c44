/* A client: one channel, one completion queue. A call of it is request.c's. */
#include "rpc/client.h"

#include "base/clock.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MESSAGE_BYTES (16 * 1024 * 1024)
/* A server that is gone without a FIN is found after both together, 25 s. */
#define KEEPALIVE_MS 20000
#define KEEPALIVE_TIMEOUT_MS 5000
/* What the transport takes in before anybody reads: with bandwidth probing it would be 120,000 tokens. */
#define LOOKAHEAD_BYTES 16384
#define BACKOFF_FIRST_MS 250
#define BACKOFF_MAX_MS 5000
#define CONNECT_TIMEOUT_MS 5000

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_channel *create(const struct rpc_client_options *o, grpc_channel_credentials *credentials)
{
    grpc_arg args[16];
    size_t n = 0;
    args[n++] = int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
                        (int)(o->max_message_bytes ? o->max_message_bytes : DEFAULT_MESSAGE_BYTES));
    args[n++] = int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    args[n++] = int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args[n++] = int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    args[n++] = int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    args[n++] = int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_FIRST_MS);
    args[n++] = int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MAX_MS);
    args[n++] = int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_TIMEOUT_MS);
    /* Each client has connections of its own; gRPC would share them between channels that look the same. */
    args[n++] = int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (o->service_config)
        args[n++] = (grpc_arg){
            .type = GRPC_ARG_STRING, .key = (char *)GRPC_ARG_SERVICE_CONFIG, .value.string = (char *)o->service_config};
    return grpc_channel_create(o->target, credentials, &(grpc_channel_args){n, args});
}

/* A channel without calls is polled only while somebody watches it, so it is watched all the time: connecting takes
 * milliseconds instead of the five seconds of gRPC's own poller, and the state is at hand. */
static void watch(struct rpc_client *c)
{
    c->state = grpc_channel_check_connectivity_state(c->channel, 0);
    c->watching = true;
    TAG_RELEASE(&c->watch_tag);
    grpc_channel_watch_connectivity_state(c->channel, c->state, gpr_inf_future(GPR_CLOCK_MONOTONIC), c->queue.cq,
                                          &c->watch_tag);
}

static void on_watch(void *owner, bool ok)
{
    (void)ok;
    struct rpc_client *c = owner;
    pthread_mutex_lock(&c->lock);
    c->watching = false;
    if (!c->closing)
        watch(c);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void client_free(struct rpc_client *c, bool started)
{
    queue_fini(&c->queue, started);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}

enum error_code rpc_client_open(const struct rpc_client_options *options, struct rpc_client **out, struct error *err)
{
    struct error local = {0};
    err = err ? err : &local;
    grpc_channel_credentials *credentials =
        core_channel_credentials(options->tls_ca_file, options->tls_cert_file, options->tls_key_file, err);
    if (!credentials)
        return err->code;
    struct rpc_client *c = calloc(1, sizeof *c);
    if (!c) {
        grpc_channel_credentials_release(credentials);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a client of %s", options->target);
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    queue_init(&c->queue);
    c->watch_tag = (struct tag){on_watch, c};
    c->channel = create(options, credentials);
    grpc_channel_credentials_release(credentials);
    enum error_code code = queue_start(&c->queue, "rpc-client", err);
    if (code) {
        grpc_channel_destroy(c->channel);
        client_free(c, false);
        return code;
    }
    pthread_mutex_lock(&c->lock);
    watch(c);
    pthread_mutex_unlock(&c->lock);
    *out = c;
    return ERROR_NONE;
}

void rpc_client_close(struct rpc_client *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    for (struct rpc_request *r = c->requests; r; r = r->next)
        rpc_request_cancel(r);
    while (c->requests)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    /* This ends the watch: the state becomes SHUTDOWN. */
    grpc_channel_destroy(c->channel);
    pthread_mutex_lock(&c->lock);
    while (c->watching)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    client_free(c, true);
}

bool rpc_client_connected(struct rpc_client *c, bool try_to_connect)
{
    return grpc_channel_check_connectivity_state(c->channel, try_to_connect) == GRPC_CHANNEL_READY;
}
