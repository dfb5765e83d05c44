/*
 * Traces of arrivals: a text file, a request a line,
 *
 *   time_s prompt_tokens max_tokens          # seconds since the start; blanks or commas between; # begins a comment
 *
 * in order of time.
 */
#ifndef TOOLS_LOAD_TRACE_H
#define TOOLS_LOAD_TRACE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define LOAD_MAX_TRACE_LINES 10000000
#define LOAD_MAX_TRACE_SECONDS 1e6
#define LOAD_MAX_TOKENS 1048576

struct load_arrival {
    double time_s;
    uint32_t prompt_tokens, max_tokens; /* 1..LOAD_MAX_TOKENS */
};

struct load_trace {
    struct load_arrival *arrivals; /* owned */
    size_t n_arrivals;
};

/* Parses a text. VALIDATION_FAILED says in which line what was expected. The caller frees it, also after an error. */
enum error_code load_trace_parse(const char *text, size_t n_bytes, struct load_trace *out, struct error *err);
/* The same from a file of up to 1 GB. */
enum error_code load_trace_read(const char *path, struct load_trace *out, struct error *err);
void load_trace_free(struct load_trace *t);

#endif
