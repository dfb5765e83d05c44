/* See changes.h. */
#include "service/changes.h"

#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WAITING 16                /* events of progress that a client has not read; the latest are kept */
#define RESULT_MAX_BYTES (256 * 1024) /* a validation's failures are bounded */
#define RETRY_MS 1000

struct changes {
    struct service *service;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t ended;
    size_t n;
    bool draining;
};

/* An event of progress, with its texts. */
struct event {
    char phase[32], message[256];
    double share, elapsed_ms;
};

struct change {
    struct changes *all;
    const struct change_kind *kind;
    void *request;
    atomic_int n_refs; /* the change's thread, and the call */

    /* the call's thread's */
    bool sending, over;

    pthread_mutex_t lock;  /* guards what follows */
    struct rpc_call *call; /* NULL once it is over */
    struct event waiting[MAX_WAITING];
    size_t n_waiting;
    bool ended;
    struct error err;
    struct buffer result;
};

struct changes *changes_open(struct service *s)
{
    struct changes *c = calloc(1, sizeof *c);
    pthread_condattr_t clock;
    if (!c)
        return NULL;
    c->service = s;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&c->ended, &clock);
    pthread_condattr_destroy(&clock);
    return c;
}

void changes_close(struct changes *c)
{
    if (!c)
        return;
    pthread_cond_destroy(&c->ended);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

bool changes_drain(struct changes *c, int64_t deadline_ns)
{
    const struct timespec until = {deadline_ns / CLOCK_NS_PER_S, deadline_ns % CLOCK_NS_PER_S};
    pthread_mutex_lock(&c->lock);
    c->draining = true;
    while (c->n > 0 && clock_now_ns() < deadline_ns)
        pthread_cond_timedwait(&c->ended, &c->lock, &until);
    bool none = c->n == 0;
    pthread_mutex_unlock(&c->lock);
    return none;
}

/* Takes a place among those that run. */
static enum error_code enter(struct changes *c, struct error *err)
{
    pthread_mutex_lock(&c->lock);
    bool draining = c->draining, full = c->n == CHANGES_MAX;
    c->n += !draining && !full;
    pthread_mutex_unlock(&c->lock);
    if (!draining && !full)
        return ERROR_NONE;
    error_set(err, ERROR_SERVICE_UNAVAILABLE,
              draining ? "the engine is shutting down"
                       : "expected at most %d changes of models at once, found as many running",
              CHANGES_MAX);
    err->reason = draining ? REFUSED_DRAINING : "changes";
    err->retry_after_ms = RETRY_MS;
    return err->code;
}

static void leave(struct changes *c)
{
    pthread_mutex_lock(&c->lock);
    c->n--;
    pthread_cond_broadcast(&c->ended);
    pthread_mutex_unlock(&c->lock);
}

static void release(struct change *c)
{
    if (atomic_fetch_sub(&c->n_refs, 1) > 1)
        return;
    pthread_mutex_destroy(&c->lock);
    buffer_fini(&c->result);
    message_free(c->request);
    free(c);
}

/* ---- the call's thread ---- */

/* Takes the next event of progress; false when there is none, and then *ended says whether there will be none. */
static bool next_event(struct change *c, struct event *out, bool *ended)
{
    pthread_mutex_lock(&c->lock);
    bool some = c->n_waiting > 0;
    *ended = c->ended;
    if (some) {
        *out = c->waiting[0];
        memmove(c->waiting, c->waiting + 1, --c->n_waiting * sizeof *c->waiting);
    }
    pthread_mutex_unlock(&c->lock);
    return some;
}

static bool send_event(struct change *c, struct rpc_call *call, const struct event *e)
{
    struct buffer message;
    buffer_init(&message, sizeof *e * 2);
    bool sent =
        c->kind->pack_progress(&(struct model_progress){e->phase, e->share, e->message, e->elapsed_ms}, &message) &&
        rpc_call_send(call, message.data, message.n_bytes);
    buffer_fini(&message);
    return sent;
}

/* What has ended does not change any more. */
static void answer(struct change *c, struct service *s, struct rpc_call *call)
{
    const struct rpc_status ok = {.message = ""};
    bool stream = c->kind->pack_progress;
    c->over = true;
    if (stream && c->result.n_bytes > 0)
        rpc_call_send(call, c->result.data, c->result.n_bytes);
    if (c->err.code)
        status_fail(s, call, &c->err);
    else if (stream)
        rpc_call_finish(call, &ok, NULL, 0);
    else
        rpc_call_finish(call, &ok, c->result.n_bytes > 0 ? c->result.data : "", c->result.n_bytes);
}

/* Sends what is there, one message at a time. */
static void advance(void *service, struct rpc_call *call)
{
    struct change *c = rpc_call_user(call);
    struct event e;
    bool ended = false;
    while (c && !c->over && !c->sending) {
        if (next_event(c, &e, &ended))
            c->sending = send_event(c, call, &e);
        else if (ended)
            answer(c, service, call);
        else
            return;
    }
}

void change_sent(void *service, struct rpc_call *call, bool ok)
{
    struct change *c = rpc_call_user(call);
    (void)ok; /* a failure is followed by change_done */
    if (c)
        c->sending = false;
    advance(service, call);
}

void change_done(void *service, struct rpc_call *call, bool cancelled)
{
    struct change *c = rpc_call_user(call);
    (void)service, (void)cancelled;
    if (!c)
        return;
    rpc_call_set_user(call, NULL);
    pthread_mutex_lock(&c->lock);
    c->call = NULL;
    pthread_mutex_unlock(&c->lock);
    release(c);
}

/* ---- the change's thread ---- */

/* Under the change's lock, behind which the call does not end. */
static void wake(struct change *c)
{
    if (c->call)
        rpc_post(c->call, advance);
}

void change_progress(void *change, const struct model_progress *p)
{
    struct change *c = change;
    pthread_mutex_lock(&c->lock);
    struct event *last = c->n_waiting > 0 ? &c->waiting[c->n_waiting - 1] : NULL;
    bool same = last && strcmp(last->phase, p->phase) == 0;
    if (c->call && c->kind->pack_progress) {
        struct event *e = same || c->n_waiting == MAX_WAITING ? last : &c->waiting[c->n_waiting++];
        snprintf(e->phase, sizeof e->phase, "%s", p->phase);
        snprintf(e->message, sizeof e->message, "%s", p->message ? p->message : "");
        e->share = p->share;
        e->elapsed_ms = p->elapsed_ms;
        wake(c);
    }
    pthread_mutex_unlock(&c->lock);
}

static void *run(void *user)
{
    struct change *c = user;
    struct changes *all = c->all;
    struct error err = {0};
    int64_t start_ns = clock_now_ns();
    enum error_code code = c->kind->run(c, all->service, c->request, &c->result, &err);
    LOG_AT(code ? LOG_WARN : LOG_INFO, "service", "change of models", LOG_STR("change", c->kind->name),
           LOG_STR("code", code ? error_info(code)->name : "OK"), LOG_STR("reason", code ? err.message : NULL),
           LOG_FLOAT("seconds", (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_S));
    pthread_mutex_lock(&c->lock);
    c->err = err;
    c->err.code = code;
    c->ended = true;
    wake(c);
    pthread_mutex_unlock(&c->lock);
    release(c);
    leave(all);
    return NULL;
}

static bool start_thread(struct change *c)
{
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&thread, &detached, run, c) == 0;
    pthread_attr_destroy(&detached);
    return started;
}

void change_start(struct changes *all, const struct change_kind *kind, struct rpc_call *call, void *request)
{
    struct error err = {0};
    struct change *c = enter(all, &err) ? NULL : calloc(1, sizeof *c);
    if (c) {
        *c = (struct change){.all = all, .kind = kind, .request = request, .n_refs = 2, .call = call};
        pthread_mutex_init(&c->lock, NULL);
        buffer_init(&c->result, RESULT_MAX_BYTES);
        rpc_call_set_user(call, c);
        if (start_thread(c))
            return;
        rpc_call_set_user(call, NULL);
        c->n_refs = 1;
        release(c);
        request = NULL;
    }
    if (!err.code) {
        error_set(&err, ERROR_INTERNAL, "cannot start a thread for a change of models");
        leave(all);
    }
    message_free(request);
    status_fail(all->service, call, &err);
}
