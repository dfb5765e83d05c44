/* Server-Sent Events (WHATWG HTML, section 9.2). The data must be one line, as our JSON is. */
#ifndef GATEWAY_SSE_H
#define GATEWAY_SSE_H

#include "base/buffer.h"

#include <stdint.h>

#define SSE_PING ": ping\n\n"

/* Begins an event: `event:` when name is not NULL, `id:` when id >= 0, then `data: `. The caller appends the data. */
void sse_begin(struct buffer *b, const char *name, int64_t id);
void sse_end(struct buffer *b);

#endif
