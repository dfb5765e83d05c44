/* The one error table, and the filling of `struct error`. */
#include "base/error.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

/* google.rpc.Code; written out because base knows no gRPC. */
enum {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16,
};

#define INVALID "invalid_request_error"
#define SERVER "server_error"

/* METHOD_NOT_ALLOWED, PAYLOAD_TOO_LARGE and UNSUPPORTED_MEDIA_TYPE are HTTP's own; their gRPC column is the nearest. */
static const struct error_info table[ERROR_N_CODES] = {
    [ERROR_NONE] = {"OK", GRPC_OK, 200, "", NULL},
    [ERROR_INVALID_REQUEST] = {"INVALID_REQUEST", GRPC_INVALID_ARGUMENT, 400, INVALID,
                               "Send a JSON object whose fields have the documented types."},
    [ERROR_VALIDATION_FAILED] = {"VALIDATION_FAILED", GRPC_INVALID_ARGUMENT, 400, INVALID,
                                 "Correct the named field; its bounds are in /openapi.yaml."},
    [ERROR_AUTHENTICATION_REQUIRED] = {"AUTHENTICATION_REQUIRED", GRPC_UNAUTHENTICATED, 401, "authentication_error",
                                       "Send a valid token in the Authorization header."},
    [ERROR_AUTHORIZATION_FAILED] = {"AUTHORIZATION_FAILED", GRPC_PERMISSION_DENIED, 403, "permission_error",
                                    "Use a token that has the scope this call needs; a model's file must lie in a folder of --model-dirs."},
    [ERROR_MODEL_NOT_FOUND] = {"MODEL_NOT_FOUND", GRPC_NOT_FOUND, 404, "not_found_error",
                               "List the models with GET /v1/models."},
    [ERROR_NOT_FOUND] = {"NOT_FOUND", GRPC_NOT_FOUND, 404, "not_found_error", "Check the path: of a call against /openapi.yaml, of a file on the engine's machine."},
    [ERROR_METHOD_NOT_ALLOWED] = {"METHOD_NOT_ALLOWED", GRPC_UNIMPLEMENTED, 405, INVALID,
                                  "Use a method of the Allow header."},
    [ERROR_PAYLOAD_TOO_LARGE] = {"PAYLOAD_TOO_LARGE", GRPC_INVALID_ARGUMENT, 413, INVALID, "Send a smaller body."},
    [ERROR_UNSUPPORTED_MEDIA_TYPE] = {"UNSUPPORTED_MEDIA_TYPE", GRPC_INVALID_ARGUMENT, 415, INVALID,
                                      "Send Content-Type: application/json."},
    [ERROR_CONFLICT] = {"CONFLICT", GRPC_FAILED_PRECONDITION, 409, INVALID,
                        "Take another id, or wait until the running operation has ended, then try again."},
    [ERROR_RATE_LIMIT_EXCEEDED] = {"RATE_LIMIT_EXCEEDED", GRPC_RESOURCE_EXHAUSTED, 429, "rate_limit_error",
                                   "Wait for the time in Retry-After."},
    [ERROR_QUOTA_EXCEEDED] = {"QUOTA_EXCEEDED", GRPC_RESOURCE_EXHAUSTED, 429, "rate_limit_error",
                              "Wait until the quota renews, or ask for a larger one."},
    [ERROR_CANCELLED] = {"CANCELLED", GRPC_CANCELLED, 499, INVALID, NULL},
    [ERROR_INFERENCE_FAILED] = {"INFERENCE_FAILED", GRPC_INTERNAL, 500, SERVER,
                                "Try again; report the request id if it persists."},
    [ERROR_INTERNAL] = {"INTERNAL_ERROR", GRPC_INTERNAL, 500, SERVER,
                        "Try again; report the request id if it persists."},
    [ERROR_QUANTIZATION] = {"QUANTIZATION_ERROR", GRPC_INTERNAL, 500, SERVER,
                            "Verify the model file with `bitnet verify`."},
    [ERROR_SERVICE_UNAVAILABLE] = {"SERVICE_UNAVAILABLE", GRPC_UNAVAILABLE, 503, SERVER,
                                   "Wait for the time in Retry-After, then try again."},
    [ERROR_DEVICE_UNAVAILABLE] = {"DEVICE_UNAVAILABLE", GRPC_UNAVAILABLE, 503, SERVER,
                                  "Use device_preference auto, or wait and try again."},
    [ERROR_MEMORY_EXHAUSTED] = {"MEMORY_EXHAUSTED", GRPC_UNAVAILABLE, 503, SERVER,
                                "Ask for fewer tokens, unload a model, or wait and try again."},
    [ERROR_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", GRPC_DEADLINE_EXCEEDED, 504, SERVER,
                                 "Raise timeout_ms or lower max_tokens."},
    [ERROR_READER_STALLED] = {"READER_STALLED", GRPC_ABORTED, 408, INVALID,
                              "Read the stream as it comes, or ask for fewer tokens."},
    [ERROR_MODEL_LOAD_FAILED] = {"MODEL_LOAD_FAILED", GRPC_FAILED_PRECONDITION, 422, INVALID,
                                 "Check the file with `bitnet compat-check`."},
    [ERROR_CROSS_VALIDATION_FAILED] = {"CROSS_VALIDATION_FAILED", GRPC_FAILED_PRECONDITION, 422, INVALID,
                                       "Compare the file with its source by `bitnet crossval`."},
    [ERROR_NOT_IMPLEMENTED] = {"NOT_IMPLEMENTED", GRPC_UNIMPLEMENTED, 501, SERVER,
                               "Leave out the feature that this server does not have."},
};

const struct error_info *error_info(enum error_code code)
{
    return (unsigned)code < ERROR_N_CODES ? &table[code] : &table[ERROR_INTERNAL];
}

enum error_code error_code_from_name(const char *name)
{
    for (unsigned code = ERROR_NONE + 1; name && code < ERROR_N_CODES; code++)
        if (strcmp(table[code].name, name) == 0)
            return (enum error_code)code;
    return ERROR_NONE;
}

enum error_code error_code_from_grpc(int grpc_status)
{
    switch (grpc_status) {
    case GRPC_OK:
        return ERROR_NONE;
    case GRPC_CANCELLED:
        return ERROR_CANCELLED;
    case GRPC_INVALID_ARGUMENT:
        return ERROR_INVALID_REQUEST;
    case GRPC_OUT_OF_RANGE:
        return ERROR_VALIDATION_FAILED;
    case GRPC_DEADLINE_EXCEEDED:
        return ERROR_DEADLINE_EXCEEDED;
    case GRPC_NOT_FOUND:
        return ERROR_NOT_FOUND;
    case GRPC_ALREADY_EXISTS:
    case GRPC_FAILED_PRECONDITION:
        return ERROR_CONFLICT;
    case GRPC_ABORTED:
        return ERROR_READER_STALLED;
    case GRPC_PERMISSION_DENIED:
        return ERROR_AUTHORIZATION_FAILED;
    case GRPC_RESOURCE_EXHAUSTED:
        return ERROR_RATE_LIMIT_EXCEEDED;
    case GRPC_UNIMPLEMENTED:
        return ERROR_NOT_IMPLEMENTED;
    case GRPC_UNAVAILABLE:
        return ERROR_SERVICE_UNAVAILABLE;
    case GRPC_UNAUTHENTICATED:
        return ERROR_AUTHENTICATION_REQUIRED;
    default: /* UNKNOWN, INTERNAL, DATA_LOSS, and what future versions bring */
        return ERROR_INTERNAL;
    }
}

/* Copies what fits of `text` as one line of valid UTF-8: a message may quote what a client sent. */
static void copy_line(char *out, size_t out_bytes, const char *text)
{
    size_t n_text = strlen(text), n = 0;
    for (size_t i = 0; i < n_text;) {
        uint32_t code_point;
        size_t length = utf8_decode(text + i, n_text - i, &code_point);
        bool plain = length > 0 && code_point >= 0x20 && code_point != 0x7F;
        if (n + (plain ? length : 1) >= out_bytes)
            break;
        if (plain) {
            memcpy(out + n, text + i, length);
            n += length;
        } else {
            out[n++] = length > 0 ? ' ' : '?';
        }
        i += length > 0 ? length : 1;
    }
    out[n] = '\0';
}

/* Formats into a copy first: the arguments may point into err->message. `err` is not NULL. */
static void set_message(struct error *err, const char *format, va_list args)
{
    char text[sizeof err->message + 4]; /* a character that vsnprintf cuts lies beyond what is copied */
    vsnprintf(text, sizeof text, format, args);
    copy_line(err->message, sizeof err->message, text);
}

enum error_code error_set(struct error *err, enum error_code code, const char *format, ...)
{
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    set_message(err, format, args);
    va_end(args);
    err->code = code;
    err->param[0] = '\0';
    err->retry_after_ms = 0;
    err->reason = NULL;
    return code;
}

enum error_code error_set_param(struct error *err, enum error_code code, const char *param, const char *format, ...)
{
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    set_message(err, format, args);
    va_end(args);
    err->code = code;
    copy_line(err->param, sizeof err->param, param ? param : "");
    err->retry_after_ms = 0;
    err->reason = NULL;
    return code;
}

enum error_code error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return ERROR_NONE;
    char context[sizeof err->message + 4], text[2 * sizeof context]; /* as in set_message */
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%s: %s", context, err->message);
    copy_line(err->message, sizeof err->message, text);
    return err->code;
}
