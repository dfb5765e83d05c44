/*
 * A generation on its way: one HTTP request, one or more calls to the engine, and a view that writes what comes in the
 * form of its endpoint. The job is freed when the answer has ended or the client is gone.
 */
#ifndef GATEWAY_JOB_H
#define GATEWAY_JOB_H

#include "bitnet/v1/inference.pb-c.h"
#include "gateway/engine.h"
#include "gateway/gateway.h"

#define JOB_PING_NS (15 * CLOCK_NS_PER_S)

struct job;
struct failure;

/* How an endpoint shows results. All write to job->out, which the job sends. */
struct job_view {
    /* Streams: the answer begins. May be NULL. */
    void (*begin)(struct job *j);
    void (*token)(struct job *j, int call, const Bitnet__V1__TokenEvent *event);
    /* What was asked for of the prompt. NULL: it is not asked for. */
    void (*prompt)(struct job *j, int call, const Bitnet__V1__PromptEvent *event);
    void (*choice_end)(struct job *j, int call, const Bitnet__V1__ChoiceEnd *end);
    void (*complete)(struct job *j, int call, const Bitnet__V1__GenerateResponse *answer);
    /* All calls ended well. Streams: the last words; else: the whole answer, from job->calls[].answer. */
    void (*done)(struct job *j);
    /* Streams: an error after the answer began. */
    void (*error)(struct job *j, const struct failure *f);
};

struct job_call {
    struct job *job;
    struct engine_call *call;             /* NULL once it is over */
    size_t held;                          /* to be released when the client has read on */
    Bitnet__V1__GenerateResponse *answer; /* of calls that are no streams; owned */
};

struct job {
    struct request *r;
    const struct job_view *view;
    void *state; /* the view's; freed with free() */
    bool stream, begun;
    int n_calls, n_open;
    struct job_call *calls;
    struct buffer out; /* text of one message, or of the whole answer */
    struct event *ping;
    int64_t last_write_ns;
    struct job *next, *previous;
};

/* Starts `n_calls` calls with the packed GenerateRequests; answers the request itself when that fails. Takes `state`.
 * `timeout_ms` 0 = the configured limit. */
void job_start(struct request *r, const struct job_view *view, void *state, bool stream, const struct buffer *requests,
               int n_calls, int64_t timeout_ms);
/* Ends all jobs with this error: the drain limit has passed. */
void job_fail_all(struct gateway *g, const struct failure *f);

#endif
