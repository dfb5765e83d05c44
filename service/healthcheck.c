/* `bitnet-engine healthcheck`: one grpc.health.v1 Check, for containers that have no shell. */
#include "service/options.h"

#include "base/clock.h"
#include "grpc/health/v1/health.pb-c.h"

#include <pthread.h>
#include <stdio.h>

#define LIMIT_NS (3 * CLOCK_NS_PER_S)

struct probe_config {
    const char *target;
};

static const struct option_def defs[] = {{.name = "target",
                                          .type = OPTION_STRING,
                                          .offset = offsetof(struct probe_config, target),
                                          .default_value = "127.0.0.1:50051",
                                          .help = "gRPC address of the engine"},
                                         {.name = NULL}};
static const struct option_table table = {"bitnet-engine healthcheck",
                                          "usage: bitnet-engine healthcheck [--target ADDRESS]\n", defs};

struct probe {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int code; /* -1: not over */
    bool serving;
};

static void on_message(void *user, const void *data, size_t n_bytes)
{
    struct probe *p = user;
    Grpc__Health__V1__HealthCheckResponse *r = grpc__health__v1__health_check_response__unpack(NULL, n_bytes, data);
    p->serving = r && r->status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    if (r)
        grpc__health__v1__health_check_response__free_unpacked(r, NULL);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct probe *p = user;
    pthread_mutex_lock(&p->lock);
    p->code = status->code;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static bool check(struct rpc_client *client, struct error *err)
{
    struct probe p = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .code = -1};
    struct rpc_request *request;
    const struct rpc_request_options options = {.path = "/grpc.health.v1.Health/Check",
                                                .data = "",
                                                .deadline_ns = clock_now_ns() + LIMIT_NS,
                                                .user = &p,
                                                .on_message = on_message,
                                                .on_status = on_status};
    if (rpc_request_start(client, &options, &request, err))
        return false;
    pthread_mutex_lock(&p.lock);
    while (p.code < 0)
        pthread_cond_wait(&p.changed, &p.lock);
    pthread_mutex_unlock(&p.lock);
    rpc_request_close(request);
    return p.code == 0 && p.serving;
}

int healthcheck_main(int argc, char **argv)
{
    struct probe_config config = {0};
    struct option_result result = {0};
    struct error err = {0};
    struct rpc_client *client = NULL;
    bool serving = false;
    if (option_parse(&table, argc, argv, &config, &result, &err)) {
        fprintf(stderr, "bitnet-engine healthcheck: %s\n", err.message);
        return 1;
    }
    rpc_init();
    if (!rpc_client_open(&(struct rpc_client_options){.target = config.target}, &client, &err)) {
        serving = check(client, &err);
        rpc_client_close(client);
    }
    rpc_fini();
    if (err.code)
        fprintf(stderr, "bitnet-engine healthcheck: %s\n", err.message);
    printf("%s\n", serving ? "serving" : "not serving");
    option_free(&table, &config);
    return serving ? 0 : 1;
}
