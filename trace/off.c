/* Tracing where the feature `opentelemetry` is not built: contexts are passed on (context.c), nothing is recorded. */
#include "trace/trace.h"

#include "base/log.h"

#include <stdlib.h>

enum error_code trace_open(const struct trace_options *options, struct tracer **out, struct error *err)
{
    (void)options, (void)err;
    *out = NULL;
    if (getenv("OTEL_EXPORTER_OTLP_ENDPOINT") || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        log_warn("trace", "tracing is off: this program was built without the feature opentelemetry");
    return ERROR_NONE;
}

void trace_close(struct tracer *t)
{
    (void)t;
}

struct span *span_start(struct tracer *t, const char *name, enum span_kind kind, const struct trace_context *parent,
                        const char *state, int64_t start_ns, struct trace_context *here)
{
    (void)t, (void)name, (void)kind, (void)state, (void)start_ns;
    *here = *parent;
    return NULL;
}

struct span *span_child(const struct span *parent, const char *name, enum span_kind kind, int64_t start_ns)
{
    (void)parent, (void)name, (void)kind, (void)start_ns;
    return NULL;
}

const struct trace_context *span_context(const struct span *s)
{
    static const struct trace_context none;
    (void)s;
    return &none;
}

void span_name(struct span *s, const char *name)
{
    (void)s, (void)name;
}

void span_set_text(struct span *s, const char *key, const char *value)
{
    (void)s, (void)key, (void)value;
}

void span_set_int(struct span *s, const char *key, int64_t value)
{
    (void)s, (void)key, (void)value;
}

void span_set_float(struct span *s, const char *key, double value)
{
    (void)s, (void)key, (void)value;
}

void span_set_texts(struct span *s, const char *key, const char *const *values, size_t n)
{
    (void)s, (void)key, (void)values, (void)n;
}

void span_fail(struct span *s, const char *type, const char *message)
{
    (void)s, (void)type, (void)message;
}

void span_end(struct span *s, int64_t end_ns)
{
    (void)s, (void)end_ns;
}
