/* The contract's error object, its RFC 9457 form, and the headers that belong to an error. */
#include "gateway/error.h"

#include "base/clock.h"
#include "gateway/emit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void failure_init(struct failure *f)
{
    memset(f, 0, sizeof *f);
    buffer_init(&f->violations, 65536);
    buffer_init(&f->details, 65536);
    buffer_init(&f->result, 65536);
}

void failure_fini(struct failure *f)
{
    buffer_fini(&f->violations);
    buffer_fini(&f->details);
    buffer_fini(&f->result);
}

void failure_add(struct failure *f, enum error_code code, const char *field, const char *expected, const char *actual)
{
    if (f->n_violations++ == 0) {
        if (actual)
            error_set_param(&f->error, code, field, "%s: expected %s, found %s", field, expected, actual);
        else
            error_set_param(&f->error, code, field, "%s: %s", field, expected);
    } else if (code == ERROR_INVALID_REQUEST) {
        f->error.code = code;
    }
    if (f->n_violations > FAILURE_MAX_VIOLATIONS)
        return;
    struct buffer *b = &f->violations;
    emit_open(b, '{');
    emit_key(b, "field");
    emit_text(b, field);
    emit_key(b, "expected");
    emit_text(b, expected);
    if (actual) {
        emit_key(b, "actual");
        emit_text(b, actual);
    }
    emit_close(b, '}');
}

/* Members that are written already. */
static void put_members(struct buffer *out, const struct buffer *members)
{
    if (members->n_bytes == 0)
        return;
    if (out->n_bytes > 0 && out->data[out->n_bytes - 1] != '{')
        buffer_append_char(out, ',');
    buffer_append(out, members->data, members->n_bytes);
}

/* details, request_id, timestamp, recovery_suggestions: common to both forms. */
static void put_rest(struct buffer *out, const struct failure *f, const char *request_id)
{
    const struct error_info *info = error_info(f->error.code);
    char now[CLOCK_RFC3339_BYTES];
    emit_key(out, "details");
    emit_open(out, '{');
    if (f->violations.n_bytes > 0) {
        emit_key(out, "violations");
        emit_open(out, '[');
        buffer_append(out, f->violations.data, f->violations.n_bytes);
        emit_close(out, ']');
    }
    put_members(out, &f->details);
    emit_close(out, '}');
    emit_key(out, "request_id");
    emit_text(out, request_id);
    emit_key(out, "timestamp");
    emit_text(out, clock_rfc3339(clock_wall_ns(), now));
    emit_key(out, "recovery_suggestions");
    emit_open(out, '[');
    if (info->suggestion)
        emit_text(out, info->suggestion);
    emit_close(out, ']');
}

void error_body(struct buffer *out, const struct failure *f, const char *request_id)
{
    const struct error_info *info = error_info(f->error.code);
    emit_open(out, '{');
    emit_key(out, "error");
    emit_open(out, '{');
    emit_key(out, "code");
    emit_text(out, info->name);
    emit_key(out, "message");
    emit_text(out, f->error.message);
    emit_key(out, "type");
    emit_text(out, info->openai_type);
    emit_key(out, "param");
    if (f->error.param[0] != '\0')
        emit_text(out, f->error.param);
    else
        emit_null(out);
    put_rest(out, f, request_id);
    emit_close(out, '}');
    put_members(out, &f->result);
    emit_close(out, '}');
}

void error_problem(struct buffer *out, const struct failure *f, int status, const char *request_id,
                   const char *instance)
{
    const struct error_info *info = error_info(f->error.code);
    emit_open(out, '{');
    emit_key(out, "type");
    emit_text(out, "about:blank"); /* the title is then HTTP's (RFC 9457, 4.2.1); `code` says more */
    emit_key(out, "title");
    emit_text(out, http_reason(status));
    emit_key(out, "status");
    emit_int(out, status);
    emit_key(out, "detail");
    emit_text(out, f->error.message);
    emit_key(out, "instance");
    emit_text(out, instance);
    emit_key(out, "code");
    emit_text(out, info->name);
    if (f->error.param[0] != '\0') {
        emit_key(out, "param");
        emit_text(out, f->error.param);
    }
    put_rest(out, f, request_id);
    if (f->result.n_bytes > 0) {
        emit_key(out, "result");
        emit_open(out, '{');
        put_members(out, &f->result);
        emit_close(out, '}');
    }
    emit_close(out, '}');
}

/* Whole seconds, at least one: a client that comes back at once would only be refused again. */
static long long retry_after_s(const struct error *err)
{
    int64_t s = (err->retry_after_ms + 999) / 1000;
    return s > 0 ? (long long)s : 1;
}

static void add_header(struct http_header *headers, size_t *n, const char *name, const char *value)
{
    if (value && value[0] != '\0')
        headers[(*n)++] = (struct http_header){name, value};
}

/* Quality of a media type in an Accept header (RFC 9110, 12.5.1): 0..1000, -1 when it is not named there. */
static int accepted(const char *accept, const char *type)
{
    size_t n_type = strlen(type);
    for (const char *p = accept; p && *p; p += *p == ',') {
        p += strspn(p, " \t");
        size_t n = strcspn(p, ","), n_name = strcspn(p, "; \t,");
        if (n_name == n_type && strncasecmp(p, type, n_type) == 0) {
            double q = 1;
            for (const char *s = memchr(p, ';', n); s && s < p + n; s = memchr(s + 1, ';', (size_t)(p + n - s - 1))) {
                const char *name = s + 1 + strspn(s + 1, " \t");
                if (strncasecmp(name, "q=", 2) == 0)
                    q = strtod(name + 2, NULL);
            }
            return q >= 0 && q <= 1 ? (int)(q * 1000) : 0;
        }
        p += n;
    }
    return -1;
}

bool error_wants_problem(const char *accept)
{
    int problem = accepted(accept, "application/problem+json");
    return problem > 0 && problem >= accepted(accept, "application/json");
}

void error_respond_with(struct request *r, const struct failure *f, int status, const char *allow)
{
    const char *accept = http_header(r->http, "accept");
    bool problem = error_wants_problem(accept);
    struct http_header headers[8];
    char retry[24];
    size_t n = 0;
    r->failed = f->error.code;
    snprintf(retry, sizeof retry, "%lld", retry_after_s(&f->error));
    add_header(headers, &n, "content-type", problem ? "application/problem+json" : "application/json");
    add_header(headers, &n, "x-request-id", r->id);
    add_header(headers, &n, "cache-control", "no-store");
    add_header(headers, &n, "allow", allow);
    add_header(headers, &n, "x-ratelimit-retry-after", status == 429 ? retry : NULL);
    add_header(headers, &n, "retry-after", status == 429 || status == 503 ? retry : NULL);
    headers[n] = (struct http_header){NULL, NULL};
    struct buffer body;
    buffer_init(&body, 131072);
    if (problem)
        error_problem(&body, f, status, r->id, r->http->path);
    else
        error_body(&body, f, r->id);
    http_respond(r->x, status, headers, body.data ? body.data : "", body.n_bytes);
    buffer_fini(&body);
}

void error_respond(struct request *r, const struct failure *f)
{
    error_respond_with(r, f, error_info(f->error.code)->http_status, NULL);
}

void error_respond_plain(struct request *r, const struct error *err)
{
    struct failure f;
    failure_init(&f);
    f.error = *err;
    error_respond(r, &f);
    failure_fini(&f);
}

void error_answer(struct request *r, enum error_code code, const char *format, ...)
{
    struct error err = {0};
    char message[sizeof err.message];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    error_set(&err, code, "%s", message);
    error_respond_plain(r, &err);
}
