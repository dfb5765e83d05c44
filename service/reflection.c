/*
 * Server reflection: files by name and by symbol, from the descriptors that the build puts into the program. Files are given one by one;
 * clients ask for their imports by name. v1 and v1alpha are the same on the wire.
 */
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "service/service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_NOT_FOUND 5
#define STATUS_UNIMPLEMENTED 12
#define MAX_SERVICES 16

struct reflection {
    Google__Protobuf__FileDescriptorSet *files; /* owned */
};

struct reflection *reflection_open(const void *descriptors, size_t n_bytes)
{
    struct reflection *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->files = google__protobuf__file_descriptor_set__unpack(NULL, n_bytes, descriptors);
    if (!r->files) {
        free(r);
        return NULL;
    }
    return r;
}

void reflection_close(struct reflection *r)
{
    if (!r)
        return;
    google__protobuf__file_descriptor_set__free_unpacked(r->files, NULL);
    free(r);
}

/* The part of `symbol` behind "scope.", or NULL when it is not inside. */
static const char *inside(const char *symbol, const char *scope)
{
    size_t n = scope ? strlen(scope) : 0;
    if (n == 0)
        return symbol;
    return strncmp(symbol, scope, n) == 0 && symbol[n] == '.' ? symbol + n + 1 : NULL;
}

/* An enum's values are its siblings in name. */
static bool enum_has(const Google__Protobuf__EnumDescriptorProto *e, const char *symbol)
{
    if (strcmp(symbol, e->name) == 0)
        return true;
    for (size_t i = 0; i < e->n_value; i++)
        if (strcmp(e->value[i]->name, symbol) == 0)
            return true;
    return false;
}

static bool message_has(const Google__Protobuf__DescriptorProto *m, const char *symbol)
{
    const char *rest = inside(symbol, m->name);
    if (strcmp(symbol, m->name) == 0)
        return true;
    if (!rest)
        return false;
    for (size_t i = 0; i < m->n_nested_type; i++)
        if (message_has(m->nested_type[i], rest))
            return true;
    for (size_t i = 0; i < m->n_enum_type; i++)
        if (enum_has(m->enum_type[i], rest))
            return true;
    for (size_t i = 0; i < m->n_field; i++)
        if (strcmp(m->field[i]->name, rest) == 0)
            return true;
    for (size_t i = 0; i < m->n_oneof_decl; i++)
        if (strcmp(m->oneof_decl[i]->name, rest) == 0)
            return true;
    return false;
}

static bool service_has(const Google__Protobuf__ServiceDescriptorProto *s, const char *symbol)
{
    const char *rest = inside(symbol, s->name);
    if (strcmp(symbol, s->name) == 0)
        return true;
    for (size_t i = 0; rest && i < s->n_method; i++)
        if (strcmp(s->method[i]->name, rest) == 0)
            return true;
    return false;
}

static bool file_has(const Google__Protobuf__FileDescriptorProto *f, const char *symbol)
{
    const char *rest = inside(symbol, f->package);
    for (size_t i = 0; rest && i < f->n_message_type; i++)
        if (message_has(f->message_type[i], rest))
            return true;
    for (size_t i = 0; rest && i < f->n_service; i++)
        if (service_has(f->service[i], rest))
            return true;
    for (size_t i = 0; rest && i < f->n_enum_type; i++)
        if (enum_has(f->enum_type[i], rest))
            return true;
    return false;
}

static const Google__Protobuf__FileDescriptorProto *find(const struct reflection *r, const char *name,
                                                         const char *symbol)
{
    for (size_t i = 0; i < r->files->n_file; i++) {
        const Google__Protobuf__FileDescriptorProto *f = r->files->file[i];
        if (name ? strcmp(f->name, name) == 0 : file_has(f, symbol))
            return f;
    }
    return NULL;
}

const char *reflection_file_of(const struct reflection *r, const char *symbol)
{
    const Google__Protobuf__FileDescriptorProto *f = find(r, NULL, symbol);
    return f ? f->name : NULL;
}

typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static void answer_error(struct rpc_call *call, Response *response, int code, const char *message)
{
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    e.error_code = code;
    e.error_message = (char *)(uintptr_t)message;
    response->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &e;
    message_send(call, &response->base);
}

static void answer_file(struct rpc_call *call, Response *response, const Google__Protobuf__FileDescriptorProto *f,
                        const char *asked)
{
    char message[256];
    if (!f) {
        snprintf(message, sizeof message, "nothing is known of \"%.200s\"", asked);
        answer_error(call, response, STATUS_NOT_FOUND, message);
        return;
    }
    size_t n = google__protobuf__file_descriptor_proto__get_packed_size(f);
    ProtobufCBinaryData bytes = {n, malloc(n)};
    if (bytes.data) {
        google__protobuf__file_descriptor_proto__pack(f, bytes.data);
        Grpc__Reflection__V1__FileDescriptorResponse file = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
        file.n_file_descriptor_proto = 1;
        file.file_descriptor_proto = &bytes;
        response->message_response_case =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
        response->file_descriptor_response = &file;
        message_send(call, &response->base);
    }
    free(bytes.data);
}

/* The services that are really served, from the table of methods. */
static void answer_services(struct service *s, struct rpc_call *call, Response *response)
{
    Grpc__Reflection__V1__ServiceResponse services[MAX_SERVICES], *list[MAX_SERVICES];
    char names[MAX_SERVICES][128];
    size_t n = 0;
    for (const struct rpc_method *m = service_methods(s); m->path && n < MAX_SERVICES; m++) {
        snprintf(names[n], sizeof names[n], "%.*s", (int)(strrchr(m->path, '/') - m->path - 1), m->path + 1);
        if (n && strcmp(names[n], names[n - 1]) == 0)
            continue;
        grpc__reflection__v1__service_response__init(&services[n]);
        services[n].name = names[n];
        list[n] = &services[n];
        n++;
    }
    Grpc__Reflection__V1__ListServiceResponse answer = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    answer.n_service = n;
    answer.service = list;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &answer;
    message_send(call, &response->base);
}

void reflection_request(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    Grpc__Reflection__V1__ServerReflectionRequest *r =
        message_unpack(&grpc__reflection__v1__server_reflection_request__descriptor, data, n_bytes, &err);
    if (!r) {
        status_fail(s, call, &err);
        return;
    }
    Response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    response.valid_host = r->host;
    response.original_request = r;
    switch (r->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(s, call, &response);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_file(call, &response, find(s->reflection, r->file_by_filename, NULL), r->file_by_filename);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_file(call, &response, find(s->reflection, NULL, r->file_containing_symbol), r->file_containing_symbol);
        break;
    default:
        answer_error(call, &response, STATUS_UNIMPLEMENTED, "there are no extensions in proto3");
        break;
    }
    message_free(r);
}

void reflection_sent(void *service, struct rpc_call *call, bool ok)
{
    (void)service;
    if (ok)
        rpc_call_read(call);
}

void reflection_half_close(void *service, struct rpc_call *call)
{
    (void)service;
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, NULL, 0);
}
