/* The questions of a round, and its end. */
#include "gateway/ask_all.h"

#include <stdlib.h>

enum { GRPC_INTERNAL = 13 };

/* What one engine is asked. */
struct question {
    struct ask_all *all;
    struct engine_call *call; /* NULL: it is over */
    ProtobufCMessage *answer; /* owned; NULL: none came */
    size_t member;
};

struct ask_all {
    const ProtobufCMessageDescriptor *type;
    void *user;
    void (*on_done)(void *user, const struct ask_all_answers *answers);
    size_t n_questions, n_open, n_missed; /* missed: not asked, being down */
    struct question questions[];
};

static void free_message(ProtobufCMessage *m)
{
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}

void ask_all_cancel(struct ask_all *a)
{
    for (size_t i = 0; i < a->n_questions; i++) {
        if (a->questions[i].call)
            engine_cancel(a->questions[i].call);
        free_message(a->questions[i].answer);
    }
    free(a);
}

/* All have answered or failed to: the answers move together, and are handed on. */
static void conclude(struct ask_all *a, const struct rpc_status *last)
{
    ProtobufCMessage *messages[a->n_questions];
    size_t members[a->n_questions], n = 0;
    for (size_t i = 0; i < a->n_questions; i++)
        if (a->questions[i].answer) {
            messages[n] = a->questions[i].answer;
            members[n++] = a->questions[i].member;
            a->questions[i].answer = NULL;
        }
    const struct ask_all_answers answers = {messages, members, n, a->n_missed + a->n_questions - n, last};
    a->on_done(a->user, &answers);
    for (size_t i = 0; i < n; i++)
        free_message(messages[i]);
    ask_all_cancel(a); /* nothing is open: it frees */
}

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct question *q = user;
    free_message(q->answer);
    q->answer = protobuf_c_message_unpack(q->all->type, NULL, n_bytes, data);
    engine_release(q->call, cost);
}

static void on_status(void *user, const struct rpc_status *status)
{
    static const struct rpc_status unreadable = {.code = GRPC_INTERNAL,
                                                 .message = "the engine's answer cannot be read"};
    struct question *q = user;
    q->call = NULL;
    if (status->code != 0) {
        free_message(q->answer);
        q->answer = NULL;
    } else if (!q->answer) {
        status = &unreadable;
    }
    if (--q->all->n_open == 0)
        conclude(q->all, status);
}

/* Adds a question; what cannot be asked stays among them, without an answer. */
static enum error_code ask(struct ask_all *a, struct engine *e, struct engine_call_options options, struct error *err)
{
    struct question *q = &a->questions[a->n_questions++];
    *q = (struct question){.all = a, .member = options.member};
    options.user = q;
    options.on_message = on_message;
    options.on_status = on_status;
    enum error_code code = engine_start(e, &options, &q->call, err);
    a->n_open += code == ERROR_NONE;
    return code;
}

enum error_code ask_all_start(struct engine *e, const struct engine_call_options *options,
                              const ProtobufCMessageDescriptor *type, bool wait, void *user,
                              void (*on_done)(void *user, const struct ask_all_answers *answers), struct ask_all **out,
                              struct error *err)
{
    size_t n = engine_n_members(e);
    struct engine_call_options one = *options;
    struct ask_all *a = calloc(1, sizeof *a + (n + 1) * sizeof *a->questions);
    if (!a)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    a->type = type;
    a->user = user;
    a->on_done = on_done;
    one.channel = ENGINE_ADMIN;
    enum error_code code = error_set(err, ERROR_SERVICE_UNAVAILABLE, "no inference engine is available");
    for (one.member = 0; one.member < n; one.member++) {
        bool missed;
        if (engine_member(e, one.member, &missed) == ENGINE_DOWN)
            a->n_missed += missed;
        else
            code = ask(a, e, one, err);
    }
    if (a->n_questions == 0 && wait) {
        one.channel = ENGINE_WORK;
        one.member = 0;
        code = ask(a, e, one, err);
    }
    if (a->n_open == 0) {
        ask_all_cancel(a);
        return code;
    }
    *out = a;
    return ERROR_NONE;
}
