/* Spans to OTLP's ExportTraceServiceRequest. What is packed points into the spans; only the messages between are allocated. */
#include "trace/span.h"

#include "base/id.h"

#include "opentelemetry/proto/collector/trace/v1/trace_service.pb-c.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef Opentelemetry__Proto__Common__V1__KeyValue KeyValue;
typedef Opentelemetry__Proto__Common__V1__AnyValue AnyValue;
typedef Opentelemetry__Proto__Trace__V1__Span Span;

#define OWN_ATTRIBUTES 10 /* of the resource, beside those of the environment */
#define MAX_RESOURCE (OWN_ATTRIBUTES + CONFIG_MAX_PAIRS)

/* A span's messages. */
struct room {
    Span span;
    Opentelemetry__Proto__Trace__V1__Status status;
    KeyValue pairs[SPAN_MAX_ATTRIBUTES], *pair_list[SPAN_MAX_ATTRIBUTES];
    AnyValue values[SPAN_MAX_ATTRIBUTES];
    Opentelemetry__Proto__Common__V1__ArrayValue list;
    AnyValue items[SPAN_MAX_LIST], *item_list[SPAN_MAX_LIST];
};

struct encoder {
    const char *version;
    char instance[ID_UUID_BYTES], host[256];
    KeyValue pairs[MAX_RESOURCE], *pair_list[MAX_RESOURCE];
    AnyValue values[MAX_RESOURCE];
    size_t n;
};

static void set_text(AnyValue *v, const char *text)
{
    opentelemetry__proto__common__v1__any_value__init(v);
    v->value_case = OPENTELEMETRY__PROTO__COMMON__V1__ANY_VALUE__VALUE_STRING_VALUE;
    v->string_value = (char *)(uintptr_t)text;
}

/* ---- the resource ---- */

static AnyValue *add(struct encoder *e, const char *key)
{
    for (size_t i = 0; i < e->n; i++)
        if (strcmp(e->pairs[i].key, key) == 0)
            return NULL; /* who came first stands */
    size_t i = e->n++;
    opentelemetry__proto__common__v1__key_value__init(&e->pairs[i]);
    e->pairs[i].key = (char *)(uintptr_t)key;
    e->pairs[i].value = &e->values[i];
    e->pair_list[i] = &e->pairs[i];
    return &e->values[i];
}

static void add_text(struct encoder *e, const char *key, const char *text)
{
    AnyValue *v = text && text[0] ? add(e, key) : NULL;
    if (v)
        set_text(v, text);
}

struct encoder *encoder_open(const struct trace_config *c, const struct trace_options *options)
{
    struct encoder *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->version = options->version;
    if (gethostname(e->host, sizeof e->host - 1) != 0)
        e->host[0] = '\0';
    add_text(e, "service.name", c->service);
    for (size_t i = 0; i < c->attributes.n; i++)
        add_text(e, c->attributes.keys[i], c->attributes.values[i]);
    add_text(e, "service.name", options->service);
    add_text(e, "service.namespace", "bitnet");
    add_text(e, "service.version", options->version);
    add_text(e, "service.instance.id", id_uuid(e->instance));
    add_text(e, "host.name", e->host);
    add_text(e, "telemetry.sdk.name", "bitnetd");
    add_text(e, "telemetry.sdk.language", "c");
    add_text(e, "telemetry.sdk.version", options->version);
    AnyValue *pid = add(e, "process.pid");
    if (pid) {
        opentelemetry__proto__common__v1__any_value__init(pid);
        pid->value_case = OPENTELEMETRY__PROTO__COMMON__V1__ANY_VALUE__VALUE_INT_VALUE;
        pid->int_value = getpid();
    }
    return e;
}

void encoder_close(struct encoder *e)
{
    free(e);
}

/* ---- spans ---- */

static void fill_list(struct room *r, const struct attribute *a, AnyValue *v)
{
    const char *text = a->value.text;
    opentelemetry__proto__common__v1__array_value__init(&r->list);
    for (size_t i = 0; i < a->n; i++, text += strlen(text) + 1) {
        set_text(&r->items[i], text);
        r->item_list[i] = &r->items[i];
    }
    r->list.n_values = a->n;
    r->list.values = r->item_list;
    v->value_case = OPENTELEMETRY__PROTO__COMMON__V1__ANY_VALUE__VALUE_ARRAY_VALUE;
    v->array_value = &r->list;
}

static void fill_attributes(struct room *r, const struct span *s)
{
    for (size_t i = 0; i < s->n_attributes; i++) {
        const struct attribute *a = &s->attributes[i];
        AnyValue *v = &r->values[i];
        opentelemetry__proto__common__v1__key_value__init(&r->pairs[i]);
        opentelemetry__proto__common__v1__any_value__init(v);
        r->pairs[i].key = (char *)(uintptr_t)a->key;
        r->pairs[i].value = v;
        r->pair_list[i] = &r->pairs[i];
        if (a->kind == ATTRIBUTE_TEXT) {
            set_text(v, a->value.text);
        } else if (a->kind == ATTRIBUTE_INT) {
            v->value_case = OPENTELEMETRY__PROTO__COMMON__V1__ANY_VALUE__VALUE_INT_VALUE;
            v->int_value = a->value.i;
        } else if (a->kind == ATTRIBUTE_FLOAT) {
            v->value_case = OPENTELEMETRY__PROTO__COMMON__V1__ANY_VALUE__VALUE_DOUBLE_VALUE;
            v->double_value = a->value.f;
        } else {
            fill_list(r, a, v);
        }
    }
    r->span.n_attributes = s->n_attributes;
    r->span.attributes = r->pair_list;
    r->span.dropped_attributes_count = (uint32_t)s->n_dropped;
}

static void fill_span(struct room *r, struct span *s)
{
    opentelemetry__proto__trace__v1__span__init(&r->span);
    r->span.trace_id = (ProtobufCBinaryData){sizeof s->context.trace_id, s->context.trace_id};
    r->span.span_id = (ProtobufCBinaryData){sizeof s->context.span_id, s->context.span_id};
    if (s->has_parent)
        r->span.parent_span_id = (ProtobufCBinaryData){sizeof s->parent_id, s->parent_id};
    if (s->state)
        r->span.trace_state = (char *)(uintptr_t)s->state;
    r->span.flags = s->context.flags;
    r->span.name = s->name;
    r->span.kind = (Opentelemetry__Proto__Trace__V1__Span__SpanKind)s->kind;
    r->span.start_time_unix_nano = (uint64_t)(s->start_ns + s->to_wall_ns);
    r->span.end_time_unix_nano = (uint64_t)(s->end_ns + s->to_wall_ns);
    fill_attributes(r, s);
    if (!s->failed)
        return;
    opentelemetry__proto__trace__v1__status__init(&r->status);
    r->status.code = OPENTELEMETRY__PROTO__TRACE__V1__STATUS__STATUS_CODE__STATUS_CODE_ERROR;
    if (s->message)
        r->status.message = (char *)(uintptr_t)s->message;
    r->span.status = &r->status;
}

static bool pack(const ProtobufCMessage *m, struct buffer *out)
{
    size_t n_bytes = protobuf_c_message_get_packed_size(m);
    char *to = buffer_reserve(out, n_bytes);
    if (to)
        out->n_bytes += protobuf_c_message_pack(m, (uint8_t *)to);
    return to != NULL;
}

bool encoder_encode(const struct encoder *e, struct span *const *spans, size_t n, struct buffer *out)
{
    struct room *rooms = malloc(n * sizeof *rooms);
    Span **list = malloc(n * sizeof(Span *));
    Opentelemetry__Proto__Common__V1__InstrumentationScope scope = OPENTELEMETRY__PROTO__COMMON__V1__INSTRUMENTATION_SCOPE__INIT;
    Opentelemetry__Proto__Resource__V1__Resource resource = OPENTELEMETRY__PROTO__RESOURCE__V1__RESOURCE__INIT;
    Opentelemetry__Proto__Trace__V1__ScopeSpans of_scope = OPENTELEMETRY__PROTO__TRACE__V1__SCOPE_SPANS__INIT, *scopes = &of_scope;
    Opentelemetry__Proto__Trace__V1__ResourceSpans of_resource = OPENTELEMETRY__PROTO__TRACE__V1__RESOURCE_SPANS__INIT,
                                                  *resources = &of_resource;
    Opentelemetry__Proto__Collector__Trace__V1__ExportTraceServiceRequest request =
        OPENTELEMETRY__PROTO__COLLECTOR__TRACE__V1__EXPORT_TRACE_SERVICE_REQUEST__INIT;
    for (size_t i = 0; rooms && list && i < n; i++) {
        fill_span(&rooms[i], spans[i]);
        list[i] = &rooms[i].span;
    }
    scope.name = (char *)(uintptr_t) "bitnetd";
    scope.version = (char *)(uintptr_t)e->version;
    resource.n_attributes = e->n;
    resource.attributes = (KeyValue **)(uintptr_t)e->pair_list;
    of_scope.scope = &scope;
    of_scope.n_spans = n;
    of_scope.spans = list;
    of_resource.resource = &resource;
    of_resource.n_scope_spans = 1;
    of_resource.scope_spans = &scopes;
    request.n_resource_spans = 1;
    request.resource_spans = &resources;
    bool ok = rooms && list && pack(&request.base, out);
    free(rooms);
    free(list);
    return ok;
}
