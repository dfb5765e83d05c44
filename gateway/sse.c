/* Framing of events. */
#include "gateway/sse.h"

#include "gateway/emit.h"

void sse_begin(struct buffer *b, const char *name, int64_t id)
{
    if (name) {
        buffer_append_str(b, "event: ");
        buffer_append_str(b, name);
        buffer_append_char(b, '\n');
    }
    if (id >= 0) {
        buffer_append_str(b, "id: ");
        emit_digits(b, id);
        buffer_append_char(b, '\n');
    }
    buffer_append_str(b, "data: ");
}

void sse_end(struct buffer *b)
{
    buffer_append_str(b, "\n\n");
}
