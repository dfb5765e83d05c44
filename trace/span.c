/* Spans, and whether one is recorded (OpenTelemetry specification: samplers). */
#include "trace/span.h"

#include "base/clock.h"
#include "base/id.h"
#include "base/utf8.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

/* As every SDK does it, by the last 63 bits of the trace's id, so that all processes that sample alike keep the same traces. */
static bool in_ratio(double ratio, const uint8_t trace_id[16])
{
    uint64_t bits;
    memcpy(&bits, trace_id + 8, sizeof bits);
    return ratio >= 1 || (double)(be64toh(bits) >> 1) < ratio * 0x1p63;
}

bool span_sampled(const struct trace_config *c, const struct trace_context *parent, const uint8_t trace_id[16])
{
    if (c->parent_based && parent->known)
        return parent->flags & 1;
    return c->sampler == SAMPLER_ALWAYS_ON || (c->sampler == SAMPLER_RATIO && in_ratio(c->ratio, trace_id));
}

/* Ids are unique, not secret: splitmix64 (Steele, Lea, Flood 2014), of which each thread begins at a random place. */
static uint64_t next_random(void)
{
    static _Thread_local uint64_t state;
    if (!state)
        state = id_random_u64();
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void make_id(uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        uint64_t bits;
        while (!(bits = next_random())) /* zeros are no id */
            ;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* Copies a text into the span as UTF-8, cut at a character where there is no room; NULL when there is none at all. */
static const char *keep(struct span *s, const char *text)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    size_t n = strlen(text), start = s->n_text;
    if (start >= SPAN_TEXT_BYTES)
        return NULL;
    while (n > 0) {
        uint32_t code_point;
        size_t took = utf8_decode(text, n, &code_point), n_bytes = took ? took : sizeof replacement - 1;
        if (s->n_text + n_bytes + 1 > SPAN_TEXT_BYTES)
            break;
        memcpy(s->text + s->n_text, took ? text : replacement, n_bytes);
        s->n_text += n_bytes;
        text += took ? took : 1;
        n -= took ? took : 1;
    }
    s->text[s->n_text++] = '\0';
    return s->text + start;
}

static struct span *span_new(struct tracer *t, const char *name, enum span_kind kind, int64_t start_ns)
{
    struct span *s = tracer_lend(t); /* attributes and texts need not be zero */
    if (!s)
        return NULL;
    memset(s, 0, offsetof(struct span, attributes));
    s->tracer = t;
    s->kind = kind;
    s->start_ns = start_ns;
    span_name(s, name);
    return s;
}

struct span *span_start(struct tracer *t, const char *name, enum span_kind kind, const struct trace_context *parent,
                        const char *state, int64_t start_ns, struct trace_context *here)
{
    *here = *parent;
    if (!t)
        return NULL;
    if (!parent->known)
        make_id(here->trace_id, sizeof here->trace_id);
    bool sampled = span_sampled(tracer_config(t), parent, here->trace_id);
    here->known = true;
    here->flags = (uint8_t)((parent->flags & ~1) | sampled);
    struct span *s = sampled && tracer_admits(t) ? span_new(t, name, kind, start_ns) : NULL;
    if (!s && parent->known)
        return NULL; /* what comes below stays below the caller */
    make_id(here->span_id, sizeof here->span_id);
    if (!s)
        return NULL;
    s->context = *here;
    s->has_parent = parent->known;
    memcpy(s->parent_id, parent->span_id, sizeof s->parent_id);
    s->to_wall_ns = clock_wall_ns() - clock_now_ns();
    if (state && state[0])
        s->state = keep(s, state);
    return s;
}

struct span *span_child(const struct span *parent, const char *name, enum span_kind kind, int64_t start_ns)
{
    struct span *s = parent ? span_new(parent->tracer, name, kind, start_ns) : NULL;
    if (!s)
        return NULL;
    s->context = parent->context;
    make_id(s->context.span_id, sizeof s->context.span_id);
    s->has_parent = true;
    memcpy(s->parent_id, parent->context.span_id, sizeof s->parent_id);
    s->to_wall_ns = parent->to_wall_ns;
    if (parent->state)
        s->state = keep(s, parent->state);
    return s;
}

const struct trace_context *span_context(const struct span *s)
{
    return &s->context;
}

void span_name(struct span *s, const char *name)
{
    if (s)
        snprintf(s->name, sizeof s->name, "%s", name);
}

static struct attribute *add(struct span *s, const char *key, enum attribute_kind kind)
{
    if (!s || s->n_attributes == SPAN_MAX_ATTRIBUTES) {
        if (s)
            s->n_dropped++;
        return NULL;
    }
    struct attribute *a = &s->attributes[s->n_attributes++];
    *a = (struct attribute){.key = key, .kind = kind};
    return a;
}

void span_set_text(struct span *s, const char *key, const char *value)
{
    struct attribute *a = s && value ? add(s, key, ATTRIBUTE_TEXT) : NULL;
    if (!a || (a->value.text = keep(s, value)))
        return;
    s->n_attributes--; /* no room */
    s->n_dropped++;
}

void span_set_int(struct span *s, const char *key, int64_t value)
{
    struct attribute *a = add(s, key, ATTRIBUTE_INT);
    if (a)
        a->value.i = value;
}

void span_set_float(struct span *s, const char *key, double value)
{
    struct attribute *a = add(s, key, ATTRIBUTE_FLOAT);
    if (a)
        a->value.f = value;
}

void span_set_texts(struct span *s, const char *key, const char *const *values, size_t n)
{
    struct attribute *a = add(s, key, ATTRIBUTE_LIST);
    for (size_t i = 0; a && i < n && a->n < SPAN_MAX_LIST; i++) {
        const char *kept = keep(s, values[i]);
        if (!kept)
            break;
        if (a->n++ == 0)
            a->value.text = kept;
    }
}

void span_fail(struct span *s, const char *type, const char *message)
{
    if (!s)
        return;
    s->failed = true;
    span_set_text(s, "error.type", type);
    if (message && message[0])
        s->message = keep(s, message);
}

void span_end(struct span *s, int64_t end_ns)
{
    if (!s)
        return;
    s->end_ns = end_ns > s->start_ns ? end_ns : s->start_ns;
    tracer_take(s->tracer, s);
}
