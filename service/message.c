/* Protobuf messages in and out. protobuf-c neither bounds what a small message may unpack to nor checks UTF-8: we do. */
#include "base/utf8.h"
#include "service/service.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY_FACTOR 8 /* of a message's size that its unpacked form may take, besides: */
#define MEMORY_BASE (1024 * 1024)
#define SMALL_BYTES 256 /* a token's message: packed without asking for memory */
#define ANSWER_MAX_BYTES (64 * 1024 * 1024)

struct budget {
    size_t left;
};

static void *budget_alloc(void *data, size_t n_bytes)
{
    struct budget *b = data;
    if (n_bytes > b->left)
        return NULL;
    b->left -= n_bytes;
    return malloc(n_bytes);
}

static void budget_free(void *data, void *p)
{
    (void)data;
    free(p);
}

static bool strings_valid(const ProtobufCMessage *message, const char **field);

/* One value of a string or message field. */
static bool value_valid(const ProtobufCFieldDescriptor *f, const void *value, const char **field)
{
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)value;
        *field = f->name;
        return !text || utf8_valid(text, strlen(text), NULL);
    }
    const ProtobufCMessage *inner = *(ProtobufCMessage *const *)value;
    return !inner || strings_valid(inner, field);
}

/* No type of ours is recursive, so the depth is that of the types. */
static bool strings_valid(const ProtobufCMessage *message, const char **field)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const char *at = (const char *)message + f->offset;
        if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
            *(const uint32_t *)((const char *)message + f->quantifier_offset) != f->id)
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            if (!value_valid(f, at, field))
                return false;
            continue;
        }
        size_t n = *(const size_t *)((const char *)message + f->quantifier_offset);
        void *const *values = *(void *const *const *)at;
        for (size_t k = 0; k < n; k++)
            if (!value_valid(f, &values[k], field))
                return false;
    }
    return true;
}

/* Reads a varint at *p; false when it does not end in time. */
static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; *p < end && shift < 64; shift += 7) {
        uint8_t byte = *(*p)++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

/* The wire format's own lengths show what C strings hide: a NUL inside a string would cut it silently. Called on bytes that unpacked,
 * so what does not hold here merely ends the walk. */
static bool has_nul(const ProtobufCMessageDescriptor *type, const uint8_t *p, const uint8_t *end, const char **field)
{
    uint64_t key, value;
    while (p < end && read_varint(&p, end, &key)) {
        const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(type, (unsigned)(key >> 3));
        unsigned wire = key & 7;
        if (wire == 0) {
            if (!read_varint(&p, end, &value))
                return false;
            continue;
        }
        if (wire == 2 ? !read_varint(&p, end, &value) : (value = wire == 1 ? 8 : 4, wire != 1 && wire != 5))
            return false;
        if (value > (uint64_t)(end - p))
            return false;
        if (wire == 2 && f && f->type == PROTOBUF_C_TYPE_STRING && memchr(p, '\0', (size_t)value)) {
            *field = f->name;
            return true;
        }
        if (wire == 2 && f && f->type == PROTOBUF_C_TYPE_MESSAGE && has_nul(f->descriptor, p, p + value, field))
            return true;
        p += value;
    }
    return false;
}

void *message_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n_bytes, struct error *err)
{
    struct budget budget = {MEMORY_FACTOR * n_bytes + MEMORY_BASE};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, n_bytes, data);
    const char *field = NULL;
    if (!message) {
        error_set(err, ERROR_INVALID_REQUEST, "expected a %s message, found %zu bytes that are none", type->name,
                  n_bytes);
        return NULL;
    }
    if (!strings_valid(message, &field)) {
        error_set_param(err, ERROR_VALIDATION_FAILED, field, "%s: expected valid UTF-8", field);
        message_free(message);
        return NULL;
    }
    if (has_nul(type, data, (const uint8_t *)data + n_bytes, &field)) {
        error_set_param(err, ERROR_VALIDATION_FAILED, field, "%s: expected text without NUL characters", field);
        message_free(message);
        return NULL;
    }
    return message;
}

void message_free(void *message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

bool message_text(struct buffer *out, const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes;) {
        uint32_t code_point;
        size_t n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (n && code_point)
            buffer_append(out, text + i, n);
        else
            buffer_append_str(out, "\xEF\xBF\xBD");
        i += n ? n : 1;
    }
    return !out->failed;
}

bool message_pack(struct buffer *out, const ProtobufCMessage *message)
{
    size_t n_bytes = protobuf_c_message_get_packed_size(message);
    char *room = buffer_reserve(out, n_bytes);
    if (room)
        out->n_bytes += protobuf_c_message_pack(message, (uint8_t *)room);
    return room != NULL;
}

/* Packed bytes to be freed, or NULL. */
static uint8_t *pack(const ProtobufCMessage *message, size_t *n_bytes)
{
    *n_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = *n_bytes <= ANSWER_MAX_BYTES ? malloc(*n_bytes + 1) : NULL;
    if (bytes)
        protobuf_c_message_pack(message, bytes);
    return bytes;
}

void message_answer(struct rpc_call *call, const ProtobufCMessage *message)
{
    size_t n_bytes;
    uint8_t *bytes = pack(message, &n_bytes);
    if (bytes)
        rpc_call_finish(call, &(struct rpc_status){.message = ""}, bytes, n_bytes);
    else
        rpc_call_finish(call, &(struct rpc_status){.code = 13, .message = "the answer is too large"}, NULL, 0);
    free(bytes);
}

bool message_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    uint8_t small[SMALL_BYTES];
    size_t n_bytes = protobuf_c_message_get_packed_size(message);
    if (n_bytes <= sizeof small) {
        protobuf_c_message_pack(message, small);
        return rpc_call_send(call, small, n_bytes);
    }
    uint8_t *bytes = pack(message, &n_bytes);
    bool sent = bytes && rpc_call_send(call, bytes, n_bytes);
    free(bytes);
    return sent;
}
