/* llhttp for the framing, load_sse for the events, and what the three APIs put into them. */
#include "tools/load_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_FAILURE_BYTES 16384

/* ---- events -------------------------------------------------------------------------------------------------------------- */

static void read_count(const char *data, size_t n, const char *name, int64_t *out)
{
    double v;
    if (load_json_number(data, n, name, &v) && v >= 0 && v < 1e15)
        *out = (int64_t)v;
}

static bool reason_is(const char *data, size_t n, const char *reason)
{
    const char *value;
    size_t n_value;
    return load_json_string(data, n, "finish_reason", &value, &n_value) && n_value == strlen(reason) &&
           memcmp(value, reason, n_value) == 0;
}

static void read_error(struct load_answer *a, const char *data, size_t n)
{
    const char *value;
    size_t n_value;
    if (load_json_string(data, n, "code", &value, &n_value) || load_json_string(data, n, "type", &value, &n_value))
        snprintf(a->code, sizeof a->code, "%.*s", (int)(n_value < sizeof a->code ? n_value : sizeof a->code), value);
    else
        snprintf(a->code, sizeof a->code, "an error without a code");
}

static void take_text(struct load_answer *a, const char *data, size_t n, const char *name, bool even_empty)
{
    const char *text;
    size_t n_text;
    if (!load_json_string(data, n, name, &text, &n_text) || (n_text == 0 && !even_empty))
        return;
    a->on_text(a->user, text, n_text);
    a->n_messages++;
    a->n_tokens++;
}

static void inference_event(struct load_answer *a, const char *name, const char *data, size_t n)
{
    if (strcmp(name, "token") == 0) {
        take_text(a, data, n, "text", true);
    } else if (strcmp(name, "complete") == 0) {
        a->complete = true;
        a->late = reason_is(data, n, "deadline");
        a->cut = reason_is(data, n, "cancelled");
        read_count(data, n, "total_tokens", &a->n_completion);
    } else if (strcmp(name, "error") == 0) {
        read_error(a, data, n);
    }
}

static void openai_event(struct load_answer *a, const char *data, size_t n)
{
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        a->complete = true;
    } else if (n > 9 && memcmp(data, "{\"error\":", 9) == 0) {
        read_error(a, data, n);
    } else {
        take_text(a, data, n, a->api == LOAD_CHAT ? "content" : "text", false);
        read_count(data, n, "completion_tokens", &a->n_completion);
        if (a->n_completion >= 0) {
            read_count(data, n, "prompt_tokens", &a->n_prompt);
            read_count(data, n, "cached_tokens", &a->n_cached);
        }
    }
}

static bool on_event(void *user, const char *name, const char *data, size_t n)
{
    struct load_answer *a = user;
    if (a->api == LOAD_INFERENCE)
        inference_event(a, name, data, n);
    else
        openai_event(a, data, n);
    return true;
}

/* ---- HTTP ------------------------------------------------------------------------------------------------------------------ */

static void append(char *to, size_t room, const char *at, size_t n)
{
    size_t have = strlen(to);
    snprintf(to + have, room - have, "%.*s", (int)(n < room ? n : room), at);
}

static int on_name(llhttp_t *p, const char *at, size_t n)
{
    struct load_answer *a = p->data;
    if (a->value_began)
        a->name[0] = a->value[0] = '\0';
    a->value_began = false;
    append(a->name, sizeof a->name, at, n);
    return 0;
}

static int on_value(llhttp_t *p, const char *at, size_t n)
{
    struct load_answer *a = p->data;
    a->value_began = true;
    append(a->value, sizeof a->value, at, n);
    return 0;
}

static int on_value_complete(llhttp_t *p)
{
    struct load_answer *a = p->data;
    char *end;
    a->value_began = true; /* also of an empty one */
    if (strcasecmp(a->name, "retry-after") != 0)
        return 0;
    long s = strtol(a->value, &end, 10);
    if (end > a->value && s >= 0 && s < 86400)
        a->retry_ms = s * 1000;
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct load_answer *a = p->data;
    if (p->status_code == 200)
        return load_sse_feed(&a->sse, at, n) ? 0 : HPE_USER;
    buffer_append(&a->failure, at, n); /* what does not fit is not needed */
    return 0;
}

static int on_complete(llhttp_t *p)
{
    struct load_answer *a = p->data;
    a->over = true;
    a->keep_alive = llhttp_should_keep_alive(p);
    return HPE_PAUSED;
}

static const llhttp_settings_t callbacks = {.on_header_field = on_name,
                                            .on_header_value = on_value,
                                            .on_header_value_complete = on_value_complete,
                                            .on_body = on_body,
                                            .on_message_complete = on_complete};

void load_answer_init(struct load_answer *a)
{
    *a = (struct load_answer){0};
    load_sse_init(&a->sse, a, on_event);
    buffer_init(&a->failure, MAX_FAILURE_BYTES);
}

void load_answer_fini(struct load_answer *a)
{
    load_sse_fini(&a->sse);
    buffer_fini(&a->failure);
}

void load_answer_begin(struct load_answer *a, enum load_api api,
                       void (*on_text)(void *user, const char *text, size_t n_bytes), void *user)
{
    a->api = api;
    a->on_text = on_text;
    a->user = user;
    llhttp_init(&a->parser, HTTP_RESPONSE, &callbacks);
    a->parser.data = a;
    load_sse_reset(&a->sse);
    buffer_clear(&a->failure);
    a->name[0] = a->value[0] = a->code[0] = '\0';
    a->value_began = a->complete = a->late = a->cut = a->over = a->keep_alive = false;
    a->retry_ms = a->n_prompt = a->n_cached = a->n_completion = -1;
    a->n_messages = a->n_tokens = 0;
}

bool load_answer_feed(struct load_answer *a, const char *bytes, size_t n_bytes)
{
    llhttp_errno_t rc = llhttp_execute(&a->parser, bytes, n_bytes);
    return rc == HPE_OK || (rc == HPE_PAUSED && a->over);
}

bool load_answer_closed(struct load_answer *a)
{
    llhttp_errno_t rc = llhttp_finish(&a->parser);
    a->keep_alive = false;
    return rc == HPE_OK || (rc == HPE_PAUSED && a->over);
}

void load_answer_end(struct load_answer *a, struct load_end *out)
{
    int status = a->parser.status_code;
    char code[sizeof a->code];
    *out = (struct load_end){.kind = a->code,
                             .retry_ms = a->retry_ms,
                             .n_prompt = a->n_prompt,
                             .n_cached = a->n_cached,
                             .n_tokens = a->n_completion};
    if (status == 200 && a->code[0] == '\0' && a->complete) {
        out->how = a->late ? END_EXPIRED : a->cut ? END_CANCELLED : END_COMPLETED;
        snprintf(a->code, sizeof a->code, "finish reason %s", a->late ? "deadline" : "cancelled");
        return;
    }
    if (status != 200 && a->failure.n_bytes > 0)
        read_error(a, a->failure.data, a->failure.n_bytes);
    memcpy(code, a->code, sizeof code);
    bool late = status == 504 || strcmp(code, "DEADLINE_EXCEEDED") == 0;
    out->how = late ? END_EXPIRED : status == 429 || status == 503 ? END_REFUSED : END_FAILED;
    if (status == 200)
        snprintf(a->code, sizeof a->code, "%.55s%s", code[0] ? code : "client: a stream without its last event",
                 code[0] ? " event" : "");
    else
        snprintf(a->code, sizeof a->code, "%d %.50s", status, code);
}
