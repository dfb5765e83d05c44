/*
 * Requests as StreamGenerate calls. A worker has one client of rpc: its connections and the one thread on which answers come.
 *
 * Messages are unpacked into an arena that is emptied after each, so that a token costs no allocation.
 */
#include "base/clock.h"
#include "rpc/rpc.h"
#include "tools/load_slot.h"

#include "bitnet/v1/inference.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ARENA_BYTES (4 << 20) /* more than an unpacked message takes: nothing the engine sends in one comes near it */
#define CONNECT_NS (3 * CLOCK_NS_PER_S)
#define DEADLINE_GRACE_NS (2 * CLOCK_NS_PER_S) /* the server's answer to a deadline comes before ours */
#define HELD_BYTES 2                           /* more than the window of readers that pause */

struct channel {
    struct rpc_client *client;
    ProtobufCAllocator allocator;
    char *arena; /* used on the client's thread only */
    size_t used;
};

struct call {
    struct rpc_request *handle;
    Bitnet__V1__FinishReason reason;
    bool complete;
    int64_t n_prompt, n_cached, n_tokens;
};

static const char *const status_names[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};
enum { STATUS_OK = 0, STATUS_CANCELLED = 1, STATUS_DEADLINE_EXCEEDED = 4, STATUS_RESOURCE_EXHAUSTED = 8 };

/* ---- the arena ------------------------------------------------------------------------------------------------------ */

static void *arena_alloc(void *user, size_t n_bytes)
{
    struct channel *c = user;
    size_t room = (n_bytes + 15) & ~(size_t)15;
    if (room < n_bytes || room > ARENA_BYTES - c->used)
        return NULL;
    void *p = c->arena + c->used;
    c->used += room;
    return p;
}

static void arena_free(void *user, void *p)
{
    (void)user, (void)p; /* all at once, by the next message */
}

/* ---- answers, on the client's thread --------------------------------------------------------------------------------- */

static void take_tokens(struct load_slot *s, const Bitnet__V1__TokenEvent *event, int64_t now_ns)
{
    for (size_t i = 0; i < event->n_tokens; i++)
        load_slot_text(s, event->tokens[i]->text, strlen(event->tokens[i]->text));
    load_slot_tokens(s, 1, event->n_tokens, now_ns);
}

static void take_answer(struct call *call, const Bitnet__V1__GenerateResponse *answer)
{
    call->complete = true;
    if (!answer->usage)
        return;
    call->n_prompt = answer->usage->prompt_tokens;
    call->n_cached = answer->usage->cached_prompt_tokens;
    call->n_tokens = answer->usage->completion_tokens;
}

static void on_message(void *user, const void *data, size_t n_bytes)
{
    struct load_slot *s = user;
    struct channel *c = s->worker->transport;
    struct call *call = s->connection;
    int64_t now_ns = clock_now_ns();
    c->used = 0;
    const Bitnet__V1__StreamGenerateResponse *m =
        bitnet__v1__stream_generate_response__unpack(&c->allocator, n_bytes, data);
    pthread_mutex_lock(&s->worker->lock);
    s->worker->stats.bytes_in += n_bytes;
    if (m && m->event_case == BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN)
        take_tokens(s, m->token, now_ns);
    else if (m && m->event_case == BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_CHOICE_END)
        call->reason = m->choice_end->finish_reason;
    else if (m && m->event_case == BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE)
        take_answer(call, m->complete);
    pthread_mutex_unlock(&s->worker->lock);
}

/* ErrorInfo's reason and RetryInfo's delay; what is not there is left as it was. */
static void read_details(const struct rpc_status *status, char reason[LOAD_FAULT_BYTES], int64_t *retry_ms)
{
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, status->details_n_bytes, status->details);
    for (size_t i = 0; s && i < s->n_details; i++) {
        const Google__Protobuf__Any *any = s->details[i];
        const char *name = any->type_url ? strrchr(any->type_url, '/') : NULL;
        if (name && strcmp(name, "/google.rpc.ErrorInfo") == 0) {
            Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);
            if (info)
                snprintf(reason, LOAD_FAULT_BYTES, "%s", info->reason);
            google__rpc__error_info__free_unpacked(info, NULL);
        } else if (name && strcmp(name, "/google.rpc.RetryInfo") == 0) {
            Google__Rpc__RetryInfo *retry = google__rpc__retry_info__unpack(NULL, any->value.len, any->value.data);
            if (retry && retry->retry_delay && retry->retry_delay->seconds >= 0 && retry->retry_delay->seconds < 86400)
                *retry_ms = retry->retry_delay->seconds * 1000 + retry->retry_delay->nanos / 1000000;
            google__rpc__retry_info__free_unpacked(retry, NULL);
        }
    }
    google__rpc__status__free_unpacked(s, NULL);
}

static void read_status(const struct call *call, const struct rpc_status *status, struct load_end *end,
                        char kind[2 * LOAD_FAULT_BYTES])
{
    char reason[LOAD_FAULT_BYTES] = "";
    size_t n_names = sizeof status_names / sizeof *status_names;
    if (status->code == STATUS_OK) {
        bool cut = call->reason == BITNET__V1__FINISH_REASON__FINISH_REASON_CANCELLED;
        bool late = call->reason == BITNET__V1__FINISH_REASON__FINISH_REASON_DEADLINE;
        end->how = late ? END_EXPIRED : cut ? END_CANCELLED : call->complete ? END_COMPLETED : END_FAILED;
        snprintf(kind, 2 * LOAD_FAULT_BYTES, "%s",
                 late  ? "finish reason deadline"
                 : cut ? "finish reason cancelled"
                       : "client: a stream without its last event");
        return;
    }
    if (status->details)
        read_details(status, reason, &end->retry_ms);
    end->how = status->code == STATUS_CANCELLED            ? END_CANCELLED
               : status->code == STATUS_DEADLINE_EXCEEDED  ? END_EXPIRED
               : status->code == STATUS_RESOURCE_EXHAUSTED ? END_REFUSED
                                                           : END_FAILED;
    const char *name = (size_t)status->code < n_names ? status_names[status->code] : "an unknown status";
    bool same = strcmp(name, reason) == 0;
    snprintf(kind, 2 * LOAD_FAULT_BYTES, "%s%s%s", name, reason[0] && !same ? " " : "", same ? "" : reason);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct load_slot *s = user;
    struct load_worker *w = s->worker;
    struct call *call = s->connection;
    struct load_end end = {.retry_ms = -1};
    char kind[2 * LOAD_FAULT_BYTES];
    int64_t now_ns = clock_now_ns();
    pthread_mutex_lock(&w->lock);
    end.n_prompt = call->n_prompt;
    end.n_cached = call->n_cached;
    end.n_tokens = call->n_tokens;
    end.kind = kind;
    read_status(call, status, &end, kind);
    rpc_request_close(call->handle);
    call->handle = NULL;
    load_slot_ended(s, &end, now_ns);
    pthread_mutex_unlock(&w->lock);
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

static void start(struct load_slot *s)
{
    struct channel *c = s->worker->transport;
    struct call *call = s->connection;
    const struct load_config *config = s->worker->run->plan->config;
    bool pauses = s->spec.behaviour == LOAD_SLOW || s->spec.behaviour == LOAD_DEAD;
    const struct rpc_request_options o = {.path = "/bitnet.v1.InferenceService/StreamGenerate",
                                          .data = s->body.data,
                                          .n_bytes = s->body.n_bytes,
                                          .deadline_ns = s->spec.behaviour == LOAD_DEADLINE
                                                             ? clock_now_ns() + config->deadline_ms * CLOCK_NS_PER_MS +
                                                                   DEADLINE_GRACE_NS
                                                             : CLOCK_NEVER,
                                          .window_bytes = pauses ? HELD_BYTES - 1 : 0,
                                          .user = s,
                                          .on_message = on_message,
                                          .on_status = on_status};
    *call = (struct call){.n_prompt = -1, .n_cached = -1, .n_tokens = -1};
    if (rpc_request_start(c->client, &o, &call->handle, NULL))
        load_no_memory();
}

static void cancel(struct load_slot *s)
{
    rpc_request_cancel(((struct call *)s->connection)->handle);
}

static void pause_reading(struct load_slot *s)
{
    rpc_request_hold(((struct call *)s->connection)->handle, HELD_BYTES);
}

static void resume_reading(struct load_slot *s)
{
    rpc_request_release(((struct call *)s->connection)->handle, HELD_BYTES);
}

static bool slot_open(struct load_slot *s)
{
    s->connection = calloc(1, sizeof(struct call));
    return s->connection;
}

static void slot_close(struct load_slot *s)
{
    free(s->connection);
}

/* ---- workers ---------------------------------------------------------------------------------------------------------- */

static enum error_code connect_to(struct channel *c, const char *target, struct error *err)
{
    const struct timespec step = {0, 5 * CLOCK_NS_PER_MS};
    int64_t limit_ns = clock_now_ns() + CONNECT_NS;
    while (!rpc_client_connected(c->client, true)) {
        if (clock_now_ns() > limit_ns)
            return error_set(err, ERROR_SERVICE_UNAVAILABLE, "cannot connect to %s within %d s", target,
                             (int)(CONNECT_NS / CLOCK_NS_PER_S));
        nanosleep(&step, NULL);
    }
    return ERROR_NONE;
}

static enum error_code open_client(struct channel *c, const struct load_plan *plan, struct error *err)
{
    const struct load_config *config = plan->config;
    struct rpc_tls *tls = NULL;
    enum error_code code = config->tls_ca || config->tls_cert || config->tls_key
                               ? rpc_tls_open(config->tls_ca, config->tls_cert, config->tls_key, &tls, err)
                               : ERROR_NONE;
    const struct rpc_client_options o = {.target = plan->target, .n_connections = (int)config->channels, .tls = tls};
    if (!code)
        code = rpc_client_open(&o, &c->client, err);
    rpc_tls_close(tls);
    return code ? code : connect_to(c, o.target, err);
}

static enum error_code open_channel(struct load_worker *w, struct error *err)
{
    struct channel *c = calloc(1, sizeof *c);
    w->transport = c;
    if (!c || !(c->arena = malloc(ARENA_BYTES)))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a channel");
    c->allocator = (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = c};
    return open_client(c, w->run->plan, err);
}

static void close_channel(struct load_worker *w)
{
    struct channel *c = w->transport;
    rpc_client_close(c->client);
    free(c->arena);
    free(c);
}

const struct load_transport load_grpc = {.open = open_channel,
                                         .close = close_channel,
                                         .slot_open = slot_open,
                                         .slot_close = slot_close,
                                         .start = start,
                                         .cancel = cancel,
                                         .pause = pause_reading,
                                         .resume = resume_reading};
