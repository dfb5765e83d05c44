/*
 * What a request tells of its trace, and its span. tracestate (W3C Trace Context, section 3.3) is opaque to us; several header fields are one
 * list. Attributes are those of OpenTelemetry's conventions for HTTP servers.
 */
#include "gateway/trace.h"

#include "base/clock.h"
#include "gateway/error.h"

#include <stdio.h>
#include <string.h>

void trace_begin(struct request *r)
{
    char name[64], state[TRACE_STATE_BYTES] = "";
    r->trace = trace_context_read(http_header(r->http, "traceparent"));
    if (!r->g->tracer || !r->route || r->admin || r->route->limit == LIMIT_HEALTH)
        return;
    const struct trace_context parent = r->trace;
    const char *method = http_method_name(r->http->method);
    snprintf(name, sizeof name, "%s %s", method, r->route->pattern);
    r->span = span_start(r->g->tracer, name, SPAN_SERVER, &parent, trace_state(r, state), r->started_ns, &r->trace);
    span_set_text(r->span, "http.request.method", method);
    span_set_text(r->span, "http.route", r->route->pattern);
    span_set_text(r->span, "url.path", r->http->path);
    span_set_text(r->span, "network.protocol.version", r->http->version == 20 ? "2" : r->http->version == 10 ? "1.0" : "1.1");
    span_set_text(r->span, "bitnet.request_id", r->id);
}

void trace_end(struct request *r, int status)
{
    if (!r->span)
        return;
    const char *error = r->failed != ERROR_NONE ? error_info(r->failed)->name
                        : status == 499         ? error_info(ERROR_CANCELLED)->name
                                                : NULL;
    span_set_int(r->span, "http.response.status_code", status);
    if (status >= 500 || (error && status < 400)) /* the latter: a stream that broke off */
        span_fail(r->span, error ? error : "500", NULL);
    else
        span_set_text(r->span, "error.type", error); /* the client's fault is no failure of ours */
    span_end(r->span, clock_now_ns());
    r->span = NULL;
}

/* What gRPC takes in metadata. */
static bool printable(const char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            return false;
    return true;
}

const char *trace_state(const struct request *r, char out[TRACE_STATE_BYTES])
{
    size_t n_out = 0;
    bool known = trace_context_read(http_header(r->http, "traceparent")).known;
    out[0] = '\0';
    for (size_t i = 0; known && i < r->http->n_headers; i++) {
        const struct http_header *h = &r->http->headers[i];
        if (strcmp(h->name, "tracestate") != 0 || h->value[0] == '\0')
            continue;
        size_t n = strlen(h->value);
        if (n_out + n + 1 >= TRACE_STATE_BYTES || !printable(h->value)) {
            out[0] = '\0';
            return out;
        }
        if (n_out > 0)
            out[n_out++] = ',';
        memcpy(out + n_out, h->value, n + 1);
        n_out += n;
    }
    return out;
}
