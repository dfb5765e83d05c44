/*
 * tracing: the spans of a generation.
 *
 *   bitnet.v1.InferenceService/..  from the call's message to its end
 *     queue    arrival to admission into the batch
 *     prefill  admission to the first token
 *     decode   the first token to the last
 *
 * The three are made when the engine has told their times, so that a request costs nothing while it runs. One call at a time.
 */
#ifndef SERVICE_TRACING_H
#define SERVICE_TRACING_H

#include "bitnet/v1/inference.pb-c.h"
#include "engine/engine.h"
#include "rpc/rpc.h"
#include "trace/trace.h"

struct tracing {
    struct trace_context here;    /* what logs show; of the caller, when tracing is off */
    char id[TRACE_ID_TEXT_BYTES]; /* of the trace; "" = none */
    struct span *span;            /* NULL: not recorded */
};

/* A call's message has come; `method` is the whole path, static. `t` may be NULL: tracing is off. */
void tracing_begin(struct tracing *t, struct tracer *tracer, struct rpc_call *call, const char *method);
/* What is asked for: `r` as it came, `q` as the engine gets it. */
void tracing_request(struct tracing *t, const Bitnet__V1__GenerateRequest *r, const struct request *q);
/* What the engine made of it: `id` is the model's name, `summary` is of the request's end, `finishes` are those of the choices that are
 * answered. */
void tracing_answer(struct tracing *t, const char *id, const struct engine_model *m, const char *request_id, const struct stream_summary *summary,
                    const char *const *finishes, size_t n_finishes);
/* The same for a call of Embed, whose inputs are requests without phases of their own. */
void tracing_embeddings(struct tracing *t, const char *id, uint64_t n_tokens);
/* The call ends, with an error or (ERROR_NONE) well. Later calls do nothing. */
void tracing_end(struct tracing *t, enum error_code code, const char *message);
/* The trace's id for log lines: NULL when there is none. */
const char *tracing_id(const struct tracing *t);

#endif
