/*
 * Errors: one enumeration, one table. Every layer reports a code and a sentence that says what was expected, what was
 * found and where. Libraries return errors; they never print and never exit.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>
#include <stdint.h>

/* 0 is success everywhere. The names of the contract (JSON `code`, gRPC ErrorInfo.reason) are in error_info(). */
enum error_code {
    ERROR_NONE = 0,
    ERROR_INVALID_REQUEST,   /* not JSON, not a message, wrong type */
    ERROR_VALIDATION_FAILED, /* out of bounds, unknown field */
    ERROR_AUTHENTICATION_REQUIRED,
    ERROR_AUTHORIZATION_FAILED,
    ERROR_MODEL_NOT_FOUND,
    ERROR_NOT_FOUND,
    ERROR_METHOD_NOT_ALLOWED,
    ERROR_PAYLOAD_TOO_LARGE,
    ERROR_UNSUPPORTED_MEDIA_TYPE,
    ERROR_CONFLICT,
    ERROR_RATE_LIMIT_EXCEEDED,
    ERROR_QUOTA_EXCEEDED,
    ERROR_CANCELLED,
    ERROR_INFERENCE_FAILED,
    ERROR_INTERNAL,
    ERROR_QUANTIZATION,
    ERROR_SERVICE_UNAVAILABLE, /* queue full, draining, no engine */
    ERROR_DEVICE_UNAVAILABLE,
    ERROR_MEMORY_EXHAUSTED,
    ERROR_DEADLINE_EXCEEDED,
    ERROR_READER_STALLED, /* who asked for a stream has stopped reading it */
    ERROR_MODEL_LOAD_FAILED,
    ERROR_CROSS_VALIDATION_FAILED,
    ERROR_NOT_IMPLEMENTED,
    ERROR_N_CODES
};

/* One row of the error table. All strings are static. */
struct error_info {
    const char *name; /* "SERVICE_UNAVAILABLE": JSON `code` and ErrorInfo.reason */
    int grpc_status;  /* google.rpc.Code */
    int http_status;
    const char *openai_type; /* "invalid_request_error", ... */
    const char *suggestion;  /* one recovery suggestion, or NULL */
};

/* An error to be filled in by the callee. The caller owns it; a zeroed one is "no error". */
struct error {
    enum error_code code;
    char message[512];      /* UTF-8, one sentence, no newline */
    char param[96];         /* the field, key or tensor at fault; "" when there is none */
    int64_t retry_after_ms; /* for 429 and 503: when a retry may succeed; 0 = not known */
    const char *reason;     /* which case of the code it is, a static word such as "queue_full"; NULL = it has no cases */
};

/* The table's row of `code`; an unknown code gives the row of ERROR_INTERNAL. Any thread. */
const struct error_info *error_info(enum error_code code);

/* The code whose name is `name` ("SERVICE_UNAVAILABLE"), or ERROR_NONE when there is none. Any thread. */
enum error_code error_code_from_name(const char *name);

/* The code that stands for a bare gRPC status when no reason travelled with it. 0 gives ERROR_NONE. Any thread. */
enum error_code error_code_from_grpc(int grpc_status);

/* Fills `*err` (may be NULL) with code and formatted message and returns `code`, so that a failing function can say
 * `return error_set(err, ...)`. The message is cut at a UTF-8 boundary when it is too long. */
enum error_code error_set(struct error *err, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As error_set, and names the field at fault. */
enum error_code error_set_param(struct error *err, enum error_code code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "context: " in front of the message of `*err` (may be NULL) and returns its code. */
enum error_code error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
