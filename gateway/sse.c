/* Framing of events. */
#include "gateway/sse.h"

void sse_begin(struct buffer *b, const char *name, int64_t id)
{
    if (name)
        buffer_printf(b, "event: %s\n", name);
    if (id >= 0)
        buffer_printf(b, "id: %lld\n", (long long)id);
    buffer_append_str(b, "data: ");
}

void sse_end(struct buffer *b)
{
    buffer_append_str(b, "\n\n");
}
