/*
 * trace: which process did what for a request, and how long it took. Spans are made by any thread and exported by one in the
 * background, as OTLP over gRPC to a collector.
 *
 *   span_start, span_child -> span_set_* -> span_end -> bounded queue -> exporter's thread -> collector
 *
 *   context.c  W3C Trace Context: a place in a trace, read and written
 *   config.c   the OTEL_* variables of the environment
 *   span.c     spans, and whether one is recorded
 *   encode.c   spans to OTLP
 *   export.c   the queue, the thread and the collector
 *   off.c      in place of the last four where the feature `opentelemetry` is not built: the same functions, which do nothing
 *
 * Tracing is off without a collector's address in the environment. Then the tracer is NULL and every span too, which all functions
 * take: what is off costs one branch. A collector that is dead or slow costs spans, which are counted, and nothing else.
 */
#ifndef TRACE_TRACE_H
#define TRACE_TRACE_H

#include "base/error.h"
#include "base/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_PARENT_BYTES 56   /* of a traceparent, with its NUL */
#define TRACE_ID_TEXT_BYTES 33  /* of a trace's id in hexadecimal, with its NUL */
#define TRACE_STATE_BYTES 513   /* of a tracestate that is passed on, with its NUL: the least that the specification asks for */

struct tracer;
struct span;

/* A place in a trace. Where it is not known the rest is zero. */
struct trace_context {
    uint8_t trace_id[16], span_id[8];
    uint8_t flags; /* W3C; bit 0: the trace is recorded */
    bool known;
};

/* Reads a traceparent (W3C Trace Context, section 3.2); NULL, an unknown form and ids of zeros give no context. Any thread. */
struct trace_context trace_context_read(const char *traceparent);
/* Writes it as version 00, or "" when it is not known; returns `out`. Any thread. */
char *trace_context_write(const struct trace_context *c, char out[TRACE_PARENT_BYTES]);
/* The id of the trace as logs show it, or "" when the context is not known; returns `out`. Any thread. */
char *trace_id_write(const struct trace_context *c, char out[TRACE_ID_TEXT_BYTES]);

struct trace_options {
    const char *service, *version; /* service.name and service.version, where the environment names no other; static */
    struct metrics *metrics;       /* gets bitnet_trace_spans_exported_total and bitnet_trace_spans_dropped_total */
};

/* Reads the environment and starts the exporter after rpc_init; *out is NULL when tracing is off. What is wrong in the environment is
 * logged and left out, as the OpenTelemetry specification asks; an error is only what keeps the process from starting: a TLS file
 * that cannot be read, no memory, no thread. */
enum error_code trace_open(const struct trace_options *options, struct tracer **out, struct error *err);
/* Exports what is left, for 3 s at most, and frees. After the last span has ended. */
void trace_close(struct tracer *t);

/* The numbers are OTLP's. */
enum span_kind { SPAN_INTERNAL = 1, SPAN_SERVER = 2, SPAN_CLIENT = 3 };

/* Begins a request's first span in this process; `parent` is where its caller is in the trace, if known. Fills *here with what is to be
 * passed on and logged, whether or not the trace is recorded: without a tracer it is *parent. Returns NULL when the request is not
 * recorded: the sampler says so, or the queue is full, so that a collector that takes nothing costs next to nothing. `name` is copied, 64
 * bytes at most; start_ns as clock_now_ns. `state` (NULL = "") is the tracestate that came with *parent. Any thread. */
struct span *span_start(struct tracer *t, const char *name, enum span_kind kind, const struct trace_context *parent,
                        const char *state, int64_t start_ns, struct trace_context *here);
/* Begins a span below `parent`, which may end before it; NULL when `parent` is, or when all spans that there can be are taken. Any thread. */
struct span *span_child(const struct span *parent, const char *name, enum span_kind kind, int64_t start_ns);
/* The span's place in its trace; not for NULL. */
const struct trace_context *span_context(const struct span *s);

/* Attributes. One thread at a time; NULL spans are ignored. Keys are static strings; texts are copied, as UTF-8 whatever they hold, and
 * cut where a span's room for texts (1,024 bytes) ends; beyond 32 attributes a span has room for no more, which it says. NULL texts
 * are left out. */
void span_name(struct span *s, const char *name);
void span_set_text(struct span *s, const char *key, const char *value);
void span_set_int(struct span *s, const char *key, int64_t value);
void span_set_float(struct span *s, const char *key, double value);
/* A list of up to 8 texts; once a span. */
void span_set_texts(struct span *s, const char *key, const char *const *values, size_t n);
/* The operation failed: error.type, and a sentence for people, which may be NULL. */
void span_fail(struct span *s, const char *type, const char *message);
/* Ends it and gives it away. Never blocks; when the queue is full the span is dropped and counted. */
void span_end(struct span *s, int64_t end_ns);

#endif
