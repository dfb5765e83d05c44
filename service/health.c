/*
 * grpc.health.v1: Check and Watch. All services share one state: SERVING until the drain begins. A watch sends on change, one message at
 * a time; while one is under way the latest state waits.
 */
#include "base/log.h"
#include "grpc/health/v1/health.pb-c.h"
#include "service/service.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

struct watch {
    struct watch *next, **link; /* under the health's lock */
    struct rpc_call *call;      /* referenced */
    bool known, sending;
    int sent; /* last status sent, -1: none */
};

struct health {
    pthread_mutex_t lock;
    struct watch *watches;
    bool stopped, ended;
};

struct health *health_open(void)
{
    struct health *h = calloc(1, sizeof *h);
    if (h)
        pthread_mutex_init(&h->lock, NULL);
    return h;
}

void health_close(struct health *h)
{
    if (!h)
        return;
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static bool known(const struct service *s, const char *name)
{
    size_t n = strlen(name);
    if (n == 0)
        return true;
    for (const struct rpc_method *m = service_methods((struct service *)(uintptr_t)s); m->path; m++)
        if (strncmp(m->path + 1, name, n) == 0 && m->path[1 + n] == '/')
            return true;
    return false;
}

static char *service_name(const void *data, size_t n_bytes, struct error *err)
{
    Grpc__Health__V1__HealthCheckRequest *r =
        message_unpack(&grpc__health__v1__health_check_request__descriptor, data, n_bytes, err);
    char *name = r ? strdup(r->service) : NULL;
    message_free(r);
    if (r && !name)
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a health check");
    return name;
}

void health_check(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    char *name = service_name(data, n_bytes, &err);
    if (name && !known(s, name))
        error_set(&err, ERROR_NOT_FOUND, "unknown service \"%.100s\"", name);
    if (err.code) {
        status_fail(s, call, &err);
    } else {
        Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
        r.status = service_state(s).ready ? STATUS(SERVING) : STATUS(NOT_SERVING);
        message_answer(call, &r.base);
    }
    free(name);
}

/* Under the lock. */
static void update(struct health *h, struct watch *w)
{
    int status = !w->known ? STATUS(SERVICE_UNKNOWN) : h->stopped ? STATUS(NOT_SERVING) : STATUS(SERVING);
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    if (w->sending || w->sent == status)
        return;
    r.status = status;
    w->sending = message_send(w->call, &r.base);
    w->sent = status;
}

void health_watch(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct health *h = s->health;
    struct error err = {0};
    char *name = service_name(data, n_bytes, &err);
    struct watch *w = name ? calloc(1, sizeof *w) : NULL;
    if (!w) {
        if (!err.code)
            error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for a watch");
        status_fail(s, call, &err);
        free(name);
        return;
    }
    w->call = call;
    w->known = known(s, name);
    w->sent = -1;
    free(name);
    rpc_call_get(call);
    rpc_call_set_user(call, w);
    pthread_mutex_lock(&h->lock);
    w->link = &h->watches;
    w->next = h->watches;
    if (w->next)
        w->next->link = &w->next;
    h->watches = w;
    update(h, w);
    bool ended = h->ended;
    pthread_mutex_unlock(&h->lock);
    if (ended)
        rpc_call_finish(call, &(struct rpc_status){.code = 14, .message = "the server is going down"}, NULL, 0);
}

void health_sent(void *service, struct rpc_call *call, bool ok)
{
    struct health *h = ((struct service *)service)->health;
    struct watch *w = rpc_call_user(call);
    (void)ok;
    if (!w)
        return;
    pthread_mutex_lock(&h->lock);
    w->sending = false;
    update(h, w);
    pthread_mutex_unlock(&h->lock);
}

void health_done(void *service, struct rpc_call *call, bool cancelled)
{
    struct health *h = ((struct service *)service)->health;
    struct watch *w = rpc_call_user(call);
    (void)cancelled;
    if (!w)
        return;
    pthread_mutex_lock(&h->lock);
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    pthread_mutex_unlock(&h->lock);
    rpc_call_set_user(call, NULL);
    free(w);
    rpc_call_put(call);
}

void health_stop(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    h->stopped = true;
    for (struct watch *w = h->watches; w; w = w->next)
        update(h, w);
    pthread_mutex_unlock(&h->lock);
}

void health_end_watches(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    h->ended = true;
    for (struct watch *w = h->watches; w; w = w->next)
        rpc_call_finish(w->call, &(struct rpc_status){.code = 14, .message = "the server is going down"}, NULL, 0);
    pthread_mutex_unlock(&h->lock);
}
