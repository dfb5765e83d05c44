/* Errors as HTTP answers: one shape for both APIs, or RFC 9457 where the client asks for it. */
#ifndef GATEWAY_ERROR_H
#define GATEWAY_ERROR_H

#include "base/buffer.h"
#include "base/error.h"
#include "gateway/gateway.h"

/* An error on its way to the client, with the fields at fault. */
struct failure {
    struct error error;
    struct buffer violations; /* `{"field":..},{..}`, or empty; owned */
    int n_violations;
    char device[16]; /* on which it happened; "" = not known */
    struct buffer details; /* further members of `details`: `"key":value,..`, or empty; owned */
    struct buffer result;  /* the same of what stands beside `error`, and of a problem's `result` */
};

#define FAILURE_MAX_VIOLATIONS 16

void failure_init(struct failure *f);
void failure_fini(struct failure *f);
/* Adds a field at fault; `actual` may be NULL. The first one is named in the message too. Beyond
 * FAILURE_MAX_VIOLATIONS they are not listed. A wrong type makes the whole an INVALID_REQUEST. */
void failure_add(struct failure *f, enum error_code code, const char *field, const char *expected, const char *actual);

/* Writes `{"error":{...}}`. */
void error_body(struct buffer *out, const struct failure *f, const char *request_id);
/* Writes RFC 9457's object; `status` is the answer's, `instance` the path. */
void error_problem(struct buffer *out, const struct failure *f, int status, const char *request_id,
                   const char *instance);
/* Whether an Accept header (NULL = none) names application/problem+json and likes it no less than application/json. */
bool error_wants_problem(const char *accept);

/* Answers the request with the error: status, Retry-After on 429 and 503, body by Accept. */
void error_respond(struct request *r, const struct failure *f);
/* The same for an error without fields. */
void error_answer(struct request *r, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void error_respond_plain(struct request *r, const struct error *err);

/* 405 with Allow; `status` for the few that are HTTP's own (431). */
void error_respond_with(struct request *r, const struct failure *f, int status, const char *allow);

#endif
