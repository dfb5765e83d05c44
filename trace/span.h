/* span: what the files of trace/ share. Nobody outside trace/ includes this. */
#ifndef TRACE_SPAN_H
#define TRACE_SPAN_H

#include "base/buffer.h"
#include "trace/config.h"
#include "trace/trace.h"

#define SPAN_MAX_ATTRIBUTES 32
#define SPAN_MAX_LIST 8
#define SPAN_NAME_BYTES 65
#define SPAN_TEXT_BYTES 1024

enum attribute_kind { ATTRIBUTE_TEXT, ATTRIBUTE_INT, ATTRIBUTE_FLOAT, ATTRIBUTE_LIST };

struct attribute {
    const char *key; /* static */
    enum attribute_kind kind;
    union {
        const char *text; /* in the span's text; LIST: the first of n that follow each other */
        int64_t i;
        double f;
    } value;
    size_t n; /* of a LIST */
};

/* One of the tracer's, lent to who made it until span_end, then in the queue. Nothing in it but `tracer` lives outside. */
struct span {
    struct tracer *tracer;
    struct span *next; /* of those that nobody has */
    struct trace_context context;
    uint8_t parent_id[8];
    bool has_parent, failed;
    char name[SPAN_NAME_BYTES];
    enum span_kind kind;
    int64_t start_ns, end_ns;
    int64_t to_wall_ns; /* what makes wall time of clock_now_ns; the same in a request's spans, so that they lie in each other exactly */
    const char *state, *message; /* in the text; NULL = none */
    size_t n_attributes, n_dropped, n_text;
    struct attribute attributes[SPAN_MAX_ATTRIBUTES];
    char text[SPAN_TEXT_BYTES];
};

/* Whether a request is recorded: by its caller's word, or by the sampler. */
bool span_sampled(const struct trace_config *c, const struct trace_context *parent, const uint8_t trace_id[16]);

/* The tracer's settings; they do not change. */
const struct trace_config *tracer_config(const struct tracer *t);
/* Whether the queue has room; when not, a span that is not made for it is counted as dropped. Any thread. */
bool tracer_admits(struct tracer *t);
/* A span to fill, or NULL when all are taken, which is counted as dropped. What is in it is what was. Any thread. */
struct span *tracer_lend(struct tracer *t);
/* Takes the span into the queue, or drops and counts it. Any thread. */
void tracer_take(struct tracer *t, struct span *s);

/* Resource and scope of all spans, and an ExportTraceServiceRequest of n spans. Appends to `out`; false when memory is out. */
struct encoder;
struct encoder *encoder_open(const struct trace_config *c, const struct trace_options *options);
void encoder_close(struct encoder *e);
bool encoder_encode(const struct encoder *e, struct span *const *spans, size_t n, struct buffer *out);

#endif
