/* tracestate (W3C Trace Context, section 3.3): opaque to us, several header fields are one list. */
#include "gateway/trace.h"

#include <string.h>

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
    out[0] = '\0';
    for (size_t i = 0; r->traceparent[0] != '\0' && i < r->http->n_headers; i++) {
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
