/*
 * A reader of Server-Sent Events (WHATWG HTML, section 9.2) from a stream that is cut anywhere, and of single members of the small JSON
 * objects in them. Nothing is allocated once the buffers have grown to the largest event. One owner.
 */
#ifndef TOOLS_LOAD_SSE_H
#define TOOLS_LOAD_SSE_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>

#define LOAD_SSE_MAX_EVENT_BYTES (1 << 20)

struct load_sse {
    void *user;
    /* An event with data, lines of it joined by \n; NUL-terminated, borrowed for the call. `name` is "" for one without. False
     * ends the reading: load_sse_feed returns false. */
    bool (*on_event)(void *user, const char *name, const char *data, size_t n_bytes);
    char name[32]; /* longer names are cut */
    bool after_cr, has_data;
    struct buffer line, data;
};

void load_sse_init(struct load_sse *s, void *user,
                   bool (*on_event)(void *user, const char *name, const char *data, size_t n_bytes));
void load_sse_fini(struct load_sse *s);
/* Forgets what was read of an event that did not end. */
void load_sse_reset(struct load_sse *s);
/* Reads on. False when on_event said so, or a line or event is too large. */
bool load_sse_feed(struct load_sse *s, const char *bytes, size_t n_bytes);

/* The value of the first member of that name at any depth of a JSON text. A string's is what stands between its quotes, escapes and
 * all, borrowed from the text. False when there is none of that type. */
bool load_json_string(const char *json, size_t n_bytes, const char *name, const char **value, size_t *n_value);
bool load_json_number(const char *json, size_t n_bytes, const char *name, double *value);

#endif
