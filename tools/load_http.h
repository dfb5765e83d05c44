/*
 * An answer over HTTP/1.1 as bytes come: head, body in whatever framing, events, and what they say of tokens and of the end. No
 * I/O here. One owner.
 */
#ifndef TOOLS_LOAD_HTTP_H
#define TOOLS_LOAD_HTTP_H

#include "tools/load_run.h"
#include "tools/load_sse.h"

#include "llhttp.h"

struct load_answer {
    enum load_api api;
    void (*on_text)(void *user, const char *text, size_t n_bytes);
    void *user;
    llhttp_t parser;
    struct load_sse sse;
    char name[16], value[24]; /* of the header being read; the ones that matter fit */
    bool value_began;
    struct buffer failure; /* the body of an answer that is not 200 */

    int64_t retry_ms;
    int64_t n_prompt, n_cached, n_completion; /* as the server counts; -1 = not told */
    bool complete, late, cut;    /* the last event came; it says that the deadline passed, or that it was cancelled */
    char code[LOAD_FAULT_BYTES]; /* of an error event */

    uint64_t n_messages, n_tokens; /* counted up by load_answer_feed; set to 0 by the caller */
    bool over, keep_alive;         /* the answer is whole; the connection may be used again */
};

void load_answer_init(struct load_answer *a);
void load_answer_fini(struct load_answer *a);
/* A new request was sent. on_text gets each piece of the text as it stands in the JSON. */
void load_answer_begin(struct load_answer *a, enum load_api api,
                       void (*on_text)(void *user, const char *text, size_t n_bytes), void *user);
/* Reads on; bytes behind the answer's end are not looked at. False when it is not HTTP/1.1 with events. */
bool load_answer_feed(struct load_answer *a, const char *bytes, size_t n_bytes);
/* The connection was closed: that ends an answer without a length, which sets `over`. False when it must not end here. */
bool load_answer_closed(struct load_answer *a);
/* What an answer that is over says; its kind is borrowed from it. */
void load_answer_end(struct load_answer *a, struct load_end *out);

#endif
